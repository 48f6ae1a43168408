//! `run`: gate and guard in front of one stdio server.

use std::{io::IsTerminal as _, sync::Arc};

use tokio::sync::mpsc;

use super::{
    EngineError, Outcome, StdioPlan,
    current::Current,
    house::{self, StopSignals},
    record::{Opening, PolicySource, Started},
    restart::{Again, Life},
    stdio_server::Pipe,
};
use crate::{
    audit::Log,
    gate::{Bounds, Gate},
    kernel,
    principal::{Caller, Principal},
    session::Attribution,
};

/// Ends that may wait for the client to read them.
const ENDS: usize = 256;

/// The number of the one connection that there is over standard input and output.
const ONLY_CONNECTION: u64 = 1;

/// Runs a server until it, or its client, has gone.
pub async fn run(plan: StdioPlan, log: Log) -> Result<Outcome, EngineError> {
    let mut stop = StopSignals::but_hang_up()?;
    house::say_name(&plan.name);
    let (opening, events, _serving) = Opening::of(&plan.name, log, plan.metrics).await?;
    let metrics = opening.metrics.clone();
    let for_restarts = events.clone();
    let adopted = house::adopt(&events)?;
    let (sessions, degraded) = house::sessions(Attribution::ByCall, &plan.credentials, events)?;
    let (ends, ended) = mpsc::channel(ENDS);
    let source = PolicySource::of(&plan.judge.policy());
    let started = Started {
        command: &plan.server,
        policy: Some(&source),
        user: plan.credentials.user,
        reach: &plan.credentials.reach,
        degraded: &degraded,
    };
    let record = opening.begin(&started, ends)?;
    let policy = plan.judge.policy();
    let (baseline, programs) = (policy.baseline(), policy.programs());
    let (server, user) = (&plan.server, &plan.credentials);
    let started = house::start_server(&sessions, server, user, true, baseline, programs).await;
    let (governed, broker) = match started {
        Ok(started) => started,
        Err(error) => {
            drop((sessions, for_restarts, adopted));
            // At a terminal nobody speaks JSON-RPC.
            if !std::io::stdin().is_terminal() {
                let (from, to) = (kernel::Input::standard()?, kernel::Output::standard()?);
                house::not_started(from, to, Bounds::default(), &error).await;
            }
            record.finish(&error.to_string(), None).await?;
            return Err(error);
        }
    };
    let user = Some(plan.credentials.user);
    let (judge, following) = house::decider(
        &plan.name,
        plan.judge,
        plan.reload,
        user,
        &record,
        metrics.as_deref(),
    )?;
    let observer = record.observer(&plan.name)?;
    let current = Current::new(sessions.clone());
    let caller = Caller {
        principal: Principal::User(kernel::invoking_user()),
        grant: None,
        connection: ONLY_CONNECTION,
        server: plan.name,
    };
    let judge = Arc::new(judge);
    let gate = Gate {
        policy: Arc::clone(&judge),
        captures: current.clone(),
        observer,
        bounds: Bounds::default(),
    };
    let pipe = Pipe {
        life: Life {
            sessions,
            governed,
            broker: Some(broker),
        },
        again: Again {
            command: plan.server,
            credentials: plan.credentials,
            events: for_restarts,
            needs: {
                let caller = caller.clone();
                Box::new(move || judge.bounds(&caller))
            },
        },
        current,
        gate: Arc::new(gate),
        caller,
        client_in: kernel::Input::standard()?,
        client_out: kernel::Output::standard()?,
        ended,
    };
    let told = async {
        tokio::select! {
            signal = stop.next() => ("a signal", Some(signal)),
            () = record.broken() => ("the audit log is not whole", None),
        }
    };
    // The record is complete once nobody can add to it: the pipe, and all of it, has gone.
    let ((why, signal), outcome) = pipe.run(told, || true).await?;
    drop((following, adopted));
    let outcome = signal.map_or(outcome, Outcome::Stopped);
    record.finish(why, outcome.status()).await?;
    Ok(outcome)
}
