//! One request of a client: checked, decided, carried to the server, and its answer back.

use std::{sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Body as _, Bytes, Incoming},
    header::{CONTENT_ENCODING, CONTENT_TYPE},
    http::request::Parts,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    capacity::{self, ANSWERS},
    clients::{Client, Clients},
    headers::{self, Era},
    legacy::{self, stream::Streams},
    reception::{Held, Place, Reception, ReceptionPlan, Service, Visitor},
    refusal::{Body, Refusal, full, json_response},
    relay::{self, Relay, Waiting},
    shares::Shares,
    tether::Tied,
    tls::Authorities,
    upstream::{Upstream, UpstreamAddress},
};
use crate::{
    gate::{
        captures::Captures as _,
        client::{AfterOpen, FromClient},
        conversation::{Conversation, Memory, Rooms, Ticket},
        envelope::{Envelope, Id},
        events::{CallEnd, Decide as _},
        reply,
    },
    principal::{Caller, HTTP_CONNECTIONS, Principal},
    session::{EndReason, SessionEnd},
};

/// How long a server may take to let go of a session whose grant has ended.
const FAREWELL: Duration = Duration::from_secs(5);
/// What is shown of an error page of the server.
const ERROR_PAGE: usize = 64 * 1024;
/// An answer up to this length does not count.
pub(super) const SHORT: usize = 64 << 10;

/// What a front stands for.
#[derive(Clone, Debug)]
pub struct FrontPlan {
    /// The server behind it.
    pub upstream: UpstreamAddress,
    /// Who vouches for it, if it is reached over TLS.
    pub authorities: Authorities,
    /// The server was only just started, and may not listen yet.
    pub starting: bool,
    /// Who may come in.
    pub reception: ReceptionPlan,
}

/// A front: one server, and all its clients over HTTP.
pub(super) struct Front<G: Rooms> {
    gate: Arc<G>,
    memory: Arc<Memory>,
    pub(super) reception: Reception,
    upstream: Upstream,
    pub(super) clients: Clients<G>,
    pub(super) streams: Streams,
    answers: Arc<Shares<Principal>>,
    connections: std::sync::atomic::AtomicU64,
}

/// A message of a client, read.
struct Post<G: Rooms> {
    client: Arc<Client<G>>,
    era: Era,
    headers: HeaderMap,
    message: Bytes,
    /// What it occupies of the room for messages, until it has gone on.
    _room: Held,
}

impl<G: Rooms> Front<G> {
    pub(super) fn new(plan: &FrontPlan, at: &Place, gate: Arc<G>) -> Arc<Self> {
        Arc::new(Self {
            reception: Reception::new(&plan.reception, at, gate.bounds().client_line),
            gate,
            memory: Arc::default(),
            upstream: Upstream::new(&plan.upstream, &plan.authorities, plan.starting),
            clients: Clients::new(capacity::sessions(at.connections)),
            streams: Streams::default(),
            answers: Shares::new(ANSWERS),
            connections: HTTP_CONNECTIONS.into(),
        })
    }

    /// Tells clients of their capture sessions that end, and all of them that other tools are
    /// visible, until there are no more sessions.
    pub(super) async fn notices(&self, mut ends: mpsc::Receiver<SessionEnd>) {
        let mut changes = self.gate.policy().changes();
        let mut changing = true;
        loop {
            tokio::select! {
                end = ends.recv() => {
                    let Some(end) = end else { return };
                    self.memory.forget(&end);
                    if let Some(client) = self.clients.opener(end.session) {
                        client.notify(&reply::end_notice(&end));
                    }
                }
                told = changes.changed(), if changing => match told {
                    Ok(()) => self.clients.notify_all(reply::TOOLS_CHANGED),
                    Err(_) => changing = false,
                },
            }
        }
    }

