//! Keeps what is served what the configuration says.
//!
//! On SIGHUP, and when a file of it has changed, it is loaded again, and all that is new in it is got ready
//! before anything is changed: a configuration of which something cannot be used changes nothing.
//!
//! | a server that | is |
//! |---|---|
//! | is new | served |
//! | is gone | withdrawn: its clients' servers end, with their sessions |
//! | says something else | served as it says to who comes from now on; clients who are there keep theirs, unless it is another policy's, or they may not connect any more; over HTTP, all of them come anew |
//!
//! What a policy file itself says is followed by [`reload`](super::super::reload).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::task::JoinSet;

use super::{House, LoadConfig, Prepare, Prepared, listeners::Place, served::Served};
use crate::{
    config::{self, Config, HouseConfig, ServerConfig},
    engine::reload::{Stamp, at_rest},
    kernel::FileWatch,
};

/// Follows a configuration.
pub(super) struct Follow {
    file: PathBuf,
    /// What it said when the daemon started, of what takes a restart to change.
    house: HouseConfig,
    load: Arc<LoadConfig>,
    prepare: Arc<Prepare>,
    watches: Vec<FileWatch>,
    /// The state of its files when they were last loaded.
    seen: Vec<(PathBuf, Option<Stamp>)>,
    loading: JoinSet<Result<Change, String>>,
    /// Whether it is said, of what is being loaded, that nothing is different.
    quiet: bool,
    /// Whether what it says now cannot be used, of a daemon that takes nobody any more.
    unreadable: bool,
}

/// What is to be done for a configuration, all of it ready.
struct Change {
    house: HouseConfig,
    begin: Vec<(String, ServerConfig, Prepared)>,
    end: Vec<String>,
    /// Where servers are served over HTTP, those that stay as they are included.
    places: Vec<Place>,
}

impl Follow {
    pub(super) fn new(
        file: &Path,
        config: Config,
        load: Arc<LoadConfig>,
        prepare: Arc<Prepare>,
    ) -> Self {
        let watched = [file.to_owned(), config::drop_ins(file).join("*.yaml")];
        let watches = watched.iter().filter_map(|path| {
            FileWatch::new(path)
                .inspect_err(|error| {
                    tracing::warn!(%error, "the configuration cannot be watched: send SIGHUP when it has changed");
                })
                .ok()
        });
        Self {
            file: file.to_owned(),
            house: config.house,
            load,
            prepare,
            watches: watches.collect(),
            seen: stamps(file),
            loading: JoinSet::new(),
            quiet: true,
            unreadable: false,
        }
    }

    /// Returns once its files are others than those that were loaded.
    async fn changed(&mut self) {
        loop {
            let now = stamps(&self.file);
            if now != self.seen {
                // Whatever has changed may still be written.
                for (path, stamp) in &now {
                    if !self
                        .seen
                        .iter()
                        .any(|(file, seen)| file == path && seen == stamp)
                    {
                        at_rest(path, *stamp).await;
                    }
                }
                return;
            }
            let stirred = {
                let mut watches = self.watches.iter_mut();
                match (watches.next(), watches.next()) {
                    (Some(one), Some(other)) => tokio::select! {
                        stirred = one.changed() => stirred,
                        stirred = other.changed() => stirred,
                    },
                    (Some(one), None) => one.changed().await,
                    (None, _) => std::future::pending().await,
                }
            };
            if let Err(error) = stirred {
                tracing::error!(%error, "the configuration is no longer watched: send SIGHUP when it has changed");
                self.watches.clear();
            }
        }
    }

    /// Begins to load the configuration: what comes of it is [`loaded`](Self::loaded).
    pub(super) fn begin(&mut self, house: &House, quiet: bool) {
        // If it changes from here on, that is told of later.
        self.seen = stamps(&self.file);
        self.quiet = quiet;
        let served: Vec<Arc<Served>> = {
            let names = house.table.names().into_iter();
            names.filter_map(|name| house.table.get(&name)).collect()
        };
        let (load, prepare) = (Arc::clone(&self.load), Arc::clone(&self.prepare));
        // It takes libpcap's time for each filter, and nobody waits meanwhile.
        self.loading
            .spawn_blocking(move || change(&*load, &*prepare, &served));
    }

    /// Whether it is being loaded.
    pub(super) fn is_loading(&self) -> bool {
        !self.loading.is_empty()
    }

    /// What there is to do: a configuration was loaded, or, while none is, a file of it has changed. May be dropped and
    /// called again.
    pub(super) async fn news(&mut self) -> News {
        if self.is_loading() {
            return News::Loaded(self.loaded().await);
        }
        self.changed().await;
        News::Changed
    }

    /// What has come of it; it is waited for ever if nothing is being loaded. May be dropped and called again.
    pub(super) async fn loaded(&mut self) -> Loaded {
        match self.loading.join_next().await {
            Some(loaded) => Loaded(Box::new(
                loaded.unwrap_or_else(|error| Err(error.to_string())),
            )),
            None => std::future::pending().await,
        }
    }

