//! The clock that deadlines are measured in.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A point of `CLOCK_BOOTTIME`: goes on while the host is suspended, and is the clock that the
/// guard reads (`bpf_ktime_get_boot_ns`, Linux 5.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(Duration);

impl BootTime {
    /// Now.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        Self(Duration::new(
            u64::try_from(now.tv_sec).unwrap_or(0),
            u32::try_from(now.tv_nsec).unwrap_or(0),
        ))
    }

    /// This much later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// How far away it is; zero once it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_sub(Self::now().0)
    }

    /// Whether it lies behind us.
    pub fn has_passed(self) -> bool {
        self <= Self::now()
    }

    /// How long ago it was; zero if it is still to come.
    pub fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }

    /// Nanoseconds since boot, as the guard compares them; never 0, which means no deadline.
    pub fn nanoseconds(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX).max(1)
    }
}
