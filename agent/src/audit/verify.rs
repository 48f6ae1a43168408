//! The log as an auditor sees it: every line checked, every defect named.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    fs::File,
    io::{BufReader, Read as _},
    path::Path,
};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Map;

use super::{
    arguments::ArgumentsDigest,
    error::AuditError,
    hash::Hash,
    line::{Entry, RawLine, next_line},
    log::Lock,
};

/// Problems that are listed; all are counted.
const MAX_PROBLEMS: usize = 1000;

/// What [`verify()`] found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Lines that are records.
    pub records: u64,
    /// The hash of the last line; none for an empty log.
    pub head: Option<Hash>,
    /// When the first record was written.
    pub first: Option<String>,
    /// When the last record was written.
    pub last: Option<String>,
    /// Where the expected head stands; none if it was not asked for, or is not there.
    pub anchor: Option<Anchor>,
    /// What is wrong or strange, by line. The first thousand.
    pub problems: Vec<Problem>,
    /// Errors in all.
    pub errors: u64,
    /// Warnings in all.
    pub warnings: u64,
    /// Sessions without an end, of agents that did not say that they stopped: they still run, or
    /// died.
    pub open: Vec<OpenSession>,
}

/// Where an expected head was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Anchor {
    /// The line.
    pub line: u64,
    /// Lines after it: the anchor does not speak for them.
    pub after: u64,
}

/// A session without an end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OpenSession {
    /// The agent.
    pub agent: String,
    /// The session.
    pub session: String,
    /// The line that opened it.
    pub line: u64,
}

/// One thing that is wrong, or strange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The line, from 1.
    pub line: u64,
    /// How bad it is.
    pub severity: Severity,
    /// What it is.
    pub defect: Defect,
    /// The same in a sentence.
    pub message: String,
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The log is not what capwarden wrote.
    Error,
    /// The log is sound, but tells of something to look at.
    Warning,
}

/// What can be wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Defect {
    /// The line is not a record.
    #[error("not a record: {0}")]
    NotARecord(String),
    /// The line is longer than any record.
    #[error("{0} bytes are too long for a record")]
    TooLong(usize),
    /// The chain does not begin at its first line.
    #[error("the log does not begin here: lines before this one were removed")]
    NoBeginning,
    /// The line does not link to the one before it.
    #[error("broken link: the line before was changed, removed, inserted or moved")]
    BrokenLink,
    /// Numbers are missing.
    #[error("numbered {found} where {expected} should follow: records are missing")]
    Gap {
        /// The number that should follow.
        expected: u64,
        /// The number that is there.
        found: u64,
    },
    /// A number comes twice.
    #[error("numbered {0} again")]
    Repeated(u64),
    /// The last line is cut short.
    #[error("cut short after {0} bytes: a crash, or a write that is under way")]
    Torn(usize),
    /// The expected head is not in the chain.
    #[error("the expected head is not in the log: records were cut off or rewritten")]
    NoAnchor,
    /// The clock went backwards.
    #[error("written before the line before it, by the clock")]
    Backwards,
    /// An agent stopped and left a session open.
    #[error("session {session} of agent {agent} was opened here and never ended")]
    NeverEnded {
        /// The agent.
        agent: String,
        /// The session.
        session: String,
    },
    /// A session ended that was not open.
    #[error("session {session} of agent {agent} ended without having been opened")]
    NeverOpened {
        /// The agent.
        agent: String,
        /// The session.
        session: String,
    },
    /// A session was opened twice.
    #[error("session {session} of agent {agent} was opened again")]
    OpenedAgain {
        /// The agent.
        agent: String,
        /// The session.
        session: String,
    },
    /// The values that are recorded of a call are others than the digest was made of.
    #[error("the values recorded of this call are not those of its digest")]
    OtherValues,
    /// A crash was repaired here.
    #[error("a line was cut short by a crash here; what was left of it is in {0}")]
    Repaired(String),
}

impl Defect {
    fn severity(&self) -> Severity {
        match self {
            Self::NotARecord(_)
            | Self::TooLong(_)
            | Self::NoBeginning
            | Self::BrokenLink
            | Self::Gap { .. }
            | Self::Repeated(_)
            | Self::Torn(_)
            | Self::NoAnchor
            | Self::OtherValues => Severity::Error,
            Self::Backwards
            | Self::NeverEnded { .. }
            | Self::NeverOpened { .. }
            | Self::OpenedAgain { .. }
            | Self::Repaired(_) => Severity::Warning,
        }
    }
}

