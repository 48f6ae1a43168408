//! `capwarden run`: gate and guard in front of one stdio server.

use std::{ffi::OsString, path::PathBuf};

use clap::Args;

use crate::{
    audit::Log,
    engine::{self, RunPlan},
    telemetry::Endpoint,
};

use super::{
    enforce,
    exit::Exit,
    failure::Failure,
    paths,
    values::{self, User},
};

/// Run an MCP server behind the gate and under the guard
///
/// Put this in an MCP client's configuration in place of the server's own command. The client
/// talks to capwarden on standard input and output; capwarden decides each tool call by the policy
/// and forwards what is allowed. The server runs without any capability; every capture socket in
/// its process tree is made by capwarden, with the session's limits locked onto it.
///
/// Needs root to start; the server does not get it.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  sudo capwarden run -p /etc/capwarden/pcap.yaml -- /opt/pcap/bin/awslabs.pcap-analyzer-mcp-server"
)]
pub(super) struct Run {
    /// The policy that decides the calls
    ///
    /// In capwarden's YAML; `capwarden policy check FILE` says whether it can be used.
    #[arg(short, long, value_name = "FILE")]
    pub(super) policy: PathBuf,
    /// Append the audit log to this file
    ///
    /// Created with mode 0600. Without it: /var/log/capwarden/audit.jsonl for root, otherwise
    /// $XDG_STATE_HOME/capwarden/audit.jsonl. If the log cannot be written, nothing is allowed.
    #[arg(long, value_name = "FILE")]
    pub(super) audit: Option<PathBuf>,
    /// Serve metrics here: 127.0.0.1:9464 or unix:/PATH
    ///
    /// For Prometheus, at /metrics, in the OpenMetrics text format. On a loopback address, every
    /// user of this host can read them; a Unix socket can be read by root. With port 0, the log
    /// says which port it is.
    #[arg(long, value_name = "ADDRESS:PORT|unix:PATH")]
    pub(super) metrics: Option<Endpoint>,
    /// Run the server as this user
    ///
    /// A name or a number. Without it: the user who called sudo, otherwise nobody.
    #[arg(long, value_name = "NAME|UID", value_parser = values::user)]
    pub(super) user: Option<User>,
    /// The server's command and its arguments
    ///
    /// Looked up on PATH, and started with capwarden's environment, but for HOME, USER and LOGNAME,
    /// which are the user's.
    #[arg(last = true, required = true, value_name = "SERVER")]
    pub(super) server: Vec<OsString>,
}

impl Run {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let policy = enforce::load_policy(&self.policy)?;
        enforce::require_root()?;
        let plan = RunPlan {
            server: self.server,
            credentials: enforce::credentials(self.user.as_ref())?,
            policy,
            metrics: self.metrics,
        };
        let log = Log::open(paths::audit_to_write(self.audit.as_deref())?)?;
        enforce::block_on(engine::run(plan, log)).map(enforce::exit)
    }
}
