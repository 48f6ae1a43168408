//! What `run` and `exec` have in common: the launch, the signals, and the end of it all.

use std::{
    ffi::OsString,
    fmt,
    fs::File,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
    time::timeout,
};

use super::{
    Degraded, EngineError, Judge, Outcome,
    record::RecordKeeper,
    reload::{Reload, follow_policy},
    timed::Timed,
    turn::Turn,
};
use crate::{
    audit::visible,
    filter::Compiler,
    gate::{
        self, Bounds,
        http::{self, Leave, Listener, Tls},
    },
    kernel::{
        self, Backstop, Broker, Cgroup, Credentials, Egress, Governed, Keeper, Launch, Stored,
        Tree, Way, launch,
    },
    policy::{Baseline, ProgramNeeds},
    session::{Attribution, EndReason, Events, Sessions},
    telemetry::{Endpoint, Journal, Metrics, ServerMetrics, Serving},
};

/// How long a server may take to leave once its input is closed.
const LEAVE: Duration = Duration::from_secs(5);

/// The sessions of a server that is about to be started with these credentials, and what this host lacks for them.
pub(super) fn sessions(
    attribution: Attribution,
    credentials: &Credentials,
    events: Events,
) -> io::Result<(Sessions, Vec<Degraded>)> {
    let mut degraded = Vec::new();
    let tree = match attribution {
        Attribution::WholeTree => None,
        Attribution::ByCall => Tree::load()
            .inspect_err(|error| {
                tracing::warn!(%error, "{}", Degraded::NoForkTags.describe());
                degraded.push(Degraded::NoForkTags);
            })
            .ok(),
    };
    let cgroup = Cgroup::create_for(credentials)
        .inspect_err(|error| {
            tracing::warn!(%error, "{}", Degraded::NoCgroup.describe());
            degraded.push(Degraded::NoCgroup);
        })
        .ok();
    let backstop = backstop();
    if backstop.is_none() {
        degraded.push(Degraded::NoBackstop);
    }
    let egress = Egress::shared()
        .inspect_err(|error| {
            tracing::warn!(%error, "{}", Degraded::NoEgress.describe());
            degraded.push(Degraded::NoEgress);
        })
        .ok();
    // What a launcher starts has the mounts of its unit.
    if Way::chosen() == Way::Fork
        && let Err(error) = kernel::mounts_available()
    {
        tracing::warn!(%error, "{}", Degraded::NoMounts.describe());
        degraded.push(Degraded::NoMounts);
    }
    let compiler = Compiler::own();
    let sessions = Sessions::new(
        attribution,
        compiler,
        cgroup,
        tree,
        backstop,
        egress,
        events,
    );
    Ok((sessions, degraded))
}

/// The backstop, where the host has one. That takes the verifier long to refuse, so that a host which has
/// none is asked again for a later server only after a while.
fn backstop() -> Option<Arc<Backstop>> {
    const AGAIN: Duration = Duration::from_secs(60);
    static ABSENT: Mutex<Option<Instant>> = Mutex::new(None);
    let mut absent = ABSENT.lock().unwrap_or_else(PoisonError::into_inner);
    if absent.is_some_and(|since| since.elapsed() < AGAIN) {
        return None;
    }
    let found = Backstop::shared();
    *absent = found.is_err().then(Instant::now);
    found
        .inspect_err(|error| tracing::debug!(%error, "{}", Degraded::NoBackstop.describe()))
        .ok()
}

/// Starts a server, whose network is bounded first if its policy says anything of it. Dropping the
/// broker ends its supply of capture sockets.
pub(super) async fn start_server(
    sessions: &Sessions,
    command: &[OsString],
    credentials: &Credentials,
    piped: bool,
    baseline: Option<Baseline>,
    programs: Option<ProgramNeeds>,
) -> Result<(Governed, Broker), EngineError> {
    // Before anything is attached to the cgroup.
    if let Some(needs) = programs {
        let prepared = sessions.prepare_programs(credentials, needs.memory);
        prepared.map_err(EngineError::Programs)?;
    }
    match baseline {
        Some(baseline) => {
            tracing::info!("without a session, the server {baseline}");
            let bounded = sessions.bound_network(credentials, baseline).await;
            bounded.map_err(EngineError::Network)?;
        }
        None => tracing::info!(
            "the policy has neither `baseline`, `proxy` nor `program`: the server's network is not bounded"
        ),
    }
    let (sessions, command, credentials) =
        (sessions.clone(), command.to_vec(), credentials.clone());
    // It waits for the process, and perhaps for the service manager.
    let started =
        tokio::task::spawn_blocking(move || launch_in(&sessions, &command, &credentials, piped));
    let started = started.await.map_err(io::Error::other)?;
    kernel::give_back();
    started
}

