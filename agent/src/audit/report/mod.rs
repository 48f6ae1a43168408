//! One session, told from the log for whoever reads a change ticket: what was asked, what was allowed, what ran,
//! what was seen and what was refused meanwhile, each with the line of the log that says so.
//!
//! ```text
//! log ─► gather (the lines of one session) ─► SessionReport ─► JSON, text (cli), html
//! capture files ─► traffic (packets over time) ──┘
//! ```
//! Every line comes with its number and its hash, so that the report can be held against the log:
//! `sed -n 7p audit.jsonl | tr -d '\n' | sha256sum`.

mod gather;
mod html;
#[cfg(test)]
mod tests;
mod traffic;

use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{hash::Hash, show::describe, verify::Report};
use crate::{session::Protocols, words::counted};

pub use gather::session_report;
pub use html::html;
pub use traffic::{CaptureOf, Moment, Traffic, traffic};

/// What the log says of one session.
#[derive(Clone, Debug, Serialize)]
pub struct SessionReport {
    /// The log.
    pub path: PathBuf,
    /// The session: `s1`.
    pub session: String,
    /// The run of capwarden that opened it.
    pub agent: String,
    /// The server whose session it is; old logs do not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Whether the log can be believed: its chain, and its head when this was made.
    pub log: Report,
    /// The lines that tell of it, in their order.
    pub lines: Vec<ReportLine>,
    /// Lines that there was no room for, of approvals perhaps not its own.
    pub omitted: u64,
    /// Packets over time, from the capture's files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// Where, when and by what this was made.
    pub made: Made,
}

/// Where, when and by what a report was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Made {
    /// The host's name.
    pub host: String,
    /// The version of capwarden.
    pub version: String,
    /// When, UTC.
    pub time: String,
}

impl Made {
    /// Here and now.
    fn now() -> Self {
        let host = rustix::system::uname();
        Self {
            host: super::visible(&host.nodename().to_string_lossy()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            time: format!("{:.0}", Timestamp::now()),
        }
    }

    /// `Made by capwarden 0.1.0 on host at 2026-01-01T00:00:00Z.`
    #[must_use]
    pub fn words(&self) -> String {
        let Self {
            host,
            version,
            time,
        } = self;
        format!("Made by capwarden {version} on {host} at {time}.")
    }
}

/// A line of the log.
#[derive(Clone, Debug, Serialize)]
pub struct ReportLine {
    /// Its number in the file, from 1.
    pub line: u64,
    /// The hash of its bytes.
    pub sha256: Hash,
    /// What it is to the session.
    pub part: Part,
    /// When it was written, UTC.
    pub time: String,
    /// Which kind of record it is.
    pub kind: String,
    /// What it says, in a phrase. Harmless to show.
    pub words: String,
    /// The record's own fields, as they are in the log.
    pub fields: Map<String, Value>,
}

/// What a line tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The agent, its server and its policy.
    Setting,
    /// What was asked, and what an operator or user said to that.
    Asked,
    /// What was allowed: the session's terms.
    Allowed,
    /// What ran, and with which filters.
    Ran,
    /// What was refused while it was open.
    Refused,
    /// How it ended, and what was seen.
    Seen,
}

impl Part {
    /// All of them, as a report has them.
    pub const ALL: [Self; 6] = [
        Self::Setting,
        Self::Asked,
        Self::Allowed,
        Self::Ran,
        Self::Refused,
        Self::Seen,
    ];

    /// As a heading.
    #[must_use]
    pub const fn heading(self) -> &'static str {
        match self {
            Self::Setting => "Setting",
            Self::Asked => "Asked",
            Self::Allowed => "Allowed",
            Self::Ran => "Ran",
            Self::Refused => "Refused",
            Self::Seen => "Seen",
        }
    }
}

