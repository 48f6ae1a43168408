//! Something that changes while it is being read.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Less than what ends an attack that hangs.
const PATIENCE: Duration = Duration::from_secs(15);
/// On a host so busy that time is up before all tries are made, these are enough.
const FEWEST: usize = 30;

/// What came of a race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Raced {
    Won,
    /// After as many tries as were to be made, or as there was time for.
    Lost,
    /// There was time for too few to tell.
    OutOfTime,
}

/// Tries something until it wins, at most so many times, while another thread makes changes without end,
/// one step after the other. Between two tries there is always a whole step: a thread that has yet to begin, or
/// that gets no processor, is waited for, so that each try is another throw of the dice.
pub(crate) fn race(
    tries: usize,
    change: impl Fn(usize) + Sync,
    mut attempt: impl FnMut() -> bool,
) -> Raced {
    let (done, steps) = (AtomicBool::new(false), AtomicUsize::new(0));
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            for step in 1.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                change(step);
                steps.store(step, Ordering::Release);
            }
        });
        let raced = (|| {
            for made in 0..tries {
                // The step after this one may have been made before the last try; the next one was not.
                let then = steps.load(Ordering::Acquire);
                while steps.load(Ordering::Acquire) < then + 2 {
                    if start.elapsed() > PATIENCE {
                        return if made < FEWEST {
                            Raced::OutOfTime
                        } else {
                            Raced::Lost
                        };
                    }
                    thread::yield_now();
                }
                if attempt() {
                    return Raced::Won;
                }
            }
            Raced::Lost
        })();
        done.store(true, Ordering::Relaxed);
        raced
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_try_is_made_before_there_was_another_change() {
        let (step, mut last) = (AtomicUsize::new(0), 0);
        let raced = race(
            100,
            |now| step.store(now, Ordering::Relaxed),
            || {
                let now = step.load(Ordering::Relaxed);
                assert!(now > last, "{now} after {last}");
                last = now;
                false
            },
        );
        assert_eq!(raced, Raced::Lost);
        assert_eq!(race(100, |_| {}, || true), Raced::Won);
    }
}