/// Tells a client that its server could not be started, in answer to what it asks first.
pub(super) async fn not_started(
    client_in: kernel::Input,
    client_out: kernel::Output,
    bounds: Bounds,
    error: &EngineError,
) {
    let words = format!(
        "The server could not be started: {error}. More is {}.",
        Journal::place_of_the_log()
    );
    gate::apologise(client_in, client_out, bounds.client_line, &words).await;
}

/// Says what the server is called, on which much depends.
pub(super) fn say_name(name: &str) {
    tracing::info!(
        "the server is called {}: grants, approvals, limits and accepted definitions go by that",
        visible(name)
    );
}

/// Starts a command, which is no server: its network is its own.
pub(super) fn start_command(
    sessions: &Sessions,
    command: &[OsString],
    credentials: &Credentials,
) -> Result<(Governed, Broker), EngineError> {
    launch_in(sessions, command, credentials, false)
}

fn launch_in(
    sessions: &Sessions,
    command: &[OsString],
    credentials: &Credentials,
    piped: bool,
) -> Result<(Governed, Broker), EngineError> {
    let admitted = sessions.clone();
    if let Some(way_out) = sessions
        .cgroup()
        .and_then(|group| group.way_out(credentials))
    {
        tracing::warn!(
            "the governed user may write {}: what leaves its cgroup by that may outlive its session; start capwarden as a service, or with a user of its own for the server",
            way_out.display()
        );
    }
    let plan = Launch {
        command,
        credentials,
        cgroup: sessions.cgroup(),
        piped,
    };
    Ok(launch(&plan, move |process, listener| {
        let stored = store(process, &listener);
        admitted.govern(process, &credentials.reach)?;
        Ok(Broker::start(listener, admitted)?.with_stored(stored))
    })?)
}

/// Has the service manager keep a listener, where there is one that does.
fn store(process: u32, listener: &kernel::Listener) -> Option<Stored> {
    let stored = Keeper::of_environment()?.store(process, listener);
    stored
        .inspect_err(|error| {
            tracing::warn!(%error, process, "the listener is not kept over a restart of capwarden");
        })
        .ok()
        .flatten()
}

/// Answers for an agent that has died and whose listeners the service manager has kept: no to everything, since of its
/// sessions nothing is known. Who is refused is recorded; captures that go on are still held to what they were granted.
pub(super) fn adopt(events: &Events) -> io::Result<Vec<Broker>> {
    let kept = kernel::kept();
    if kept.is_empty() {
        return Ok(Vec::new());
    }
    let compiler = Compiler::own();
    let none = Sessions::new(
        Attribution::WholeTree,
        compiler,
        None,
        None,
        None,
        None,
        events.clone(),
    );
    let adopted = kept.into_iter().filter_map(|kept| {
        let process = kept.process;
        let broker = Broker::adopt(kept.listener, none.clone());
        tracing::info!(
            process,
            "governed by a capwarden that has ended: what it captures stays within its grant, and it gets nothing more"
        );
        broker
            .inspect_err(|error| tracing::error!(%error, process, "nobody answers it"))
            .ok()
    });
    Ok(adopted.collect())
}

/// Listens for clients over HTTP.
pub(super) fn listener(at: SocketAddr, tls: Option<Tls>) -> Result<Listener, EngineError> {
    let tcp = http::listen(at).map_err(|error| not_listening(at, error))?;
    Ok(listener_at(tcp, tls, Leave::never()))
}

/// The same by a socket that listens already.
pub(super) fn listener_at(tcp: TcpListener, tls: Option<Tls>, leave: Leave) -> Listener {
    let capacity = http::Capacity::of(kernel::descriptors(http::DESCRIPTORS));
    let connections = capacity.connections;
    tracing::info!(connections, "more connections than this are turned away");
    Listener {
        tcp,
        tls,
        capacity,
        leave,
    }
}

/// Somebody else is there, or the system refuses.
pub(super) fn not_listening(at: impl fmt::Display, source: io::Error) -> EngineError {
    let at = at.to_string();
    EngineError::Listen { at, source }
}

/// Says where clients come: with port 0, the kernel has chosen.
pub(super) fn say_where(listener: &Listener) -> io::Result<()> {
    let here = listener.tcp.local_addr()?;
    let scheme = if listener.tls.is_some() {
        "https"
    } else {
        "http"
    };
    tracing::info!("listening on {scheme}://{here}{}", http::ENDPOINT);
    Ok(())
}

