//! One server that is served: who may use it, how many do, and how its starts went.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{task::JoinSet, time::Instant};

use super::{
    Prepared,
    hello::{Answer, Offer},
    pace::Pace,
    seats::{Full, Seat, Seats},
};
use crate::{
    config::{Client, ServerConfig},
    engine::{
        EngineError, Outcome,
        record::PolicySource,
        server_per_client::{OwnServers, Shared},
    },
    gate::Bounds,
    kernel::{self, Peer},
    words,
};

/// A server, for as long as it is served or somebody is connected to it.
pub(super) struct Served {
    pub(super) name: Arc<str>,
    pub(super) config: ServerConfig,
    pub(super) servers: Arc<OwnServers>,
    seats: Arc<Seats>,
    pace: Mutex<Pace>,
    /// What keeps its policy what its file says.
    _tasks: JoinSet<()>,
}

impl Served {
    /// Serves a server from now on, and records that.
    pub(super) fn begin(
        name: &str,
        config: ServerConfig,
        prepared: Prepared,
        shared: Shared<'_>,
    ) -> Result<Arc<Self>, EngineError> {
        let plan = prepared.servers;
        let policy = PolicySource::of(&plan.judge.policy());
        let observer = shared.record.observer()?;
        observer.server_served(name, &plan.started(None, &[]), &policy);
        let (servers, tasks) = plan.join(shared, Bounds::default())?;
        Ok(Arc::new(Self {
            name: servers.name(),
            servers: Arc::new(servers),
            seats: Seats::new(config.most, config.most),
            pace: Mutex::default(),
            _tasks: tasks,
            config,
        }))
    }

    /// Whether somebody may connect. Root may: root could take what it likes.
    pub(super) fn lets_in(&self, peer: &Peer) -> bool {
        let is = |client: &Client| match client {
            Client::User(name) => kernel::user_id(name) == Some(peer.user),
            Client::Group(name) => kernel::group_id(name).is_some_and(|group| peer.is_in(group)),
        };
        peer.user == 0 || self.config.clients.iter().any(is)
    }

    /// A place for one more client, or what it is told in place of one.
    pub(super) fn place(&self, user: u32) -> Result<Seat, Answer> {
        let name = &self.name;
        if let Err((left, why)) = self.pace().may_start(Instant::now()) {
            return Err(Answer::refused(
                format!("The server {name} could not be started several times in a row: {why}."),
                format!(
                    "It is started again in {}; capwarden's log has what it said.",
                    words::time(std::time::Duration::from_secs(left.as_secs() + 1))
                ),
            ));
        }
        self.seats.take(user).map_err(|full| {
            let (Full::All(most) | Full::User(most)) = full;
            Answer::refused(
                format!("{most} of the server {name} run already, each for one client."),
                format!(
                    "Close one of them, or let more run: `most` of {}.",
                    self.config.at
                ),
            )
        })
    }

    /// What came of a client's server.
    pub(super) fn came(&self, end: &Result<(&'static str, Outcome), EngineError>) {
        match end {
            Ok((_, Outcome::NeverServed(status))) => {
                let why = format!("it ended before it had answered anything ({status})");
                self.pace().failed(Instant::now(), why);
            }
            Ok(_) => self.pace().served(),
            Err(error) => self.pace().failed(Instant::now(), error.to_string()),
        }
    }

    /// How a client who may use it finds it.
    pub(super) fn offer(&self) -> Offer {
        let pace = self.pace();
        let (state, why) = match pace.may_start(Instant::now()) {
            Err((_, why)) => ("failing", Some(why.to_owned())),
            Ok(()) if self.seats.are_full() => ("full", None),
            Ok(()) => ("ready", None),
        };
        Offer {
            name: self.name.to_string(),
            state: state.to_owned(),
            clients: self.seats.count(),
            why,
            http: None,
            http_only: false,
        }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        // Replaced as a whole, so a panic elsewhere does not spoil it.
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
