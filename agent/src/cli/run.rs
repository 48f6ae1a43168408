//! `capwarden run`: gate and guard in front of one server.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{Args, ValueEnum};

#[cfg(feature = "otlp")]
use crate::telemetry::otlp::Collector;
use crate::{
    audit::Log,
    engine::{self, GrantPolicies, LocalPlan, PipedPlan, ServePlan, StdioPlan},
    gate::http::{FrontPlan, Prepare, UpstreamAddress},
    kernel::{Credentials, Deputy},
    policy::{Pinning, Replies, RuleRef},
    principal::{self, Grants},
    telemetry::Endpoint,
};

use super::{
    counters::Counters,
    enforce::{self, ServerKind},
    exit::Exit,
    failure::{Account, Failure},
    paths,
    reception::ReceptionOptions,
    values::{self, Listen, User},
};

/// Run an MCP server behind the gate and under the guard
///
/// Put this in an MCP client's configuration in place of the server's own command. The client
/// talks to capwarden on standard input and output; capwarden decides each tool call by the policy
/// and forwards what is allowed. The server runs without any capability; every capture socket in
/// its process tree is made by capwarden, with the session's limits locked onto it.
///
/// With --listen, clients come over HTTP or a Unix socket instead, to capwarden's address. A server
/// that speaks streamable HTTP itself is named with --upstream.
///
/// Needs root to start a server; the server does not get it.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sudo capwarden run -p /etc/capwarden/policies/pcap.yaml -- /opt/pcap/bin/awslabs.pcap-analyzer-mcp-server\n  sudo capwarden run -p /etc/capwarden/policies/pcap.yaml --listen 127.0.0.1:8808 --upstream http://127.0.0.1:8000/mcp -- /opt/pcap/bin/server --port 8000\n  sudo capwarden run -p /etc/capwarden/policies/pcap.yaml --listen 192.0.2.7:8443 --host capture.example --tls-cert tls.pem --tls-key tls.key -- /opt/pcap/bin/awslabs.pcap-analyzer-mcp-server"
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
    #[command(flatten)]
    pub(super) counters: Counters,
    /// Serve metrics here: 127.0.0.1:9464 or unix:/PATH
    ///
    /// For Prometheus, at /metrics, in the OpenMetrics text format. On a loopback address, every
    /// user of this host can read them; a Unix socket can be read by root. With port 0, the log
    /// says which port it is.
    #[arg(long, value_name = "ADDRESS:PORT|unix:PATH")]
    pub(super) metrics: Option<Endpoint>,
    /// Send spans of calls and sessions to this collector: http://127.0.0.1:4318
    ///
    /// OTLP over HTTP, in JSON; under /v1/traces unless the address has a path. On this host, or at an
    /// https:// address. What cannot be sent is dropped, and counted in the metrics; no call waits for it.
    /// A span says which tool was called, by whom and what was decided, and nothing of its arguments.
    #[cfg(feature = "otlp")]
    #[arg(long, value_name = "URL")]
    pub(super) otlp: Option<Collector>,
    /// Run the server as this user
    ///
    /// A name or a number. Without it: the user who called sudo, otherwise nobody.
    #[arg(long, value_name = "NAME|UID", value_parser = values::user)]
    pub(super) user: Option<User>,
    /// Daemons that the server may have start programs
    ///
    /// docker, podman, dbus, systemd, user, cron, incus, libvirt, snapd or terminals, with commas
    /// between them. Without it, none of them is to be found by it: what they start is not governed.
    #[arg(long, value_name = "DAEMON", value_delimiter = ',', value_parser = values::deputy)]
    pub(super) reach: Vec<Deputy>,
    /// Serve clients at this address
    ///
    /// For HTTP under /mcp (and under /sse, for clients of 2024-11-05): in front of a server that
    /// speaks it, see --upstream; otherwise each MCP session gets a server of its own. Or unix: and
    /// a path, for one message a line: each client gets a server of its own, and the socket is the
    /// user's who called sudo. Whoever can connect to that may call what the policy allows.
    #[arg(long, value_name = "ADDRESS:PORT|unix:PATH", value_parser = values::listen)]
    pub(super) listen: Option<Listen>,
    /// Where the server is that speaks streamable HTTP
    ///
    /// On this host, or at an https:// address. With a command after --, that is started and watched
    /// over. Without one, the server runs already: its calls are gated, but nothing that it does is
    /// bounded.
    #[arg(long, value_name = "URL", requires = "listen")]
    pub(super) upstream: Option<UpstreamAddress>,
    #[command(flatten)]
    pub(super) reception: ReceptionOptions,
    /// Call the server by this name
    ///
    /// Grants, approvals, limits and accepted definitions go by it. Without it: the file name of its
    /// command, or what that runs: of `uvx netmcp@1.2`, `netmcp`; of `python3 -m netmcp`, `netmcp`;
    /// of `node /opt/netmcp/dist/index.js`, `netmcp`. The log says it at the start.
    #[arg(long = "server", value_name = "NAME", value_parser = name)]
    pub(super) name: Option<String>,
    /// Hold tools back whose definition is not the accepted one
    ///
    /// As `definitions: pinned` does in a policy of our own language; with --pin=strict, definitions that
    /// are seen first are held back, too. See `capwarden tools`.
    #[arg(
        long,
        value_name = "HOW",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "first",
        value_enum
    )]
    pub(super) pin: Option<Pin>,
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

