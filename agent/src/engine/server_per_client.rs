//! A stdio server for each client: with a gate, captures and processes of its own, so that what one
//! client does, and what a server remembers, is kept apart from the others'.

use std::{
    collections::HashMap,
    ffi::OsString,
    io,
    net::Shutdown,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    net::UnixStream,
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{
    Degraded, EngineError, Judge, Outcome,
    current::Current,
    house,
    record::{GateObserver, Opening, PolicySource, RecordKeeper, Started},
    reload::Reload,
    restart::{Again, Life},
    stdio_server::Pipe,
    timed::Timed,
    turn::Turn,
};
use crate::{
    audit::Log,
    gate::{Bounds, Captures, Gate, OpenError, Opened as OpenedCapture, ProgramOpened},
    kernel::{Broker, Credentials, Input, Output},
    policy::{ProgramTerms, ProxyTerms, Terms},
    principal::Caller,
    session::{Attribution, EndReason, Events, SessionEnd, SessionId, SessionKind},
    telemetry::{Endpoint, Metrics, Serving},
};

/// Why servers end with their agent.
pub(super) const AGENT_ENDS: &str = "the agent ends";
/// Ends that may wait for a client to read them.
const ENDS: usize = 256;

/// A stdio server, for the one client of `run` or for each client.
#[derive(Debug)]
pub struct StdioPlan {
    /// The server's command.
    pub server: Vec<OsString>,
    /// What it is called.
    pub name: Arc<str>,
    /// Whose ids it gets.
    pub credentials: Credentials,
    /// What decides the calls.
    pub judge: Judge,
    /// Where their metrics are served.
    pub metrics: Option<Endpoint>,
    /// How their policy is loaded again.
    pub reload: Reload,
}

/// What the servers share.
pub(super) struct OwnServers {
    command: Vec<OsString>,
    name: Arc<str>,
    credentials: Credentials,
    judge: Arc<Timed<Arc<Judge>>>,
    observer: Arc<GateObserver>,
    events: Events,
    routes: Arc<Routes>,
    bounds: Bounds,
    /// The sessions of each connection.
    live: Mutex<HashMap<u64, Current>>,
    /// Why all are to end, once they are.
    stopping: watch::Sender<Option<&'static str>>,
}

/// The servers, and what keeps their record.
pub(super) struct Opened {
    pub(super) servers: Arc<OwnServers>,
    pub(super) record: RecordKeeper,
    /// What is done for as long as this is kept.
    pub(super) tasks: JoinSet<()>,
    pub(super) _serving: Option<Serving>,
    /// What is left of an agent before this one.
    pub(super) adopted: Vec<Broker>,
}

/// What servers share that are served by one agent; the events are one server's own.
pub(super) struct Shared<'a> {
    pub(super) record: &'a RecordKeeper,
    pub(super) events: Events,
    pub(super) routes: Arc<Routes>,
    pub(super) metrics: Option<Arc<Metrics>>,
    /// What each server waits for before it is served.
    pub(super) turn: Turn,
}

impl StdioPlan {
    /// Gets ready to start servers, each within these bounds, in an agent that serves no others.
    pub(super) async fn open(mut self, bounds: Bounds, log: Log) -> Result<Opened, EngineError> {
        house::say_name(&self.name);
        let opened = Opening::of(&self.name, log, self.metrics.take()).await?;
        let (opening, events, serving) = opened;
        let metrics = opening.metrics.clone();
        // To know, and to have recorded, what this host lacks.
        let (_, degraded) =
            house::sessions(Attribution::ByCall, &self.credentials, events.clone())?;
        let adopted = house::adopt(&events)?;
        let (ends, ended) = mpsc::channel(ENDS);
        let source = PolicySource::of(&self.judge.policy());
        let started = self.started(Some(&source), &degraded);
        let record = opening.begin(&started, ends)?;
        let routes = Arc::new(Routes::default());
        let shared = Shared {
            record: &record,
            events,
            routes: Arc::clone(&routes),
            metrics,
            turn: Turn::now(),
        };
        let (servers, mut tasks) = self.join(shared, bounds)?;
        tasks.spawn(async move { routes.carry(ended).await });
        Ok(Opened {
            servers: Arc::new(servers),
            record,
            tasks,
            _serving: serving,
            adopted,
        })
    }

