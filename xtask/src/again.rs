//! Tests that failed are run again, each alone.
//!
//! End-to-end tests share the machine's cores with each other and with whatever else runs there. One
//! that fails beside others and passes alone, each time of several, says something of the machine or of
//! how long the test waits, and little of capwarden: it is counted as *unsteady*, and named at the end of the
//! output with what it printed above. What fails alone has failed.

use anyhow::Result;

use crate::{tally::Tally, term};

/// How often it must pass alone.
const TIMES: usize = 3;
/// How many tests of one program, and of a whole run, may be unsteady: more is a fault of its own.
const MOST: usize = 3;

/// Runs the failures that a tally has since it knew this many, each alone: `passes` is asked for its name.
pub(crate) fn alone(
    tally: &mut Tally,
    known: usize,
    mut passes: impl FnMut(&str) -> Result<bool>,
) -> Result<()> {
    let fresh = tally.failures.len().saturating_sub(known);
    if fresh > MOST {
        return Ok(());
    }
    for name in tally.failures.split_off(known.min(tally.failures.len())) {
        let mut steady = true;
        for time in 1..=TIMES {
            println!(
                "{} again, alone: {name} ({time} of {TIMES})",
                term::bold("→")
            );
            if !passes(&name)? {
                steady = false;
                break;
            }
        }
        if steady {
            tally.failed = tally.failed.saturating_sub(1);
            tally.passed += 1;
            tally.unsteady.push(name);
        } else {
            tally.failures.push(name);
        }
    }
    Ok(())
}

/// More than a few unsteady tests are a failure of the run.
pub(crate) fn bound(tally: &mut Tally) {
    let count = tally.unsteady.len();
    if count > MOST {
        tally
            .broken
            .push(format!("{count} tests are unsteady, and {MOST} may be"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(names: &[&str]) -> Tally {
        Tally {
            passed: 10,
            failed: names.len(),
            failures: names.iter().map(ToString::to_string).collect(),
            ..Tally::default()
        }
    }

    #[test]
    fn what_passes_alone_is_unsteady_and_what_fails_once_more_has_failed() -> Result<()> {
        let mut tally = failed(&["before", "busy", "wrong", "rare"]);
        let mut runs = vec![];
        alone(&mut tally, 1, |name| {
            runs.push(name.to_owned());
            let second = runs.iter().filter(|run| *run == name).count() == 2;
            Ok(name == "busy" || (name == "rare" && !second))
        })?;
        assert_eq!(tally.failures, ["before", "wrong", "rare"]);
        assert_eq!(tally.unsteady, ["busy"]);
        assert_eq!((tally.passed, tally.failed), (11, 3));
        assert_eq!(runs, ["busy", "busy", "busy", "wrong", "rare", "rare"]);
        bound(&mut tally);
        assert!(tally.broken.is_empty());
        Ok(())
    }

    #[test]
    fn many_failures_and_many_unsteady_tests_are_no_accident() -> Result<()> {
        let mut tally = failed(&["a", "b", "c", "d"]);
        alone(&mut tally, 0, |name| anyhow::bail!("{name} is not run"))?;
        assert_eq!(tally.failures, ["a", "b", "c", "d"]);

        for name in ["a", "b", "c", "d"] {
            let mut one = failed(&[name]);
            alone(&mut one, 0, |_| Ok(true))?;
            tally.unsteady.append(&mut one.unsteady);
        }
        bound(&mut tally);
        assert_eq!(tally.broken, ["4 tests are unsteady, and 3 may be"]);
        Ok(())
    }
}
