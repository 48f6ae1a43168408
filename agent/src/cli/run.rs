//! `capwarden run`: gate and guard in front of one server.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, sync::Arc};

use clap::Args;

use crate::{
    audit::Log,
    engine::{self, LocalPlan, RunPlan, ServePlan},
    gate::http::{FrontPlan, UpstreamAddress},
    policy::Replies,
    telemetry::Endpoint,
};

use super::{
    enforce,
    exit::Exit,
    failure::{Account, Failure},
    paths,
    values::{self, Listen, User},
};

/// Run an MCP server behind the gate and under the guard
///
/// Put this in an MCP client's configuration in place of the server's own command. The client
/// talks to capwarden on standard input and output; capwarden decides each tool call by the policy
/// and forwards what is allowed. The server runs without any capability; every capture socket in
/// its process tree is made by capwarden, with the session's limits locked onto it.
///
/// A server that speaks streamable HTTP is put behind --listen and --upstream instead, and clients
/// are given capwarden's address.
///
/// Needs root to start a server; the server does not get it.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sudo capwarden run -p /etc/capwarden/pcap.yaml -- /opt/pcap/bin/awslabs.pcap-analyzer-mcp-server\n  sudo capwarden run -p /etc/capwarden/pcap.yaml --listen 127.0.0.1:8808 --upstream http://127.0.0.1:8000/mcp -- /opt/pcap/bin/server --port 8000"
)]
pub(super) struct Run {
    /// The policy that decides the calls
    ///
    /// `capwarden policy check FILE` says whether it can be used. When the file changes, and on
    /// SIGHUP, it is loaded again; one that cannot be used changes nothing.
    #[arg(short, long, value_name = "FILE")]
    pub(super) policy: PathBuf,
    /// Deny in these words: ours, policylayer or intercept
    ///
    /// What the model reads of a denial. Ours say what would be allowed; the others are as these
    /// vendors' gateways answer, for clients that know them. Without it: as the policy's `replies`
    /// says, otherwise ours.
    #[arg(long, value_name = "WHOSE", value_parser = values::replies)]
    pub(super) replies: Option<Replies>,
    /// Append the audit log to this file
    ///
    /// Created with mode 0600. Without it: /var/log/capwarden/audit.jsonl for root, otherwise
    /// $XDG_STATE_HOME/capwarden/audit.jsonl. If the log cannot be written, nothing is allowed.
    #[arg(long, value_name = "FILE")]
    pub(super) audit: Option<PathBuf>,
    /// Keep what is counted, and the approvals, in this directory
    ///
    /// Created with mode 0700; the server's user must not be able to write to it. Whoever runs
    /// with the same directory shares its counters. Without it: /var/lib/capwarden/state for root,
    /// otherwise $XDG_STATE_HOME/capwarden/state.
    #[arg(long, value_name = "DIR")]
    pub(super) state: Option<PathBuf>,
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
    /// Serve clients at this address
    ///
    /// A loopback address, for HTTP under /mcp, in front of a server that speaks it: see
    /// --upstream. Or unix: and a path, for one message a line: each client gets a server of its
    /// own, and the socket is the user's who called sudo. Whoever can connect may call what the
    /// policy allows.
    #[arg(long, value_name = "ADDRESS:PORT|unix:PATH", value_parser = values::listen)]
    pub(super) listen: Option<Listen>,
    /// Where the server is that speaks streamable HTTP
    ///
    /// On this host. With a command after --, that is started and watched over. Without one, the
    /// server runs already: its calls are gated, but nothing that it does is bounded.
    #[arg(long, value_name = "URL", requires = "listen")]
    pub(super) upstream: Option<UpstreamAddress>,
    /// Let every user of this host in, without a grant
    ///
    /// For development. Without it, clients over HTTP show the token of a grant: see `capwarden
    /// grant create`.
    #[arg(long, requires = "upstream")]
    pub(super) anonymous: bool,
    /// Let web pages of this origin speak to it
    ///
    /// Pages that this host serves may anyway; pages of others are refused.
    #[arg(long, value_name = "ORIGIN", requires = "upstream")]
    pub(super) allow_origin: Vec<String>,
    /// The server's command and its arguments
    ///
    /// Looked up on PATH, and started with capwarden's environment, but for HOME, USER and LOGNAME,
    /// which are the user's.
    #[arg(
        last = true,
        required_unless_present = "upstream",
        value_name = "SERVER"
    )]
    pub(super) server: Vec<OsString>,
}

