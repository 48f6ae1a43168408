//! One server that is served: who may use it, how many do, and how its starts went.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    net::UnixStream,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    Prepared,
    hello::{Answer, Offer},
    life::IDLE,
    listeners::Listeners,
    pace::Pace,
    seats::{Full, Seat, Seats},
    upstream::Upstream,
};
use crate::{
    config::{Client, ServerConfig},
    engine::{
        EngineError, Outcome, house,
        record::PolicySource,
        run_http_stdio::{self, Piped},
        server_per_client::{OwnServers, Shared},
    },
    gate::{
        Bounds,
        http::{self, Leave},
    },
    kernel::{self, Peer},
    principal::{Caller, Principal},
    telemetry::Journal,
    words,
};

/// How often it is looked whether somebody is left over HTTP.
const LOOK: Duration = Duration::from_millis(200);
/// How long it may take until nobody is let in, and how often that is looked at.
const LEFT: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_millis(2);
/// How long the last answers may take.
const ANSWERED: Duration = Duration::from_secs(10);
/// How long whoever is told that there is none may take to read that where others wait for the server.
const READ: Duration = Duration::from_secs(1);
/// Users whose crashes are remembered.
const USERS: usize = 1_024;

/// How many of a server one user may have: where others may connect, they get some, too.
fn most_of_one(config: &ServerConfig) -> usize {
    match config.clients.as_slice() {
        [] | [Client::User(_)] => config.most,
        _ => config.most.div_ceil(2),
    }
}

/// Whether somebody may connect to a server that is configured so. Root may: root could take what it likes.
pub(super) fn lets_in(config: &ServerConfig, peer: &Peer) -> bool {
    let is = |client: &Client| match client {
        Client::User(name) => kernel::user_id(name) == Some(peer.user),
        Client::Group(name) => kernel::group_id(name).is_some_and(|group| peer.is_in(group)),
    };
    peer.user == 0 || config.clients.iter().any(is)
}

/// A server, for as long as it is served or somebody is connected to it.
pub(super) struct Served {
    pub(super) name: Arc<str>,
    pub(super) config: ServerConfig,
    kind: Kind,
    /// Where it is served over HTTP.
    address: Option<String>,
    seats: Arc<Seats>,
    pace: Mutex<Pace>,
    /// Of each user whose client's first words a server did not survive.
    crashes: Mutex<HashMap<u32, Pace>>,
    /// Nobody is let in over HTTP any more, who is here is served.
    leave: watch::Sender<Option<Instant>>,
    /// Here while somebody is let in.
    taking: Weak<()>,
    /// Whether all that is served over HTTP has ended.
    ended: watch::Sender<bool>,
    closing: tokio::sync::Mutex<()>,
    /// What keeps its policy what its file says.
    _tasks: JoinSet<()>,
}

/// How its clients are served.
enum Kind {
    /// Each by one of its own; over HTTP, too, if there is something here.
    Own(Arc<OwnServers>, Mutex<Option<Piped>>),
    /// All by one, over HTTP.
    Shared(Upstream),
}

