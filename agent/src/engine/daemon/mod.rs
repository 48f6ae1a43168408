//! `capwarden agent`: many governed servers, by name, for many users of the host.
//!
//! ```text
//!   clients' socket ─ door ─ hello ─┬─ table ─ served ─ OwnServers ─ a server for each client
//!                                   │            └ seats, pace
//!   configuration ── follow ────────┘
//! ```
//! A client says the name of a server (`hello`), and the kernel who it is; what it may use is the
//! configuration's `clients` (`served`). From there on it is served as by `run --listen unix:`, by a server of
//! its own. All servers have one record, one state and one place for metrics.
//!
//! | file | has |
//! |---|---|
//! | `hello` | what is said before MCP, by both sides |
//! | `door` | who comes in: the socket, the connections, their bounds |
//! | `seats` | how many of all, and of each user, may be in |
//! | `table`, `served`, `pace` | the servers; who may use one, and how soon a failing one is started again |
//! | `upstream` | a server that speaks HTTP: started once, for all, and again when it ends |
//! | `follow` | the configuration, loaded again when it changes: what is added, changed and withdrawn |
//! | `heartbeat` | the service manager's watchdog |

mod door;
mod follow;
mod heartbeat;
pub mod hello;
mod pace;
mod seats;
mod served;
mod table;
mod upstream;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::timeout,
};

use self::{door::Door, door::Entrance, follow::Follow, served::Served, table::Table};
use super::{
    EngineError, Outcome, StdioPlan,
    house::{self, StopSignals},
    record::{Opening, RecordKeeper, Started},
    server_per_client::{AGENT_ENDS, Routes, Shared},
};
use crate::{
    audit::Log,
    config::{Config, ServerConfig},
    gate::http::{Authorities, ReceptionPlan, Tls, UpstreamAddress},
    kernel::{Credentials, Manager},
    session::{Attribution, Events},
    telemetry::Endpoint,
    words::counted,
};

/// What the daemon itself is called, where sessions have their servers' names.
const CALLED: &str = "agent";
/// Ends that may wait to be told.
const ENDS: usize = 4_096;
/// How long connections may take to end: a unit is killed after `TimeoutStopSec=`.
const ENDING: Duration = Duration::from_secs(16);
/// How often it is looked whether the service manager is to be told of another status.
const STATUS: Duration = Duration::from_secs(5);

/// A server that is ready to be served.
#[derive(Debug)]
pub struct Prepared {
    /// The server, and what decides its calls. Without a command, it runs already.
    pub servers: StdioPlan,
    /// How it is served over HTTP, if it is.
    pub http: Option<HttpPlan>,
}

/// How a server is served over HTTP.
#[derive(Debug)]
pub struct HttpPlan {
    /// Where clients come.
    pub listen: SocketAddr,
    /// With this certificate.
    pub tls: Option<Tls>,
    /// Who may come in.
    pub reception: ReceptionPlan,
    /// Where the server is that speaks HTTP itself, and who is believed of it.
    pub upstream: Option<(UpstreamAddress, Authorities)>,
}

/// Loads the configuration. An error says what is wrong, and where.
pub type LoadConfig = dyn Fn() -> Result<Config, String> + Send + Sync;
/// Gets a server of the configuration ready: its policy, its user, its state. An error is a sentence.
pub type Prepare = dyn Fn(&str, &ServerConfig) -> Result<Prepared, String> + Send + Sync;

/// What the daemon is to do.
pub struct DaemonPlan {
    /// Its configuration's main file.
    pub file: PathBuf,
    /// The configuration, as it is now.
    pub config: Config,
    /// Its servers, ready.
    pub servers: Vec<(String, ServerConfig, Prepared)>,
    /// Loads the configuration again. It may block.
    pub load: Arc<LoadConfig>,
    /// Gets servers ready. It may block.
    pub prepare: Arc<Prepare>,
    /// Where clients come, unless the service manager says.
    pub socket: PathBuf,
    /// Whose members may.
    pub group: String,
    /// Where metrics are served.
    pub metrics: Option<Endpoint>,
}

impl std::fmt::Debug for DaemonPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DaemonPlan")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// What all servers of the daemon share.
struct House {
    record: RecordKeeper,
    events: Events,
    routes: Arc<Routes>,
    metrics: Option<Arc<crate::telemetry::Metrics>>,
    table: Arc<Table>,
    door: Arc<Door>,
}

