//! `run`: gate and guard in front of one stdio server.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use super::{
    EngineError, Outcome,
    house::{self, StopSignals},
    record::{PolicySource, RecordKeeper, Started},
};
use crate::{
    audit::Log,
    gate::{Bounds, Gate, PumpEnd, Streams, pump},
    kernel::{self, Credentials},
    policy::Policy,
    principal::{Caller, Principal},
    session::{Attribution, EndReason, Events},
};

/// Ends that may wait for the client to read them.
const ENDS: usize = 256;

/// How long a server that has exited is still read, if a process that it left behind keeps its
/// output open.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The number of the one connection that there is over standard input and output.
const ONLY_CONNECTION: u64 = 1;

/// What to run.
#[derive(Debug)]
pub struct RunPlan {
    /// The server's command.
    pub server: Vec<OsString>,
    /// Whose ids it gets.
    pub credentials: Credentials,
    /// What decides its calls.
    pub policy: Policy,
    /// The directory of what is remembered.
    pub state: PathBuf,
}

/// Runs a server until it, or its client, has gone.
pub async fn run(plan: RunPlan, log: Log) -> Result<Outcome, EngineError> {
    let mut stop = StopSignals::new()?;
    let memory = house::Memory::open(&plan.state, plan.credentials.user)?;
    let (events, happened) = Events::channel();
    let overflow = events.overflow();
    let (sessions, degraded) = house::sessions(Attribution::ByCall, events)?;
    let (ends, ended) = mpsc::channel(ENDS);
    let source = PolicySource::of(&plan.policy);
    let started = Started {
        command: &plan.server,
        policy: Some(&source),
        user: plan.credentials.user,
        degraded: &degraded,
    };
    let record = RecordKeeper::start(log, &started, happened, overflow, ends)?;
    let (mut governed, broker) =
        match house::start(&sessions, &plan.server, &plan.credentials, true) {
            Ok(started) => started,
            Err(error) => {
                drop(sessions);
                record.finish(&error.to_string(), None).await?;
                return Err(error);
            }
        };
    let mut follower = house::follow_interfaces(&sessions);

    let piped = governed
        .child
        .stdin
        .take()
        .zip(governed.child.stdout.take());
    let (server_in, server_out) =
        piped.ok_or_else(|| std::io::Error::other("the server has no pipes"))?;
    let observer = record
        .observer()
        .ok_or_else(|| std::io::Error::other("the record is closed"))?;
    let gate = Gate {
        policy: memory.judge(plan.policy, &record),
        captures: sessions.clone(),
        observer,
        bounds: Bounds::default(),
    };
    let caller = Caller {
        principal: Principal::User(kernel::invoking_user()),
        grant: None,
        connection: ONLY_CONNECTION,
        server: server_name(plan.server.first()),
    };
    let streams = Streams {
        client_in: kernel::standard_input(),
        client_out: kernel::standard_output(),
        server_in,
        server_out,
    };
    // A task of its own: however much there is to carry, the signals below are heard.
    let mut carrying = JoinSet::new();
    carrying.spawn(pump(streams, Arc::new(gate), caller, ended));
    let gone = async {
        let end = tokio::select! {
            end = carrying.join_next() => end,
            _ = governed.child.wait() => {
                timeout(LAST_WORDS, carrying.join_next()).await.ok().flatten()
            }
        };
        end.and_then(Result::ok).unwrap_or(PumpEnd::ServerClosed)
    };
    let (why, reason, signal) = tokio::select! {
        end = gone => match end {
            PumpEnd::ClientClosed => ("the client closed the connection", EndReason::ClientClosed, None),
            PumpEnd::ServerClosed => ("the server exited", EndReason::ServerExit, None),
        },
        signal = stop.next() => ("a signal", EndReason::Revoked, Some(signal)),
        () = record.broken() => ("the audit log is not whole", EndReason::Revoked, None),
        _ = follower.join_next() => ("interfaces can no longer be followed", EndReason::Revoked, None),
    };
    tracing::debug!(why, "ending");
    drop(carrying);
    let outcome = house::clean_up(&sessions, &mut governed.child, reason).await;
    tokio::task::spawn_blocking(move || drop(broker))
        .await
        .map_err(std::io::Error::other)?;
    drop((follower, sessions)); // the record is complete once nobody can add to it
    let outcome = signal.map_or(outcome, Outcome::Stopped);
    record.finish(why, outcome.status()).await?;
    Ok(outcome)
}

/// A server without a name of its own is called by its command's file name.
pub fn server_name(command: Option<&OsString>) -> Arc<str> {
    let program = command.map(Path::new).and_then(Path::file_name);
    Arc::from(program.unwrap_or(OsStr::new("server")).to_string_lossy())
}