    /// What is recorded of it.
    pub(super) fn started<'a>(
        &'a self,
        policy: Option<&'a PolicySource>,
        degraded: &'a [Degraded],
    ) -> Started<'a> {
        Started {
            command: &self.server,
            policy,
            user: self.credentials.user,
            reach: &self.credentials.reach,
            degraded,
        }
    }

    /// The same in an agent that may serve others as well. What else comes back is done for as long as it
    /// is kept.
    pub(super) fn join(
        self,
        shared: Shared<'_>,
        bounds: Bounds,
    ) -> Result<(OwnServers, JoinSet<()>), EngineError> {
        let user = Some(self.credentials.user);
        let Shared {
            record,
            events,
            routes,
            metrics,
            turn: _,
        } = shared;
        let (judge, tasks) = house::decider(
            &self.name,
            self.judge,
            self.reload,
            user,
            record,
            metrics.as_deref(),
        )?;
        let servers = OwnServers {
            observer: Arc::new(record.observer(&self.name)?),
            name: self.name,
            command: self.server,
            credentials: self.credentials,
            judge: Arc::new(judge),
            events,
            routes,
            bounds,
            live: Mutex::default(),
            stopping: watch::Sender::new(None),
        };
        Ok((servers, tasks))
    }
}

impl OwnServers {
    /// What each server is called.
    pub(super) fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// What each gate keeps itself within.
    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Where events are noted that belong to no server.
    pub(super) fn observer(&self) -> &GateObserver {
        &self.observer
    }

    /// Whether the client with this connection has a session open.
    pub(super) fn is_busy(&self, connection: u64) -> bool {
        let its = self.live().get(&connection).cloned();
        its.is_some_and(|sessions| !sessions.live().is_empty())
    }

    /// A connection has these sessions, until what comes back is dropped.
    fn lives(&self, connection: u64, sessions: &Current) -> Lives<'_> {
        self.live().insert(connection, sessions.clone());
        Lives(self, connection)
    }

    fn live(&self) -> MutexGuard<'_, HashMap<u64, Current>> {
        // Whole after every statement.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells all servers to end, and why.
    pub(super) fn stop(&self, why: &'static str) {
        self.stopping.send_replace(Some(why));
    }

    /// Serves one client with a server of its own, until one of them has gone, `told` says so, or all
    /// are to end. Says which, and how the server ended.
    pub(super) async fn converse(
        &self,
        client: UnixStream,
        caller: Caller,
        told: impl Future<Output = &'static str>,
    ) -> Result<(&'static str, Outcome), EngineError> {
        let mut stopping = self.stopping.subscribe();
        let client = client.into_std()?;
        client.set_nonblocking(false)?;
        let (events, user) = (self.events.clone(), self.credentials.clone());
        // It takes the verifier's time.
        let made = tokio::task::spawn_blocking(move || {
            house::sessions(Attribution::ByCall, &user, events)
        });
        let (sessions, _) = made.await.map_err(io::Error::other)??;
        let (baseline, programs) = self.judge.bounds(&caller);
        let client_in = Input::from(OwnedFd::from(client.try_clone()?));
        let client_out = Output::to(client.as_fd())?;
        let (command, credentials) = (&self.command, &self.credentials);
        let started =
            house::start_server(&sessions, command, credentials, true, baseline, programs).await;
        let (governed, broker) = match started {
            Ok(started) => started,
            Err(error) => {
                house::not_started(client_in, client_out, self.bounds, &error).await;
                let _ = client.shutdown(Shutdown::Both);
                return Err(error);
            }
        };
        let whose = caller.clone();
        let current = Current::new(sessions.clone());
        let connection = caller.connection;
        let _live = self.lives(connection, &current);
        let (ends, ended) = mpsc::channel(ENDS);
        let gate = Gate {
            policy: Arc::clone(&self.judge),
            captures: Routed {
                sessions: current.clone(),
                routes: Arc::clone(&self.routes),
                ends,
                closing: None,
            },
            observer: Arc::clone(&self.observer),
            bounds: self.bounds,
        };
        let pipe = Pipe {
            life: Life {
                sessions,
                governed,
                broker: Some(broker),
            },
            again: Again {
                command: self.command.clone(),
                credentials: self.credentials.clone(),
                events: self.events.clone(),
                needs: {
                    let (judge, caller) = (Arc::clone(&self.judge), caller.clone());
                    Box::new(move || judge.bounds(&caller))
                },
            },
            current,
            gate: Arc::new(gate),
            caller,
            client_in,
            client_out,
            ended,
        };
        let told = async {
            let all = async {
                let why = stopping.wait_for(Option::is_some).await;
                // If nobody can say so any more, it is so.
                why.ok().and_then(|why| *why).unwrap_or(AGENT_ENDS)
            };
            let why = tokio::select! {
                why = all => why,
                why = told => why,
            };
            (why, None)
        };
        let end = pipe.run(told, || self.judge.lets_in(&whose)).await;
        // Whoever still waits for the client to write does so no longer.
        let _ = client.shutdown(Shutdown::Both);
        let ((why, _), outcome) = end?;
        Ok((why, outcome))
    }
}

