//! Streamable HTTP in front of servers that speak on pipes.
//!
//! Each MCP session has a server of its own, behind a gate of its own, as a client of a Unix socket
//! has: what is posted becomes a line, and the server's lines become answers and events
//! (`exchange`, `wire`, `streams`, `events`). Requests of the stateless revision share one server for each
//! grant (without grants, for each user: `stateless`); their ids are replaced on the way (`renumber`), since several clients may
//! use the same ones. A server that does not speak that revision is not made to: capwarden asks it
//! with `server/discover`, and tells clients which revisions there are.

mod events;
mod exchange;
mod renumber;
mod stateless;
mod streams;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::HeaderValue,
    http::request::Parts,
};
use tokio::{
    net::UnixStream,
    task::JoinSet,
    time::{Instant, sleep},
};

use self::{
    events::{Events, Source},
    exchange::{forward, gone, taken_back},
    streams::Kind,
    wire::Wire,
};
use super::{
    capacity::{ANSWERS, SERVERS},
    front::ENDPOINT,
    headers::{self, Era},
    legacy, params,
    reception::{Reception, ReceptionPlan, Service, Visitor},
    refusal::{Body, FOLLOWED, Refusal, json_response},
    serve::Listener,
    shares::{Share, Shares},
    tether::{Tether, Tied},
};
use crate::{
    gate::{
        Bounds,
        conversation::lock,
        envelope::{Envelope, Id},
        reply,
    },
    principal::{Caller, HTTP_CONNECTIONS, Principal},
};

/// A server that was not asked anything for so long, and has no stream open, ends.
const IDLE: Duration = Duration::from_secs(600);
/// How often idle ones are looked for.
const LOOK: Duration = Duration::from_secs(5);
/// The same once nobody is let in any more.
const LEAVING: Duration = Duration::from_millis(500);
const POSTED: &str = "messages are sent with POST";

/// Starts servers that speak on pipes.
pub trait Servers: Send + Sync + 'static {
    /// Starts a server behind a gate, for this caller. It ends when the other end of its wire does,
    /// and the wire ends when it does, or if it cannot be started. `place` is kept until nothing of
    /// it is left.
    ///
    /// # Errors
    ///
    /// There are no descriptors left.
    fn start(&self, caller: Caller, place: Box<dyn Send>) -> io::Result<UnixStream>;

    /// Whether the caller with this connection has a session open that goes on by itself.
    fn is_busy(&self, connection: u64) -> bool;

    /// A message of a client was not let through.
    fn dropped(&self, bytes: u64, why: &str);

    /// What each gate keeps itself within.
    fn bounds(&self) -> Bounds;
}

/// Serves clients over HTTP with servers on pipes, until it is dropped. `owner` as for
/// [`serve`](super::serve()).
pub async fn serve_piped<S: Servers>(
    plan: &ReceptionPlan,
    listener: Listener,
    servers: S,
    owner: impl Fn(SocketAddr, SocketAddr) -> Option<u32>,
) -> io::Result<()> {
    let front = Arc::new(Piped::new(plan, &listener, servers)?);
    serve(front, listener, owner).await
}

