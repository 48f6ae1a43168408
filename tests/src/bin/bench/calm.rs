//! Turns that count are those in which the machine ran as fast as it can.
//!
//! A core of a virtual machine runs at two or three speeds, as its neighbours leave it, and a median over
//! them says more about the neighbours than about a few microseconds. So the plain side has a turn
//! right before and right after each guarded one, and that counts if both were about as quick as the
//! quickest plain turn so far. Only plain turns are looked at: what is measured cannot choose.

use std::time::Duration;

use anyhow::Result;

/// How many times the quickest plain turn another one may take.
const CALM: f64 = 1.1;
/// How often a turn is repeated before it counts as it is.
const TRIES: usize = 25;
/// Plain turns before anything is measured, to know how quick they can be.
const SCOUTS: usize = 40;
/// How long all are left alone before a turn, so that nobody else's threads run in it.
pub(crate) const REST: Duration = Duration::from_millis(20);

/// How long the calls of one turn took.
#[derive(Clone, Copy)]
pub(crate) struct Turn {
    /// Their median, in seconds.
    pub(crate) typical: f64,
    /// Their 99th percentile.
    pub(crate) slow: f64,
}

impl Turn {
    /// Of how long each call took; none if there were no calls.
    pub(crate) fn of(mut times: Vec<f64>) -> Option<Self> {
        times.sort_by(f64::total_cmp);
        let at = |percent: usize| times.get(times.len() * percent / 100).copied();
        Some(Self {
            typical: at(50)?,
            slow: at(99)?,
        })
    }
}

/// What is known of the machine's pace.
pub(crate) struct Calm {
    quickest: f64,
    /// Turns that counted although the machine never came to rest.
    restless: usize,
    turns: usize,
}

impl Calm {
    /// Finds out how quick plain turns can be.
    pub(crate) fn scout(mut plain: impl FnMut() -> Result<Turn>) -> Result<Self> {
        let mut quickest = f64::INFINITY;
        for _ in 0..SCOUTS {
            quickest = quickest.min(plain()?.typical);
        }
        Ok(Self {
            quickest,
            restless: 0,
            turns: 0,
        })
    }

    /// A plain turn, and a guarded one that followed it while the machine was calm.
    pub(crate) fn turn(
        &mut self,
        mut plain: impl FnMut() -> Result<Turn>,
        mut guarded: impl FnMut() -> Result<Turn>,
    ) -> Result<(Turn, Turn)> {
        self.turns += 1;
        let mut tries = 0;
        loop {
            let (before, turn, after) = (plain()?, guarded()?, plain()?);
            self.quickest = self.quickest.min(before.typical).min(after.typical);
            tries += 1;
            let calm = before.typical.max(after.typical) <= CALM * self.quickest;
            if calm || tries == TRIES {
                self.restless += usize::from(!calm);
                return Ok((before, turn));
            }
        }
    }

    /// Says so if turns counted that should not have.
    pub(crate) fn report(&self, what: &str) {
        if self.restless > 0 {
            eprintln!(
                "{what}: the machine was not calm in {} of {} turns",
                self.restless, self.turns
            );
        }
    }
}
