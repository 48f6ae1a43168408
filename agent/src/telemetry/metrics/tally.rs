//! Counts that others keep, some of them one after the other: a policy that is loaded anew counts
//! from 0, and what is served must not fall.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// The sum of what several counters have come to, those included that nobody else holds any more.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    /// What those came to that have gone.
    before: u64,
    live: Vec<Arc<AtomicU64>>,
}

impl Tally {
    /// Counts this one, too, unless it is counted already.
    pub(super) fn add(&self, count: Arc<AtomicU64>) {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counted.settle();
        if !counted.live.iter().any(|one| Arc::ptr_eq(one, &count)) {
            counted.live.push(count);
        }
    }

    pub(super) fn sum(&self) -> u64 {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counted.settle();
        let live = counted.live.iter();
        let live = live.map(|one| one.load(Ordering::Relaxed));
        live.fold(counted.before, u64::saturating_add)
    }
}

impl Counted {
    /// Keeps of those that nobody else holds no more than what they came to.
    fn settle(&mut self) {
        let before = &mut self.before;
        self.live.retain(|one| {
            let held = Arc::strong_count(one) > 1;
            if !held {
                *before = before.saturating_add(one.load(Ordering::Relaxed));
            }
            held
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_stays_when_its_counter_has_gone() {
        let tally = Tally::default();
        let one = Arc::new(AtomicU64::new(3));
        tally.add(Arc::clone(&one));
        tally.add(Arc::clone(&one));
        assert_eq!(tally.sum(), 3);
        one.fetch_add(4, Ordering::Relaxed);
        drop(one);
        let other = Arc::new(AtomicU64::new(1));
        tally.add(Arc::clone(&other));
        assert_eq!(tally.sum(), 8);
        let counted = tally.0.lock().unwrap();
        assert_eq!((counted.before, counted.live.len()), (7, 1));
    }
}
