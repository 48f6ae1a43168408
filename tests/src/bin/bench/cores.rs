//! Where what is measured runs: all of it on one core, which is what the work costs; or wherever the
//! kernel puts it, which is that and how long this machine takes to wake a core that is idle: on a
//! virtual machine tens of microseconds each time that a call is handed on.

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::measure::Target;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cores {
    One,
    Any,
}

impl Cores {
    pub(crate) const BOTH: [Self; 2] = [Self::One, Self::Any];

    /// As the table names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::One => "one core",
            Self::Any => "any core",
        }
    }

    /// Promises are of what the work costs.
    pub(crate) fn target(self, target: Target) -> Target {
        match self {
            Self::One => target,
            Self::Any => Target::None,
        }
    }

    /// Does something there. All that it starts stays there.
    pub(crate) fn run<R>(self, work: impl FnOnce() -> Result<R>) -> Result<R> {
        let allowed = sched_getaffinity(None)?;
        if self == Self::One {
            // The first one has most of the interrupts.
            let last = (0..CpuSet::MAX_CPU).rev().find(|&cpu| allowed.is_set(cpu));
            let mut one = CpuSet::new();
            one.set(last.context("there is no core")?);
            sched_setaffinity(None, &one)?;
        }
        let done = work();
        sched_setaffinity(None, &allowed)?;
        done
    }
}
