//! `run --listen ADDRESS:PORT` without `--upstream`: clients over HTTP, with stdio servers.

use std::{
    future::pending,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{net::UnixStream, task::JoinSet};

use super::{
    EngineError, Outcome, StdioPlan,
    house::{self, StopSignals},
    server_per_client::{AGENT_ENDS, Opened, OwnServers},
};
use crate::{
    audit::Log,
    gate::{
        Bounds, GateEvent, Observer as _, Side,
        http::{self, ReceptionPlan, Servers, Tls},
    },
    kernel,
    principal::{Caller, connection_words},
};

/// Requests in flight of one server: many of them share the memory.
const IN_FLIGHT: usize = 64;

/// What to serve.
#[derive(Debug)]
pub struct PipedPlan {
    /// Where clients come.
    pub listen: SocketAddr,
    /// With this certificate.
    pub tls: Option<Tls>,
    /// Who may come in.
    pub reception: ReceptionPlan,
    /// What each client gets.
    pub servers: StdioPlan,
}

/// Serves until a signal comes.
pub async fn piped(plan: PipedPlan, log: Log) -> Result<Outcome, EngineError> {
    let mut stop = StopSignals::but_hang_up()?;
    let listener = house::listener(plan.listen, plan.tls)?;
    let bounds = Bounds {
        in_flight: IN_FLIGHT,
        ..Bounds::default()
    };
    let Opened {
        servers,
        record,
        tasks,
        _serving,
    } = plan.servers.open(bounds, log).await?;
    house::say_where(&listener)?;
    let running = Arc::new(Mutex::new(JoinSet::new()));
    let wires = Wires {
        servers: Arc::clone(&servers),
        running: Arc::clone(&running),
    };
    // A task of its own: however much there is to carry, the signals below are heard.
    let mut serving = JoinSet::new();
    let reception = plan.reception;
    serving.spawn(async move {
        http::serve_piped(&reception, listener, wires, kernel::tcp_owner).await
    });
    let (why, signal) = tokio::select! {
        signal = stop.next() => ("a signal", Some(signal)),
        () = record.broken() => ("the audit log is not whole", None),
        _ = serving.join_next() => ("clients can no longer be served", None),
    };
    servers.stop(AGENT_ENDS);
    // Once it has ended, nobody starts any more.
    serving.shutdown().await;
    let mut running = std::mem::take(&mut *running.lock().unwrap_or_else(PoisonError::into_inner));
    while running.join_next().await.is_some() {}
    // The record is complete once nobody can add to it.
    drop((servers, tasks));
    let outcome = signal.map_or(Outcome::Killed, Outcome::Stopped);
    record.finish(why, outcome.status()).await?;
    Ok(outcome)
}

/// Servers whose clients are wires.
struct Wires {
    servers: Arc<OwnServers>,
    running: Arc<Mutex<JoinSet<()>>>,
}

impl Servers for Wires {
    fn start(&self, caller: Caller, place: Box<dyn Send>) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let servers = Arc::clone(&self.servers);
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        while running.try_join_next().is_some() {}
        running.spawn(async move {
            let whose = connection_words(caller.connection);
            tracing::info!(principal = %caller.principal, "a server starts for {whose}");
            match servers.converse(theirs, caller, pending()).await {
                Ok((why, _)) => tracing::info!("the server of {whose} ended: {why}"),
                Err(error) => tracing::error!(%error, "the server of {whose} failed"),
            }
            drop(place);
        });
        Ok(ours)
    }

    fn dropped(&self, bytes: u64, why: &str) {
        tracing::warn!(bytes, why, "dropped a message");
        self.servers.observer().observe(GateEvent::Dropped {
            from: Side::Client,
            bytes,
            why: why.to_owned(),
            lines: 1,
        });
    }

    fn bounds(&self) -> Bounds {
        self.servers.bounds()
    }
}
