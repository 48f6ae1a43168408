//! One request of a client: checked, decided, carried to the server, and its answer back.

use std::{sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Body as _, Bytes, Incoming},
    header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE},
    http::request::Parts,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};

use super::{
    clients::{Client, Clients},
    headers::{self, Doors, Era},
    refusal::{Body, Refusal, full, json_response},
    relay::{self, Relay, Waiting},
    upstream::{Upstream, UpstreamAddress},
};
use crate::{
    gate::{
        client::{AfterOpen, FromClient},
        conversation::{Conversation, Memory, Rooms, Ticket},
        envelope::{Envelope, Id},
        events::{CallEnd, Decide as _},
        reply,
    },
    principal::{Caller, Grants, Principal},
    session::SessionEnd,
};

/// How long a client may take to send a message.
const BODY_TIME: Duration = Duration::from_secs(30);
/// Messages up to this length are read at once; of longer ones only so many at a time.
const ROOM: usize = 256 << 20;
/// What the room is given out in.
const SHARE: usize = 1024;
/// MCP sessions at once: one for each connection that there may be.
const SESSIONS: usize = 16_384;
/// What is shown of an error page of the server.
const ERROR_PAGE: usize = 64 * 1024;
/// The number of the connection of requests that belong to no MCP session: one for each user, from
/// here on.
const STATELESS_CONNECTIONS: u64 = 1 << 32;

/// The same of those that come with a grant: one for each, from here on.
const GRANTS_CONNECTIONS: u64 = 1 << 48;

/// What a front stands for.
#[derive(Clone, Debug)]
pub struct FrontPlan {
    /// The server behind it.
    pub upstream: UpstreamAddress,
    /// The server was only just started, and may not listen yet.
    pub starting: bool,
    /// What the server is called.
    pub server: Arc<str>,
    /// Origins that may speak to it, besides those of this host: `https://inspector.example`.
    pub origins: Vec<String>,
    /// Who may use it: whoever bears one of these grants. Without them, every user of this host may.
    pub grants: Option<Arc<Grants>>,
}

/// Who sends a request.
#[derive(Clone, Debug)]
struct Visitor {
    principal: Principal,
    /// The grant that it came with, and the number of the connection that all its requests are
    /// which belong to no MCP session.
    grant: Option<(Arc<str>, u64)>,
}

/// A front: one server, and all its clients over HTTP.
pub(super) struct Front<G: Rooms> {
    gate: Arc<G>,
    memory: Arc<Memory>,
    doors: Doors,
    upstream: Upstream,
    clients: Clients<G>,
    server: Arc<str>,
    grants: Option<Arc<Grants>>,
    room: Arc<Semaphore>,
    connections: std::sync::atomic::AtomicU64,
}

/// A message of a client, read.
struct Post<G: Rooms> {
    client: Arc<Client<G>>,
    principal: Principal,
    era: Era,
    headers: HeaderMap,
    message: Bytes,
    /// What it occupies of the room for messages, until it has gone on.
    _room: OwnedSemaphorePermit,
}

