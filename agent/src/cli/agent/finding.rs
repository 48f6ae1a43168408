//! What `agent --check` has found, with its place.

use std::{collections::BTreeMap, fmt::Display, fs};

use serde::Serialize;

use super::super::{
    failure::{self, Failure},
    term::Paint,
};
use crate::{
    audit::visible,
    policy::{PolicyError, RuleRef, reading::Source},
};

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// The agent would not start, or a server could not be served.
    Error,
    /// It is not as somebody may expect.
    Warning,
}

/// What a finding is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    /// The server; none for what is the agent's.
    pub(super) server: Option<&'a str>,
    /// The key of the configuration.
    pub(super) key: &'a str,
    /// Where it stands; none where no file says it.
    pub(super) at: Option<&'a RuleRef>,
    /// The configuration's file.
    pub(super) file: &'a str,
}

/// Something that is found.
#[derive(Debug)]
struct Finding {
    severity: Severity,
    server: Option<String>,
    key: Option<String>,
    fault: PolicyError,
}

/// The same as programs read it.
#[derive(Debug, Serialize)]
pub(super) struct Listed<'a> {
    severity: Severity,
    file: &'a str,
    /// From 1; none where no line of a file says it.
    line: Option<u64>,
    column: Option<u64>,
    server: Option<&'a str>,
    key: Option<&'a str>,
    message: &'a str,
    /// What to do next.
    help: Option<&'a str>,
}

/// All that is found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    found: Vec<Finding>,
    /// Files, for the lines that are shown of them.
    texts: BTreeMap<String, String>,
}

impl Findings {
    /// Something is wrong.
    pub(super) fn error(&mut self, of: Subject<'_>, what: impl Display, help: impl Display) {
        self.add(Severity::Error, of, &what.to_string(), &help.to_string());
    }

    /// Something is worth a word.
    pub(super) fn warning(&mut self, of: Subject<'_>, what: impl Display, help: impl Display) {
        self.add(Severity::Warning, of, &what.to_string(), &help.to_string());
    }

    /// Why something cannot be used, in the words of what would fail.
    pub(super) fn failure(&mut self, of: Subject<'_>, failure: Failure) {
        match failure {
            Failure::Policy(fault) => self.faults(of, fault),
            other => {
                let help = other.next_step().unwrap_or_default();
                self.error(of, other.in_a_line(), help);
            }
        }
    }

    /// What is wrong with a file, with its own places.
    fn faults(&mut self, of: Subject<'_>, fault: PolicyError) {
        for fault in fault.each() {
            self.found.push(Finding {
                severity: Severity::Error,
                server: of.server.map(str::to_owned),
                key: Some(of.key.to_owned()).filter(|key| !key.is_empty()),
                fault,
            });
        }
    }

    fn add(&mut self, severity: Severity, of: Subject<'_>, what: &str, help: &str) {
        let fault = match of.at {
            Some(at) => {
                let file = at.file.to_string();
                let text = self.texts.entry(file).or_insert_with(|| {
                    // It has just been read; without it, the line is not shown.
                    fs::read_to_string(&*at.file).unwrap_or_default()
                });
                PolicyError::of_rule(at, text, what.to_owned(), help)
            }
            None => Source::unreadable(of.file, what.to_owned(), Some(help.to_owned())),
        };
        self.found.push(Finding {
            severity,
            server: of.server.map(str::to_owned),
            key: Some(of.key.to_owned()),
            fault,
        });
    }

    /// Whether nothing is wrong; of one server, or of all.
    pub(super) fn is_sound(&self, server: Option<&str>) -> bool {
        let errors = self.found.iter();
        let mut errors = errors.filter(|one| one.severity == Severity::Error);
        !errors.any(|one| server.is_none() || one.server.as_deref() == server)
    }

    /// All of it for people.
    pub(super) fn in_words(&self, paint: Paint) -> String {
        let one = |one: &Finding| {
            let severity = match one.severity {
                Severity::Error => paint.error("error:"),
                Severity::Warning => paint.warning("warning:"),
            };
            failure::fault(&one.fault, &severity, paint)
        };
        self.found.iter().map(one).collect()
    }

    /// All of it for programs.
    pub(super) fn listed(&self) -> Vec<Listed<'_>> {
        let one = |one| {
            let Finding {
                severity,
                server,
                key,
                fault,
            }: &Finding = one;
            Listed {
                severity: *severity,
                file: fault.file(),
                line: fault.line(),
                column: fault.column(),
                server: server.as_deref(),
                key: key.as_deref(),
                message: fault.message(),
                help: fault.help_text().filter(|help| !help.is_empty()),
            }
        };
        self.found.iter().map(one).collect()
    }
}

/// A name as a message may carry it.
pub(super) fn shown(name: impl Display) -> String {
    visible(&name.to_string())
}
