//! The counters as conditions see them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError, atomic::Ordering},
};

use super::{Keeper, LIMIT, Limits, LimitsError, RemoteError, book::Book as _, redis};
use crate::{
    policy::{Counters, Scope, Window},
    principal::Caller,
    store::Key,
};

impl Limits {
    /// The counters as one call of a caller sees them, for conditions. Each look may block as
    /// [`reserve`](Self::reserve) does.
    pub fn counters<'a>(&'a self, caller: &'a Caller, tool: &'a str) -> View<'a> {
        View {
            limits: self,
            caller,
            tool,
            known: None,
        }
    }

    /// Decides with the counters as one call of a caller sees them. Those that are elsewhere are asked for
    /// without blocking the thread, and `decide` is called again with what they hold: several
    /// times, where it looks at one because of another.
    ///
    /// # Errors
    ///
    /// The counters cannot be asked.
    pub async fn deciding<R: Send>(
        &self,
        caller: &Caller,
        tool: &str,
        decide: impl Fn(&View<'_>) -> R + Send + Sync,
    ) -> Result<R, LimitsError> {
        let Keeper::Remote(remote) = &self.keeper else {
            return Ok(decide(&self.counters(caller, tool)));
        };
        let mut known = Ahead::new();
        // Each turn brings a counter that a condition of the policy names.
        let turns = async {
            loop {
                let mut view = self.counters(caller, tool);
                view.known = Some(Mutex::new(std::mem::take(&mut known)));
                let decision = decide(&view);
                known = view.into_known();
                let missing: Vec<Key> = known
                    .iter()
                    .filter_map(|(key, count)| count.is_none().then_some(*key))
                    .collect();
                if missing.is_empty() {
                    return Ok(decision);
                }
                drop(decision);
                for key in missing {
                    let asked = redis::soon(|tell| remote.read(&key, self.clock.read(), tell));
                    let count = redis::count(&asked.await?)?;
                    known.insert(key, Some(count));
                }
            }
        };
        let decided = tokio::time::timeout(LIMIT, turns).await;
        let decided = decided.unwrap_or(Err(RemoteError::Slow));
        decided.map_err(|error| {
            self.unavailable.fetch_add(1, Ordering::Relaxed);
            error.into()
        })
    }

    fn count(&self, key: &Key, scope: Scope) -> Result<u64, LimitsError> {
        let record = match &self.keeper {
            Keeper::Remote(remote) if !self.is_in_memory(scope) => {
                let answer = redis::now(|tell| remote.read(key, self.clock.read(), tell));
                return Ok(redis::count(&answer?)?);
            }
            Keeper::Store(store) if !self.is_in_memory(scope) => store.lock()?.read(key)?.1,
            _ => self.memory().get(key).cloned(),
        };
        Ok(record.map_or(0, |mut record| {
            record.advance(self.clock.read());
            record.used()
        }))
    }
}

/// What is known of counters that are elsewhere; none of those that are still to be asked for.
type Ahead = BTreeMap<Key, Option<u64>>;

/// The counters as one call sees them.
pub struct View<'a> {
    limits: &'a Limits,
    caller: &'a Caller,
    tool: &'a str,
    /// Instead of asking elsewhere.
    known: Option<Mutex<Ahead>>,
}

impl View<'_> {
    fn into_known(self) -> Ahead {
        let known = self.known.map(Mutex::into_inner);
        known.map_or_else(Ahead::new, |known| {
            known.unwrap_or_else(PoisonError::into_inner)
        })
    }
}

impl Counters for View<'_> {
    /// The highest number there is, if the counters cannot be asked.
    fn count(&self, counter: &str, scope: Scope, window: Window) -> u64 {
        let key = self
            .limits
            .key(self.caller, self.tool, counter, scope, window);
        if let Some(known) = self
            .known
            .as_ref()
            .filter(|_| !self.limits.is_in_memory(scope))
        {
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            return known.entry(key).or_default().unwrap_or(u64::MAX);
        }
        self.limits.count(&key, scope).unwrap_or_else(|error| {
            tracing::warn!(%error, counter, "a counter cannot be read, and is taken for the highest number");
            u64::MAX
        })
    }
}

impl Counters for &View<'_> {
    fn count(&self, counter: &str, scope: Scope, window: Window) -> u64 {
        View::count(self, counter, scope, window)
    }
}