/// Starts to count, and to serve what is counted, where that is wanted.
pub(super) async fn metrics(
    endpoint: Option<Endpoint>,
    events: &Events,
) -> Result<(Option<Arc<Metrics>>, Option<Serving>), EngineError> {
    metrics_later(endpoint, events, None, Turn::now()).await
}

/// The same once it is time to, perhaps by the listener of an agent before this one.
pub(super) async fn metrics_later(
    endpoint: Option<Endpoint>,
    events: &Events,
    passed: Option<OwnedFd>,
    turn: Turn,
) -> Result<(Option<Arc<Metrics>>, Option<Serving>), EngineError> {
    let Some(endpoint) = endpoint else {
        return Ok((None, None));
    };
    let metrics = Arc::new(Metrics::new());
    count_refusals(&metrics, events);
    #[cfg(feature = "otlp")]
    if let Some(dropped) = crate::telemetry::otlp::dropped_spans() {
        metrics.dropped_spans_are(dropped);
    }
    let when = async move { turn.to_serve().await };
    let serving = endpoint.serve_later(Arc::clone(&metrics), passed, when);
    let serving = serving.await?;
    tracing::info!(at = %serving.endpoint(), "metrics");
    Ok((Some(metrics), Some(serving)))
}

/// Counts what is refused to a server.
pub(super) fn count_refusals(metrics: &Metrics, events: &Events) {
    let its = metrics.server(events.server());
    its.refusals_are(events.refusals(), events.network_refusals());
}

/// Whoever decides on calls to this server, by a policy that is loaded again for as long as the other part is kept.
/// `governed` is the user that servers run as, if any is started.
pub(super) fn decider(
    server: &Arc<str>,
    judge: Judge,
    reload: Reload,
    governed: Option<u32>,
    record: &RecordKeeper,
    metrics: Option<&Metrics>,
) -> io::Result<(Timed<Arc<Judge>>, JoinSet<()>)> {
    let metrics: Option<Arc<ServerMetrics>> = metrics.map(|metrics| metrics.server(server));
    let judge = judge
        .telling(record.approvals())
        .keeping(record.definitions());
    let judge = Arc::new(judge);
    if let Some(metrics) = &metrics {
        metrics.unavailable_limits_are(judge.unavailable());
    }
    let mut following = follow_policy(
        reload,
        governed,
        Arc::clone(&judge),
        record.observer(server)?,
    )?;
    if let Some((policies, changes)) = judge.grant_policies() {
        following.spawn(policies.follow(changes, record.observer(server)?));
    }
    Ok((Timed::new(judge, metrics), following))
}

/// Keeps the grants right while interfaces come, go and are renamed. Ends only if the host can no
/// longer be watched, or when it is dropped.
pub(super) fn follow_interfaces(sessions: &Sessions) -> JoinSet<io::Result<()>> {
    let sessions = sessions.clone();
    let mut follower = JoinSet::new();
    follower.spawn(async move { sessions.follow_interfaces().await });
    follower
}

/// The signals that tell an agent to stop.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    /// A hang-up is for the policy, which is loaded again then, unless the terminal has gone that
    /// there was at the start.
    spared: bool,
    terminal: bool,
}

impl StopSignals {
    /// For who ends with the terminal.
    pub(super) fn new() -> io::Result<Self> {
        Self::with(false)
    }

    /// For who loads the policy again on SIGHUP.
    pub(super) fn but_hang_up() -> io::Result<Self> {
        Self::with(true)
    }

    fn with(spared: bool) -> io::Result<Self> {
        Ok(Self {
            spared,
            terminal: has_terminal(),
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The next one, by number.
    pub(super) async fn next(&mut self) -> i32 {
        loop {
            let signal = tokio::select! {
                _ = self.terminate.recv() => SignalKind::terminate(),
                _ = self.interrupt.recv() => SignalKind::interrupt(),
                _ = self.hang_up.recv() => {
                    if self.spared && (!self.terminal || has_terminal()) {
                        continue;
                    }
                    SignalKind::hangup()
                }
            };
            return signal.as_raw_value();
        }
    }
}

/// Whether the agent has a controlling terminal. The kernel takes it away when it hangs up.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// Ends every session with its files whole, then whatever is left of the server.
pub(super) async fn clean_up(
    sessions: &Sessions,
    governed: &mut Governed,
    reason: EndReason,
) -> Outcome {
    sessions.close(reason).await;
    let left = timeout(LEAVE, governed.wait()).await;
    let outcome = match left {
        Ok(Ok(status)) => Outcome::Exited(status),
        Ok(Err(_)) | Err(_) => Outcome::Killed,
    };
    if let Some(cgroup) = sessions.cgroup() {
        cgroup.kill();
    }
    governed.kill();
    let _ = governed.wait().await;
    outcome
}
