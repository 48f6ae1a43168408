//! `exec`: the guard alone, around one command.

use std::{ffi::OsString, path::Path, time::Duration};

use tokio::{sync::mpsc, task::JoinHandle, time::sleep};

use super::{
    EngineError, Outcome,
    house::{self, StopSignals},
    record::{Opening, PolicySource, Started},
};
use crate::{
    audit::Log,
    kernel::{self, Credentials, Process},
    policy::Terms,
    principal::Principal,
    session::{Attribution, EndReason, Happened, ServerEvent, SessionEnd, SessionEvent},
    telemetry::Endpoint,
};

/// How long a command may take to end after a signal, before it is ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to execute.
#[derive(Debug)]
pub struct ExecPlan {
    /// The command.
    pub command: Vec<OsString>,
    /// Whose ids it gets.
    pub credentials: Credentials,
    /// What all its capture sockets together may see.
    pub terms: Terms,
    /// The policy that was asked.
    pub policy: Option<PolicySource>,
    /// Where its metrics are served.
    pub metrics: Option<Endpoint>,
}

/// What came of a command.
#[derive(Debug)]
pub struct Executed {
    /// How it ended.
    pub outcome: Outcome,
    /// What it captured.
    pub end: Option<SessionEnd>,
    /// The capture sockets that it was refused, and filters on them, in words: the first few.
    pub refused: Vec<String>,
    /// How many more were refused, and recorded.
    pub more_refused: usize,
}

/// Refusals that are told.
const TOLD: usize = 5;

/// Passes events on, and keeps what is told of refusals.
fn listen(
    mut events: Happened,
) -> (
    mpsc::Receiver<ServerEvent>,
    JoinHandle<(Vec<String>, usize)>,
) {
    let (on, next) = mpsc::channel(1);
    let heard = tokio::spawn(async move {
        let (mut refused, mut more) = (Vec::new(), 0);
        while let Some(event) = events.recv().await {
            if let SessionEvent::Refused {
                caller,
                refusal,
                times,
            } = &event.event
            {
                let who = caller.as_ref().map_or_else(
                    || "a process that has gone".to_owned(),
                    |caller| format!("{} (pid {})", caller.name, caller.process),
                );
                if *times == 1 && refused.len() < TOLD {
                    refused.push(format!("{who}: {}", refusal.reason));
                } else {
                    more += usize::try_from(*times).unwrap_or(usize::MAX);
                }
            }
            if on.send(event).await.is_err() {
                break;
            }
        }
        (refused, more)
    });
    (next, heard)
}

/// What operators are told of the command: its program, and all of it.
fn in_words(command: &[OsString]) -> (String, String) {
    let program = command.first().map(Path::new).and_then(Path::file_name);
    let program = program.unwrap_or_default().to_string_lossy();
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    (program.into_owned(), words.join(" "))
}

/// Runs a command under one session.
pub async fn exec(plan: ExecPlan, log: Log) -> Result<Executed, EngineError> {
    let mut stop = StopSignals::new()?;
    let (program, words) = in_words(&plan.command);
    let (opening, events, _serving) = Opening::of(&program, log, plan.metrics).await?;
    // Whoever runs the command asked for its session.
    let user = Principal::User(kernel::invoking_user());
    let opening = opening.asked_by(&user.to_string(), &words);
    let (opening, heard) = opening.heard_by(listen);
    let (sessions, degraded) = house::sessions(Attribution::WholeTree, &plan.credentials, events)?;
    let (ends, mut ended) = mpsc::channel(1);
    let started = Started {
        command: &plan.command,
        policy: plan.policy.as_ref(),
        user: plan.credentials.user,
        reach: &plan.credentials.reach,
        degraded: &degraded,
    };
    let record = opening.begin(&started, ends)?;
    let opened = sessions.start(plan.terms).await.map_err(EngineError::from);
    let launched = opened.and_then(|(session, grant)| {
        tracing::info!(%session, "granted: {}", grant.summary());
        if let Some(cut) = &grant.cut {
            tracing::warn!(%session, "{cut}");
        }
        house::start_command(&sessions, &plan.command, &plan.credentials)
    });
    let (mut governed, broker) = match launched {
        Ok(started) => started,
        Err(error) => {
            sessions.close(EndReason::Unused).await;
            drop(sessions);
            record.finish(&error.to_string(), None).await?;
            return Err(error);
        }
    };
    let mut follower = house::follow_interfaces(&sessions);

    let mut asked = false;
    let (why, reason) = loop {
        tokio::select! {
            _ = governed.wait() => break ("the command exited", EndReason::Closed),
            () = sleep(PATIENCE), if asked => break ("a signal", EndReason::Revoked),
            signal = stop.next() => {
                if asked {
                    break ("a second signal", EndReason::Revoked);
                }
                asked = true;
                // At a terminal the command got the signal too; let it end as it would without us.
                tracing::debug!(signal, "the command is asked to end");
                if let Some(process) = Process::open(governed.pid()) {
                    process.ask_to_end();
                }
            }
            () = record.broken() => break ("the audit log is not whole", EndReason::Revoked),
            _ = follower.join_next() => break ("interfaces can no longer be followed", EndReason::Revoked),
        }
    };
    let outcome = house::clean_up(&sessions, &mut governed, reason).await;
    tokio::task::spawn_blocking(move || drop(broker))
        .await
        .map_err(std::io::Error::other)?;
    drop((follower, sessions)); // the record is complete once nobody can add to it
    record.finish(why, outcome.status()).await?;
    let (refused, more_refused) = heard.await.map_err(std::io::Error::other)?;
    Ok(Executed {
        outcome,
        end: ended.recv().await,
        refused,
        more_refused,
    })
}
