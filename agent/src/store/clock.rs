//! The time that entries of tables are stamped with.

use std::{fmt, sync::Arc, time::SystemTime};

/// Tells the seconds since 1970, UTC.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    /// The host's. Before 1970 it tells the last second there is: then everything is over, and
    /// nothing is valid.
    #[must_use]
    pub fn system() -> Self {
        Self::of(|| {
            let now = SystemTime::UNIX_EPOCH.elapsed();
            now.map_or(u64::MAX, |now| now.as_secs())
        })
    }

    /// Another.
    #[must_use]
    pub fn of(tell: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// What it is now.
    #[must_use]
    pub fn now(&self) -> u64 {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").finish_non_exhaustive()
    }
}
