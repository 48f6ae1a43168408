//! A state directory of a test's own, and the time in it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tempfile::TempDir;

use crate::store::{Clock, StateDirectory};

/// It goes when it is dropped.
pub(crate) struct Home {
    pub(crate) directory: StateDirectory,
    now: Arc<AtomicU64>,
    _home: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        Self {
            directory: StateDirectory::open(&home.path().join("state"), Some(65_534)).unwrap(),
            now: Arc::new(AtomicU64::new(1_000_000)),
            _home: home,
        }
    }

    /// Shows what the test says.
    pub(crate) fn clock(&self) -> Clock {
        let now = Arc::clone(&self.now);
        Clock::of(move || now.load(Ordering::Relaxed))
    }

    pub(crate) fn set(&self, now: u64) {
        self.now.store(now, Ordering::Relaxed);
    }

    pub(crate) fn pass(&self, seconds: u64) {
        self.now.fetch_add(seconds, Ordering::Relaxed);
    }
}