/// A cap, and how much of it was used.
#[derive(Clone, Debug, PartialEq)]
pub struct Gauge {
    /// What is counted: `packets`, `bytes`, `seconds`.
    pub unit: &'static str,
    /// What passed; of a proxy's bytes, the direction with more.
    pub used: f64,
    /// The cap; none where there is none.
    pub cap: Option<f64>,
}

impl Gauge {
    /// `128 of at most 1000 packets`.
    #[must_use]
    pub fn words(&self) -> String {
        let (used, unit) = (self.used, self.unit);
        match self.cap {
            Some(cap) => format!("{used} of at most {cap} {unit}"),
            None if (used - 1.0).abs() < f64::EPSILON => {
                format!("1 {}, without a cap", unit.trim_end_matches('s'))
            }
            None => format!("{used} {unit}, without a cap"),
        }
    }
}

impl SessionReport {
    /// `session s1 at pcap, of agent 5f1c2a9b7d0e1f23`. Harmless to show.
    #[must_use]
    pub fn title(&self) -> String {
        let server = self.server.as_ref();
        let server = server.map_or_else(String::new, |server| format!("at {server}, "));
        super::visible(&format!(
            "session {} {server}of agent {}",
            self.session, self.agent
        ))
    }

    /// Whether the session has ended.
    #[must_use]
    pub fn end(&self) -> Option<&ReportLine> {
        self.lines.iter().find(|line| line.kind == "session-ended")
    }

    /// The lines of a part.
    pub fn part(&self, part: Part) -> impl Iterator<Item = &ReportLine> {
        self.lines.iter().filter(move |line| line.part == part)
    }

    /// What became of the session, in a phrase.
    #[must_use]
    pub fn outcome(&self) -> String {
        let reason = self
            .end()
            .and_then(|end| end.fields.get("reason")?.as_str());
        match (reason, self.agent_has_stopped()) {
            (Some(reason), _) => format!("ended: {}", super::visible(&reason.replace('-', " "))),
            (None, true) => "its end was not recorded".to_owned(),
            (None, false) => "not ended yet, or its agent died".to_owned(),
        }
    }

    fn agent_has_stopped(&self) -> bool {
        self.lines.iter().any(|line| line.kind == "agent-stopped")
    }

    /// How far the log can be believed, in a sentence.
    #[must_use]
    pub fn log_words(&self) -> String {
        let records = counted(self.log.records, "record");
        match self.log.errors {
            0 => format!(
                "The chain of the log is sound: {records}. Lines cut off at its end show only against a head that was noted elsewhere."
            ),
            errors => format!(
                "The log is not what capwarden wrote: {} among {records}; capwarden audit verify names them.",
                counted(errors, "defect")
            ),
        }
    }

    /// What the guard delivered, by protocol; nothing before the end, and in old logs.
    #[must_use]
    pub fn protocols(&self) -> Protocols {
        let end = self.end().and_then(|end| end.fields.get("protocols"));
        end.map(Protocols::from_json).unwrap_or_default()
    }

    /// The caps, and what was used of them; none before the end.
    #[must_use]
    pub fn gauges(&self) -> Vec<Gauge> {
        let opened = self.lines.iter().find(|line| line.part == Part::Allowed);
        let (Some(opened), Some(end)) = (opened, self.end()) else {
            return Vec::new();
        };
        let number = |line: &ReportLine, field: &str| line.fields.get(field)?.as_f64();
        let either_way = ["bytes_in", "bytes_out"];
        let most = either_way
            .iter()
            .filter_map(|way| number(end, way))
            .reduce(f64::max);
        [
            ("packets", number(end, "packets")),
            ("bytes", most.or_else(|| number(end, "bytes"))),
            ("seconds", number(end, "milliseconds").map(|ms| ms / 1e3)),
        ]
        .into_iter()
        .filter_map(|(unit, used)| {
            Some(Gauge {
                unit,
                used: used?,
                cap: number(opened, unit),
            })
        })
        .collect()
    }
}
