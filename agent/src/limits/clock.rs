//! The time that limits are told in.
//!
//! Each counter has a [`Hand`] of its own, which never goes back. As long as the wall clock goes
//! forward, the hand shows what the wall clock shows. When the wall clock is set back, the hand goes on from where it was,
//! at half the speed of the boot clock, until the wall clock has caught up with it: a window that
//! was closed stays closed, and no window passes in less time than it should, but the counter is
//! never stuck either. Across a reboot the time between is unknown, and counts as none.

use std::{fs, io, time::Duration};

use rustix::time::{ClockId, clock_gettime};

/// What the clocks show at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Microseconds since 1970, UTC.
    pub wall: u64,
    /// Microseconds since the host was started, suspensions included.
    pub since_boot: u64,
    /// Which start of the host `since_boot` counts from.
    pub boot: u64,
}

/// Shows the time.
pub trait Clock: Send + Sync + 'static {
    /// What it is now.
    fn read(&self) -> Reading;
}

/// The same moment for ever.
impl Clock for Reading {
    fn read(&self) -> Reading {
        *self
    }
}

/// The host's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    boot: u64,
}

impl SystemClock {
    /// # Errors
    ///
    /// The kernel does not tell one start of the host from another.
    pub fn new() -> io::Result<Self> {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let digits: String = id
            .chars()
            .filter(char::is_ascii_hexdigit)
            .take(16)
            .collect();
        let boot = u64::from_str_radix(&digits, 16).map_err(io::Error::other)?;
        Ok(Self { boot })
    }
}

impl Clock for SystemClock {
    fn read(&self) -> Reading {
        Reading {
            wall: micros(ClockId::Realtime),
            since_boot: micros(ClockId::Boottime),
            boot: self.boot,
        }
    }
}

fn micros(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let rest = u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000;
    seconds.saturating_mul(1_000_000).saturating_add(rest)
}

/// A duration in whole microseconds.
pub(super) fn in_micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A counter's own time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hand {
    /// Microseconds since 1970, UTC. Never goes back.
    pub(super) at: u64,
    /// When it was moved there, as [`Reading`] has it.
    pub(super) since_boot: u64,
    pub(super) boot: u64,
}

impl Hand {
    pub(super) fn new(reading: Reading) -> Self {
        Self {
            at: reading.wall,
            since_boot: reading.since_boot,
            boot: reading.boot,
        }
    }

    /// The hand at a later moment.
    pub(super) fn moved(self, reading: Reading) -> Self {
        let (elapsed, since_boot) = if reading.boot == self.boot {
            let elapsed = reading.since_boot.saturating_sub(self.since_boot);
            (elapsed, reading.since_boot.max(self.since_boot))
        } else {
            (0, reading.since_boot)
        };
        Self {
            at: reading.wall.max(self.at.saturating_add(elapsed / 2)),
            since_boot,
            boot: reading.boot,
        }
    }

    /// Whether it must be kept although nothing was counted: after a reboot with a clock that is
    /// behind, it starts to move only once it is anchored to the new boot clock.
    pub(super) fn must_be_anchored(self, reading: Reading) -> bool {
        self.boot != reading.boot && reading.wall < self.at
    }

    /// How long it is until this hand, moved to `reading`, shows `target`.
    pub(super) fn until(self, target: u64, reading: Reading) -> Duration {
        let left = target.saturating_sub(self.at);
        let ahead = self.at.saturating_sub(reading.wall);
        // At half speed until the wall clock has caught up, which takes twice as long as the hand
        // is ahead.
        Duration::from_micros(left.saturating_add(left.min(ahead)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(wall: u64, since_boot: u64) -> Reading {
        Reading {
            wall,
            since_boot,
            boot: 1,
        }
    }

    #[test]
    fn hand_follows_the_wall_clock_forward_and_never_back() {
        let hand = Hand::new(at(1_000, 0)).moved(at(5_000, 10));
        assert_eq!(hand.at, 5_000, "a step forward is believed");
        let back = hand.moved(at(2_000, 110));
        assert_eq!(back.at, 5_050, "after a step back, half of what passed");
        assert_eq!(back.moved(at(5_060, 3_170)).at, 6_580, "still ahead");
        assert_eq!(back.moved(at(9_000, 7_110)).at, 9_000, "caught up");
    }

    #[test]
    fn hand_waits_across_a_reboot_until_it_is_anchored() {
        let hand = Hand::new(at(5_000, 900));
        let rebooted = Reading {
            wall: 100,
            since_boot: 50,
            boot: 2,
        };
        assert!(hand.must_be_anchored(rebooted));
        let hand = hand.moved(rebooted);
        assert_eq!(hand.at, 5_000);
        let later = Reading {
            wall: 300,
            since_boot: 250,
            boot: 2,
        };
        assert!(!hand.must_be_anchored(later));
        assert_eq!(hand.moved(later).at, 5_100);
    }

    #[test]
    fn time_left_is_told_in_real_time() {
        for (wall, target) in [(5_000, 6_000), (4_900, 6_000), (0, 6_000), (4_000, 5_100)] {
            let start = at(wall, 100);
            let hand = Hand {
                at: 5_000,
                since_boot: 100,
                boot: 1,
            };
            let left = u64::try_from(hand.until(target, start).as_micros()).unwrap();
            let then = at(wall + left, 100 + left);
            assert!(
                hand.moved(then).at >= target,
                "at {wall}: {left} is too short"
            );
            let before = at(wall + left - 2, 100 + left - 2);
            assert!(
                hand.moved(before).at < target,
                "at {wall}: {left} is too long"
            );
        }
    }

    #[test]
    fn system_clock_reads() {
        let clock = SystemClock::new().unwrap();
        let first = clock.read();
        let second = clock.read();
        assert!(first.wall > 1_600_000_000_000_000 && first.since_boot > 0);
        assert!(second.since_boot >= first.since_boot && second.boot == first.boot);
    }
}
