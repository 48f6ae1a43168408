//! Why a verb could not do its work, told so that somebody can act on it.

use std::{env, fmt, io::Write as _};

use crate::{
    audit::{AuditError, visible},
    policy::{Excerpt, PolicyError},
};

use super::{exit::Exit, term::Paint};

/// Why a verb could not do its work. The variant is the exit status.
#[derive(Debug)]
pub enum Failure {
    /// An argument is wrong in a way that only shows on this host: no such user, no such interface.
    Usage(Account),
    /// The policy is wrong.
    Policy(PolicyError),
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
    pub(in crate::cli) fn in_a_line(&self) -> String {
        match self {
            Self::Policy(error) => match error.others().len() {
                0 => visible(&error.to_string()),
                more => visible(&format!("{error} (and {more} more)")),
            },
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

    /// The same, with every fault of a file, up to some.
    pub(in crate::cli) fn all_in_a_line(&self) -> String {
        const MOST: usize = 8;
        let Self::Policy(error) = self else {
            return self.in_a_line();
        };
        let faults: Vec<&PolicyError> = std::iter::once(error).chain(error.others()).collect();
        let more = faults.len().saturating_sub(MOST);
        let told = faults.iter().take(MOST).map(ToString::to_string);
        let told = visible(&told.collect::<Vec<_>>().join("; "));
        match more {
            0 => told,
            more => format!("{told} (and {more} more)"),
        }
    }

    /// The same, and what to do next.
    pub(in crate::cli) fn with_hint(&self) -> String {
        let next = self.next_step();
        let line = self.in_a_line();
        next.map_or(line.clone(), |next| format!("{line}; {}", visible(&next)))
    }

    /// What to do next.
    pub(in crate::cli) fn next_step(&self) -> Option<String> {
        match self {
            Self::Policy(error) => error.help_text().map(str::to_owned),
            Self::Usage(account)
            | Self::NotThere(account)
            | Self::NeedsRoot(account)
            | Self::Kernel(account)
            | Self::NotStarted(account)
            | Self::Internal(account) => account.hint.clone(),
        }
    }

    /// Tells it on standard error.
    pub(in crate::cli) fn tell(&self) {
        let text = self.render(Paint::for_stderr());
        // Nobody is left to tell if standard error is gone.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    /// The failure in full, for standard error.
    pub(in crate::cli) fn render(&self, paint: Paint) -> String {
        match self {
            Self::Policy(error) => policy(error, paint),
            Self::Usage(account)
            | Self::NotThere(account)
            | Self::NeedsRoot(account)
            | Self::Kernel(account)
            | Self::NotStarted(account)
            | Self::Internal(account) => account.render(paint),
        }
    }
}

/// All that is wrong with a policy: where, the line, and what to do next.
pub(in crate::cli) fn policy(error: &PolicyError, paint: Paint) -> String {
    let all = std::iter::once(error).chain(error.others());
    all.map(|one| fault(one, &paint.error("error:"), paint))
        .collect()
}

/// One thing that is wrong with a policy, or only worth a word; `severity` says which.
pub(in crate::cli) fn fault(error: &PolicyError, severity: &str, paint: Paint) -> String {
    let mut text = format!("{severity} {}\n", visible(&error.to_string()));
    if let (Some(excerpt), Some(line)) = (error.excerpt(), error.line()) {
        text += &shown(&excerpt, line, paint);
    }
    let mut lead = paint.note("hint:");
    for line in error.help_text().unwrap_or_default().lines() {
        text += &format!(" {lead} {}\n", visible(line));
        lead = "     ".to_owned();
    }
    text
}

/// Characters of a line that are shown before what is wrong, of that, and after it.
const AROUND: [usize; 3] = [60, 80, 40];

/// A line with what is wrong underlined: policies may be written in one long line.
fn shown(excerpt: &Excerpt<'_>, number: u64, paint: Paint) -> String {
    let Excerpt { line, wrong, label } = excerpt;
    let part = |range: std::ops::Range<usize>| visible(line.get(range).unwrap_or_default());
    let [most_before, most_wrong, most_after] = AROUND;
    let before = part(0..wrong.start);
    let skipped = before.chars().count().saturating_sub(most_before);
    let before: String = match skipped {
        0 => before,
        skipped => std::iter::once('…')
            .chain(before.chars().skip(skipped))
            .collect(),
    };
    let cut = |text: String, most: usize| -> String {
        match text.chars().count() > most {
            true => text
                .chars()
                .take(most)
                .chain(std::iter::once('…'))
                .collect(),
            false => text,
        }
    };
    let bad = cut(part(wrong.clone()), most_wrong);
    let after = match bad.ends_with('…') {
        true => String::new(),
        false => cut(part(wrong.end..line.len()), most_after),
    };
    let number = number.to_string();
    let (gap, indent) = (" ".repeat(number.len()), " ".repeat(before.chars().count()));
    let under = "^".repeat(bad.chars().count().max(1));
    let label = visible(label);
    format!(
        "  {} {before}{bad}{after}\n  {} {indent}{}\n",
        paint.note(&format!("{number} |")),
        paint.note(&format!("{gap} |")),
        paint.error(format!("{under} {label}").trim_end()),
    )
}

/// A word as a shell takes it.
pub(in crate::cli) fn quoted(word: &str) -> String {
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

    fn wrong(text: &str) -> PolicyError {
        crate::policy::Policy::parse("p.yaml", text).unwrap_err()
    }

    #[test]
    fn what_is_wrong_with_a_policy_is_told_with_its_line() {
        let text = "version: 1\ntools:\n  a: { pakets: 1 }\n  b: { deny: 7 }\n";
        let told = policy(&wrong(text), Paint::off());
        let first = "error: p.yaml:3:8: unknown key `pakets` in `tools.a`\n  3 |   a: { pakets: 1 }\n    |        ^^^^^^ ";
        assert!(told.starts_with(first), "{told}");
        assert!(told.contains("\n hint: "), "{told}");
        assert!(told.contains("error: p.yaml:4:"), "{told}");
        // One long line, with what a terminal must not get.
        let long = format!(
            "{{\"version\": 1, \"a\": \"{}\", \"\u{1b}[2J\": 1}}",
            "x".repeat(999)
        );
        let told = policy(&wrong(&long), Paint::off());
        assert!(told.contains('^') && !told.contains('\u{1b}'), "{told}");
        assert!(
            told.lines().all(|line| line.chars().count() < 260),
            "{told}"
        );
    }

    #[test]
    fn every_failure_has_its_status() {
        let account = || Account::new("x");
        let failures = [
            (Failure::Usage(account()), 2),
            (Failure::Policy(wrong("version: 2")), 3),
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