async fn serve<S: Servers>(
    front: Arc<Piped<S>>,
    listener: Listener,
    owner: impl Fn(SocketAddr, SocketAddr) -> Option<u32>,
) -> io::Result<()> {
    let (leave, to_sweep) = (listener.leave.of_others(), Arc::clone(&front));
    let sweeping = async {
        let front = &to_sweep;
        let idle = async {
            loop {
                sleep(LOOK).await;
                front.sweep(IDLE);
            }
        };
        tokio::select! {
            () = idle => {}
            _ = leave.told() => {}
        }
        // Also of who listens still.
        let letting_go = async {
            let mut late = pin!(leave.late());
            let mut is_late = false;
            let mut going = JoinSet::new();
            while !front.let_go(is_late, &mut going) {
                tokio::select! {
                    () = &mut late, if !is_late => is_late = true,
                    () = sleep(LEAVING) => {}
                }
            }
            while going.join_next().await.is_some() {}
        };
        // A grant that ends takes with it what goes on, although nobody is connected.
        tokio::select! {
            () = letting_go => {}
            () = front.reception.watch(|grant| front.ended(grant)) => {}
        }
    };
    // Whoever is answered is waited for, and whatever goes on by itself.
    let mut taking = pin!(listener.take(Arc::clone(&front), owner));
    let mut sweeping = pin!(sweeping);
    tokio::select! {
        taken = &mut taking => {
            taken?;
            sweeping.await;
            return Ok(());
        }
        () = &mut sweeping => {}
    }
    // Nothing is left but last answers, which are to be read.
    let unread = async {
        leave.late().await;
        sleep(leave.last).await;
    };
    tokio::select! {
        taken = taking => taken,
        () = unread => Ok(()),
    }
}

/// An MCP session, and its server.
struct Session {
    wire: Arc<Wire>,
    kind: Kind,
    principal: Principal,
    tether: Option<Arc<Tether>>,
    connection: u64,
    /// When something was last seen to go on of it.
    busy: Option<Instant>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.wire.close();
    }
}

/// A caller, and the grant's id.
type Whose = (Principal, Option<Arc<str>>);

/// The server that requests of one caller share which belong to no session; none until there is one.
type Shared = Arc<tokio::sync::Mutex<Option<Session>>>;

/// The front.
struct Piped<S> {
    reception: Reception,
    servers: S,
    limit: usize,
    places: Arc<Shares<Principal>>,
    answers: Arc<Shares<Principal>>,
    sessions: Mutex<HashMap<String, Session>>,
    shared: Mutex<HashMap<Whose, Shared>>,
    /// The server has said that it speaks revisions with sessions only.
    only_sessions: AtomicBool,
    connections: AtomicU64,
    /// See [`Leave::when`](super::Leave::when).
    last: Duration,
}

impl<S: Servers> Piped<S> {
    fn new(plan: &ReceptionPlan, listener: &Listener, servers: S) -> io::Result<Self> {
        let bounds = servers.bounds();
        Ok(Self {
            reception: Reception::new(plan, &listener.place()?, bounds.client_line),
            // What the gate adds to a message is short.
            limit: bounds.server_line.saturating_mul(2),
            servers,
            places: Shares::new(SERVERS),
            answers: Shares::new(ANSWERS),
            sessions: Mutex::default(),
            shared: Mutex::default(),
            only_sessions: AtomicBool::new(false),
            connections: HTTP_CONNECTIONS.into(),
            last: listener.leave.last,
        })
    }

    /// Ends what has been idle for so long, and what has lost its server.
    fn sweep(&self, idle: Duration) {
        let over = |session: &Session| session.wire.is_gone() || session.wire.idle() >= idle;
        let mut gone = Vec::new();
        {
            let mut sessions = lock(&self.sessions);
            let ids: Vec<String> = sessions
                .iter()
                .filter(|(_, session)| over(session))
                .map(|(id, _)| id.clone())
                .collect();
            gone.extend(ids.iter().filter_map(|id| sessions.remove(id)));
        }
        lock(&self.shared).retain(|_, shared| {
            // One that is being started just now is not idle.
            let Ok(mut place) = shared.try_lock() else {
                return true;
            };
            if place.as_ref().is_some_and(over) {
                gone.extend(place.take());
            }
            place.is_some()
        });
        drop(gone);
    }

