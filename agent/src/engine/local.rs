//! `run --listen unix:PATH`: clients on a Unix socket, each with a stdio server of its own.
//!
//! They speak as over pipes, one message a line. Whose they are the kernel says. A server of its
//! own for each keeps their requests, their captures and what a server remembers apart.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{
    EngineError, Judge, Outcome,
    house::{self, StopSignals},
    pipe::{Pipe, server_name},
    record::{GateObserver, PolicySource, RecordKeeper, Started},
    reload::Reload,
    timed::Timed,
};
use crate::{
    audit::Log,
    gate::{Bounds, Captures, Gate, OpenError, Opened},
    kernel::{self, Credentials},
    policy::{ProxyTerms, Terms},
    principal::{Caller, Principal},
    session::{Attribution, EndReason, Events, SessionEnd, SessionId, SessionKind, Sessions},
    store,
    telemetry::Endpoint,
};

/// Connections, and so servers, at once.
const CONNECTIONS: usize = 16;
/// How long nobody is let in when the host has no more descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// Ends that may wait for a client to read them.
const ENDS: usize = 256;

/// What to run, and where.
#[derive(Debug)]
pub struct LocalPlan {
    /// The socket's path.
    pub socket: PathBuf,
    /// The server's command.
    pub server: Vec<OsString>,
    /// Whose ids each server gets.
    pub credentials: Credentials,
    /// What decides the calls.
    pub judge: Judge,
    /// Where their metrics are served.
    pub metrics: Option<Endpoint>,
    /// How their policy is loaded again.
    pub reload: Reload,
}

/// What the connections share.
struct Local {
    server: Vec<OsString>,
    name: Arc<str>,
    credentials: Credentials,
    judge: Arc<Timed<Arc<Judge>>>,
    events: Events,
    routes: Arc<Routes>,
}

/// Who is to be told of the end of which session.
#[derive(Default)]
struct Routes(Mutex<HashMap<SessionId, mpsc::Sender<SessionEnd>>>);

impl Routes {
    fn table(&self) -> MutexGuard<'_, HashMap<SessionId, mpsc::Sender<SessionEnd>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn carry(&self, mut ends: mpsc::Receiver<SessionEnd>) {
        while let Some(end) = ends.recv().await {
            let client = self.table().remove(&end.session);
            if let Some(client) = client {
                // A client that does not read is not waited for.
                let _ = client.try_send(end);
            }
        }
    }
}

/// Serves until a signal comes.
pub async fn local(plan: LocalPlan, log: Log) -> Result<Outcome, EngineError> {
    let mut stop = StopSignals::but_hang_up()?;
    let socket = Socket::bind(&plan.socket)?;
    let (events, happened) = Events::channel();
    let overflow = events.overflow();
    let (metrics, _serving) = house::metrics(plan.metrics, &events).await?;
    // To know, and to have recorded, what this host lacks.
    let (_, degraded) = house::sessions(Attribution::ByCall, events.clone())?;
    let (ends, ended) = mpsc::channel(ENDS);
    let source = PolicySource::of(&plan.judge.policy());
    let started = Started {
        command: &plan.server,
        policy: Some(&source),
        user: plan.credentials.user,
        degraded: &degraded,
    };
    let record = RecordKeeper::start(log, &started, happened, overflow, ends, metrics.clone())?;
    tracing::info!("listening on {}", plan.socket.display());

    let routes = Arc::new(Routes::default());
    let mut telling = JoinSet::new();
    telling.spawn({
        let routes = Arc::clone(&routes);
        async move { routes.carry(ended).await }
    });
    let user = Some(plan.credentials.user);
    let (judge, following) = house::decider(plan.judge, plan.reload, user, &record, metrics)?;
    let local = Arc::new(Local {
        name: server_name(plan.server.first()),
        server: plan.server,
        credentials: plan.credentials,
        judge: Arc::new(judge),
        events,
        routes,
    });
    let stopping = watch::Sender::new(false);
    let mut connections = JoinSet::new();
    let mut number = 0_u64;
    let (why, signal) = loop {
        let accepted = tokio::select! {
            signal = stop.next() => break ("a signal", Some(signal)),
            () = record.broken() => break ("the audit log is not whole", None),
            Some(_) = connections.join_next() => continue,
            accepted = socket.listener.accept() => accepted,
        };
        let accepted = accepted.and_then(|(stream, _)| {
            let user = stream.peer_cred()?.uid();
            Ok((stream, user))
        });
        let (stream, user) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if connections.len() >= CONNECTIONS {
            tracing::warn!(
                user,
                "closed a connection: {CONNECTIONS} servers run already"
            );
            continue;
        }
        let Ok(observer) = record.observer() else {
            break ("the record is closed", None);
        };
        number += 1;
        let (local, stopping) = (Arc::clone(&local), stopping.subscribe());
        connections.spawn(async move {
            tracing::info!(user, number, "a client connected");
            let end = local
                .converse(stream, user, number, observer, stopping)
                .await;
            match end {
                Ok(why) => tracing::info!(number, why, "a connection ended"),
                Err(error) => tracing::error!(number, %error, "a connection failed"),
            }
        });
    };
    drop(socket);
    stopping.send_replace(true);
    while connections.join_next().await.is_some() {}
    // The record is complete once nobody can add to it.
    drop((local, following));
    let outcome = signal.map_or(Outcome::Killed, Outcome::Stopped);
    record.finish(why, outcome.status()).await?;
    Ok(outcome)
}

