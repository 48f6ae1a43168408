//! The servers that are served now, by name.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use super::{hello::Offer, served::Served};
use crate::kernel::Peer;

/// Servers by name. Connections keep theirs when it is replaced.
#[derive(Default)]
pub(super) struct Table(RwLock<BTreeMap<String, Arc<Served>>>);

impl Table {
    pub(super) fn get(&self, name: &str) -> Option<Arc<Served>> {
        self.all(|all| all.get(name).cloned())
    }

    /// Serves this one, in place of another of that name if there is one.
    pub(super) fn put(&self, served: Arc<Served>) {
        let name = served.name.to_string();
        self.change(|all| drop(all.insert(name, served)));
    }

    pub(super) fn take(&self, name: &str) -> Option<Arc<Served>> {
        self.change(|all| all.remove(name))
    }

    /// Takes all.
    pub(super) fn take_all(&self) -> Vec<Arc<Served>> {
        self.change(|all| std::mem::take(all).into_values().collect())
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.all(|all| all.keys().cloned().collect())
    }

    /// Those that somebody may use.
    pub(super) fn offers(&self, peer: &Peer) -> Vec<Offer> {
        self.all(|all| {
            let all = all.values();
            let for_them = all.filter(|served| served.lets_in(peer));
            for_them.map(|served| served.offer()).collect()
        })
    }

    fn all<T>(&self, look: impl FnOnce(&BTreeMap<String, Arc<Served>>) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Arc<Served>>) -> T) -> T {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}
