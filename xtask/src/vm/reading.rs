//! What a machine says on its second serial port: what is run, what that printed, how it ended.

use std::time::{Duration, Instant};

use crate::test::Tally;

/// What the machine says itself begins so.
const MARK: &str = "@vm ";

/// One program that a machine ran.
pub(super) struct Run {
    pub(super) name: String,
    pub(super) tally: Tally,
    /// What it printed, and how long after it began.
    pub(super) said: Vec<(Duration, String)>,
    pub(super) time: Duration,
    begun: Instant,
}

/// What a machine has said so far.
#[derive(Default)]
pub(super) struct Reading {
    /// The kernel and its active security modules, once there is a first process.
    pub(super) up: Option<(String, String)>,
    /// What was run.
    pub(super) runs: Vec<Run>,
    /// Whether a program runs now.
    running: bool,
    /// Whether everything was run.
    pub(super) done: bool,
}

impl Reading {
    /// Reads one more line.
    pub(super) fn line(&mut self, now: Instant, line: &str) {
        let line = line.trim_end();
        let Some(said) = line.strip_prefix(MARK) else {
            if let Some(run) = self.runs.last_mut().filter(|_| self.running) {
                run.tally.count(line);
                count_closing(&mut run.tally, &run.name, line);
                let after = now.duration_since(run.begun);
                run.said.push((after, line.to_owned()));
            }
            return;
        };
        let (word, rest) = said.split_once(' ').unwrap_or((said, ""));
        match (word, self.runs.last_mut()) {
            ("up", _) => {
                let (release, modules) = rest.split_once(' ').unwrap_or((rest, ""));
                self.up = Some((release.to_owned(), modules.to_owned()));
            }
            ("run", _) => {
                self.running = true;
                self.runs.push(Run {
                    name: rest.to_owned(),
                    tally: Tally::default(),
                    said: vec![],
                    time: Duration::ZERO,
                    begun: now,
                });
            }
            ("end", Some(run)) => {
                self.running = false;
                run.end(now, rest);
            }
            ("skip", Some(run)) => run.tally.count_noted(rest),
            ("done", _) => self.done = true,
            _ => {}
        }
    }

    /// The machine has ended; why, where that is not as it should be.
    pub(super) fn end(&mut self, now: Instant, why: &str) {
        if let Some(run) = self.runs.last_mut().filter(|_| self.running) {
            run.time = now.duration_since(run.begun);
            let name = &run.name;
            run.tally.broken.push(format!("{name}: {why}"));
        }
        self.running = false;
    }

    /// What runs now, for who waits.
    pub(super) fn now(&self) -> &str {
        match (self.runs.last(), &self.up) {
            (Some(run), _) => run.said.last().map_or(&run.name, |(_, line)| line),
            (None, Some(_)) => "up",
            (None, None) => "booting",
        }
    }
}

impl Run {
    fn end(&mut self, now: Instant, status: &str) {
        self.time = now.duration_since(self.begun);
        let (tally, name) = (&mut self.tally, &self.name);
        let counted = tally.passed + tally.failed + tally.skips.len();
        match status {
            "0" if counted == 0 => tally.broken.push(format!("{name}: ran no tests")),
            "0" => {}
            _ if tally.failed > 0 => {}
            _ => tally
                .broken
                .push(format!("{name}: died (exit code {status})")),
        }
    }

    /// Whether all is well.
    pub(super) fn clean(&self) -> bool {
        self.tally.failed == 0 && self.tally.broken.is_empty()
    }
}

/// Counts what a program of its own kind says last: `31 passed, 0 failed, 2 skipped`.
fn count_closing(tally: &mut Tally, name: &str, line: &str) {
    let mut counts = line.split(", ").map(|part| part.split_once(' '));
    let mut next = |word: &str| {
        let (number, rest) = counts.next()??;
        rest.starts_with(word)
            .then(|| number.parse::<usize>().ok())?
    };
    let counted = (|| Some((next("passed")?, next("failed")?, next("skipped")?)))();
    if let Some((passed, failed, skipped)) = counted {
        tally.passed += passed;
        tally.failed += failed;
        let skip = (name.to_owned(), "its own report says why".to_owned());
        tally.skips.extend(std::iter::repeat_n(skip, skipped));
    }
}