impl House {
    fn shared(&self) -> Shared<'_> {
        Shared {
            record: &self.record,
            events: self.events.clone(),
            routes: Arc::clone(&self.routes),
            metrics: self.metrics.clone(),
        }
    }

    /// What the service manager shows.
    fn status(&self) -> String {
        let (servers, clients) = (self.table.names().len(), self.door.count());
        let plural = |count: usize, one: &str| counted(u64::try_from(count).unwrap_or(0), one);
        format!(
            "{}, {}",
            plural(servers, "server"),
            plural(clients, "client")
        )
    }
}

/// Serves until a signal comes.
pub async fn daemon(plan: DaemonPlan, log: Log) -> Result<Outcome, EngineError> {
    let mut stop = StopSignals::but_hang_up()?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let manager = Manager::of_environment().map(Arc::new);
    let entrance = Entrance::open(&plan.socket, &plan.group)?;
    let (opening, events, _serving) = Opening::of(CALLED, log, plan.metrics).await?;
    let metrics = opening.metrics.clone();
    // To know, and to have recorded, what this host lacks.
    let nobody = Credentials::nobody();
    let (_, degraded) = house::sessions(Attribution::ByCall, &nobody, events.clone())?;
    let adopted = house::adopt(&events)?;
    let (ends, ended) = mpsc::channel(ENDS);
    let command = ["capwarden", "agent", "--config"].map(Into::into);
    let command = [command.as_slice(), &[plan.file.clone().into_os_string()]].concat();
    let started = Started {
        command: &command,
        policy: None,
        user: 0,
        reach: &[],
        degraded: &degraded,
    };
    let record = opening.begin(&started, ends)?;
    let table = Arc::new(Table::default());
    let house = House {
        record,
        events,
        routes: Arc::default(),
        metrics,
        door: Door::new(Arc::clone(&table)),
        table,
    };
    for (name, config, prepared) in plan.servers {
        let served = Served::begin(&name, config, prepared, house.shared())?;
        house.table.put(served);
    }
    let mut tasks = heartbeat::start(manager.clone());
    let routes = Arc::clone(&house.routes);
    tasks.spawn(async move { routes.carry(ended).await });
    let mut follow = Follow::new(&plan.file, plan.config, plan.load, plan.prepare);
    // It may have changed since it was loaded.
    follow.reload(&house, true).await;
    let tell = |told: &dyn Fn(&Manager)| manager.iter().for_each(|manager| told(manager));
    tell(&|manager| manager.ready(&house.status()));
    let mut told = house.status();
    let (why, signal) = loop {
        tokio::select! {
            signal = stop.next() => break ("a signal", Some(signal)),
            () = house.record.broken() => break ("the audit log is not whole", None),
            (stream, peer) = entrance.accept() => house.door.meet(stream, peer),
            _ = hang_up.recv() => {
                tell(&|manager| manager.reloading());
                follow.reload(&house, false).await;
                tell(&|manager| manager.ready(&house.status()));
            }
            () = follow.changed() => {
                tell(&|manager| manager.reloading());
                follow.reload(&house, true).await;
                tell(&|manager| manager.ready(&house.status()));
            }
            () = tokio::time::sleep(STATUS) => {}
        }
        let status = house.status();
        if status != told {
            tell(&|manager| manager.status(&status));
            told = status;
        }
    };
    tell(&|manager| manager.stopping());
    drop(entrance);
    let House {
        record,
        events,
        routes,
        metrics,
        table,
        door,
    } = house;
    let all = table.take_all();
    door.end_all(AGENT_ENDS);
    let ends = async {
        let all = all.iter().map(|served| served.end(AGENT_ENDS));
        tokio::join!(join_all(all), door.emptied())
    };
    if timeout(ENDING, ends).await.is_err() {
        let seconds = ENDING.as_secs();
        tracing::error!("not all servers have ended in {seconds} s");
    }
    // The record is complete once nobody can add to it.
    tasks.shutdown().await;
    drop((
        all, follow, events, routes, metrics, table, door, tasks, adopted,
    ));
    // A service that was told to stop has done so.
    record.finish(why, signal.map(|_| 0)).await?;
    Ok(signal.map_or(Outcome::Killed, Outcome::Stopped))
}
