//! Counters that are told apart by a name, of a bounded number.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

/// So many names of one server are told apart; what comes later counts under [`OTHER`].
pub(super) const MOST: usize = 256;
/// So many of all servers together.
pub(super) const MOST_OF_ALL: usize = 1_024;

/// What stands in a label for all names that are not told apart.
pub(super) const OTHER: &str = "(other)";

/// A value for each name, made when the name is first met. Looking one up neither allocates nor
/// formats anything.
#[derive(Debug)]
pub(super) struct Named<T> {
    known: RwLock<HashMap<Box<str>, T>>,
    other: T,
    /// Names that are known of all servers together.
    all: Arc<AtomicUsize>,
}

impl<T: Clone> Named<T> {
    /// Nothing is known but the others. `all` is how many names others know.
    pub(super) fn new(other: T, all: &Arc<AtomicUsize>) -> Self {
        Self {
            known: RwLock::default(),
            other,
            all: Arc::clone(all),
        }
    }

    /// The value of a name, or the others' if it is not known.
    pub(super) fn with<R>(&self, name: &str, then: impl FnOnce(&T) -> R) -> R {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        then(known.get(name).unwrap_or(&self.other))
    }

    /// The same for a name that the policy chose: made if it is not known and there is room.
    pub(super) fn with_or<R>(
        &self,
        name: &str,
        make: impl FnOnce() -> T,
        then: impl FnOnce(&T) -> R,
    ) -> R {
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(value) = known.get(name) {
                return then(value);
            }
            if known.len() >= MOST || self.all.load(Ordering::Relaxed) >= MOST_OF_ALL {
                return then(&self.other);
            }
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if !known.contains_key(name) {
            // Another thread may have been quicker.
            if known.len() >= MOST || self.all.fetch_add(1, Ordering::Relaxed) >= MOST_OF_ALL {
                return then(&self.other);
            }
        }
        then(known.entry(name.into()).or_insert_with(make))
    }
}
