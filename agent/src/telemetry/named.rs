//! Counters that are told apart by a name, of a bounded number.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

/// So many names are told apart; what comes later counts under [`OTHER`].
pub(super) const MOST: usize = 256;

/// What stands in a label for all names that are not told apart.
pub(super) const OTHER: &str = "(other)";

/// A value for each name, made when the name is first met. Looking one up neither allocates nor
/// formats anything.
#[derive(Debug)]
pub(super) struct Named<T> {
    known: RwLock<HashMap<Box<str>, T>>,
    other: T,
}

impl<T: Clone> Named<T> {
    /// Nothing is known but the others.
    pub(super) fn new(other: T) -> Self {
        Self {
            known: RwLock::default(),
            other,
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
            if known.len() >= MOST {
                return then(&self.other);
            }
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            return then(&self.other); // another thread was quicker
        }
        then(known.entry(name.into()).or_insert_with(make))
    }
}
