//! Turns that count are those in which the machine ran as fast as it can.
//!
//! A core of a virtual machine runs at two or three speeds, as its neighbours leave it, and a median over
//! them says more about the neighbours than about a few microseconds. So the plain side has a turn
//! right before and right after each guarded one, and that counts if both were about as quick as the
//! quickest plain turn so far. Only plain turns are looked at: what is measured cannot choose.

use std::time::Duration;

use anyhow::Result;

use crate::cores::Cores;

/// How many times the quickest plain turn another one may take.
const CALM: f64 = 1.1;
/// How often it is looked for a calm moment before a turn counts as it is.
const TRIES: usize = 60;
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

/// A plain turn and a guarded one that followed it.
pub(crate) struct Pair {
    pub(crate) plain: Turn,
    pub(crate) guarded: Turn,
    calm: bool,
}

/// Calm turns that are enough to leave the others out.
const ENOUGH: usize = 5;

/// Those that count: the calm ones, or all if there are hardly any.
pub(crate) fn counted(mut pairs: Vec<Pair>) -> Vec<Pair> {
    if pairs.iter().filter(|pair| pair.calm).count() >= ENOUGH {
        pairs.retain(|pair| pair.calm);
    }
    pairs
}

/// What is known of the machine's pace.
pub(crate) struct Calm {
    quickest: f64,
    tries: usize,
    /// Turns in which the machine never came to rest.
    restless: usize,
    turns: usize,
}

impl Calm {
    /// Finds out how quick plain turns can be. Where a core has to be woken for each call, how long that takes
    /// is a part of what is measured, and no moment is better than another.
    pub(crate) fn scout(cores: Cores, mut plain: impl FnMut() -> Result<Turn>) -> Result<Self> {
        let mut quickest = f64::INFINITY;
        for _ in 0..SCOUTS {
            quickest = quickest.min(plain()?.typical);
        }
        Ok(Self {
            quickest,
            tries: match cores {
                Cores::One => TRIES,
                Cores::Any => 0,
            },
            restless: 0,
            turns: 0,
        })
    }

    /// A guarded turn while the machine was calm, if it ever was.
    pub(crate) fn turn(
        &mut self,
        mut plain: impl FnMut() -> Result<Turn>,
        mut guarded: impl FnMut() -> Result<Turn>,
    ) -> Result<Pair> {
        self.turns += 1;
        for _ in 0..self.tries {
            let before = plain()?;
            if !self.is_calm(before) {
                continue;
            }
            let turn = guarded()?;
            if self.is_calm(plain()?) {
                return Ok(Pair {
                    plain: before,
                    guarded: turn,
                    calm: true,
                });
            }
        }
        self.restless += 1;
        Ok(Pair {
            plain: plain()?,
            guarded: guarded()?,
            calm: false,
        })
    }

    fn is_calm(&mut self, plain: Turn) -> bool {
        self.quickest = self.quickest.min(plain.typical);
        plain.typical <= CALM * self.quickest
    }

    /// Says how many turns were not as they should be.
    pub(crate) fn report(&self, what: &str) {
        if self.tries > 0 && self.restless > 0 {
            eprintln!(
                "{what}: the machine was not calm in {} of {} turns",
                self.restless, self.turns
            );
        }
    }
}
