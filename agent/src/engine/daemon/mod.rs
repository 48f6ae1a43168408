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
//! | `listeners` | the sockets of those that are served over HTTP, which outlive their servers |
//! | `follow` | the configuration, loaded again when it changes: what is added, changed and withdrawn |
//! | `life` | the loops: it serves, and once it is replaced by another version it serves who is there |
//! | `hand_over`, `take_over` | an upgrade: what the earlier process does, and what the later one |
//! | `heartbeat` | the service manager's watchdog |
//! | `tidy` | memory that is given back when clients have left |

mod door;
mod follow;
mod hand_over;
mod heartbeat;
pub mod hello;
mod life;
mod listeners;
mod pace;
mod seats;
mod served;
mod table;
mod take_over;
mod tidy;
mod upstream;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use self::{
    door::{Door, Entrance},
    follow::Follow,
    life::{End, Life, Signals},
    listeners::{Listeners, Place},
    served::Served,
    table::Table,
    take_over::{Inherited, METRICS, TakeOver},
};
use super::{
    EngineError, Outcome, StdioPlan, house,
    record::{Opening, RecordKeeper, Started},
    server_per_client::{AGENT_ENDS, Routes, Shared},
    turn::Turn,
};
use crate::{
    audit::{Log, visible},
    config::{Config, ServerConfig},
    gate::http::{Authorities, ReceptionPlan, Tls, UpstreamAddress},
    kernel::{Broker, Credentials, Manager, Predecessor},
    session::{Attribution, Events},
    telemetry::Endpoint,
    words::counted,
};

/// What the daemon itself is called, where sessions have their servers' names.
const CALLED: &str = "agent";
/// Servers that are named when it is said that they are served.
const NAMED: usize = 32;
/// Ends that may wait to be told.
const ENDS: usize = 4_096;
/// How long connections may take to end: a unit is killed after `TimeoutStopSec=`.
const ENDING: Duration = Duration::from_secs(16);

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
    /// The earlier version, which hands over to this one, if that is how it was started.
    pub predecessor: Option<Predecessor>,
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
    turn: Turn,
    listeners: Listeners,
    /// What is being ended; with a name, what a successor waits for.
    ending: Mutex<JoinSet<Option<String>>>,
    /// For those who were governed by an agent that was killed.
    adopted: Vec<Broker>,
}

impl House {
    fn shared(&self) -> Shared<'_> {
        Shared {
            record: &self.record,
            events: self.events.clone(),
            routes: Arc::clone(&self.routes),
            metrics: self.metrics.clone(),
            turn: self.turn.clone(),
        }
    }

    /// How many clients are connected.
    fn clients(&self) -> usize {
        self.door.count()
    }

    fn ending(&self) -> MutexGuard<'_, JoinSet<Option<String>>> {
        // Whole after every statement.
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends what a server serves over HTTP, and with a reason, all of it, on its own time.
    fn end(&self, served: Arc<Served>, why: Option<&'static str>) {
        served.shut();
        self.ending().spawn(async move {
            match why {
                Some(why) => served.end(why).await,
                None => served.close().await,
            }
            None
        });
    }

    /// Lets nobody in over HTTP whom another process can serve at once.
    async fn leave(&self) {
        let names = self.table.names();
        let all: Vec<_> = names
            .iter()
            .filter_map(|name| self.table.get(name))
            .collect();
        join_all(all.iter().map(|served| served.leave())).await;
    }

    /// Has another process serve whoever comes over HTTP.
    fn retire(&self) {
        let names = self.table.names();
        for served in names.iter().filter_map(|name| self.table.get(name)) {
            self.ending().spawn(async move {
                served.retire().await;
                Some(served.name.to_string())
            });
        }
    }

    /// The servers that another process waits for and that have ended since this was asked last.
    fn freed(&self) -> Vec<String> {
        let mut ending = self.ending();
        let ended = std::iter::from_fn(|| ending.try_join_next());
        ended.flatten().flatten().collect()
    }

    /// Whether nobody is served, and no session is open.
    fn is_empty(&self) -> bool {
        self.ending().is_empty() && self.door.is_empty() && self.events.roll().live().is_empty()
    }

    /// Tells the operator that it serves, and what.
    fn say_ready(&self, configuration: &Path) {
        let names = self.table.names();
        let more = names.len().saturating_sub(NAMED);
        let named: Vec<String> = names.iter().take(NAMED).map(|name| visible(name)).collect();
        let mut served = match named.as_slice() {
            [] => "no server yet".to_owned(),
            named => named.join(", "),
        };
        if more > 0 {
            served += &format!(" and {more} more");
        }
        tracing::info!(
            "ready: serves {served}, as {} says",
            configuration.display()
        );
    }

    /// Whether nobody is left who was governed by an agent that was killed, and whom this one answers.
    fn answers_nobody(&self) -> bool {
        self.adopted.iter().all(Broker::is_over)
    }

    /// What the service manager shows.
    fn status(&self) -> String {
        let (servers, clients) = (self.table.names().len(), self.clients());
        let plural = |count: usize, one: &str| counted(u64::try_from(count).unwrap_or(0), one);
        format!(
            "{}, {}",
            plural(servers, "server"),
            plural(clients, "client")
        )
    }
}

