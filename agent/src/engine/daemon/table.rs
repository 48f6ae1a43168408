//! The servers that are served now, by name, and what is configured of them.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use super::{
    hello::Offer,
    served::{Served, lets_in},
};
use crate::{config::ServerConfig, kernel::Peer};

/// Servers by name. Connections keep theirs when it is replaced.
#[derive(Default)]
pub(super) struct Table(RwLock<BTreeMap<String, Entry>>);

struct Entry {
    served: Arc<Served>,
    /// What a daemon that takes nobody any more was told since: see [`Table::narrow`].
    since: Option<Since>,
}

/// What the configuration says of a server whose clients stay with an earlier daemon.
enum Since {
    /// Nothing any more.
    Withdrawn,
    /// This.
    Says(Box<ServerConfig>),
}

impl Entry {
    /// What is configured of it now.
    fn config(&self) -> Option<&ServerConfig> {
        match &self.since {
            None => Some(&self.served.config),
            Some(Since::Says(config)) => Some(config),
            Some(Since::Withdrawn) => None,
        }
    }

    /// Whether its calls are decided by the policy for which its clients came.
    fn stays(&self) -> bool {
        let now = self.config();
        now.is_some_and(|now| now.policy == self.served.config.policy)
    }
}

impl Table {
    pub(super) fn get(&self, name: &str) -> Option<Arc<Served>> {
        self.all(|all| Some(Arc::clone(&all.get(name)?.served)))
    }

    /// Serves this one, in place of another of that name if there is one.
    pub(super) fn put(&self, served: Arc<Served>) {
        let name = served.name.to_string();
        let since = None;
        self.change(|all| drop(all.insert(name, Entry { served, since })));
    }

    pub(super) fn take(&self, name: &str) -> Option<Arc<Served>> {
        self.change(|all| Some(all.remove(name)?.served))
    }

    /// Takes all.
    pub(super) fn take_all(&self) -> Vec<Arc<Served>> {
        let all = self.change(std::mem::take);
        all.into_values().map(|entry| entry.served).collect()
    }

    /// These are configured from now on, and of that only what is taken away counts: nobody is let in any more. Comes
    /// back with those that are not what their clients came for, and were until now.
    pub(super) fn narrow(&self, mut servers: BTreeMap<String, ServerConfig>) -> Vec<Arc<Served>> {
        self.change(|all| {
            let mut over = Vec::new();
            for (name, entry) in all {
                let stayed = entry.stays();
                let says = servers.remove(name).map(Box::new);
                entry.since = Some(says.map_or(Since::Withdrawn, Since::Says));
                if stayed && !entry.stays() {
                    over.push(Arc::clone(&entry.served));
                }
            }
            over
        })
    }

    /// Why somebody may no longer be connected to a server that was served when they came; none if they may. What
    /// counts is what is configured under that name now, however often it has changed since.
    pub(super) fn over(&self, served: &Served, peer: &Peer) -> Option<&'static str> {
        self.all(|all| {
            let Some(now) = all.get(&*served.name).and_then(Entry::config) else {
                return Some("its server was withdrawn");
            };
            if now.policy != served.config.policy {
                return Some("another policy decides its calls now");
            }
            (!lets_in(now, peer)).then_some("its user may no longer connect")
        })
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.all(|all| all.keys().cloned().collect())
    }

    /// Those that somebody may use.
    pub(super) fn offers(&self, peer: &Peer) -> Vec<Offer> {
        self.all(|all| {
            let all = all.values().map(|entry| &entry.served);
            let for_them = all.filter(|served| served.lets_in(peer));
            for_them.map(|served| served.offer()).collect()
        })
    }

    fn all<T>(&self, look: impl FnOnce(&BTreeMap<String, Entry>) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Entry>) -> T) -> T {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}