impl Served {
    /// Serves a server from now on, at the socket that there is for it, and records that.
    pub(super) fn begin(
        name: &str,
        config: ServerConfig,
        prepared: Prepared,
        shared: Shared<'_>,
        listeners: &Listeners,
    ) -> Result<Arc<Self>, EngineError> {
        let Prepared {
            servers: plan,
            http: over_http,
        } = prepared;
        let (leave, mut taking) = (watch::Sender::new(None), Weak::new());
        let listener = over_http.map(|plan| {
            let socket = listeners.get(name, plan.listen)?;
            let (patience, last) = match plan.upstream {
                Some(_) => (ANSWERED, READ),
                None => (IDLE, ANSWERED),
            };
            let (leaving, taken) = Leave::when(leave.subscribe(), patience, last);
            taking = taken;
            let listener = house::listener_at(socket, plan.tls, leaving);
            let scheme = if listener.tls.is_some() {
                "https"
            } else {
                "http"
            };
            let here = listener.tcp.local_addr()?;
            let address = format!("{scheme}://{here}{}", http::ENDPOINT);
            tracing::info!("the server {name} is at {address}");
            Ok::<_, EngineError>((listener, address, plan.reception, plan.upstream))
        });
        let listener = listener.transpose()?;
        let policy = PolicySource::of(&plan.judge.policy());
        let shared = Shared {
            events: shared.events.of(&plan.name),
            ..shared
        };
        if let Some(metrics) = &shared.metrics {
            house::count_refusals(metrics, &shared.events);
        }
        let observer = shared.record.observer(&plan.name)?;
        observer.server_served(name, &plan.started(None, &[]), &policy);
        let name = Arc::clone(&plan.name);
        let (kind, tasks, address) = match listener {
            Some((listener, address, reception, Some(upstream))) => {
                let (shared, tasks) = Upstream::begin(plan, reception, upstream, listener, shared)?;
                (Kind::Shared(shared), tasks, Some(address))
            }
            Some((listener, address, reception, None)) => {
                let turn = shared.turn.clone();
                let (servers, tasks) = plan.join(shared, run_http_stdio::bounds())?;
                let servers = Arc::new(servers);
                let piped = Piped::serve(reception, listener, Arc::clone(&servers), turn);
                (
                    Kind::Own(servers, Mutex::new(Some(piped))),
                    tasks,
                    Some(address),
                )
            }
            None => {
                let (servers, tasks) = plan.join(shared, Bounds::default())?;
                (Kind::Own(Arc::new(servers), Mutex::default()), tasks, None)
            }
        };
        Ok(Arc::new(Self {
            name,
            kind,
            address,
            seats: Seats::new(config.most, most_of_one(&config)),
            pace: Mutex::default(),
            crashes: Mutex::default(),
            leave,
            taking,
            ended: watch::Sender::new(false),
            closing: tokio::sync::Mutex::default(),
            _tasks: tasks,
            config,
        }))
    }

    /// Lets nobody in over HTTP from now on: see [`close`](Self::close).
    pub(super) fn shut(&self) {
        match &self.kind {
            Kind::Own(_, piped) => {
                if let Some(piped) = &mut *lock(piped) {
                    piped.close();
                }
            }
            Kind::Shared(upstream) => upstream.shut(),
        }
    }

    /// Lets nobody in over HTTP any more; whoever came by that is let go.
    pub(super) async fn close(&self) {
        // Whoever comes second waits as long as the first.
        let _one = self.closing.lock().await;
        match &self.kind {
            Kind::Own(_, piped) => {
                let piped = lock(piped).take();
                if let Some(piped) = piped {
                    piped.end().await;
                }
            }
            Kind::Shared(upstream) => upstream.end().await,
        }
        self.ended.send_replace(true);
    }

    /// Tells when what is served over HTTP has ended.
    pub(super) fn ended(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }

    /// Lets nobody in over HTTP whom another daemon can serve at once. Who is here is served.
    pub(super) async fn leave(&self) {
        if let Kind::Own(..) = &self.kind {
            self.leave_now();
            let begun = Instant::now();
            while self.taking.strong_count() > 0 && begun.elapsed() < LEFT {
                sleep(SOON).await;
            }
        }
    }

    fn leave_now(&self) {
        self.leave.send_modify(|since| {
            since.get_or_insert_with(Instant::now);
        });
    }

    /// Another daemon serves whoever comes over HTTP from now on. Who waits for an answer gets it, or hears after
    /// a time that there is none; captures go on to their ends, and when there are none left all of it has ended.
    pub(super) async fn retire(&self) {
        match &self.kind {
            Kind::Own(_, piped) => {
                self.leave_now();
                while lock(piped).as_mut().is_some_and(|piped| !piped.is_over()) {
                    sleep(LOOK).await;
                }
            }
            Kind::Shared(upstream) => {
                upstream.finish().await;
                self.leave_now();
                let begun = Instant::now();
                while !upstream.is_over() && begun.elapsed() < ANSWERED + READ {
                    sleep(LOOK).await;
                }
            }
        }
        self.close().await;
    }

    /// Ends all of it: the servers of all clients, with their sessions.
    pub(super) async fn end(&self, why: &'static str) {
        if let Kind::Own(servers, _) = &self.kind {
            servers.stop(why);
        }
        self.close().await;
    }

