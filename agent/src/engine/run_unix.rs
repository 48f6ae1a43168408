//! `run --listen unix:PATH`: clients on a Unix socket, each with a stdio server of its own.
//!
//! They speak as over pipes, one message a line. Whose they are the kernel says. A server of its
//! own for each keeps their requests, their captures and what a server remembers apart.

use std::{future::pending, path::PathBuf, sync::Arc, time::Duration};

use tokio::task::JoinSet;

use super::{
    EngineError, Outcome, StdioPlan,
    house::{self, StopSignals},
    server_per_client::{AGENT_ENDS, Opened},
};
use crate::{
    audit::Log,
    gate::Bounds,
    kernel::{LocalSocket, invoking_user},
    principal::{Caller, Principal},
};

/// Connections, and so servers, at once.
const CONNECTIONS: usize = 16;
/// How long nobody is let in when the host has no more descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// What to run, and where.
#[derive(Debug)]
pub struct LocalPlan {
    /// The socket's path.
    pub socket: PathBuf,
    /// What each client gets.
    pub servers: StdioPlan,
}

/// Serves until a signal comes.
pub async fn local(plan: LocalPlan, log: Log) -> Result<Outcome, EngineError> {
    let mut stop = StopSignals::but_hang_up()?;
    let socket = LocalSocket::bind(&plan.socket, invoking_user())
        .map_err(|error| house::not_listening(plan.socket.display(), error))?;
    let Opened {
        servers,
        record,
        tasks,
        _serving,
        adopted,
    } = plan.servers.open(Bounds::default(), log).await?;
    tracing::info!("listening on {}", plan.socket.display());
    let mut connections = JoinSet::new();
    let mut number = 0_u64;
    let (why, signal) = loop {
        let accepted = tokio::select! {
            signal = stop.next() => break ("a signal", Some(signal)),
            () = record.broken() => break ("the audit log is not whole", None),
            Some(_) = connections.join_next() => continue,
            accepted = socket.accept() => accepted,
        };
        let accepted = accepted.and_then(|stream| {
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
        number += 1;
        let servers = Arc::clone(&servers);
        connections.spawn(async move {
            tracing::info!(user, number, "a client connected");
            let caller = Caller {
                principal: Principal::User(user),
                grant: None,
                connection: number,
                server: servers.name(),
            };
            match servers.converse(stream, caller, pending()).await {
                Ok((why, _)) => tracing::info!(number, why, "a connection ended"),
                Err(error) => tracing::error!(number, %error, "a connection failed"),
            }
        });
    };
    drop(socket);
    servers.stop(AGENT_ENDS);
    while connections.join_next().await.is_some() {}
    // The record is complete once nobody can add to it.
    drop((servers, tasks, adopted));
    let outcome = signal.map_or(Outcome::Killed, Outcome::Stopped);
    record.finish(why, outcome.status()).await?;
    Ok(outcome)
}