/// A connection that has sessions.
struct Lives<'a>(&'a OwnServers, u64);

impl Drop for Lives<'_> {
    fn drop(&mut self) {
        self.0.live().remove(&self.1);
    }
}

/// Who is to be told of the end of which session.
#[derive(Default)]
pub(super) struct Routes(Mutex<HashMap<SessionId, mpsc::Sender<SessionEnd>>>);

impl Routes {
    fn table(&self) -> MutexGuard<'_, HashMap<SessionId, mpsc::Sender<SessionEnd>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn carry(&self, mut ends: mpsc::Receiver<SessionEnd>) {
        while let Some(end) = ends.recv().await {
            let client = self.table().remove(&end.session);
            if let Some(client) = client {
                // A client that does not read is not waited for.
                let _ = client.try_send(end);
            }
        }
    }
}

/// Sessions whose ends are told to one client, or to one server's clients.
pub(super) struct Routed {
    pub(super) sessions: Current,
    pub(super) routes: Arc<Routes>,
    pub(super) ends: mpsc::Sender<SessionEnd>,
    /// Nothing more is opened once this says so, as the server is about to end.
    pub(super) closing: Option<watch::Receiver<bool>>,
}

impl Routed {
    fn is_open(&self) -> Result<(), OpenError> {
        match &self.closing {
            Some(closing) if *closing.borrow() => Err(OpenError::new(
                "The server is about to be started anew, by another version of capwarden, and waits for the end of what is granted already. Try again in a minute.",
            )),
            _ => Ok(()),
        }
    }
}

impl Captures for Routed {
    async fn open(&self, terms: Terms) -> Result<OpenedCapture, OpenError> {
        self.is_open()?;
        let opened = Captures::open(&self.sessions, terms).await?;
        self.routes
            .table()
            .insert(opened.session, self.ends.clone());
        Ok(opened)
    }

    async fn open_proxy(&self, terms: ProxyTerms) -> Result<OpenedCapture, OpenError> {
        self.is_open()?;
        let opened = Captures::open_proxy(&self.sessions, terms).await?;
        self.routes
            .table()
            .insert(opened.session, self.ends.clone());
        Ok(opened)
    }

    async fn open_program(&self, terms: ProgramTerms) -> Result<ProgramOpened, OpenError> {
        self.is_open()?;
        let program = Captures::open_program(&self.sessions, terms).await?;
        if !program.joined {
            let session = program.opened.session;
            self.routes.table().insert(session, self.ends.clone());
        }
        Ok(program)
    }

    fn refusals(&self) -> u64 {
        Captures::refusals(&self.sessions)
    }

    fn refused_since(
        &self,
        refusals: u64,
        hears: &dyn Fn(Option<SessionId>) -> bool,
    ) -> Vec<String> {
        Captures::refused_since(&self.sessions, refusals, hears)
    }

    fn listens(&self, session: SessionId) -> bool {
        self.sessions.listens(session)
    }

    fn replied(&self, session: SessionId) {
        self.sessions.replied(session);
    }

    fn stopping(&self, session: SessionId) {
        self.sessions.stopping(session);
    }

    fn end(&self, session: SessionId, reason: EndReason) {
        self.sessions.end(session, reason);
    }

    fn live(&self) -> Vec<SessionId> {
        self.sessions.live()
    }

    fn live_of(&self, kind: SessionKind) -> Vec<SessionId> {
        self.sessions.live_of(kind)
    }
}
