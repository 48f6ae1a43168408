//! The engine: governed servers, and commands, with everything that watches over them.
//!
//! `run`, `exec` and `agent` differ in how many servers there are, in who decides (the gate, or the command line) and in
//! how processes are attributed to sessions; launching, guarding, recording and cleaning up are the same.
//!
//! | file | has |
//! |---|---|
//! | `run_stdio`, `run_unix`, `run_http_stdio`, `run_http_upstream` | `run`, one for each way to serve |
//! | `daemon` | `agent`: many servers for many users |
//! | `exec` | `exec`: one command, without a gate |
//! | `host` | `host`: who captures on this host without being governed |
//! | `house` | what all of these share: launch, signals, the end |
//! | `stdio_server`, `server_per_client` | one server and its one client; such a pair for each client that comes |
//! | `restart`, `current` | a server that is started again at a session's end, and its sessions then |
//! | `turn` | whether an agent's servers may be served yet, while an earlier version of it goes on |
//! | `judge`, `grant_policies`, `timed` | decide calls: by the policy and its limits, by the policies that grants name; with a stopwatch |
//! | `approve`, `pinned`, `links`, `stay` | parts of a decision: approvals, definitions, links in paths, filters of tools without a session |
//! | `join` | makes of the rooms behind the gate what it asks |
//! | `record` | the thread that writes the audit log, and whoever tells it something |
//! | `reload` | a policy whose file changes |
//! | `name` | what a server is called that nobody has named |
#![forbid(unsafe_code)]

mod approve;
mod current;
mod daemon;
mod exec;
mod grant_policies;
mod host;
mod house;
mod join;
mod judge;
mod links;
mod name;
mod pinned;
mod record;
mod reload;
mod restart;
mod run_http_stdio;
mod run_http_upstream;
mod run_stdio;
mod run_unix;
mod server_per_client;
mod stay;
mod stdio_server;
mod timed;
mod turn;

use std::{io, os::unix::process::ExitStatusExt as _, process::ExitStatus};

pub use daemon::{DaemonPlan, HttpPlan, LoadConfig, Prepare, Prepared, daemon, hello};
pub use exec::{ExecPlan, exec};
pub use grant_policies::GrantPolicies;
pub use host::{Capturing, HostPlan, Standing, watch_host};
pub use judge::{Judge, Ticket};
pub use name::server_name;
pub use record::PolicySource;
pub use reload::Reload;
pub use run_http_stdio::{PipedPlan, piped};
pub use run_http_upstream::{ServePlan, serve};
pub use run_stdio::run;
pub use run_unix::{LocalPlan, local};
pub use server_per_client::StdioPlan;

use crate::{
    audit::AuditError,
    kernel::{BackstopError, LaunchError},
    session::SessionError,
    telemetry::ServeError,
};

/// Why the engine gave up.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The server or command could not be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The session of `exec` could not be opened.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The policy bounds the server's network, and that is not possible here.
    #[error("the server is not started, as its network cannot be bounded: {0}")]
    Network(SessionError),
    /// The policy grants programs, and these cannot be held to it here.
    #[error("the server is not started, as its programs cannot be bounded: {0}")]
    Programs(SessionError),
    /// What happens can no longer be recorded; so nothing more may happen.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The kernel does not let the host's captures be watched, or refused.
    #[error("{what}: {why}")]
    Host {
        /// What is not possible.
        what: &'static str,
        /// Why.
        why: BackstopError,
    },
    /// The metrics cannot be served where they were wanted.
    #[error(transparent)]
    Metrics(#[from] ServeError),
    /// Clients cannot be served where they were to come.
    #[error("cannot listen on {at}: {source}")]
    Listen {
        /// The address, or the socket's path.
        at: String,
        /// What the system said.
        source: io::Error,
    },
    /// The agent that was to hand over has gone, or does not.
    #[error("the agent that was to be followed {0}")]
    NotFollowed(&'static str),
    /// The system failed.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// How a server or command came to its end.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// By itself, or because its input was closed.
    Exited(ExitStatus),
    /// The same, before it had answered anything, while its client waited.
    NeverServed(ExitStatus),
    /// It was still running when it had to go, and was killed.
    Killed,
    /// The agent was told to stop by this signal.
    Stopped(i32),
    /// The agent's place was taken by its program's next version, and its last client has gone.
    Replaced,
}

impl Outcome {
    /// The exit status, as a shell would give it.
    fn status(self) -> Option<i32> {
        match self {
            Self::Exited(status) | Self::NeverServed(status) => {
                status.code().or(status.signal().map(|signal| 128 + signal))
            }
            Self::Killed => Some(128 + 9),
            Self::Stopped(signal) => Some(128 + signal),
            Self::Replaced => Some(0),
        }
    }
}

/// A layer that this host does not offer. Enforcement goes on without it; what is lost is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Degraded {
    /// Processes cannot be tagged when they fork: with two captures at once, neither gets sockets.
    NoForkTags,
    /// Frames that capture sockets send are not dropped.
    NoEgress,
    /// Servers see the mounts of the host, and so the daemons that would start programs for them.
    NoMounts,
    /// No cgroup: what a server leaves behind is found only by the sockets it was seen to open.
    NoCgroup,
    /// No programs on security hooks: see `doctor` for what rests on them alone.
    NoBackstop,
}

impl Degraded {
    /// For the operator and the record.
    pub fn describe(self) -> &'static str {
        match self {
            Self::NoForkTags => "no fork tagging: only one capture at a time can be attributed",
            Self::NoEgress => {
                "nothing on the way out: whoever holds a capture socket can send by it"
            }
            Self::NoMounts => {
                "no mounts of a server's own: daemons that start programs for others are within reach"
            }
            Self::NoCgroup => "no cgroup: stray processes of a capture may not be found",
            Self::NoBackstop => {
                "no BPF LSM: capture sockets can come from processes outside, and the other layers have no second one behind them"
            }
        }
    }
}
