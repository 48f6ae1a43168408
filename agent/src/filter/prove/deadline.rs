//! How long a question may take.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// On the clock, so many times the processor time: whoever waits is not held longer, however
/// little the host has to give.
const BUSY: u32 = 4;

/// When to give up: after so much processor time of this thread, so that an answer does not hang on
/// what else the host has to do.
#[derive(Clone, Copy, Debug)]
pub(in crate::filter) struct Deadline {
    worked: Duration,
    /// None: a time that no clock reaches is no limit.
    clock: Option<Instant>,
}

impl Deadline {
    /// Counted from now, on this thread.
    pub(in crate::filter) fn after(time: Duration) -> Self {
        Self {
            worked: worked().saturating_add(time),
            clock: Instant::now().checked_add(time.saturating_mul(BUSY)),
        }
    }

    pub(in crate::filter) fn passed(self) -> bool {
        self.left().is_zero()
    }

    /// The processor time that is left.
    pub(in crate::filter) fn left(self) -> Duration {
        if self.clock.is_some_and(|clock| Instant::now() >= clock) {
            return Duration::ZERO;
        }
        self.worked.saturating_sub(worked())
    }
}

/// The processor time of this thread so far.
fn worked() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // The kernel counts up from zero.
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_a_processor_has_not_worked() {
        let time = Duration::from_millis(400);
        let deadline = Deadline::after(time);
        std::thread::sleep(time);
        assert!(!deadline.passed());
        assert!(deadline.left() > time / 2, "{:?}", deadline.left());
    }

    #[test]
    fn work_and_the_clock_both_end_it() {
        let deadline = Deadline::after(Duration::from_millis(20));
        let start = worked();
        while !deadline.passed() {}
        let took = worked() - start;
        assert!(took < Duration::from_millis(200), "{took:?}");

        let deadline = Deadline::after(Duration::from_millis(20));
        std::thread::sleep(Duration::from_millis(20) * BUSY);
        assert!(deadline.passed());
        assert!(Deadline::after(Duration::ZERO).passed());
        assert!(!Deadline::after(Duration::MAX).passed());
    }
}