    async fn route(
        self: Arc<Self>,
        visitor: Visitor,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let (head, body) = request.into_parts();
        match head.uri.path() {
            legacy::STREAM => return self.legacy_stream(visitor, &head),
            legacy::MESSAGES => return self.legacy_message(visitor, head, body).await,
            _ => {}
        }
        if head.uri.path() != ENDPOINT {
            let why = format!("there is nothing here: the server is at {ENDPOINT}");
            return Err(Refusal::new(StatusCode::NOT_FOUND, why));
        }
        let known = [Method::POST, Method::GET, Method::DELETE].contains(&head.method);
        let not_allowed = || Refusal::not_allowed("messages are sent with POST");
        if !known {
            return Err(not_allowed());
        }
        headers::media(&head.method, &head.headers)?;
        headers::connection(&head.headers)?;
        let era = headers::era(&head.headers)?;
        if head.method == Method::POST {
            return self.post(visitor, era, head, body).await;
        }
        match era {
            Ok(Era::Sessions) => {}
            Ok(Era::Stateless) => return Err(not_allowed()),
            Err(version) => return Err(headers::unknown(&version, None)),
        }
        let id = headers::session(&head.headers)?;
        let client = match id {
            Some(id) => self.clients.get(id, &visitor.principal)?,
            // Of a server without sessions; it says itself whether it has a stream to listen to.
            None if head.method == Method::GET => self.stateless(&visitor),
            None => {
                return Err(Refusal::new(
                    StatusCode::BAD_REQUEST,
                    "the header Mcp-Session-Id is missing",
                ));
            }
        };
        self.of_session(&head.method, &head.headers, id, &client)
            .await
    }

    /// A stream to listen to, or the end of an MCP session.
    pub(super) async fn of_session(
        &self,
        method: &Method,
        headers: &HeaderMap,
        id: Option<&str>,
        client: &Arc<Client<G>>,
    ) -> Result<Response<Body>, Refusal> {
        let forwarded = self.reception.forwarded(headers);
        let response = self
            .upstream
            .send(method, &forwarded, &Bytes::new())
            .await
            .map_err(|(refusal, _)| refusal)?;
        let status = response.status();
        let over =
            status == StatusCode::NOT_FOUND || (method == Method::DELETE && status.is_success());
        if let Some(id) = id.filter(|_| over) {
            self.clients.remove(id);
        }
        let listens = method == Method::GET && status.is_success();
        let notices = listens.then(|| client.listen());
        let waiting = Waiting::new(client, Era::Sessions, None);
        self.answer(response, waiting, notices).await
    }

    /// Ends an MCP session at the server, if it hears that.
    pub(super) async fn leave(&self, session: &str) {
        let Ok(id) = session.try_into() else { return };
        let mut headers = HeaderMap::new();
        headers.insert(headers::SESSION, id);
        let nothing = Bytes::new();
        let asked = self.upstream.send(&Method::DELETE, &headers, &nothing);
        let _ = timeout(FAREWELL, asked).await;
    }

    /// A message of a client.
    async fn post(
        self: Arc<Self>,
        visitor: Visitor,
        era: Result<Era, String>,
        head: Parts,
        body: Incoming,
    ) -> Result<Response<Body>, Refusal> {
        let dropped = |bytes| {
            let answer = self.stateless(&visitor).conversation.too_long(bytes);
            tracing::debug!(answer.line, "too long");
        };
        let (message, room) = self.reception.read(&visitor, body, dropped).await?;
        self.message(visitor, era, head.headers, message, room)
            .await
    }

    /// A message that was read.
    pub(super) async fn message(
        self: Arc<Self>,
        visitor: Visitor,
        era: Result<Era, String>,
        headers: HeaderMap,
        message: Bytes,
        room: Held,
    ) -> Result<Response<Body>, Refusal> {
        let (era, client) = {
            let envelope = match Envelope::parse(&message) {
                Ok(envelope) => envelope,
                Err(refused) => {
                    let answer = self
                        .stateless(&visitor)
                        .conversation
                        .unreadable(&message, &refused);
                    return Ok(json_response(StatusCode::BAD_REQUEST, answer.line));
                }
            };
            let era = era.map_err(|version| headers::unknown(&version, Some(&envelope)))?;
            headers::agree(era, &headers, &envelope)?;
            (era, self.client(&visitor, era, &headers, &envelope)?)
        };
        let post = Post {
            client,
            era,
            headers,
            message,
            _room: room,
        };
        // A task of its own: what is decided is carried through, whether the client waits or not.
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(self.carry(post, sender));
        receiver
            .await
            .unwrap_or_else(|_| Err(Refusal::upstream("the request could not be carried out")))
    }

