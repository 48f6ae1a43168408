//! `capwarden host`: whoever captures on this host without being governed.

use std::{
    env,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};

use crate::{
    audit::{Log, visible, visible_json},
    engine::{self, Capturing, HostPlan, Standing},
    words::counted,
};

use super::{
    enforce,
    exit::Exit,
    failure::{Account, Failure},
    paths, term,
};

/// Watch over everybody who captures on this host
#[derive(Debug, Args)]
pub(super) struct Host {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Lockdown(Lockdown),
    Observe(Observe),
}

/// Refuse packet sockets to everybody but the allowed programs
///
/// Whatever user a process has: on this host, only what capwarden governs and the programs named with
/// --allow get packet sockets, until a signal ends this. Nothing is left behind. Sockets that are there when it
/// begins are told of and stay; one that an allowed program hands on is not seen.
///
/// Takes a kernel that runs BPF programs on its security hooks: see `capwarden doctor`. The exit
/// status is 5 if it does not.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    sudo capwarden host lockdown --allow /usr/bin/dumpcap --allow /usr/sbin/dhclient")]
struct Lockdown {
    #[command(flatten)]
    common: Common,
}

/// Tell of everybody who captures without being governed
///
/// Of packet sockets that are there, and of those that are made from now on until a signal ends this: which program, its
/// process, its user, and the interface where that is known. Nothing is refused.
///
/// On kernels that run no BPF programs on security hooks, the system calls of every process are looked at,
/// which costs each of them a little.
#[derive(Debug, Args)]
struct Observe {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
    /// A program that may capture; may be repeated
    ///
    /// A path. It is the file that counts, not what it is called later; replace it (an update does), and
    /// the new one is not allowed before this is started again. A program that runs scripts allows all of these.
    #[arg(long = "allow", value_name = "PROGRAM")]
    allowed: Vec<PathBuf>,
    /// Print a JSON object for each
    #[arg(long)]
    json: bool,
    /// Append the audit log to this file
    ///
    /// Created with mode 0600. Without it: /var/log/capwarden/audit.jsonl for root, otherwise
    /// $XDG_STATE_HOME/capwarden/audit.jsonl.
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
}

impl Host {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        match self.verb {
            Verb::Lockdown(lockdown) => lockdown.common.run(true),
            Verb::Observe(observe) => observe.common.run(false),
        }
    }
}

impl Common {
    fn run(self, lockdown: bool) -> Result<Exit, Failure> {
        let mut allowed = Vec::new();
        for path in self.allowed {
            let file = program(&path)?;
            allowed.push((path, file));
        }
        enforce::require_root()?;
        let own = env::current_exe()
            .and_then(|path| Ok((path.clone(), File::open("/proc/self/exe")?)))
            .map_err(|error| {
                Failure::Internal(Account::new("cannot open capwarden's own file").because(error))
            })?;
        allowed.push(own);
        let log = Log::open(paths::audit_to_write(self.audit.as_deref())?)?;
        let plan = HostPlan { lockdown, allowed };
        let mut failed = None;
        let json = self.json;
        let tell = |capturing: &Capturing| {
            if let Err(failure) = tell(capturing, json) {
                failed.get_or_insert(failure);
            }
        };
        enforce::block_on(engine::watch_host(plan, log, tell))?;
        failed.map_or(Ok(Exit::Ok), Err)
    }
}

/// A file that can be executed.
fn program(path: &Path) -> Result<File, Failure> {
    let opened = File::open(path).and_then(|file| match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a file")),
    });
    opened.map_err(|error| {
        Failure::Usage(
            Account::new("cannot allow the program")
                .on(path.display())
                .because(error)
                .hint("name its file with --allow, as `command -v` shows it"),
        )
    })
}

fn tell(capturing: &Capturing, json: bool) -> Result<(), Failure> {
    let line = match json {
        true => visible_json(&serde_json::to_string(capturing).unwrap_or_default()),
        false => words(capturing),
    };
    term::print(|out| writeln!(out, "{line}"))
}

/// `refused: tcpdump (pid 7, uid 0), /usr/bin/tcpdump`
fn words(capturing: &Capturing) -> String {
    let what = match capturing.became {
        Standing::Found => "captures already",
        Standing::Seen => "captures",
        Standing::Refused => "refused",
        Standing::Lost => {
            let lost = counted(capturing.times, "packet socket");
            return format!("lost: {lost} came too fast to be told of");
        }
    };
    let mut text = format!(
        "{what}: {} (pid {}, uid {})",
        visible(&capturing.comm),
        capturing.pid,
        capturing.user
    );
    if !capturing.interfaces.is_empty() {
        text += &format!(" on {}", visible(&capturing.interfaces.join(", ")));
    }
    if let Some(program) = &capturing.program {
        text += &format!(", {}", visible(program));
    }
    if capturing.times > 1 {
        text += &format!(", the last of {}", capturing.times);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn line_says_who_captures_where_and_moves_no_cursor() {
        let capturing = Capturing {
            became: Standing::Seen,
            pid: 7,
            comm: "a\u{1b}[2K".to_owned(),
            user: 1000,
            program: Some("/usr/bin/tcpdump".to_owned()),
            interfaces: vec!["eth0".to_owned(), "any".to_owned()],
            times: 3,
        };
        let text = words(&capturing);
        assert!(!text.contains('\u{1b}'));
        assert!(text.starts_with("captures: a"), "{text}");
        assert!(
            text.ends_with("(pid 7, uid 1000) on eth0, any, /usr/bin/tcpdump, the last of 3"),
            "{text}"
        );
        let json: serde_json::Value = serde_json::to_value(&capturing).unwrap();
        let names: Vec<&str> = json
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        // Those of an `unmanaged-capture` in the log.
        let record = [
            "became",
            "comm",
            "interfaces",
            "pid",
            "program",
            "times",
            "user",
        ];
        assert_eq!(BTreeSet::from_iter(names), BTreeSet::from(record));
        let lost = Capturing {
            became: Standing::Lost,
            ..capturing
        };
        assert_eq!(
            words(&lost),
            "lost: 3 packet sockets came too fast to be told of"
        );
    }
}
