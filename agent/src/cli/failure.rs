//! Why a verb could not do its work, told so that somebody can act on it.

use std::{env, fmt};

use miette::{GraphicalReportHandler, GraphicalTheme};

use crate::{
    audit::{AuditError, visible},
    policy::PolicyError,
};

use super::{exit::Exit, term::Paint};

/// Why a verb could not do its work. The variant is the exit status.
#[derive(Debug)]
pub enum Failure {
    /// An argument is wrong in a way that only shows on this host: no such user, no such interface.
    Usage(Account),
    /// The policy is wrong; the report points at the place.
    Policy(miette::Report),
    /// What was named is not there, or no longer.
    NotThere(Account),
    /// Root is needed.
    NeedsRoot(Account),
    /// The kernel lacks a layer that is required.
    Kernel(Account),
    /// The server or the command could not be started.
    NotStarted(Account),
    /// A file, the system or capwarden itself failed.
    Internal(Account),
}

/// What failed, on which object, why, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    what: String,
    object: Option<String>,
    why: Option<String>,
    hint: Option<String>,
}

impl Account {
    /// What failed: `cannot start the server`.
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            object: None,
            why: None,
            hint: None,
        }
    }

    /// On which object.
    #[must_use]
    pub fn on(mut self, object: impl fmt::Display) -> Self {
        self.object = Some(object.to_string());
        self
    }

    /// Why.
    #[must_use]
    pub fn because(mut self, why: impl fmt::Display) -> Self {
        self.why = Some(why.to_string());
        self
    }

    /// What to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    fn render(&self, paint: Paint) -> String {
        let mut text = format!("{} {}", paint.error("error:"), visible(&self.what));
        if let Some(object) = &self.object {
            text += &format!(" `{}`", visible(object));
        }
        if let Some(why) = &self.why {
            text += &format!(": {}", visible(why));
        }
        text.push('\n');
        if let Some(hint) = &self.hint {
            text += &format!(" {} {}\n", paint.note("hint:"), visible(hint));
        }
        text
    }
}

impl Failure {
    /// Root is needed, for this: `load the guard into the kernel`.
    pub fn needs_root(purpose: &str) -> Self {
        let arguments = env::args_os().skip(1);
        let arguments = arguments.map(|argument| quoted(&argument.to_string_lossy()));
        let command = arguments.collect::<Vec<_>>().join(" ");
        // As it was started: what is not on sudo's PATH is found by its own.
        let own =
            env::current_exe().map_or_else(|_| "capwarden".into(), |own| own.display().to_string());
        Self::NeedsRoot(
            Account::new(format!("only root may {purpose}"))
                .hint(format!("sudo {} {command}", quoted(&own))),
        )
    }

    /// The exit status.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Policy(_) => Exit::Policy,
            Self::NotThere(_) => Exit::Unsound,
            Self::NeedsRoot(_) => Exit::NeedsRoot,
            Self::Kernel(_) => Exit::Kernel,
            Self::NotStarted(_) => Exit::NotStarted,
            Self::Internal(_) => Exit::Internal,
        }
    }

    /// The failure in one line, for the log and the record.
    pub(super) fn in_a_line(&self) -> String {
        match self {
            Self::Policy(report) => {
                let others = report.downcast_ref::<PolicyError>();
                match others.map_or(0, |error| error.others().len()) {
                    0 => visible(&report.to_string()),
                    more => visible(&format!("{report} (and {more} more)")),
                }
            }
            Self::Usage(account)
            | Self::NotThere(account)
            | Self::NeedsRoot(account)
            | Self::Kernel(account)
            | Self::NotStarted(account)
            | Self::Internal(account) => {
                let text = account.render(Paint::off());
                let text = text.trim_start_matches("error: ");
                text.lines().next().unwrap_or_default().to_owned()
            }
        }
    }

    /// The failure in full, for standard error.
    pub(super) fn render(&self, paint: Paint) -> String {
        match self {
            Self::Policy(report) => diagnostic(report.as_ref(), paint),
            Self::Usage(account)
            | Self::NotThere(account)
            | Self::NeedsRoot(account)
            | Self::Kernel(account)
            | Self::NotStarted(account)
            | Self::Internal(account) => account.render(paint),
        }
    }
}

/// A diagnostic in full, with the lines it points at.
pub(super) fn diagnostic(report: &dyn miette::Diagnostic, paint: Paint) -> String {
    let theme = if paint.is_on() {
        GraphicalTheme::unicode()
    } else {
        GraphicalTheme::unicode_nocolor()
    };
    let mut text = String::new();
    let handler = GraphicalReportHandler::new_themed(theme).with_links(false);
    if handler.render_report(&mut text, report).is_err() {
        text = format!("{report}\n");
    }
    text
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        let account = Account::new(error.to_string());
        Self::Internal(match error.hint() {
            Some(hint) => account.hint(hint),
            None => account,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_says_what_on_which_object_why_and_what_next() {
        let account = Account::new("cannot start the server")
            .on("npx\u{1b}[2J")
            .because("it is not on PATH")
            .hint("give its full path");
        let text = account.render(Paint::off());
        assert_eq!(
            text,
            "error: cannot start the server `npx\\u{1b}[2J`: it is not on PATH\n hint: give its full path\n"
        );
    }

    #[test]
    fn every_failure_has_its_status() {
        let account = || Account::new("x");
        let failures = [
            (Failure::Usage(account()), 2),
            (Failure::Policy(miette::Report::msg("x")), 3),
            (Failure::needs_root("do it"), 4),
            (Failure::Kernel(account()), 5),
            (Failure::NotStarted(account()), 6),
            (Failure::Internal(account()), 7),
        ];
        for (failure, code) in failures {
            assert_eq!(failure.exit().code(), code);
            assert!(!failure.render(Paint::off()).is_empty());
        }
    }

    #[test]
    fn root_is_asked_for_with_the_whole_command() {
        let text = Failure::needs_root("load the guard").render(Paint::off());
        assert!(text.contains("hint: sudo /"), "{text}");
        assert_eq!(quoted("a b'c"), "'a b'\\''c'");
        assert_eq!(quoted("--user=nobody"), "--user=nobody");
        assert_eq!(quoted(""), "''");
    }
}