impl Report {
    /// True if nothing is wrong. Warnings do not count.
    pub fn is_sound(&self) -> bool {
        self.errors == 0
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

/// Reads a log from its first line to its last. `expected` is a head that was noted elsewhere: it
/// must be the hash of some line. The report is the answer; an error means that the file could not
/// be read.
pub fn verify(path: impl AsRef<Path>, expected: Option<Hash>) -> Result<Report, AuditError> {
    let path = path.as_ref();
    let mut stream = BufReader::new(snapshot(path)?);
    let mut audit = Audit::new(expected);
    while let Some(line) = next_line(&mut stream).map_err(|source| AuditError::Read {
        path: path.to_owned(),
        source,
    })? {
        audit.line(&line);
    }
    Ok(audit.finish())
}

/// The log as it is at this moment: lines that are appended later are not read, and no line is
/// seen half written.
pub(super) fn snapshot(path: &Path) -> Result<std::io::Take<File>, AuditError> {
    let failed = |source| AuditError::Open {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    // Without a lock (a file system that has none, or somebody who holds it), the worst is that a
    // write under way is reported as a torn line.
    let lock = Lock::share(&file).ok();
    let meta = file.metadata().map_err(failed)?;
    drop(lock);
    if !meta.is_file() {
        return Err(AuditError::NotAFile(path.to_owned()));
    }
    Ok(file.take(meta.len()))
}

/// Whether the values of a call are those of its digest.
fn values_hold(entry: &Entry) -> bool {
    let none = Map::new();
    let values = match entry.fields.get("values") {
        None => &none,
        Some(values) => match values.as_object() {
            Some(values) => values,
            None => return false,
        },
    };
    let digest = entry.fields.get("digest");
    match ArgumentsDigest::from_json(digest) {
        Some(digest) => digest.holds(values),
        // Logs of before have calls without one.
        None => digest.is_none() && values.is_empty(),
    }
}

struct Audit {
    report: Report,
    expected: Option<Hash>,
    lines: u64,
    /// The hash of the line before.
    prev: Hash,
    /// The number that should follow.
    next: u64,
    time: Option<Timestamp>,
    /// Open sessions by agent and name, with the line that opened them.
    open: HashMap<(String, String), u64>,
    stopped: HashSet<String>,
}

impl Audit {
    fn new(expected: Option<Hash>) -> Self {
        Self {
            report: Report::default(),
            expected,
            lines: 0,
            prev: Hash::ZERO,
            next: 1,
            time: None,
            open: HashMap::new(),
            stopped: HashSet::new(),
        }
    }

    fn found(&mut self, line: u64, defect: Defect) {
        let problem = Problem {
            line,
            severity: defect.severity(),
            message: defect.to_string(),
            defect,
        };
        match problem.severity {
            Severity::Error => self.report.errors += 1,
            Severity::Warning => self.report.warnings += 1,
        }
        if self.report.problems.len() < MAX_PROBLEMS {
            self.report.problems.push(problem);
        }
    }

    fn line(&mut self, line: &RawLine) {
        self.lines += 1;
        if line.is_overlong() {
            self.found(self.lines, Defect::TooLong(line.length));
            self.next = self.next.saturating_add(1);
        } else if !line.ended {
            self.found(self.lines, Defect::Torn(line.length));
        } else {
            match Entry::parse(&line.bytes) {
                Ok(entry) => self.entry(&entry),
                Err(why) => {
                    self.found(self.lines, Defect::NotARecord(why));
                    self.next = self.next.saturating_add(1);
                }
            }
        }
        if line.ended {
            self.prev = line.hash;
            self.report.head = Some(line.hash);
            if self.expected == Some(line.hash) {
                self.report.anchor = Some(Anchor {
                    line: self.lines,
                    after: 0,
                });
            }
        }
    }

    fn entry(&mut self, entry: &Entry) {
        let line = self.lines;
        if entry.prev != self.prev {
            let defect = if line == 1 {
                Defect::NoBeginning
            } else {
                Defect::BrokenLink
            };
            self.found(line, defect);
        }
        if entry.seq > self.next {
            let expected = self.next;
            let found = entry.seq;
            self.found(line, Defect::Gap { expected, found });
        } else if entry.seq < self.next {
            self.found(line, Defect::Repeated(entry.seq));
        }
        self.next = entry.seq.saturating_add(1);

        let time = entry.time.parse().ok();
        if time < self.time {
            self.found(line, Defect::Backwards);
        }
        self.time = time;
        if self.report.records == 0 {
            self.report.first = Some(entry.time.clone());
        }
        self.report.last = Some(entry.time.clone());
        self.report.records += 1;
        self.follow(line, entry);
    }

    /// Follows sessions from their opening to their end.
    fn follow(&mut self, line: u64, entry: &Entry) {
        let agent = entry.agent.clone();
        let session = entry.text("session").unwrap_or_default().to_owned();
        match entry.kind.as_str() {
            "call" if !values_hold(entry) => self.found(line, Defect::OtherValues),
            "session-opened" | "proxy-opened" | "program-opened" => {
                let key = (agent.clone(), session.clone());
                if self.open.insert(key, line).is_some() {
                    self.found(line, Defect::OpenedAgain { agent, session });
                }
            }
            "session-ended" => {
                let key = (agent.clone(), session.clone());
                if self.open.remove(&key).is_none() {
                    self.found(line, Defect::NeverOpened { agent, session });
                }
            }
            "agent-stopped" => {
                self.stopped.insert(agent);
            }
            "torn-tail" => {
                let kept = entry.text("kept").unwrap_or("a lost place").to_owned();
                self.found(line, Defect::Repaired(kept));
            }
            _ => {}
        }
    }

    fn finish(mut self) -> Report {
        for ((agent, session), line) in std::mem::take(&mut self.open) {
            if self.stopped.contains(&agent) {
                self.found(line, Defect::NeverEnded { agent, session });
            } else {
                self.report.open.push(OpenSession {
                    agent,
                    session,
                    line,
                });
            }
        }
        self.report.open.sort_by_key(|open| open.line);
        match &mut self.report.anchor {
            Some(anchor) => anchor.after = self.lines - anchor.line,
            None if self.expected.is_some() => self.found(self.lines, Defect::NoAnchor),
            None => {}
        }
        self.report.problems.sort_by_key(|problem| problem.line);
        self.report
    }
}