/// Serves until a signal comes, or until another version has taken its place and its last client has gone.
pub async fn daemon(mut plan: DaemonPlan, log: Log) -> Result<Outcome, EngineError> {
    let mut signals = Signals::new()?;
    let manager = Manager::of_environment().map(Arc::new);
    let mut inherited = Inherited::of(plan.predecessor.as_mut());
    let (take_over, turn) = TakeOver::new(plan.predecessor);
    let entrance = Entrance::open(&plan.socket, &plan.group, &mut inherited)?;
    let (mut opening, events) = Opening::of_many(CALLED, log);
    let (passed, when) = (inherited.take(METRICS), turn.clone());
    let (metrics, serving) = house::metrics_later(plan.metrics, &events, passed, when).await?;
    opening.metrics = metrics.clone();
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
        turn,
        listeners: Listeners::new(inherited),
        ending: Mutex::default(),
        adopted,
    };
    let mut tasks = JoinSet::new();
    let routes = Arc::clone(&house.routes);
    tasks.spawn(async move { routes.carry(ended).await });
    tasks.spawn(tidy::give_back(Arc::clone(&house.door)));
    let mut follow = Follow::new(&plan.file, plan.config, plan.load, plan.prepare);
    let mut life = Life::new(manager, entrance, serving);
    let begun = begin(plan.servers, &house);
    let end = match begun {
        Err(error) => End::NotBegun(error),
        Ok(()) => {
            // It may have changed since it was loaded.
            follow.begin(&house, true);
            let loaded = follow.loaded().await;
            follow.apply(loaded, &house);
            let take_over = tokio::select! {
                served = take_over.served(house.record.agent()) => served.map_err(End::NotFollowed),
                signal = signals.stop.next() => Err(End::Signal(signal)),
            };
            match take_over {
                Ok(kept) => {
                    let mut kept = kept;
                    let known = kept.known.take();
                    house.say_ready(&plan.file);
                    life.lead(&house, &mut follow, &mut signals, known).await
                }
                Err(end) => end,
            }
        }
    };
    life.stop();
    let House {
        record,
        events,
        routes,
        metrics,
        table,
        door,
        turn: _,
        listeners,
        ending,
        adopted,
    } = house;
    drop(listeners);
    let all = table.take_all();
    door.end_all(AGENT_ENDS);
    let ends = async {
        let all = all.iter().map(|served| served.end(AGENT_ENDS));
        let mut ending = ending.into_inner().unwrap_or_else(PoisonError::into_inner);
        let left = async move { while ending.join_next().await.is_some() {} };
        tokio::join!(join_all(all), door.emptied(), left)
    };
    if timeout(ENDING, ends).await.is_err() {
        let seconds = ENDING.as_secs();
        tracing::error!("not all servers have ended in {seconds} s");
    }
    // The record is complete once nobody can add to it.
    tasks.shutdown().await;
    drop((
        all, follow, life, events, routes, metrics, table, door, tasks, adopted,
    ));
    record.finish(&end.in_words(), end.status()).await?;
    end.outcome()
}

/// Serves what is configured from the start.
fn begin(servers: Vec<(String, ServerConfig, Prepared)>, house: &House) -> Result<(), EngineError> {
    let places = servers.iter().filter_map(|(name, config, _)| {
        let http = config.http.as_ref()?;
        Some((name.clone(), http.listen))
    });
    let places: Vec<Place> = places.collect();
    house.listeners.prepare(&places)?;
    for (name, config, prepared) in servers {
        let served = Served::begin(&name, config, prepared, house.shared(), &house.listeners)?;
        house.table.put(served);
    }
    house.listeners.keep(&places);
    Ok(())
}
