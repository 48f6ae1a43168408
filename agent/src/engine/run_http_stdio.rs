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
    turn::Turn,
};
use crate::{
    audit::Log,
    gate::{
        Bounds, GateEvent, Observer as _, Side,
        http::{self, Listener, ReceptionPlan, Servers, Tls},
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

/// What each gate of a server on pipes keeps itself within whose clients come over HTTP.
pub(super) fn bounds() -> Bounds {
    Bounds {
        in_flight: IN_FLIGHT,
        ..Bounds::default()
    }
}

/// Serves until a signal comes.
pub async fn piped(plan: PipedPlan, log: Log) -> Result<Outcome, EngineError> {
    let mut stop = StopSignals::but_hang_up()?;
    let listener = house::listener(plan.listen, plan.tls)?;
    let Opened {
        servers,
        record,
        tasks,
        _serving,
        adopted,
    } = plan.servers.open(bounds(), log).await?;
    house::say_where(&listener)?;
    let turn = Turn::now();
    let mut served = Piped::serve(plan.reception, listener, Arc::clone(&servers), turn);
    let (why, signal) = tokio::select! {
        signal = stop.next() => ("a signal", Some(signal)),
        () = record.broken() => ("the audit log is not whole", None),
        () = served.failed() => ("clients can no longer be served", None),
    };
    servers.stop(AGENT_ENDS);
    served.end().await;
    // The record is complete once nobody can add to it.
    drop((servers, tasks, adopted));
    let outcome = signal.map_or(Outcome::Killed, Outcome::Stopped);
    record.finish(why, outcome.status()).await?;
    Ok(outcome)
}

/// Clients over HTTP who are served with servers on pipes.
pub(super) struct Piped {
    serving: JoinSet<()>,
    running: Arc<Mutex<JoinSet<()>>>,
}

impl Piped {
    /// Serves whoever comes to a listener, once it is time to.
    pub(super) fn serve(
        reception: ReceptionPlan,
        listener: Listener,
        servers: Arc<OwnServers>,
        turn: Turn,
    ) -> Self {
        let running = Arc::new(Mutex::new(JoinSet::new()));
        let wires = Wires {
            servers,
            running: Arc::clone(&running),
        };
        // A task of its own: however much there is to carry, others are heard.
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            turn.to_serve().await;
            let served = http::serve_piped(&reception, listener, wires, kernel::tcp_owner).await;
            if let Err(error) = served {
                tracing::error!(%error, "clients can no longer be served over HTTP");
            }
        });
        Self { serving, running }
    }

    /// Returns when nobody can be served any more.
    pub(super) async fn failed(&mut self) {
        self.serving.join_next().await;
    }

    /// Lets nobody in any more. Who is here is cut off; the servers go on until [`end`](Self::end).
    pub(super) fn close(&mut self) {
        self.serving.abort_all();
    }

    /// Whether nobody is served any more, and no server is left.
    pub(super) fn is_over(&mut self) -> bool {
        while self.serving.try_join_next().is_some() {}
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        while running.try_join_next().is_some() {}
        self.serving.is_empty() && running.is_empty()
    }

    /// Lets nobody in any more, and waits until the servers have ended, which are told to.
    pub(super) async fn end(mut self) {
        // Once it has ended, nobody starts any more.
        self.serving.shutdown().await;
        let mut running =
            std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        while running.join_next().await.is_some() {}
    }
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

    fn is_busy(&self, connection: u64) -> bool {
        self.servers.is_busy(connection)
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
