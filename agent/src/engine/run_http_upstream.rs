//! `run --listen` with `--upstream`: gate and guard in front of one HTTP server.

use std::{ffi::OsString, io, net::SocketAddr, sync::Arc};

use tokio::{sync::mpsc, task::JoinSet};

use super::{
    EngineError, Judge, Outcome,
    house::{self, StopSignals},
    record::{GateObserver, Opening, PolicySource, Started},
    reload::Reload,
};
use crate::{
    audit::Log,
    gate::{
        Bounds, Captures, Decide, Gate, OpenError, Opened, ProgramOpened,
        http::{self, FrontPlan, Tls, UpstreamAddress},
    },
    kernel::{self, Broker, Credentials, Governed},
    policy::{Baseline, ProgramTerms, ProxyTerms, Terms},
    session::{Attribution, EndReason, SessionId, SessionKind, Sessions},
    telemetry::Endpoint,
};

/// Ends that may wait to be told.
const ENDS: usize = 256;
/// Requests in flight of one MCP session: thousands of sessions share the memory.
const IN_FLIGHT: usize = 64;

/// What to serve.
#[derive(Debug)]
pub struct ServePlan {
    /// Where clients come.
    pub listen: SocketAddr,
    /// With this certificate.
    pub tls: Option<Tls>,
    /// What they find there.
    pub front: FrontPlan,
    /// The server's command, and whose ids it gets; none if it runs already.
    pub server: Option<(Vec<OsString>, Credentials)>,
    /// What decides its calls.
    pub judge: Judge,
    /// Where its metrics are served.
    pub metrics: Option<Endpoint>,
    /// How its policy is loaded again.
    pub reload: Reload,
}

/// Serves until the server has gone or a signal comes.
pub async fn serve(plan: ServePlan, log: Log) -> Result<Outcome, EngineError> {
    let mut stop = StopSignals::but_hang_up()?;
    let listener = house::listener(plan.listen, plan.tls)?;
    house::say_name(&plan.front.reception.server);
    let name = &plan.front.reception.server;
    let (opening, events, _serving) = Opening::of(name, log, plan.metrics).await?;
    let metrics = opening.metrics.clone();
    let (sessions, degraded) = match &plan.server {
        Some((_, governed)) => {
            let (sessions, degraded) = house::sessions(Attribution::ByCall, governed, events)?;
            (Some(sessions), degraded)
        }
        None => {
            drop(events); // the record waits for all who could add to it
            (None, Vec::new())
        }
    };
    let (ends, ended) = mpsc::channel(ENDS);
    let source = PolicySource::of(&plan.judge.policy());
    let (command, user, reach) = match &plan.server {
        Some((command, governed)) => (command.as_slice(), governed.user, &*governed.reach),
        None => (&[][..], kernel::invoking_user(), &[][..]),
    };
    let started = Started {
        command,
        policy: Some(&source),
        user,
        reach,
        degraded: &degraded,
    };
    let record = opening.begin(&started, ends)?;
    let launched = match (&sessions, &plan.server) {
        (Some(sessions), Some((command, credentials))) => {
            let policy = plan.judge.policy();
            let (baseline, programs) = (policy.baseline(), policy.programs());
            let baseline = asked_at(baseline, &plan.front.upstream);
            let started =
                house::start_server(sessions, command, credentials, false, baseline, programs);
            started.await.map(Some)
        }
        _ => Ok(None),
    };
    let governed = match launched {
        Ok(started) => sessions.zip(started),
        Err(error) => {
            drop(sessions);
            record.finish(&error.to_string(), None).await?;
            return Err(error);
        }
    };
    let observer = record.observer(name)?;
    let governed_user = plan
        .server
        .as_ref()
        .map(|(_, credentials)| credentials.user);
    let (judge, following) = house::decider(
        name,
        plan.judge,
        plan.reload,
        governed_user,
        &record,
        metrics.as_deref(),
    )?;
    house::say_where(&listener)?;

    // Tasks of their own: however much there is to carry, the signals below are heard.
    let mut serving = JoinSet::new();
    match &governed {
        Some((sessions, _)) => {
            tracing::info!(
                "who asks the server at {} directly gets past the gate, but gets no capture",
                plan.front.upstream
            );
            let gate = gate(judge, sessions.clone(), observer);
            let front = plan.front;
            serving.spawn(async move {
                http::serve(&front, listener, gate, ended, kernel::tcp_owner).await
            });
        }
        None => {
            tracing::warn!(
                "calls are gated, nothing is enforced in the kernel: capwarden did not start the server at {}",
                plan.front.upstream
            );
            let gate = gate(judge, Unenforced, observer);
            let front = plan.front;
            serving.spawn(async move {
                http::serve(&front, listener, gate, ended, kernel::tcp_owner).await
            });
        }
    }
    let Some((sessions, (mut governed, broker))) = governed else {
        let (why, signal) = tokio::select! {
            _ = serving.join_next() => ("clients can no longer be served", None),
            signal = stop.next() => ("a signal", Some(signal)),
            () = record.broken() => ("the audit log is not whole", None),
        };
        drop((serving, following));
        let outcome = signal.map_or(Outcome::Killed, Outcome::Stopped);
        record.finish(why, outcome.status()).await?;
        return Ok(outcome);
    };
    let mut follower = house::follow_interfaces(&sessions);
    let (why, reason, signal) = tokio::select! {
        _ = governed.wait() => ("the server exited", EndReason::ServerExit, None),
        _ = serving.join_next() => ("clients can no longer be served", EndReason::Revoked, None),
        signal = stop.next() => ("a signal", EndReason::Revoked, Some(signal)),
        () = record.broken() => ("the audit log is not whole", EndReason::Revoked, None),
        _ = follower.join_next() => ("interfaces can no longer be followed", EndReason::Revoked, None),
    };
    tracing::debug!(why, "ending");
    drop((serving, following));
    let outcome = end(&sessions, &mut governed, broker, reason).await?;
    drop((follower, sessions)); // the record is complete once nobody can add to it
    let outcome = signal.map_or(outcome, Outcome::Stopped);
    record.finish(why, outcome.status()).await?;
    Ok(outcome)
}