    /// Nobody comes any more: ends those who wait for nothing, and of whom nothing goes on; when it is late, also those who
    /// wait, once they were told, which is `going` on. Whether there are no others.
    fn let_go(&self, late: bool, going: &mut JoinSet<()>) -> bool {
        let mut gone = Vec::new();
        {
            let mut sessions = lock(&self.sessions);
            let over = sessions.extract_if(|_, session| !self.stays(session, late));
            gone.extend(over.map(|(_, session)| session));
        }
        let mut shared = lock(&self.shared);
        shared.retain(|_, shared| match shared.try_lock() {
            // One is being started just now.
            Err(_) => true,
            Ok(mut place) => {
                if place
                    .as_mut()
                    .is_some_and(|session| !self.stays(session, late))
                {
                    gone.extend(place.take());
                }
                place.is_some()
            }
        });
        let left = shared.len();
        drop(shared);
        for session in gone {
            let last = self.last;
            going.spawn(async move {
                session.wire.forsake(FOLLOWED, last).await;
                drop(session);
            });
        }
        left == 0 && lock(&self.sessions).is_empty()
    }

    /// Whether a session is kept although nobody comes any more.
    fn stays(&self, session: &mut Session, late: bool) -> bool {
        if session.wire.is_gone() {
            return false;
        }
        if self.servers.is_busy(session.connection) {
            session.busy = Some(Instant::now());
            return true;
        }
        let ended_just_now = || session.busy.is_some_and(|busy| busy.elapsed() < self.last);
        session.wire.waits() && (!late || ended_just_now())
    }

    async fn route(
        self: Arc<Self>,
        visitor: Visitor,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let (head, body) = request.into_parts();
        match (head.uri.path(), &head.method) {
            (ENDPOINT, &Method::POST) => self.post(visitor, head, body).await,
            (ENDPOINT, &Method::GET | &Method::DELETE) => self.of_session(&visitor, &head),
            (legacy::STREAM, &Method::GET) => self.legacy_stream(&visitor, &head),
            (legacy::MESSAGES, &Method::POST) => self.legacy_message(&visitor, head, body).await,
            (ENDPOINT | legacy::STREAM | legacy::MESSAGES, _) => Err(Refusal::not_allowed(POSTED)),
            _ => {
                let why = format!("there is nothing here: the server is at {ENDPOINT}");
                Err(Refusal::new(StatusCode::NOT_FOUND, why))
            }
        }
    }