impl Local {
    /// One client, and a server of its own.
    async fn converse(
        &self,
        stream: UnixStream,
        user: u32,
        number: u64,
        observer: GateObserver,
        mut stopping: watch::Receiver<bool>,
    ) -> Result<&'static str, EngineError> {
        let events = self.events.clone();
        // It takes the verifier's time.
        let made =
            tokio::task::spawn_blocking(move || house::sessions(Attribution::ByCall, events));
        let (sessions, _) = made.await.map_err(io::Error::other)??;
        let baseline = self.judge.policy().baseline();
        let (governed, broker) =
            house::start_server(&sessions, &self.server, &self.credentials, true, baseline).await?;
        let (ends, ended) = mpsc::channel(ENDS);
        let gate = Gate {
            policy: Arc::clone(&self.judge),
            captures: Routed {
                sessions: sessions.clone(),
                routes: Arc::clone(&self.routes),
                ends,
            },
            observer,
            bounds: Bounds::default(),
        };
        let (client_in, client_out) = stream.into_split();
        let pipe = Pipe {
            sessions,
            governed,
            broker,
            gate: Arc::new(gate),
            caller: Caller {
                principal: Principal::User(user),
                grant: None,
                connection: number,
                server: Arc::clone(&self.name),
            },
            client_in,
            client_out,
            ended,
        };
        let told = async {
            // If nobody can say so any more, it is so.
            let _ = stopping.wait_for(|stopping| *stopping).await;
            ("the agent ends", None)
        };
        let ((why, _), _) = pipe.run(told).await?;
        Ok(why)
    }
}

/// Sessions whose ends are told to one client.
struct Routed {
    sessions: Sessions,
    routes: Arc<Routes>,
    ends: mpsc::Sender<SessionEnd>,
}

impl Captures for Routed {
    async fn open(&self, terms: Terms) -> Result<Opened, OpenError> {
        let opened = Captures::open(&self.sessions, terms).await?;
        self.routes
            .table()
            .insert(opened.session, self.ends.clone());
        Ok(opened)
    }

    async fn open_proxy(&self, terms: ProxyTerms) -> Result<Opened, OpenError> {
        let opened = Captures::open_proxy(&self.sessions, terms).await?;
        self.routes
            .table()
            .insert(opened.session, self.ends.clone());
        Ok(opened)
    }

    fn refusals(&self) -> u64 {
        Captures::refusals(&self.sessions)
    }

    fn refused_since(&self, refusals: u64) -> Vec<String> {
        Captures::refused_since(&self.sessions, refusals)
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

/// Who but root could change what stands in a socket's directory.
fn exposed_directory(socket: &Path) -> io::Result<Option<String>> {
    let directory = socket.parent().filter(|at| !at.as_os_str().is_empty());
    let user = kernel::invoking_user();
    store::exposed(
        directory.unwrap_or(Path::new(".")),
        (user != 0).then_some(user),
    )
}

/// A Unix socket that is the invoking user's, and goes when it is dropped.
struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    fn bind(path: &Path) -> Result<Self, EngineError> {
        let failed = |error: io::Error| {
            let why = format!("cannot listen on {}: {error}", path.display());
            EngineError::System(io::Error::new(error.kind(), why))
        };
        // Else somebody could put a link in its place, for its owner to be changed.
        if let Some(why) = exposed_directory(path).map_err(failed)? {
            let why = format!("{why}; choose another directory");
            return Err(failed(io::Error::new(io::ErrorKind::PermissionDenied, why)));
        }
        // What an agent that was killed has left behind; another's, who listens, stays.
        let left = fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
        if left && std::os::unix::net::UnixStream::connect(path).is_err() {
            fs::remove_file(path).map_err(failed)?;
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        let socket = Self {
            listener,
            path: path.to_owned(),
        };
        // Nobody but the agent's own user, and then the one who called sudo.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        chown(path, Some(kernel::invoking_user()), None).map_err(failed)?;
        Ok(socket)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
