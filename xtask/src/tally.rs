//! What the tests of a run came to.

use std::fmt;

/// What the tests came to.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    /// The names of those that failed: whoever sees the end of the output only sees these.
    pub(crate) failures: Vec<String>,
    /// The names of those that failed beside others and passed alone: see [`again`](crate::again).
    pub(crate) unsteady: Vec<String>,
    /// Name and reason.
    pub(crate) skips: Vec<(String, String)>,
    /// What failed besides single tests: a lint, a build, a test binary that died.
    pub(crate) broken: Vec<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (passed, failed, skipped) = (self.passed, self.failed, self.skips.len());
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")?;
        if !self.unsteady.is_empty() {
            write!(f, ", {} unsteady", self.unsteady.len())?;
        }
        match self.broken.len() {
            0 => Ok(()),
            1 => f.write_str(", and 1 step failed"),
            n => write!(f, ", and {n} steps failed"),
        }
    }
}

impl Tally {
    /// What was skipped, a line for each; one that was skipped several times has how often.
    pub(crate) fn skipped(&self) -> String {
        let mut lines: Vec<(&(String, String), usize)> = vec![];
        for skip in &self.skips {
            match lines.iter_mut().find(|(known, _)| *known == skip) {
                Some((_, times)) => *times += 1,
                None => lines.push((skip, 1)),
            }
        }
        let line = |((name, reason), times): &(&(String, String), usize)| match times {
            1 => format!("skipped {name}: {reason}\n"),
            times => format!("skipped {name}, {times} times: {reason}\n"),
        };
        lines.iter().map(line).collect()
    }

    /// What failed, a line for each.
    pub(crate) fn failures(&self) -> String {
        let failures = self.failures.iter();
        failures.map(|name| format!("failed {name}\n")).collect()
    }

    /// What failed only beside others, a line for each.
    pub(crate) fn unsteady(&self) -> String {
        let unsteady = self.unsteady.iter();
        unsteady
            .map(|name| format!("unsteady {name}: it failed beside others, and passed alone\n"))
            .collect()
    }

    /// Counts one line that a test binary printed.
    pub(crate) fn count(&mut self, line: &str) {
        if let Some(totals) = line.strip_prefix("test result: ") {
            self.passed += number_before(totals, " passed");
            self.failed += number_before(totals, " failed");
        } else if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|test| test.strip_suffix(" ... FAILED"))
        {
            self.failures.push(name.to_owned());
        } else if let Some((name, mark)) = line
            .strip_prefix("test ")
            .and_then(|test| test.split_once(" ... ignored"))
        {
            let reason = mark.trim_start_matches([',', ' ']);
            let reason = if reason.is_empty() { "ignored" } else { reason };
            self.skips.push((name.to_owned(), reason.to_owned()));
        }
    }

    /// Counts the skips that the tests noted themselves.
    pub(crate) fn count_noted(&mut self, notes: &str) {
        for note in notes.lines() {
            let (name, reason) = note.split_once('\t').unwrap_or((note, "no reason given"));
            self.skips.push((name.to_owned(), reason.to_owned()));
            self.passed = self.passed.saturating_sub(1);
        }
    }
}

fn number_before(text: &str, word: &str) -> usize {
    text.split_once(word)
        .and_then(|(before, _)| before.rsplit(' ').next()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tally_counts_what_libtest_prints() {
        let mut tally = Tally::default();
        for line in [
            "running 4 tests",
            "test caps::exact ... ok",
            "test lsm::probe ... ignored, needs BPF LSM",
            "test caps::late ... FAILED",
            "test result: FAILED. 12 passed; 1 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.02s",
        ] {
            tally.count(line);
        }
        tally.count_noted("namespaces\tno ip netns here\n");
        assert_eq!((tally.passed, tally.failed), (11, 1));
        assert_eq!(
            tally.skips,
            [
                ("lsm::probe".to_owned(), "needs BPF LSM".to_owned()),
                ("namespaces".to_owned(), "no ip netns here".to_owned()),
            ]
        );
        assert_eq!(tally.to_string(), "11 passed, 1 failed, 2 skipped");
        assert_eq!(tally.failures(), "failed caps::late\n");

        tally.count_noted("namespaces\tno ip netns here\n");
        let shown = "skipped lsm::probe: needs BPF LSM\n\
                     skipped namespaces, 2 times: no ip netns here\n";
        assert_eq!(tally.skipped(), shown);
    }
}
