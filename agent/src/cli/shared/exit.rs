//! What capwarden's exit status means.

use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus};

/// An exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done; what was checked holds.
    Ok,
    /// What was checked does not hold.
    Unsound,
    /// The command line is wrong, or names a file that is not there.
    Usage,
    /// The policy is wrong.
    Policy,
    /// Root is needed.
    NeedsRoot,
    /// The kernel lacks a layer that is required.
    Kernel,
    /// The server or the command could not be started.
    NotStarted,
    /// A failure of the system, or of capwarden.
    Internal,
    /// The server ended before it had answered its client anything.
    NeverServed,
    /// The status of the server or the command, passed on.
    Child(u8),
}

/// All statuses of capwarden's own.
const OWN: [Exit; 9] = [
    Exit::Ok,
    Exit::Unsound,
    Exit::Usage,
    Exit::Policy,
    Exit::NeedsRoot,
    Exit::Kernel,
    Exit::NotStarted,
    Exit::Internal,
    Exit::NeverServed,
];

/// What `run` and `exec` do once the child runs.
const PASSED_ON: &str = "Once their server or command has started, `run` and `exec` pass its exit \
     status on, or 128 and the signal's number if a signal ended it.";

impl Exit {
    /// The status in numbers.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Unsound => 1,
            Self::Usage => 2,
            Self::Policy => 3,
            Self::NeedsRoot => 4,
            Self::Kernel => 5,
            Self::NotStarted => 6,
            Self::Internal => 7,
            Self::NeverServed => 8,
            Self::Child(code) => code,
        }
    }

    /// The status that stands for a child's end.
    pub fn of_child(status: ExitStatus) -> Self {
        let signal = status.signal().map(|signal| signal.saturating_add(128));
        let code = status.code().or(signal).unwrap_or(255);
        Self::Child(u8::try_from(code).unwrap_or(255))
    }

    fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "done; what was checked holds",
            Self::Unsound => {
                "what was checked does not hold (policy check, explain, test and diff, filter prove, lint and pcap, audit verify, logs, report, tools diff), or what was named on the command line is not there: no such session, request, grant, server or tool"
            }
            Self::Usage => {
                "the command line is wrong, names a file that is not there, or a session that could be several"
            }
            Self::Policy => {
                "the policy is wrong, or the configuration of `agent`, or what that names cannot be used"
            }
            Self::NeedsRoot => "root is needed",
            Self::Kernel => "the kernel lacks a layer that is required",
            Self::NotStarted => "the server or the command could not be started",
            Self::Internal => "a file, the system or capwarden itself failed",
            Self::NeverServed => {
                "the server of `run` ended before it had answered its client anything"
            }
            Self::Child(_) => "the child's own status",
        }
    }
}

/// The statuses and their meanings, then what is passed on.
pub(in crate::cli) fn table() -> (Vec<(u8, &'static str)>, &'static str) {
    let rows = OWN.iter().map(|exit| (exit.code(), exit.meaning()));
    (rows.collect(), PASSED_ON)
}

/// The same for `--help`.
pub(in crate::cli) fn help() -> String {
    let (rows, passed_on) = table();
    let mut text = "Exit status:\n".to_owned();
    for (code, meaning) in rows {
        text += &format!("  {code}  {meaning}\n");
    }
    text + "\n" + passed_on
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_statuses_count_up() {
        let codes = OWN.map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn status_of_a_child_is_passed_on() {
        for (raw, code) in [(0, 0), (3 << 8, 3), (255 << 8, 255), (9, 137), (15, 143)] {
            assert_eq!(Exit::of_child(ExitStatus::from_raw(raw)).code(), code);
        }
    }

    #[test]
    fn help_lists_every_status() {
        let help = help();
        for exit in OWN {
            assert!(help.contains(&format!("  {}  {}\n", exit.code(), exit.meaning())));
        }
    }
}