    /// Serves what it says. What ends by that does so on its own time.
    pub(super) fn apply(&mut self, loaded: Loaded, house: &House) {
        let change = match *loaded.0 {
            Ok(change) => change,
            Err(why) => return not_usable(&why),
        };
        if change.house != self.house {
            tracing::warn!(
                "what the configuration says of audit, state, metrics, counters and the socket takes a restart: systemctl restart capwarden"
            );
        }
        if change.begin.is_empty() && change.end.is_empty() {
            if !self.quiet {
                tracing::info!("the configuration is as it was");
            }
            return;
        }
        // Before anything is taken away.
        if let Err(error) = house.listeners.prepare(&change.places) {
            return not_usable(&error.to_string());
        }
        for name in change.end {
            if let Some(served) = house.table.take(&name) {
                let why = "the configuration has it no longer";
                tracing::info!("the server {name} is withdrawn: {why}");
                if let Ok(observer) = house.record.observer(&name) {
                    observer.server_withdrawn(&name, why);
                }
                house.end(served, Some("its server was withdrawn"));
            }
        }
        for (name, config, prepared) in change.begin {
            let before = house.table.get(&name);
            let policy = config.policy.clone();
            let mut shared = house.shared();
            shared.turn = shared
                .turn
                .behind(before.as_ref().map(|before| before.ended()));
            match Served::begin(&name, config, prepared, shared, &house.listeners) {
                Ok(served) => {
                    house.table.put(served);
                    let verb = if before.is_some() { "changed" } else { "new" };
                    tracing::info!("the server {name} is {verb}");
                    if let Some(before) = before {
                        let other = before.config.policy != policy;
                        house.end(
                            before,
                            other.then_some("another policy decides its calls now"),
                        );
                    }
                }
                Err(error) if before.is_some() => {
                    tracing::error!(%error, "the server {name} stays as it was");
                }
                Err(error) => tracing::error!(%error, "the server {name} is not served"),
            }
        }
        house.listeners.keep(&change.places);
        // Who may connect is asked of what is served now.
        house.door.review();
    }

    /// Loads the configuration for who is served still by a daemon that takes nobody any more: what it gives to nobody
    /// is taken away, and nothing else is changed.
    pub(super) async fn narrow(&mut self, house: &House) {
        self.seen = stamps(&self.file);
        let load = Arc::clone(&self.load);
        let loaded = tokio::task::spawn_blocking(move || load()).await;
        let config = match loaded.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(config) => config,
            Err(why) => {
                // Each change of a file would say it again.
                if !std::mem::replace(&mut self.unreadable, true) {
                    tracing::error!(
                        "this earlier version cannot use the configuration, so whom it serves it goes on serving, whatever \
                         is withdrawn: {why}; end a session by `capwarden stop`, or all by `systemctl restart capwarden`"
                    );
                }
                return;
            }
        };
        self.unreadable = false;
        for served in house.table.narrow(config.servers) {
            let name = &served.name;
            tracing::info!("the server {name} is not what its clients came for any more");
            house.end(
                served,
                Some("its server was withdrawn, or has another policy"),
            );
        }
        house.door.review();
    }
}

fn not_usable(why: &str) {
    tracing::error!(
        "the configuration cannot be used, so what was served before is served still: {why} (sudo capwarden agent --check says more)"
    );
}

/// What [`Follow`] tells.
pub(super) enum News {
    /// The files are others than those that were loaded.
    Changed,
    /// They were loaded.
    Loaded(Loaded),
}

/// A configuration that was loaded.
pub(super) struct Loaded(Box<Result<Change, String>>);

/// Loads a configuration, and gets ready what is new in it.
fn change(load: &LoadConfig, prepare: &Prepare, served: &[Arc<Served>]) -> Result<Change, String> {
    let config = load()?;
    let before = |name: &str| served.iter().find(|served| &*served.name == name);
    let end = served
        .iter()
        .filter(|served| !config.servers.contains_key(&*served.name))
        .map(|served| served.name.to_string())
        .collect();
    let mut begin = Vec::new();
    let over_http = config.servers.iter().filter_map(|(name, server)| {
        let http = server.http.as_ref()?;
        Some((name.clone(), http.listen))
    });
    let places = over_http.collect();
    for (name, server) in config.servers {
        if before(&name).is_some_and(|served| served.config.says_the_same(&server)) {
            continue;
        }
        let prepared = prepare(&name, &server)?;
        begin.push((name, server, prepared));
    }
    Ok(Change {
        house: config.house,
        begin,
        end,
        places,
    })
}

/// The state of a configuration's files, as they are now.
fn stamps(file: &Path) -> Vec<(PathBuf, Option<Stamp>)> {
    let mut files = vec![file.to_owned()];
    let directory = std::fs::read_dir(config::drop_ins(file));
    let entries = directory.into_iter().flatten().flatten();
    let beside = entries.map(|entry| entry.path());
    files.extend(beside.filter(|path| path.extension().is_some_and(|end| end == "yaml")));
    files.sort();
    files
        .into_iter()
        .map(|file| {
            let stamp = Stamp::of(&file);
            (file, stamp)
        })
        .collect()
}
