//! How soon a server is started again that could not be started, or ended at once: whoever starts one waits by this.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row after which it is waited.
const AT_ONCE: u32 = 2;
/// How long it is waited first; each time after that, twice as long.
const FIRST: Duration = Duration::from_secs(1);
/// At most so long.
const LONGEST: Duration = Duration::from_secs(60);

/// How long it is waited each time: twice as long as the time before.
#[derive(Debug)]
pub(super) struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Pauses {
    /// The next one.
    pub(super) fn take_next(&mut self) -> Duration {
        let next = self.0;
        self.0 = next.saturating_mul(2).min(LONGEST);
        next
    }
}

/// Failures of the starts of a server that each client has one of.
#[derive(Debug, Default)]
pub(super) struct Pace {
    failures: u32,
    pauses: Pauses,
    until: Option<Instant>,
    why: String,
}

impl Pace {
    /// Whether it may be started now; else for how long not, and why.
    pub(super) fn may_start(&self, now: Instant) -> Result<(), (Duration, &str)> {
        match self.until.map(|until| until.saturating_duration_since(now)) {
            Some(left) if !left.is_zero() => Err((left, &self.why)),
            _ => Ok(()),
        }
    }

    /// It could not be started, or ended before it was of use.
    pub(super) fn failed(&mut self, now: Instant, why: String) {
        self.failures = self.failures.saturating_add(1);
        self.why = why;
        self.until = (self.failures > AT_ONCE).then(|| now + self.pauses.take_next());
    }

    /// It was of use.
    pub(super) fn served(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_the_third_failure_on_and_are_bounded() {
        let now = Instant::now();
        let mut pace = Pace::default();
        let mut waits = Vec::new();
        for _ in 0..40 {
            pace.failed(now, "it is broken".to_owned());
            waits.push(pace.may_start(now).err().map(|(left, _)| left.as_secs()));
        }
        assert_eq!(waits[..6], [None, None, Some(1), Some(2), Some(4), Some(8)]);
        assert_eq!(waits[39], Some(60));
        assert_eq!(pace.may_start(now).unwrap_err().1, "it is broken");
        assert!(pace.may_start(now + LONGEST).is_ok());
        pace.served();
        assert!(pace.may_start(now).is_ok());
        pace.failed(now, String::new());
        assert!(pace.may_start(now).is_ok(), "the first one again");
    }
}