/// A baseline by which a server can be asked where it listens.
pub(super) fn asked_at(baseline: Option<Baseline>, at: &UpstreamAddress) -> Option<Baseline> {
    baseline.map(|baseline| match at.address() {
        // Else it could not be asked at all.
        Some(address) => {
            tracing::info!("the server may listen on {address}, where it is asked");
            baseline.listening_on(address)
        }
        None => baseline,
    })
}

/// A gate in front of a server that all its clients share.
pub(super) fn gate<C: Captures, P: Decide>(
    judge: P,
    captures: C,
    observer: GateObserver,
) -> Arc<Gate<P, C, GateObserver>> {
    Arc::new(Gate {
        policy: judge,
        captures,
        observer,
        bounds: Bounds {
            in_flight: IN_FLIGHT,
            ..Bounds::default()
        },
    })
}

/// Ends the sessions, then the server: nothing closes its input, so it is asked to leave.
pub(super) async fn end(
    sessions: &Sessions,
    governed: &mut Governed,
    broker: Broker,
    reason: EndReason,
) -> Result<Outcome, EngineError> {
    sessions.close(reason).await;
    if let Some(process) = kernel::Process::open(governed.pid()) {
        process.ask_to_end();
    }
    let outcome = house::clean_up(sessions, governed, reason).await;
    tokio::task::spawn_blocking(move || drop(broker))
        .await
        .map_err(io::Error::other)?;
    Ok(outcome)
}

/// What there is of captures where the server was started by somebody else.
pub(super) struct Unenforced;

impl Captures for Unenforced {
    async fn open(&self, _: Terms) -> Result<Opened, OpenError> {
        Err(OpenError::new(
            "The policy bounds this capture in the kernel, which is possible only for a server that capwarden started.",
        ))
    }

    async fn open_proxy(&self, _: ProxyTerms) -> Result<Opened, OpenError> {
        Err(OpenError::new(
            "The policy bounds this proxy in the kernel, which is possible only for a server that capwarden started.",
        ))
    }

    async fn open_program(&self, _: ProgramTerms) -> Result<ProgramOpened, OpenError> {
        Err(OpenError::new(
            "The policy bounds these programs in the kernel, which is possible only for a server that capwarden started.",
        ))
    }

    fn replied(&self, _: SessionId) {}

    fn stopping(&self, _: SessionId) {}

    fn end(&self, _: SessionId, _: EndReason) {}

    fn live(&self) -> Vec<SessionId> {
        Vec::new()
    }

    fn live_of(&self, _: SessionKind) -> Vec<SessionId> {
        Vec::new()
    }
}