impl<G: Rooms> Front<G> {
    pub(super) fn new(plan: &FrontPlan, hosts: Vec<String>, gate: Arc<G>) -> Arc<Self> {
        Arc::new(Self {
            gate,
            memory: Arc::default(),
            doors: Doors {
                hosts: Some(hosts),
                origins: plan.origins.clone(),
            },
            upstream: Upstream::new(&plan.upstream, plan.starting),
            clients: Clients::new(SESSIONS),
            server: Arc::clone(&plan.server),
            grants: plan.grants.clone(),
            room: Arc::new(Semaphore::new(ROOM / SHARE)),
            connections: 1.into(),
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

    /// Answers one request.
    pub(super) async fn serve(
        self: Arc<Self>,
        principal: Principal,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let method = request.method().clone();
        match self.route(principal, request).await {
            Ok(response) => response,
            Err(refusal) => {
                tracing::warn!(%method, status = %refusal.status, why = refusal.why, "refused a request");
                refusal.response()
            }
        }
    }

    async fn route(
        self: Arc<Self>,
        user: Principal,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let (head, body) = request.into_parts();
        self.doors.admit(&head.uri, &head.headers)?;
        let visitor = self.visitor(user, &head.headers)?;
        if head.uri.path() != ENDPOINT {
            let why = format!("there is nothing here: the server is at {ENDPOINT}");
            return Err(Refusal::new(StatusCode::NOT_FOUND, why));
        }
        let known = [Method::POST, Method::GET, Method::DELETE].contains(&head.method);
        let not_allowed = || {
            Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "messages are sent with POST",
            )
        };
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
        self.of_session(&head, id, &client).await
    }

    /// Who sends a request with these headers, on a connection of this user.
    fn visitor(&self, user: Principal, headers: &HeaderMap) -> Result<Visitor, Refusal> {
        let Some(grants) = &self.grants else {
            return Ok(Visitor {
                principal: user,
                grant: None,
            });
        };
        let Some(token) = headers::bearer(headers)? else {
            return Err(Refusal::unauthorized(None));
        };
        let bearer = grants.verify(token, &self.server).map_err(|rejected| {
            tracing::warn!(%user, why = %rejected, "refused a token");
            Refusal::unauthorized(Some("the token is not good here"))
        })?;
        Ok(Visitor {
            principal: Principal::Bearer(Arc::clone(&bearer.name)),
            grant: Some((Arc::clone(&bearer.grant), bearer.number())),
        })
    }

    /// The headers that go on to the server: a token that is for this front is not for it.
    fn forwarded(&self, headers: &HeaderMap) -> HeaderMap {
        let mut forwarded = headers::end_to_end(headers);
        if self.grants.is_some() {
            forwarded.remove(AUTHORIZATION);
        }
        forwarded
    }

    /// A stream to listen to, or the end of an MCP session.
    async fn of_session(
        &self,
        head: &Parts,
        id: Option<&str>,
        client: &Arc<Client<G>>,
    ) -> Result<Response<Body>, Refusal> {
        let forwarded = self.forwarded(&head.headers);
        let response = self
            .upstream
            .send(&head.method, &forwarded, &Bytes::new())
            .await
            .map_err(|(refusal, _)| refusal)?;
        let status = response.status();
        let over = status == StatusCode::NOT_FOUND
            || (head.method == Method::DELETE && status.is_success());
        if let Some(id) = id.filter(|_| over) {
            self.clients.remove(id);
        }
        let listens = head.method == Method::GET && status.is_success();
        let notices = listens.then(|| client.listen());
        let waiting = Waiting::new(client, Era::Sessions, None);
        self.answer(response, waiting, notices).await
    }

    /// A message of a client.
    async fn post(
        self: Arc<Self>,
        visitor: Visitor,
        era: Result<Era, String>,
        head: Parts,
        body: Incoming,
    ) -> Result<Response<Body>, Refusal> {
        let (message, room) = self.read(&visitor, body).await?;
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
            headers::agree(era, &head.headers, &envelope)?;
            (era, self.client(&visitor, era, &head.headers, &envelope)?)
        };
        let post = Post {
            client,
            principal: visitor.principal,
            era,
            headers: head.headers,
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

    /// Reads a message whole.
    async fn read(
        &self,
        visitor: &Visitor,
        body: Incoming,
    ) -> Result<(Bytes, OwnedSemaphorePermit), Refusal> {
        let limit = self.gate.bounds().client_line;
        let too_long = |bytes: u64| {
            let answer = self.stateless(visitor).conversation.too_long(bytes);
            tracing::debug!(answer.line, "too long");
            Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the message is too long: at most {limit} bytes are read"),
            )
        };
        let announced = body.size_hint();
        let most = u64::try_from(limit).unwrap_or(u64::MAX);
        if announced.lower() > most {
            return Err(too_long(announced.lower()));
        }
        type Broken = Box<dyn std::error::Error + Send + Sync>;
        let reading = async {
            let upper = announced
                .upper()
                .and_then(|length| usize::try_from(length).ok());
            let shares = |length: usize| u32::try_from(length / SHARE + 1).unwrap_or(u32::MAX);
            let taken = shares(upper.unwrap_or(limit).min(limit));
            let mut room = Arc::clone(&self.room).acquire_many_owned(taken).await?;
            let whole = Limited::new(body, limit).collect().await?.to_bytes();
            drop(room.split(usize::try_from(taken - shares(whole.len()).min(taken))?));
            Ok::<_, Broken>((whole, room))
        };
        match timeout(BODY_TIME, reading).await {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                Err(too_long(most.saturating_add(1)))
            }
            Ok(Err(_)) => Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "the message broke off",
            )),
            Err(_) => Err(Refusal::new(
                StatusCode::REQUEST_TIMEOUT,
                "the message did not come in time",
            )),
        }
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
                self.clients.room()?;
                let number = self
                    .connections
                    .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Ok(self.new_client(visitor, number))
            }
            None => Ok(self.stateless(visitor)),
        }
    }

    fn stateless(&self, visitor: &Visitor) -> Arc<Client<G>> {
        let number = match (&visitor.principal, &visitor.grant) {
            (_, Some((_, number))) => GRANTS_CONNECTIONS + number,
            (Principal::User(user), None) => STATELESS_CONNECTIONS + u64::from(*user),
            (Principal::Bearer(_), None) => 0,
        };
        self.new_client(visitor, number)
    }

    fn new_client(&self, visitor: &Visitor, connection: u64) -> Arc<Client<G>> {
        let caller = Caller {
            principal: visitor.principal.clone(),
            grant: visitor.grant.as_ref().map(|(id, _)| Arc::clone(id)),
            connection,
            server: Arc::clone(&self.server),
        };
        let (gate, memory) = (Arc::clone(&self.gate), Arc::clone(&self.memory));
        Client::new(Conversation::new(gate, memory, caller))
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
                tokio::select! {
                    response = self.forward(&post, waiting, &message) => response,
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
            FromClient::Answer(answer) if answer.malformed => {
                answered(StatusCode::BAD_REQUEST, answer.line)
            }
            FromClient::Answer(answer) => answered(StatusCode::OK, answer.line),
            FromClient::Drop(why) => Err(Box::new(Err(Refusal::new(StatusCode::BAD_REQUEST, why)))),
            FromClient::Open(start) => {
                let opening = conversation.open(*start);
                match self.opened(post, &envelope, opening, sender).await {
                    AfterOpen::Ready {
                        id,
                        text,
                        beginning,
                    } => {
                        self.clients.opened(beginning.session(), client);
                        headers::repeat(&mut post.headers, beginning.changes());
                        if conversation.begin(*beginning) {
                            Ok((waiting(id), text.into()))
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
        let forwarded = self.forwarded(&post.headers);
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
                tracing::debug!(principal = %post.principal, "an MCP session begins");
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
                Relay::new(body, waiting, notices).boxed_unsync()
            }
            "application/json" => {
                let limit = self.gate.bounds().server_line;
                let Ok(text) = Limited::new(body, limit).collect().await else {
                    return refuse(
                        &mut waiting,
                        "the answer of the server behind capwarden broke off, or is too long",
                    );
                };
                let text = text.to_bytes();
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

/// Where the front is, on its host.
pub const ENDPOINT: &str = "/mcp";