    /// Serves a client with a server of its own, until one of them has gone or `told` says so.
    pub(super) async fn converse(
        &self,
        client: UnixStream,
        caller: Caller,
        told: impl Future<Output = &'static str>,
    ) -> Result<&'static str, EngineError> {
        let Kind::Own(servers, _) = &self.kind else {
            return Ok("there are no servers of one's own"); // `place` has said so
        };
        let user = match caller.principal {
            Principal::User(user) => Some(user),
            Principal::Bearer(_) => None,
        };
        let end = servers.converse(client, caller, told).await;
        match (&end, user) {
            // It may be what this client said to it.
            (Ok((_, Outcome::NeverServed(status))), Some(user)) => {
                let why = format!("it ended before it had answered anything ({status})");
                let mut crashes = self.crashes();
                if crashes.len() >= USERS {
                    crashes.clear();
                }
                let its = crashes.entry(user).or_default();
                its.failed(Instant::now(), why);
            }
            (Ok(_), _) => {
                self.pace().served();
                user.map(|user| self.crashes().remove(&user));
            }
            (Err(error), _) => self.pace().failed(Instant::now(), error.to_string()),
        }
        end.map(|(why, _)| why)
    }

    /// Whether a client of its own has a session open.
    pub(super) fn is_busy(&self, connection: u64) -> bool {
        match &self.kind {
            Kind::Own(servers, _) => servers.is_busy(connection),
            Kind::Shared(_) => false,
        }
    }

    /// Whether somebody may connect.
    pub(super) fn lets_in(&self, peer: &Peer) -> bool {
        lets_in(&self.config, peer)
    }

    /// A place for one more client, or what it is told in place of one.
    pub(super) fn place(&self, user: u32) -> Result<Seat, Answer> {
        let name = &self.name;
        if let (Kind::Shared(_), Some(address)) = (&self.kind, &self.address) {
            return Err(Answer::refused(
                format!(
                    "The server {name} speaks HTTP, and all its clients share it: it is at {address}."
                ),
                format!(
                    "`capwarden client-config {name} --http` says what a client needs for that."
                ),
            ));
        }
        let now = Instant::now();
        let waits = {
            let waits = |pace: &Pace| {
                let (left, why) = pace.may_start(now).err()?;
                Some((left, why.to_owned()))
            };
            waits(&self.pace()).or_else(|| self.crashes().get(&user).and_then(waits))
        };
        if let Some((left, why)) = waits {
            return Err(Answer::refused(
                format!("The server {name} could not be started several times in a row: {why}."),
                format!(
                    "It is started again in {}; what it said is {}.",
                    words::time(Duration::from_secs(left.as_secs() + 1)),
                    Journal::place_of_the_log()
                ),
            ));
        }
        self.seats.take(user).map_err(|full| {
            let run = match full {
                Full::All(most) => {
                    format!("{most} of the server {name} run already, each for one client.")
                }
                Full::User(most) => format!(
                    "{most} of the server {name} run for you already, and others may want one, too."
                ),
            };
            Answer::refused(
                run,
                format!(
                    "Close one of them, or let more run: `most` of {}.",
                    self.config.at
                ),
            )
        })
    }

    /// How a client who may use it finds it.
    pub(super) fn offer(&self) -> Offer {
        let pace = self.pace();
        let failing = match (&self.kind, pace.may_start(Instant::now())) {
            (Kind::Shared(upstream), _) => upstream.failing(),
            (Kind::Own(..), Err((_, why))) => Some(why.to_owned()),
            (Kind::Own(..), Ok(())) => None,
        };
        let (state, why) = match failing {
            Some(why) => ("failing", Some(why)),
            None if self.seats.are_full() => ("full", None),
            None => ("ready", None),
        };
        Offer {
            name: self.name.to_string(),
            state: state.to_owned(),
            clients: self.seats.count(),
            why,
            http: self.address.clone(),
            http_only: matches!(self.kind, Kind::Shared(_)),
        }
    }

    fn crashes(&self) -> MutexGuard<'_, HashMap<u32, Pace>> {
        lock(&self.crashes)
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        lock(&self.pace)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