/// What becomes of definitions that are seen first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Pin {
    /// They are accepted.
    First,
    /// They are held back.
    Strict,
}

/// A server's name.
fn name(text: &str) -> Result<String, String> {
    if !principal::is_server(text) {
        let why =
            "a name has no slash but in @scope/name, no control characters, and 256 bytes at most";
        return Err(why.to_owned());
    }
    Ok(text.to_owned())
}

impl Run {
    /// What the server is called.
    fn server_name(&self) -> Arc<str> {
        match (&self.name, &self.upstream) {
            (Some(name), _) => Arc::from(name.as_str()),
            (None, Some(upstream)) if self.server.is_empty() => upstream.to_string().into(),
            (None, _) => engine::server_name(&self.server),
        }
    }

    /// What is pinned, whatever the policy says.
    fn pinning(&self) -> Option<Pinning> {
        let strict = self.pin? == Pin::Strict;
        let path = if strict { "--pin=strict" } else { "--pin" };
        let rule = RuleRef {
            file: Arc::from(""),
            line: 0,
            column: 0,
            path: path.to_owned(),
        };
        Some(Pinning { strict, rule })
    }

    pub(super) fn run(self) -> Result<Exit, Failure> {
        let usage = |what, hint| Err(Failure::Usage(Account::new(what).hint(hint)));
        match (self.listen.clone(), self.upstream.clone()) {
            (None, _) => self.pipe(),
            (Some(Listen::Http(listen)), Some(upstream)) => self.serve(listen, upstream),
            (Some(Listen::Unix(socket)), None) => self.local(socket),
            (Some(Listen::Http(listen)), None) => self.piped(listen),
            (Some(Listen::Unix(_)), Some(_)) => usage(
                "a server over HTTP is not served on a Unix socket",
                "listen on 127.0.0.1 and a port",
            ),
        }
    }

    /// Clients on a Unix socket, each with a stdio server.
    fn local(self, socket: PathBuf) -> Result<Exit, Failure> {
        if self.reception.is_for_http() {
            return Err(Failure::Usage(
                Account::new("--anonymous, --allow-origin, --host, --oauth-issuer and TLS are for clients over HTTP")
                    .hint("leave them out: who may connect to a Unix socket is its owner"),
            ));
        }
        let (servers, log, ()) = self.stdio(|_| Ok(()))?;
        let plan = LocalPlan { socket, servers };
        enforce::block_on(engine::local(plan, log)).map(enforce::exit)
    }

    /// Clients over HTTP, each with a stdio server.
    fn piped(mut self, listen: SocketAddr) -> Result<Exit, Failure> {
        self.reception.check(listen)?;
        let tls = self.reception.tls()?;
        let reception = std::mem::take(&mut self.reception);
        let server = self.server_name();
        let (state, replies) = (self.state.clone(), self.replies);
        let (mut servers, log, (grants, governed)) = self.stdio(|credentials| {
            let grants = grants(&reception, state.as_deref(), Some(credentials))?;
            Ok((grants, credentials.user))
        })?;
        let policies = grants.as_ref().map(|grants| {
            enforce::grant_policies(
                Arc::clone(grants),
                Arc::clone(&server),
                Some(governed),
                replies,
                ServerKind::Piped,
            )
        });
        if let (Some(grants), Some(policies)) = (&grants, &policies) {
            let judge = servers.judge.with_grants(Arc::clone(grants));
            servers.judge = judge.with_grant_policies(Arc::clone(policies));
        }
        let plan = PipedPlan {
            listen,
            tls,
            reception: reception.plan(server, grants, policies.map(prepared)),
            servers,
        };
        enforce::block_on(engine::piped(plan, log)).map(enforce::exit)
    }