impl Run {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let usage = |what, hint| Err(Failure::Usage(Account::new(what).hint(hint)));
        match (self.listen.clone(), self.upstream.clone()) {
            (None, _) => self.pipe(),
            (Some(Listen::Http(listen)), Some(upstream)) => self.serve(listen, upstream),
            (Some(Listen::Unix(socket)), None) => self.local(socket),
            (Some(Listen::Http(_)), None) => usage(
                "a server on pipes is not served over HTTP yet",
                "say with --upstream where the server speaks HTTP, or listen on unix:PATH",
            ),
            (Some(Listen::Unix(_)), Some(_)) => usage(
                "a server over HTTP is not served on a Unix socket",
                "listen on 127.0.0.1 and a port",
            ),
        }
    }

    /// Clients on a Unix socket, each with a stdio server.
    fn local(self, socket: PathBuf) -> Result<Exit, Failure> {
        let (policy, reload) = enforce::policy_to_follow(&self.policy, self.replies)?;
        enforce::require_root()?;
        let credentials = enforce::credentials(self.user.as_ref())?;
        let plan = LocalPlan {
            socket,
            server: self.server,
            judge: enforce::judge(policy, self.state.as_deref(), Some(&credentials))?,
            credentials,
            metrics: self.metrics,
            reload,
        };
        let log = Log::open(paths::audit_to_write(self.audit.as_deref())?)?;
        enforce::block_on(engine::local(plan, log)).map(enforce::exit)
    }

    /// In front of a stdio server.
    fn pipe(self) -> Result<Exit, Failure> {
        let (policy, reload) = enforce::policy_to_follow(&self.policy, self.replies)?;
        enforce::require_root()?;
        let credentials = enforce::credentials(self.user.as_ref())?;
        let plan = RunPlan {
            server: self.server,
            judge: enforce::judge(policy, self.state.as_deref(), Some(&credentials))?,
            credentials,
            metrics: self.metrics,
            reload,
        };
        let log = Log::open(paths::audit_to_write(self.audit.as_deref())?)?;
        enforce::block_on(engine::run(plan, log)).map(enforce::exit)
    }

    /// In front of an HTTP server.
    fn serve(self, listen: SocketAddr, upstream: UpstreamAddress) -> Result<Exit, Failure> {
        let (policy, reload) = enforce::policy_to_follow(&self.policy, self.replies)?;
        let starting = !self.server.is_empty();
        let server: Arc<str> = match self.server.first() {
            Some(_) => engine::server_name(self.server.first()),
            None => upstream.to_string().into(),
        };
        if self.user.is_some() && !starting {
            return Err(Failure::Usage(
                Account::new(
                    "--user says whom the server runs as, which capwarden does not start here",
                )
                .hint("leave --user out, or give the server's command after --"),
            ));
        }
        let governed = if starting {
            enforce::require_root()?;
            Some((self.server, enforce::credentials(self.user.as_ref())?))
        } else {
            None
        };
        let credentials = governed.as_ref().map(|(_, credentials)| credentials);
        let judge = enforce::judge(policy, self.state.as_deref(), credentials)?;
        let grants = if self.anonymous {
            tracing::warn!(
                "--anonymous: every user and every program of this host may call what the policy allows"
            );
            None
        } else {
            Some(Arc::new(enforce::grants(
                self.state.as_deref(),
                credentials,
            )?))
        };
        let plan = ServePlan {
            listen,
            front: FrontPlan {
                upstream,
                starting,
                server,
                origins: self.allow_origin,
                grants: grants.clone(),
            },
            judge: match grants {
                Some(grants) => judge.with_grants(grants),
                None => judge,
            },
            metrics: self.metrics,
            server: governed,
            reload,
        };
        let log = Log::open(paths::audit_to_write(self.audit.as_deref())?)?;
        enforce::block_on(engine::serve(plan, log)).map(enforce::exit)
    }
}
