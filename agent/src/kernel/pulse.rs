//! Whether the loops that answer governed processes are stuck.
//!
//! A loop that waits for a call is well, however long nothing comes; one that has begun to answer a call
//! and does not get done is not. Each has a [`Pulse`], which says since when it is at work.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// All that beat.
static ALL: Mutex<Vec<Weak<AtomicU64>>> = Mutex::new(Vec::new());

/// The pulse of one loop.
#[derive(Debug)]
pub(super) struct Pulse {
    /// Since when it is at work, in milliseconds from `origin`, and one more; 0 while it waits.
    since: Arc<AtomicU64>,
}

impl Pulse {
    pub(super) fn new() -> Self {
        let since = Arc::new(AtomicU64::new(0));
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|pulse| pulse.strong_count() > 0);
        all.push(Arc::downgrade(&since));
        Self { since }
    }

    /// It begins to answer.
    pub(super) fn begin(&self) {
        self.since.store(now().saturating_add(1), Ordering::Relaxed);
    }

    /// It waits again.
    pub(super) fn rest(&self) {
        self.since.store(0, Ordering::Relaxed);
    }
}

/// How many loops have been at one call for longer than this.
#[must_use]
pub fn stuck(longer: Duration) -> usize {
    let longer = u64::try_from(longer.as_millis()).unwrap_or(u64::MAX);
    let now = now().saturating_add(1);
    let all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    all.iter()
        .filter_map(Weak::upgrade)
        .filter(|since| {
            let since = since.load(Ordering::Relaxed);
            since != 0 && now.saturating_sub(since) > longer
        })
        .count()
}

/// Milliseconds since this was first asked.
fn now() -> u64 {
    static ORIGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let origin = ORIGIN.get_or_init(Instant::now);
    u64::try_from(origin.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_begun_and_not_ended_is_stuck() {
        let (waits, works) = (Pulse::new(), Pulse::new());
        waits.begin();
        waits.rest();
        works.begin();
        std::thread::sleep(Duration::from_millis(20));
        // Others of this process may be at work, but not for so long, nor so little.
        assert_eq!(stuck(Duration::from_secs(600)), 0);
        assert!(stuck(Duration::from_millis(5)) >= 1);
        works.since.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(
            stuck(Duration::from_secs(600)),
            0,
            "the clock has not come so far"
        );
        drop((waits, works));
    }
}