    /// Who a message comes from: a client with an MCP session, or one that will have one, or a
    /// request that stands for itself.
    fn client(
        &self,
        visitor: &Visitor,
        era: Era,
        headers: &HeaderMap,
        envelope: &Envelope<'_>,
    ) -> Result<Arc<Client<G>>, Refusal> {
        if era == Era::Stateless {
            return match headers::session(headers)? {
                None => Ok(self.stateless(visitor)),
                // A server that reads the one header only would take it for that session's.
                Some(_) => Err(Refusal::new(
                    StatusCode::BAD_REQUEST,
                    "there are no sessions in this revision: leave Mcp-Session-Id out",
                )),
            };
        }
        let begins = envelope.method.as_deref() == Some("initialize");
        match headers::session(headers)? {
            Some(_) if begins => Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "initialize begins a session, and cannot belong to one",
            )),
            Some(id) => self.clients.get(id, &visitor.principal),
            None if begins => {
                // Whoever cannot have a session need not ask the server for one.
                drop(self.clients.room(&visitor.principal)?);
                let number = self
                    .connections
                    .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let caller = visitor.caller(&self.reception.server, number);
                Ok(self.new_client(visitor, caller))
            }
            None => Ok(self.stateless(visitor)),
        }
    }

    fn stateless(&self, visitor: &Visitor) -> Arc<Client<G>> {
        self.new_client(visitor, visitor.shared_caller(&self.reception.server))
    }

    fn new_client(&self, visitor: &Visitor, caller: Caller) -> Arc<Client<G>> {
        let (gate, memory) = (Arc::clone(&self.gate), Arc::clone(&self.memory));
        Client::new(Conversation::new(gate, memory, caller), visitor)
    }

    /// Decides a message, and carries it to the server if it is let through.
    async fn carry(
        self: Arc<Self>,
        mut post: Post<G>,
        mut sender: oneshot::Sender<Result<Response<Body>, Refusal>>,
    ) {
        let decided = self.decide(&mut post, &mut sender).await;
        let response = match decided {
            Ok((waiting, message)) => {
                let overdue = waiting.overdue();
                tokio::select! {
                    response = self.forward(&post, waiting, &message) => response,
                    // The request at the server goes with the rest: a late answer is not heard.
                    answer = overdue => Ok(json_response(StatusCode::OK, answer)),
                    // `waiting` went with the rest, and has told the conversation.
                    () = sender.closed() => return,
                }
            }
            Err(response) => *response,
        };
        // A client that has gone does not get it.
        let _ = sender.send(response);
    }

    /// What is forwarded of a message, or what is answered in its place.
    async fn decide(
        &self,
        post: &mut Post<G>,
        sender: &mut oneshot::Sender<Result<Response<Body>, Refusal>>,
    ) -> Result<(Waiting<G>, Bytes), Box<Result<Response<Body>, Refusal>>> {
        let (client, message) = (&Arc::clone(&post.client), &post.message.clone());
        let era = post.era;
        let conversation = &client.conversation;
        let answered = |status, line| Err(Box::new(Ok(json_response(status, line))));
        let envelope = match Envelope::parse(message) {
            Ok(envelope) => envelope,
            Err(refused) => {
                let line = conversation.unreadable(message, &refused).line;
                return answered(StatusCode::BAD_REQUEST, line);
            }
        };
        let waiting = |id: Id| {
            let text = envelope.id.as_ref().map_or("null", |(_, text)| *text);
            Waiting::new(client, era, Some((id, text.to_owned())))
        };
        match conversation.decide(message, &envelope).await {
            FromClient::Forward(Some(id)) => Ok((waiting(id), message.clone())),
            FromClient::Forward(None) => Ok((Waiting::new(client, era, None), message.clone())),
            FromClient::Edited(id, text) => Ok((waiting(id), text.into())),
            FromClient::Answer(answer) if answer.malformed => {
                answered(StatusCode::BAD_REQUEST, answer.line)
            }
            FromClient::Answer(answer) => answered(StatusCode::OK, answer.line),
            FromClient::Drop(why) => Err(Box::new(Err(Refusal::new(StatusCode::BAD_REQUEST, why)))),
            // There is no stream yet on which the client could be asked, and none is asked here.
            FromClient::Ask(_) => Err(Box::new(Err(Refusal::upstream(
                "the call cannot be held here",
            )))),
            FromClient::Open(start) => {
                let opening = conversation.open(*start);
                match self.opened(post, &envelope, opening, sender).await {
                    AfterOpen::Ready {
                        id,
                        text,
                        beginning,
                    } => {
                        if !self.clients.opened(beginning.session(), client) {
                            conversation.cancel(&id, "null");
                        }
                        headers::repeat(&mut post.headers, beginning.changes());
                        let awaited = beginning.awaited();
                        if conversation.begin(*beginning) {
                            Ok((waiting(id).within(awaited), text.into()))
                        } else {
                            let gone =
                                Refusal::new(StatusCode::BAD_REQUEST, "the call was cancelled");
                            Err(Box::new(Err(gone)))
                        }
                    }
                    AfterOpen::Refused(Some(answer)) => answered(StatusCode::OK, answer.line),
                    AfterOpen::Refused(None) => {
                        let gone = Refusal::new(StatusCode::BAD_REQUEST, "the call was cancelled");
                        Err(Box::new(Err(gone)))
                    }
                }
            }
        }
    }

    /// Waits for a capture session; where a client that leaves takes its call back, it does.
    async fn opened(
        &self,
        post: &Post<G>,
        envelope: &Envelope<'_>,
        opening: impl Future<Output = AfterOpen<Ticket<G>>>,
        sender: &mut oneshot::Sender<Result<Response<Body>, Refusal>>,
    ) -> AfterOpen<Ticket<G>> {
        let mut opening = Box::pin(opening);
        tokio::select! {
            after = &mut opening => return after,
            () = sender.closed() => {}
        }
        if let (Era::Stateless, Some((id, text))) = (post.era, &envelope.id) {
            post.client.conversation.cancel(id, text);
        }
        opening.await
    }

    /// Sends a message to the server, and makes the client's response of the server's.
    async fn forward(
        &self,
        post: &Post<G>,
        mut waiting: Waiting<G>,
        message: &Bytes,
    ) -> Result<Response<Body>, Refusal> {
        let forwarded = self.reception.forwarded(&post.headers);
        let id = waiting.id().map(str::to_owned);
        let sent = self.upstream.send(&Method::POST, &forwarded, message).await;
        let response = match sent {
            Ok(response) => response,
            Err((refusal, end)) => {
                waiting.over(end);
                return Err(refusal.of(id.as_deref()));
            }
        };
        let given = headers::session(response.headers()).ok().flatten();
        match (headers::session(&post.headers)?, given) {
            (None, Some(given)) if post.era == Era::Sessions && response.status().is_success() => {
                let begun = self.clients.insert(given, &post.client);
                begun.map_err(|refusal| refusal.of(id.as_deref()))?;
                tracing::debug!(principal = %post.client.conversation.caller.principal, "an MCP session begins");
            }
            (Some(session), _) if response.status() == StatusCode::NOT_FOUND => {
                self.clients.remove(session);
            }
            _ => {}
        }
        self.answer(response, waiting, None).await
    }

    /// The server's response, as the client gets it.
    async fn answer(
        &self,
        response: Response<Incoming>,
        mut waiting: Waiting<G>,
        notices: Option<mpsc::Receiver<String>>,
    ) -> Result<Response<Body>, Refusal> {
        let (head, body) = response.into_parts();
        let id = waiting.id().map(str::to_owned);
        let principal = waiting.client.conversation.caller.principal.clone();
        let refuse = |waiting: &mut Waiting<G>, why: &str| {
            // Whatever it says, it was carried out.
            waiting.over(CallEnd::Lost);
            Err(Refusal::upstream(why).of(id.as_deref()))
        };
        if head.status.is_redirection() || head.status.is_informational() {
            // It leads around the gate.
            return refuse(
                &mut waiting,
                "the server behind capwarden answers with a redirection: give its final address with --upstream",
            );
        }
        if head.headers.contains_key(CONTENT_ENCODING) {
            return refuse(
                &mut waiting,
                "the server behind capwarden compresses its answers, which it was not asked to",
            );
        }
        let kind = match headers::single(&head.headers, &CONTENT_TYPE) {
            Ok(kind) => kind.unwrap_or_default().to_ascii_lowercase(),
            Err(_) => {
                return refuse(
                    &mut waiting,
                    "the server behind capwarden sends two content types",
                );
            }
        };
        let kind = kind.split(';').next().unwrap_or_default().trim();
        let body = match kind {
            "text/event-stream" if head.status.is_success() => {
                let held = self.answers.try_take(&principal, 0);
                Relay::new(body, waiting, notices, held).boxed_unsync()
            }
            "application/json" => {
                let limit = self.gate.bounds().server_line;
                let mut held = self.answers.try_take(&principal, 0);
                let text = match gather(body, limit, held.as_mut()).await {
                    Ok(text) => text,
                    Err(why) => return refuse(&mut waiting, why),
                };
                // What is accepted without an answer is often called JSON too.
                let answer = if text.is_empty() {
                    Some(String::new())
                } else {
                    relay::json(&text, &mut waiting)
                };
                waiting.over(if head.status.is_client_error() {
                    CallEnd::RpcError
                } else {
                    CallEnd::Lost
                });
                match answer {
                    Some(answer) if text.len() > SHORT => {
                        Tied::new(full(answer), None, held).boxed_unsync()
                    }
                    Some(answer) => full(answer),
                    None => {
                        return refuse(
                            &mut waiting,
                            "the server behind capwarden answered with something that is no message",
                        );
                    }
                }
            }
            _ if head.status.is_success() => {
                let empty = body.is_end_stream()
                    || Limited::new(body, 1)
                        .collect()
                        .await
                        .is_ok_and(|body| body.to_bytes().is_empty());
                if !empty {
                    return refuse(
                        &mut waiting,
                        "the server behind capwarden answered with something that is no message",
                    );
                }
                waiting.over(CallEnd::Lost);
                full(Bytes::new())
            }
            _ => {
                waiting.over(if head.status.is_client_error() {
                    CallEnd::RpcError
                } else {
                    CallEnd::Lost
                });
                let page = Limited::new(body, ERROR_PAGE).collect().await;
                full(
                    page.map(http_body_util::Collected::to_bytes)
                        .unwrap_or_default(),
                )
            }
        };
        let mut answer = Response::new(body);
        *answer.status_mut() = head.status;
        *answer.headers_mut() = headers::end_to_end(&head.headers);
        Ok(answer)
    }
}