    /// A stdio server, and what else depends on whom it runs as.
    fn stdio<T>(
        self,
        more: impl FnOnce(&Credentials) -> Result<T, Failure>,
    ) -> Result<(StdioPlan, Log, T), Failure> {
        let (policy, reload) =
            enforce::policy_to_follow(&self.policy, self.replies, ServerKind::Piped)?;
        enforce::require_root()?;
        let credentials = enforce::credentials(self.user.as_ref(), &self.reach, &self.server)?;
        let more = more(&credentials)?;
        let judge = enforce::judge(
            policy,
            self.state.as_deref(),
            &self.counters,
            Some(&credentials),
        )?;
        let servers = StdioPlan {
            name: self.server_name(),
            judge: judge.with_pinning(self.pinning()),
            server: self.server,
            credentials,
            metrics: self.metrics,
            reload,
        };
        let log = Log::open(paths::audit_to_write(self.audit.as_deref())?)?;
        Ok((servers, log, more))
    }

    /// In front of a stdio server.
    fn pipe(self) -> Result<Exit, Failure> {
        let (plan, log, ()) = self.stdio(|_| Ok(()))?;
        enforce::block_on(engine::run(plan, log)).map(enforce::exit)
    }

    /// In front of an HTTP server.
    fn serve(self, listen: SocketAddr, upstream: UpstreamAddress) -> Result<Exit, Failure> {
        self.reception.check(listen)?;
        let tls = self.reception.tls()?;
        let authorities = self.reception.authorities(upstream.is_tls())?;
        let (policy, reload) =
            enforce::policy_to_follow(&self.policy, self.replies, ServerKind::Http)?;
        let starting = !self.server.is_empty();
        let server = self.server_name();
        let pinning = self.pinning();
        if self.user.is_some() && !starting {
            return Err(Failure::Usage(
                Account::new(
                    "--user says whom the server runs as, which capwarden does not start here",
                )
                .hint("leave --user out, or give the server's command after --"),
            ));
        }
        if !self.reach.is_empty() && !starting {
            return Err(Failure::Usage(
                Account::new(
                    "--reach says what the server may reach, which capwarden does not start here",
                )
                .hint("leave --reach out, or give the server's command after --"),
            ));
        }
        let governed = if starting {
            enforce::require_root()?;
            let user = enforce::credentials(self.user.as_ref(), &self.reach, &self.server)?;
            Some((self.server, user))
        } else {
            None
        };
        let credentials = governed.as_ref().map(|(_, credentials)| credentials);
        let judge = enforce::judge(policy, self.state.as_deref(), &self.counters, credentials)?;
        let judge = judge.with_pinning(pinning);
        let grants = grants(&self.reception, self.state.as_deref(), credentials)?;
        let user = credentials.map(|credentials| credentials.user);
        let policies = grants.as_ref().map(|grants| {
            enforce::grant_policies(
                Arc::clone(grants),
                Arc::clone(&server),
                user,
                self.replies,
                ServerKind::Http,
            )
        });
        let judge = match (&grants, &policies) {
            (Some(grants), Some(policies)) => judge
                .with_grants(Arc::clone(grants))
                .with_grant_policies(Arc::clone(policies)),
            _ => judge,
        };
        let plan = ServePlan {
            listen,
            tls,
            front: FrontPlan {
                upstream,
                authorities,
                starting,
                reception: self.reception.plan(server, grants, policies.map(prepared)),
            },
            judge,
            metrics: self.metrics,
            server: governed,
            reload,
        };
        let log = Log::open(paths::audit_to_write(self.audit.as_deref())?)?;
        enforce::block_on(engine::serve(plan, log)).map(enforce::exit)
    }
}

/// Who loads the policies of grants before they are needed.
fn prepared(policies: Arc<GrantPolicies>) -> Arc<dyn Prepare> {
    Arc::new(policies)
}

/// The grants that clients over HTTP show; none if everybody of this host may come in.
fn grants(
    reception: &ReceptionOptions,
    state: Option<&Path>,
    governed: Option<&Credentials>,
) -> Result<Option<Arc<Grants>>, Failure> {
    if reception.anonymous {
        tracing::warn!(
            "--anonymous: every user and every program of this host may call what the policy allows"
        );
        return Ok(None);
    }
    Ok(Some(Arc::new(enforce::grants(state, governed)?)))
}
