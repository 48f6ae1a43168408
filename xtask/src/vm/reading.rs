//! What a machine says on its second serial port: what is run, what that printed, how it ended.

use std::time::{Duration, Instant};

use crate::tally::Tally;

/// What the machine says itself begins so.
const MARK: &str = "@vm ";

/// One program that a machine ran.
pub(super) struct Run {
    pub(super) name: String,
    pub(super) tally: Tally,
    /// Whether it ended well and ran no test, which is so where a filter leaves none.
    pub(super) empty: bool,
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
        // Of a line that a ticker wrote again and again, what it says at last.
        let line = line.trim_end().rsplit('\r').next().unwrap_or_default();
        let line = line.trim_start_matches("\x1b[2K");
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
                    empty: false,
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
            "0" => self.empty = counted == 0,
            _ if tally.failed > 0 => {}
            _ => tally
                .broken
                .push(format!("{name}: died (exit code {status})")),
        }
    }

    /// Whether all is well.
    pub(super) fn clean(&self) -> bool {
        self.tally.failed == 0 && self.tally.broken.is_empty() && !self.empty
    }
}

/// Counts what the attack table says: a row that is skipped (`· A1 … skipped: why`), rows that are skipped
/// together (`12 skipped: why`), and at last all of them (`31 passed, 0 failed, 13 skipped`).
fn count_closing(tally: &mut Tally, name: &str, line: &str) {
    let mut counts = line.split(", ").map(|part| part.split_once(' '));
    let mut next = |word: &str| {
        let (number, rest) = counts.next()??;
        (rest == word).then(|| number.parse::<usize>().ok())?
    };
    let all = (|| Some((next("passed")?, next("failed")?, next("skipped")?)))();
    if let Some((passed, failed, skipped)) = all {
        tally.passed += passed;
        tally.failed += failed;
        let untold = skipped.saturating_sub(tally.skips.len());
        let skip = (name.to_owned(), "no reason given".to_owned());
        tally.skips.extend(std::iter::repeat_n(skip, untold));
    } else if let Some(row) = line.strip_prefix("✗ ") {
        tally.failures.push(format!("{name}: {row}"));
    } else if let Some((row, why)) = line.split_once("skipped: ") {
        let times = row.trim_end().parse().unwrap_or(1);
        let skip = (name.to_owned(), why.to_owned());
        let told = times == 1 && !row.starts_with('·');
        tally
            .skips
            .extend(std::iter::repeat_n(skip, if told { 0 } else { times }));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Reading {
        let mut reading = Reading::default();
        let mut now = Instant::now();
        for line in lines {
            now += Duration::from_secs(1);
            reading.line(now, line);
        }
        reading
    }

    #[test]
    fn programs_are_told_apart_and_counted() {
        let reading = read(&[
            "noise",
            "@vm up 6.1.0-56-cloud-amd64 lockdown,capability,bpf\r",
            "@vm run lib",
            "test kernel::a ... ok\r",
            "test kernel::b ... FAILED",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored",
            "@vm end 101",
            "@vm run network",
            "test result: 3 passed; 0 failed",
            "",
            "@vm end 0",
            "@vm skip veth\tno such device",
            "@vm done",
        ]);
        let up = reading.up.as_ref().unwrap();
        assert_eq!(up.1, "lockdown,capability,bpf");
        assert!(reading.done);
        let [lib, network] = &reading.runs[..] else {
            unreachable!("two programs")
        };
        assert_eq!(lib.tally.to_string(), "1 passed, 1 failed, 0 skipped");
        assert!(!lib.clean());
        assert_eq!(lib.time, Duration::from_secs(4));
        assert_eq!(lib.said.len(), 3);
        assert_eq!(network.tally.to_string(), "2 passed, 0 failed, 1 skipped");
        assert!(network.clean());
    }

    #[test]
    fn what_says_nothing_of_tests_or_dies_is_no_success() {
        for (lines, why) in [
            (
                &["@vm run lib", "@vm end 143"][..],
                "lib: died (exit code 143)",
            ),
            (&["@vm run lib", "running 3 tests"], "lib: panic"),
        ] {
            let mut reading = read(lines);
            reading.end(Instant::now(), "panic");
            let run = reading.runs.first().unwrap();
            assert!(!run.clean());
            assert_eq!(run.tally.broken, [why]);
        }
        let reading = read(&["@vm run lib", "@vm end 0"]);
        assert!(reading.runs.first().unwrap().empty);
        // A machine that ends between two programs is no fault of the one before.
        let mut reading = read(&["@vm run lib", "test result: ok. 1 passed;", "@vm end 0"]);
        reading.end(Instant::now(), "panic");
        assert!(reading.runs.first().unwrap().clean() && !reading.done);
    }

    #[test]
    fn attack_table_is_counted_with_its_reasons() {
        let reading = read(&[
            "@vm run attacks",
            "✓ A1   nobody native  a raw socket  seccomp  works → EPERM",
            "\r\x1b[2K… user 0\r\x1b[2K· A2   nobody native  a CAN socket  seccomp  EAFNOSUPPORT → -  skipped: no CAN here",
            "! E3   root   native  D-Bus  residual: it works",
            "",
            "3 skipped: this kernel has no x32",
            "1 residual: they work, and SECURITY.md says so",
            "1 passed, 0 failed, 5 skipped",
            "@vm end 0",
        ]);
        let run = reading.runs.first().unwrap();
        assert_eq!(run.tally.to_string(), "1 passed, 0 failed, 5 skipped");
        let skip = |why: &str| ("attacks".to_owned(), why.to_owned());
        let x32 = skip("this kernel has no x32");
        let expected = [
            skip("no CAN here"),
            x32.clone(),
            x32.clone(),
            x32,
            skip("no reason given"),
        ];
        assert_eq!(run.tally.skips, expected);
    }
}
