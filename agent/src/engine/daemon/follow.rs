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

use super::{House, LoadConfig, Prepare, Prepared, served::Served};
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
}

/// What is to be done for a configuration, all of it ready.
struct Change {
    house: HouseConfig,
    begin: Vec<(String, ServerConfig, Prepared)>,
    end: Vec<String>,
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
        }
    }

    /// Returns once its files are others than those that were loaded.
    pub(super) async fn changed(&mut self) {
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

    /// Loads the configuration, and serves what it says.
    pub(super) async fn reload(&mut self, house: &House, quiet: bool) {
        // If it changes from here on, that is told of later.
        self.seen = stamps(&self.file);
        let served: Vec<Arc<Served>> = {
            let names = house.table.names().into_iter();
            names.filter_map(|name| house.table.get(&name)).collect()
        };
        let (load, prepare) = (Arc::clone(&self.load), Arc::clone(&self.prepare));
        let made = tokio::task::spawn_blocking(move || change(&*load, &*prepare, &served)).await;
        let made = made.unwrap_or_else(|error| Err(error.to_string()));
        let change = match made {
            Ok(change) => change,
            Err(why) => {
                tracing::error!(
                    "the configuration cannot be used, so what was served before is served still: {why}"
                );
                return;
            }
        };
        if change.house != self.house {
            tracing::warn!(
                "what the configuration says of audit, state, metrics, counters and the socket takes a restart: systemctl restart capwarden"
            );
        }
        if change.begin.is_empty() && change.end.is_empty() {
            if !quiet {
                tracing::info!("the configuration is as it was");
            }
            return;
        }
        self.apply(change, house).await;
    }

    /// Loads the configuration for who is served still by a daemon that takes nobody any more: what it gives to nobody
    /// is taken away, and nothing else is changed.
    pub(super) async fn narrow(&mut self, house: &House) {
        self.seen = stamps(&self.file);
        let load = Arc::clone(&self.load);
        let loaded = tokio::task::spawn_blocking(move || load()).await;
        match loaded.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(config) => house.door.review_by(&config.servers),
            Err(why) => tracing::error!(
                "the configuration cannot be used, so whoever is served stays served: {why}"
            ),
        }
    }

    async fn apply(&self, change: Change, house: &House) {
        for name in change.end {
            if let Some(served) = house.table.take(&name) {
                let why = "the configuration has it no longer";
                tracing::info!("the server {name} is withdrawn: {why}");
                if let Ok(observer) = house.record.observer(&name) {
                    observer.server_withdrawn(&name, why);
                }
                served.end("its server was withdrawn").await;
            }
        }
        for (name, config, prepared) in change.begin {
            let before = house.table.take(&name);
            if let Some(before) = &before {
                // Where it listens, the new one may listen.
                before.close().await;
                if before.config.policy != config.policy {
                    before.end("another policy decides its calls now").await;
                }
            }
            let verb = if before.is_some() { "changed" } else { "new" };
            match Served::begin(&name, config, prepared, house.shared()) {
                Ok(served) => {
                    house.table.put(served);
                    tracing::info!("the server {name} is {verb}");
                }
                Err(error) => match before {
                    // Who comes from now on is served as before, but over HTTP.
                    Some(before) if !before.is_ended() => {
                        tracing::error!(%error, "the server {name} stays as it was");
                        house.table.put(before);
                    }
                    _ => tracing::error!(%error, "the server {name} is not served"),
                },
            }
        }
        // Who may connect is asked of what is served now.
        house.door.review();
    }
}

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
