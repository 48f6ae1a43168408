//! In front of an HTTP server: which requests there are, and whose they are. `post` carries the messages
//! of clients, and `answer` what the server has to say to them.

mod answer;
mod post;

use std::{sync::Arc, time::Duration};

use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
};
use tokio::{sync::mpsc, time::timeout};

use super::{
    capacity::ANSWERS,
    clients::{Client, Clients},
    headers::{self, Era},
    legacy::{self, stream::Streams},
    reception::{Place, Reception, ReceptionPlan, Service, Visitor},
    refusal::{Body, Refusal},
    relay::Waiting,
    serve::Leave,
    shares::Shares,
    tls::Authorities,
    upstream::{Kind, Open, Upstream, UpstreamAddress, goes_on, hold},
};
use crate::{
    gate::{
        captures::Captures as _,
        conversation::{Conversation, Memory, Rooms},
        envelope::Envelope,
        events::Decide as _,
        reply,
    },
    principal::{Caller, HTTP_CONNECTIONS, Principal},
    session::{EndReason, SessionEnd},
};

/// How long a server may take to let go of a session whose grant has ended.
const FAREWELL: Duration = Duration::from_secs(5);
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
    leave: Leave,
}

impl<G: Rooms> Front<G> {
    pub(super) fn new(plan: &FrontPlan, at: &Place, leave: Leave, gate: Arc<G>) -> Arc<Self> {
        Arc::new(Self {
            reception: Reception::new(&plan.reception, at, gate.bounds().client_line),
            gate,
            memory: Arc::default(),
            upstream: Upstream::new(
                &plan.upstream,
                &plan.authorities,
                plan.starting,
                &at.capacity,
            ),
            clients: Clients::new(at.capacity.sessions()),
            streams: Streams::default(),
            answers: Shares::new(ANSWERS),
            connections: HTTP_CONNECTIONS.into(),
            leave,
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
        let principal = &client.conversation.caller.principal;
        // Some servers begin to answer only when there is something to tell, so that who listens
        // takes no turn.
        let (_turn, stream) = if *method == Method::GET {
            let stream = self.stream(principal).ok_or_else(|| {
                Refusal::busy("too many streams of the server are open: try again later")
            })?;
            (None, Some(stream))
        } else {
            let turn = self.upstream.turn(Kind::Word, Some(principal.clone()));
            (Some(turn.await?), None)
        };
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
        let answer = self.answer(response, waiting, notices).await?;
        Ok(match stream.filter(|_| goes_on(&answer)) {
            Some(stream) => hold(answer, stream),
            None => answer,
        })
    }

    /// A place for one more stream of the server, if there is one.
    fn stream(&self, who: &Principal) -> Option<Open> {
        self.upstream.stream(who, self.reception.descriptor())
    }

    /// Ends an MCP session at the server, if it hears that.
    pub(super) async fn leave(&self, session: &str) {
        let Ok(id) = session.try_into() else { return };
        let mut headers = HeaderMap::new();
        headers.insert(headers::SESSION, id);
        let nothing = Bytes::new();
        let asked = async {
            let _turn = self.upstream.turn(Kind::Word, None).await;
            let _ = self
                .upstream
                .send(&Method::DELETE, &headers, &nothing)
                .await;
        };
        let _ = timeout(FAREWELL, asked).await;
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
                // Its answers to questions will come under its session's id.
                let conversation = self.conversation(caller).holding();
                Ok(Client::new(conversation, visitor))
            }
            None => Ok(self.stateless(visitor)),
        }
    }

    fn stateless(&self, visitor: &Visitor) -> Arc<Client<G>> {
        let caller = visitor.shared_caller(&self.reception.server);
        Client::new(self.conversation(caller), visitor)
    }

    fn conversation(&self, caller: Caller) -> Conversation<G> {
        let (gate, memory) = (Arc::clone(&self.gate), Arc::clone(&self.memory));
        Conversation::new(gate, memory, caller)
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

/// Where the front is, on its host.
pub const ENDPOINT: &str = "/mcp";