impl<G: Rooms> Service for Front<G> {
    fn reception(&self) -> &Reception {
        &self.reception
    }

    fn answer(
        self: Arc<Self>,
        visitor: Visitor,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Body>, Refusal>> + Send {
        self.route(visitor, request)
    }

    fn ended(self: &Arc<Self>, grant: &str) {
        self.streams.ended(grant);
        let (sessions, captures) = self.clients.ended(grant);
        for capture in captures {
            self.gate.captures().end(capture, EndReason::Revoked);
        }
        for session in sessions {
            let front = Arc::clone(self);
            tokio::spawn(async move { front.leave(&session).await });
        }
    }
}

/// Reads an answer whole.
async fn gather(
    body: Incoming,
    limit: usize,
    mut held: Option<&mut Held>,
) -> Result<Bytes, &'static str> {
    const BROKEN: &str = "the answer of the server behind capwarden broke off, or is too long";
    let announced = body.size_hint().exact();
    if announced.is_some_and(|length| length <= SHORT as u64) {
        let whole = Limited::new(body, limit).collect().await;
        return whole
            .map(http_body_util::Collected::to_bytes)
            .map_err(|_| BROKEN);
    }
    let mut body = Limited::new(body, limit);
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BROKEN)?.into_data() else {
            continue;
        };
        let length = whole.len() + data.len();
        if length > SHORT && !held.as_mut().is_some_and(|held| held.grow(length)) {
            return Err("too many long answers wait to be taken: try again later");
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.into())
}

/// Where the front is, on its host.
pub const ENDPOINT: &str = "/mcp";