    /// Starts a server.
    fn start(&self, visitor: &Visitor, kind: Kind, caller: Caller) -> Result<Session, Refusal> {
        let place: Option<Share<Principal>> = self.places.try_take(&visitor.principal, 1);
        let place = place.ok_or_else(|| {
            Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many servers run: try again when a session has ended",
            )
        })?;
        let connection = caller.connection;
        let server = self.servers.start(caller, Box::new(place));
        let server = server.map_err(|error| {
            tracing::error!(%error, "no server can be started");
            gone(None)
        })?;
        let principal = visitor.principal.clone();
        let answers = Arc::clone(&self.answers);
        Ok(Session {
            wire: Wire::new(server, kind, self.limit, answers, principal.clone()),
            kind,
            principal,
            tether: visitor.tether.clone(),
            connection,
            busy: None,
        })
    }

    /// Begins an MCP session.
    fn begin(&self, visitor: &Visitor, kind: Kind) -> Result<(String, Arc<Wire>), Refusal> {
        let id = legacy::new_id()?;
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        let caller = visitor.caller(&self.reception.server, number);
        let session = self.start(visitor, kind, caller)?;
        let wire = Arc::clone(&session.wire);
        let mut sessions = lock(&self.sessions);
        // Its grant may have ended since it was let in.
        if visitor
            .tether
            .as_ref()
            .is_some_and(|tether| tether.is_cut())
        {
            return Err(Refusal::unauthorized(Some("the grant has ended")));
        }
        sessions.insert(id.clone(), session);
        tracing::debug!(principal = %visitor.principal, "an MCP session begins");
        Ok((id, wire))
    }

    /// The server of an MCP session. Another user's is not there, as far as this one is told.
    fn session(&self, id: &str, visitor: &Visitor, kind: Kind) -> Result<Arc<Wire>, Refusal> {
        let sessions = lock(&self.sessions);
        let session = sessions.get(id).filter(|session| {
            session.principal == visitor.principal
                && session.kind == kind
                && !session.wire.is_gone()
        });
        let session = session.ok_or_else(Refusal::no_session)?;
        session.wire.heard();
        Ok(Arc::clone(&session.wire))
    }

    fn end(&self, id: &str) {
        let gone = lock(&self.sessions).remove(id);
        drop(gone);
    }

    /// A stream to listen to, or the end of an MCP session.
    fn of_session(&self, visitor: &Visitor, head: &Parts) -> Result<Response<Body>, Refusal> {
        headers::media(&head.method, &head.headers)?;
        headers::connection(&head.headers)?;
        match headers::era(&head.headers)? {
            Ok(Era::Sessions) => {}
            Ok(Era::Stateless) => return Err(Refusal::not_allowed(POSTED)),
            Err(version) => return Err(headers::unknown(&version, None)),
        }
        let id = session_id(&head.headers)?;
        let wire = self.session(id, visitor, Kind::Session)?;
        if head.method == Method::DELETE {
            self.end(id);
            return Ok(json_response(StatusCode::OK, String::new()));
        }
        let source = Source::Listening(wire.listen(), wire);
        Ok(legacy::stream(Events::new(source, None)))
    }

    /// Reads a message, and checks what can be checked of it without a server.
    async fn message(
        &self,
        visitor: &Visitor,
        body: Incoming,
    ) -> Result<(Bytes, super::reception::Held), Refusal> {
        let dropped = |bytes| self.servers.dropped(bytes, "the message is too long");
        self.reception.read(visitor, body, dropped).await
    }

    fn envelope<'a>(&self, message: &'a [u8]) -> Result<Envelope<'a>, Box<Response<Body>>> {
        let refused = |id: Option<&str>, code, why: &str| {
            let bytes = u64::try_from(message.len()).unwrap_or(u64::MAX);
            self.servers.dropped(bytes, why);
            let line = reply::error(id, code, why);
            Box::new(json_response(StatusCode::BAD_REQUEST, line))
        };
        match Envelope::parse(message) {
            Ok(envelope) => match &envelope.id {
                // Its answer could not be told from any other.
                Some((Id::Null, text)) => {
                    Err(refused(Some(text), -32600, "an id is a string or a number"))
                }
                _ => Ok(envelope),
            },
            Err(fault) => {
                let why = fault.fault.to_string();
                Err(refused(fault.id, fault.fault.code(), &why))
            }
        }
    }

    /// A message of a client.
    async fn post(
        &self,
        visitor: Visitor,
        head: Parts,
        body: Incoming,
    ) -> Result<Response<Body>, Refusal> {
        headers::media(&head.method, &head.headers)?;
        headers::connection(&head.headers)?;
        let era = headers::era(&head.headers)?;
        let (message, _room) = self.message(&visitor, body).await?;
        let envelope = match self.envelope(&message) {
            Ok(envelope) => envelope,
            Err(response) => return Ok(*response),
        };
        let era = era.map_err(|version| headers::unknown(&version, Some(&envelope)))?;
        headers::agree(era, &head.headers, &envelope)?;
        let id = headers::session(&head.headers)?;
        let refuse = |why| Err(Refusal::new(StatusCode::BAD_REQUEST, why));
        let begins = envelope.method.as_deref() == Some("initialize");
        match (era, id) {
            // A server that reads the one header only would take it for that session's.
            (Era::Stateless, Some(_)) => {
                refuse("there are no sessions in this revision: leave Mcp-Session-Id out")
            }
            (Era::Stateless, None) => {
                self.stateless(&visitor, &head.headers, &message, &envelope)
                    .await
            }
            (Era::Sessions, Some(_)) if begins => {
                refuse("initialize begins a session, and cannot belong to one")
            }
            (Era::Sessions, Some(id)) => {
                params::agree(&head.headers, &envelope, &[])?;
                let wire = self.session(id, &visitor, Kind::Session)?;
                let (response, _) = forward(&wire, &message, &envelope).await?;
                Ok(response)
            }
            (Era::Sessions, None) if begins && envelope.id.is_some() => {
                let (id, wire) = self.begin(&visitor, Kind::Session)?;
                let answered = forward(&wire, &message, &envelope).await;
                let (mut response, failed) = answered.inspect_err(|_| self.end(&id))?;
                match HeaderValue::try_from(id.as_str()) {
                    Ok(value) if !failed => {
                        response.headers_mut().insert(headers::SESSION, value);
                    }
                    _ => self.end(&id),
                }
                Ok(response)
            }
            (Era::Sessions, None) => refuse("the header Mcp-Session-Id is missing"),
        }
    }

    /// The stream of a client of 2024-11-05; its session ends with it.
    fn legacy_stream(
        self: &Arc<Self>,
        visitor: &Visitor,
        head: &Parts,
    ) -> Result<Response<Body>, Refusal> {
        headers::media(&head.method, &head.headers)?;
        headers::connection(&head.headers)?;
        let (id, wire) = self.begin(visitor, Kind::OneStream)?;
        let first = legacy::endpoint(&id);
        let events = Events::new(Source::Listening(wire.listen(), wire), Some(first));
        let front = Arc::downgrade(self);
        let ending = Ending { front, id };
        let body = http_body_util::BodyExt::boxed_unsync(events);
        Ok(legacy::stream(Tied::new(body, None, ending)))
    }

    async fn legacy_message(
        &self,
        visitor: &Visitor,
        head: Parts,
        body: Incoming,
    ) -> Result<Response<Body>, Refusal> {
        legacy::check(&head.headers)?;
        let wire = self.session(legacy::session(&head.uri)?, visitor, Kind::OneStream)?;
        let (message, _room) = self.message(visitor, body).await?;
        let envelope = match self.envelope(&message) {
            Ok(envelope) => envelope,
            Err(response) => return Ok(*response),
        };
        headers::agree(Era::Sessions, &head.headers, &envelope)?;
        params::agree(&head.headers, &envelope, &[])?;
        let request = envelope.id.as_ref().filter(|_| envelope.method.is_some());
        let sent = wire.post(request.map(|(id, _)| id.clone()), &message);
        sent.await.map_err(|_| gone(None))?;
        if let Some(id) = taken_back(&envelope) {
            wire.forget(&id);
        }
        Ok(legacy::accepted())
    }
}

