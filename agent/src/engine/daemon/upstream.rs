//! A server that speaks HTTP itself: one for all its clients, started once, and again when it ends.

use std::{
    ffi::OsString,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep},
};

use super::pace::Pauses;
use crate::{
    engine::{
        EngineError, Judge, StdioPlan,
        current::Current,
        house,
        run_http_upstream::{self, Unenforced, asked_at},
        server_per_client::{Routed, Shared},
        turn::Turn,
    },
    gate::{
        Captures as _,
        http::{self, Authorities, FrontPlan, Listener, ReceptionPlan, UpstreamAddress},
    },
    kernel::{self, Credentials},
    session::{Attribution, EndReason, Events, Sessions},
};

/// Ends that may wait to be told.
const ENDS: usize = 256;
/// How often it is looked whether a session is open still.
const LOOK: Duration = Duration::from_millis(200);
/// Whoever has lived so long was of use: the next pause is the first again.
const LIVED: Duration = Duration::from_secs(60);

/// A server over HTTP, and who is served by it.
pub(super) struct Upstream {
    name: Arc<str>,
    /// Who serves clients, and who watches over the server. Aborted when this is dropped.
    tasks: Mutex<Option<(JoinSet<()>, JoinSet<()>)>>,
    stop: watch::Sender<bool>,
    /// Nothing more is opened.
    closing: watch::Sender<bool>,
    /// What it had to wait for itself.
    turn: Turn,
    /// The sessions of the server; none if it is not started here.
    current: Option<Current>,
    failing: Arc<Mutex<Option<String>>>,
}

/// Who starts the server, and starts it again.
struct Supervisor {
    name: Arc<str>,
    command: Vec<OsString>,
    credentials: Credentials,
    judge: Arc<Judge>,
    at: UpstreamAddress,
    events: Events,
    current: Current,
    failing: Arc<Mutex<Option<String>>>,
}

impl Upstream {
    /// Serves clients at a listener, and has the server started if it has a command. What comes back
    /// besides is done for as long as it is kept.
    pub(super) fn begin(
        plan: StdioPlan,
        reception: ReceptionPlan,
        (at, authorities): (UpstreamAddress, Authorities),
        listener: Listener,
        shared: Shared<'_>,
    ) -> Result<(Self, JoinSet<()>), EngineError> {
        let starting = !plan.server.is_empty();
        let governed = starting.then_some(plan.credentials.user);
        let Shared {
            record,
            events,
            routes,
            metrics,
            turn,
        } = shared;
        let (judge, following) = house::decider(
            &plan.name,
            plan.judge,
            plan.reload,
            governed,
            record,
            metrics.as_deref(),
        )?;
        let name = Arc::clone(&plan.name);
        let inner = judge.judge();
        let front = FrontPlan {
            upstream: at.clone(),
            authorities,
            starting,
            reception,
        };
        let observer = record.observer(&plan.name)?;
        let (ends, ended) = mpsc::channel(ENDS);
        let failing = Arc::new(Mutex::new(None));
        let (stop, closing) = (watch::Sender::new(false), watch::Sender::new(false));
        let (mut current, its) = (None, turn.clone());
        let (mut serving, mut watching) = (JoinSet::new(), JoinSet::new());
        if starting {
            let (sessions, _) =
                house::sessions(Attribution::ByCall, &plan.credentials, events.clone())?;
            let supervisor = Supervisor {
                name: plan.name,
                command: plan.server,
                credentials: plan.credentials,
                judge: inner,
                at,
                events,
                current: Current::new(sessions.clone()),
                failing: Arc::clone(&failing),
            };
            current = Some(supervisor.current.clone());
            let routed = Routed {
                sessions: supervisor.current.clone(),
                routes,
                ends,
                closing: Some(closing.subscribe()),
            };
            let gate = run_http_upstream::gate(judge, routed, observer);
            // There is one server at a time: it has one place to listen at.
            let (name, first) = (Arc::clone(&supervisor.name), turn.clone());
            serving.spawn(async move {
                first.to_have(&name).await;
                let served = http::serve(&front, listener, gate, ended, kernel::tcp_owner).await;
                if let Err(error) = served {
                    tracing::error!(%error, "clients can no longer be served over HTTP");
                }
            });
            let mut stopped = stop.subscribe();
            watching.spawn(async move {
                tokio::select! {
                    () = turn.to_have(&supervisor.name) => {}
                    _ = stopped.wait_for(|stop| *stop) => return,
                }
                supervisor.watch(sessions, stopped).await;
            });
        } else {
            tracing::warn!(
                "calls to {} are gated, nothing is enforced in the kernel: capwarden did not start the server at {at}",
                plan.name
            );
            let gate = run_http_upstream::gate(judge, Unenforced, observer);
            serving.spawn(async move {
                turn.to_serve().await;
                let served = http::serve(&front, listener, gate, ended, kernel::tcp_owner).await;
                if let Err(error) = served {
                    tracing::error!(%error, "clients can no longer be served over HTTP");
                }
                drop(ends);
            });
        }
        let upstream = Self {
            name,
            tasks: Mutex::new(Some((serving, watching))),
            stop,
            closing,
            turn: its,
            current,
            failing,
        };
        Ok((upstream, following))
    }