/// Ends an MCP session when its one stream does.
struct Ending<S: Servers> {
    front: Weak<Piped<S>>,
    id: String,
}

impl<S: Servers> Drop for Ending<S> {
    fn drop(&mut self) {
        if let Some(front) = self.front.upgrade() {
            front.end(&self.id);
        }
    }
}

impl<S: Servers> Service for Piped<S> {
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
        let hangs = |session: &Session| {
            let tether = session.tether.as_ref();
            tether.is_some_and(|tether| &**tether.grant() == grant)
        };
        let mut gone = Vec::new();
        let mut sessions = lock(&self.sessions);
        let ids: Vec<String> = sessions
            .iter()
            .filter(|(_, session)| hangs(session))
            .map(|(id, _)| id.clone())
            .collect();
        gone.extend(ids.iter().filter_map(|id| sessions.remove(id)));
        drop(sessions);
        let shared = lock(&self.shared);
        for place in shared.values() {
            // One that is being started looks for itself whether its grant has ended.
            if let Ok(mut place) = place.try_lock()
                && place.as_ref().is_some_and(hangs)
            {
                gone.extend(place.take());
            }
        }
    }
}

fn session_id(headers: &HeaderMap) -> Result<&str, Refusal> {
    headers::session(headers)?.ok_or_else(|| {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            "the header Mcp-Session-Id is missing",
        )
    })
}