    /// Why the server does not run, where that is so.
    pub(super) fn failing(&self) -> Option<String> {
        lock(&self.failing).clone()
    }

    /// Serves nobody from now on: see [`end`](Self::end).
    pub(super) fn shut(&self) {
        if let Some((serving, _)) = &mut *lock(&self.tasks) {
            serving.abort_all();
        }
    }

    /// Opens no session any more, and waits for the ends of those that are open.
    pub(super) async fn finish(&self) {
        self.closing.send_replace(true);
        if self.current.is_some() {
            // An agent before this one has it still.
            self.turn.to_have(&self.name).await;
        }
        let open = || {
            let current = self.current.as_ref();
            current.is_some_and(|sessions| !sessions.live().is_empty())
        };
        while open() {
            sleep(LOOK).await;
        }
    }

    /// Whether nobody is served any more.
    pub(super) fn is_over(&self) -> bool {
        match &mut *lock(&self.tasks) {
            None => true,
            Some((serving, _)) => {
                while serving.try_join_next().is_some() {}
                serving.is_empty()
            }
        }
    }

    /// Serves nobody any more, then ends the server with its sessions.
    pub(super) async fn end(&self) {
        self.stop.send_replace(true);
        let tasks = lock(&self.tasks).take();
        if let Some((mut serving, mut watching)) = tasks {
            serving.shutdown().await;
            while watching.join_next().await.is_some() {}
        }
    }
}

impl Supervisor {
    /// Keeps a server running until it is told to stop.
    async fn watch(self, first: Sessions, mut stop: watch::Receiver<bool>) {
        let mut pauses = Pauses::default();
        let mut ready = Some(first);
        loop {
            let begun = Instant::now();
            let ended = match self.start(ready.take()).await {
                Ok((sessions, mut governed, broker)) => {
                    *lock(&self.failing) = None;
                    let mut follower = house::follow_interfaces(&sessions);
                    let (why, reason, stopped) = tokio::select! {
                        status = governed.wait() => (
                            status.map_or_else(|error| error.to_string(), |status| format!("it ended ({status})")),
                            EndReason::ServerExit,
                            false,
                        ),
                        _ = stop.wait_for(|stop| *stop) => (String::new(), EndReason::Revoked, true),
                        _ = follower.join_next() => (
                            "interfaces can no longer be followed".to_owned(),
                            EndReason::Revoked,
                            false,
                        ),
                    };
                    let end =
                        run_http_upstream::end(&sessions, &mut governed, broker, reason).await;
                    if let Err(error) = end {
                        tracing::error!(%error, "the server {} could not be cleared away", self.name);
                    }
                    if stopped {
                        return;
                    }
                    why
                }
                Err(error) => error.to_string(),
            };
            if begun.elapsed() >= LIVED {
                pauses = Pauses::default();
            }
            let pause = pauses.take_next();
            tracing::error!(
                "the server {} does not run: {ended}; it is started again in {} s",
                self.name,
                pause.as_secs()
            );
            *lock(&self.failing) = Some(ended);
            tokio::select! {
                () = sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Starts the server, with sessions of its own.
    async fn start(
        &self,
        ready: Option<Sessions>,
    ) -> Result<(Sessions, kernel::Governed, kernel::Broker), EngineError> {
        let sessions = match ready {
            Some(sessions) => sessions,
            None => {
                let (user, events) = (self.credentials.clone(), self.events.clone());
                // It takes the verifier's time.
                let made = tokio::task::spawn_blocking(move || {
                    house::sessions(Attribution::ByCall, &user, events)
                });
                made.await.map_err(io::Error::other)??.0
            }
        };
        let policy = self.judge.policy();
        let (baseline, programs) = (policy.baseline(), policy.programs());
        let baseline = asked_at(baseline, &self.at);
        let (command, user) = (&self.command, &self.credentials);
        self.current.replace(sessions.clone());
        let started =
            house::start_server(&sessions, command, user, false, baseline, programs).await;
        let (governed, broker) = match started {
            Ok(started) => started,
            Err(error) => {
                // Nobody opens sessions for a server that is not there.
                sessions.close(EndReason::ServerExit).await;
                return Err(error);
            }
        };
        Ok((sessions, governed, broker))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Replaced as a whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
