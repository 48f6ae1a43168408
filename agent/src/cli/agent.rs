//! `capwarden agent`: the daemon.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use serde_json::json;

#[cfg(feature = "otlp")]
use crate::telemetry::otlp::Collector;
use crate::{
    audit::Log,
    config::{
        Config, ConfigError, HttpConfig, Pin, ServerConfig, USUAL_FILE, USUAL_GROUP, USUAL_SOCKET,
    },
    engine::{self, DaemonPlan, GrantPolicies, HttpPlan, Outcome, Prepared, StdioPlan},
    gate::http::Prepare,
    kernel::{self, Credentials, Predecessor, Surroundings},
    limits::Limits,
    policy::{Pinning, RuleRef},
    principal::Grants,
};

use super::{
    counters::Counters,
    enforce::{self, ServerKind},
    exit::Exit,
    failure::{Account, Failure},
    paths,
    reception::ReceptionOptions,
    term,
};

/// What every server's environment has. The daemon's own is not theirs.
const ENVIRONMENT: [(&str, &str); 2] = [
    (
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ),
    ("LANG", "C.UTF-8"),
];
/// Whom servers run as where nothing is said: the user that the packages make for that.
const SERVERS_USER: &str = "capwarden-server";
/// The same where no package has made one.
const NOBODY: &str = "nobody";

/// Serve many MCP servers to many users of this host, as a service
///
/// Which servers, under which policies, and to whom is what its configuration says: /etc/capwarden/agent.yaml,
/// and drop-ins in /etc/capwarden/agent.d/. A client comes by `capwarden connect NAME`, which any user
/// may run, and gets a server of its own behind the gate and under the guard, as with `run`. The kernel says
/// who it is.
///
/// SIGHUP, and a change of a file, loads the configuration again; one that cannot be used changes nothing.
/// Under systemd it tells when it is ready (Type=notify), feeds the watchdog, and takes the socket that is
/// passed under the name `clients`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    sudo capwarden agent --check && sudo systemctl reload capwarden")]
pub(super) struct Agent {
    /// Read this configuration
    ///
    /// Its drop-ins are in the directory of the same name that ends in .d. Nobody but root may be able
    /// to change them.
    #[arg(long, value_name = "FILE", default_value = USUAL_FILE)]
    config: PathBuf,
    /// Say whether the configuration can be used, with every policy that it names, and do nothing
    ///
    /// The exit status is 3 if it cannot.
    #[arg(long)]
    check: bool,
    /// Print what --check finds as JSON
    #[arg(long, requires = "check")]
    json: bool,
    /// Send spans of calls and sessions to this collector: http://127.0.0.1:4318
    ///
    /// As with `run --otlp`.
    #[cfg(feature = "otlp")]
    #[arg(long, value_name = "URL")]
    pub(super) otlp: Option<Collector>,
}

impl Agent {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        if self.check {
            return self.check();
        }
        enforce::require_root()?;
        // First of all, so that nobody else gets it.
        let predecessor = Predecessor::of_environment().map_err(|error| {
            Failure::Internal(Account::new("cannot follow another agent").because(error))
        })?;
        let config = load(&self.config)?;
        let house = config.house.clone();
        let counters = Counters::of(house.counters, house.counters_password_file);
        let limits = enforce::limits(house.state.as_deref(), &counters, None)?;
        let preparing = Preparing {
            state: house.state,
            limits,
        };
        let mut servers = Vec::new();
        for (name, server) in &config.servers {
            let prepared = preparing.prepare(name, server)?;
            servers.push((name.clone(), server.clone(), prepared));
        }
        let file = self.config.clone();
        let plan = DaemonPlan {
            load: Arc::new(move || load(&file).map_err(|failure| failure.in_a_line())),
            prepare: Arc::new(move |name, server| {
                let prepared = preparing.prepare(name, server);
                prepared.map_err(|failure| failure.in_a_line())
            }),
            servers,
            socket: house.socket.unwrap_or_else(|| USUAL_SOCKET.into()),
            group: house.socket_group.unwrap_or_else(|| USUAL_GROUP.to_owned()),
            metrics: house.metrics,
            predecessor,
            file: self.config,
            config,
        };
        make_directory_of(&plan.socket)?;
        let log = Log::open(paths::audit_to_write(house.audit.as_deref())?)?;
        enforce::block_on(engine::daemon(plan, log)).map(|outcome| match outcome {
            // As services end that are told to.
            Outcome::Stopped(_) => Exit::Ok,
            outcome => enforce::exit(outcome),
        })
    }

    fn check(&self) -> Result<Exit, Failure> {
        let config = load(&self.config);
        let config = match config {
            Ok(config) => config,
            Err(failure) if self.json => {
                term::print_json(&json!({
                    "file": self.config,
                    "usable": false,
                    "problems": [failure.in_a_line()],
                }))?;
                return Ok(failure.exit());
            }
            Err(failure) => return Err(failure),
        };
        let checked: Vec<_> = config
            .servers
            .iter()
            .map(|(name, server)| (name, server, check(name, server)))
            .collect();
        let sound = checked.iter().all(|(.., checked)| checked.is_ok());
        if self.json {
            let servers: Vec<_> = checked
                .iter()
                .map(|(name, server, checked)| {
                    json!({
                        "name": name,
                        "command": server.command,
                        "policy": server.policy,
                        "clients": server.clients.iter().map(ToString::to_string).collect::<Vec<_>>(),
                        "problem": checked.as_ref().err().map(Failure::in_a_line),
                    })
                })
                .collect();
            let report = json!({ "file": self.config, "files": config.files, "usable": sound, "servers": servers });
            term::print_json(&report)?;
        } else {
            for (name, server, checked) in &checked {
                match checked {
                    Ok(()) => term::print(|out| writeln!(out, "{}", in_words(name, server)))?,
                    Err(failure) => failure.tell(),
                }
            }
            let count = crate::words::counted(u64::try_from(checked.len()).unwrap_or(0), "server");
            if sound {
                let file = self.config.display();
                term::print(|out| writeln!(out, "{file}: {count}, all can be served"))?;
            }
        }
        Ok(if sound { Exit::Ok } else { Exit::Policy })
    }
}

/// Whom a server runs as that does not say so.
fn usual_user() -> &'static str {
    match kernel::user_id(SERVERS_USER) {
        Some(_) => SERVERS_USER,
        None => NOBODY,
    }
}

/// One line of what is served.
fn in_words(name: &str, server: &ServerConfig) -> String {
    let command = match server.command.as_slice() {
        [] => "a server that runs already".to_owned(),
        words => words.join(" "),
    };
    let clients: Vec<String> = server.clients.iter().map(ToString::to_string).collect();
    let clients = match clients.as_slice() {
        [] => "root alone".to_owned(),
        clients => clients.join(", "),
    };
    let user = server.user.as_deref().unwrap_or(usual_user());
    format!(
        "{name}: {command}, as {user}, under {}, for {clients}",
        server.policy.display()
    )
}

/// Reads the configuration.
fn load(file: &Path) -> Result<Config, Failure> {
    Config::load(file).map_err(|error| match error {
        ConfigError::Wrong(error) => Failure::Policy(error),
        ConfigError::Missing(file) => match paths::is_there(&file) {
            Err(failure) => failure,
            Ok(()) => Failure::Usage(Account::new("there is no file").on(file.display())),
        },
        ConfigError::Exposed { ref file, .. } => {
            Failure::Usage(Account::new(error.to_string()).hint(format!(
                "sudo chown root {0}; sudo chmod go-w {0}",
                file.display()
            )))
        }
        ConfigError::System { .. } => Failure::Internal(Account::new(error.to_string())),
    })
}

/// Whether a server could be served, without making or starting anything.
fn check(name: &str, server: &ServerConfig) -> Result<(), Failure> {
    let kind = kind(server);
    enforce::policy_to_follow(&server.policy, server.replies, kind)?;
    credentials(name, server)?;
    if let Some(http) = &server.http {
        reception(http)?.tls()?;
    }
    Ok(())
}

/// Who may come in over HTTP.
fn reception(http: &HttpConfig) -> Result<ReceptionOptions, Failure> {
    let reception = ReceptionOptions::of(http);
    reception.check(http.listen)?;
    Ok(reception)
}

fn kind(server: &ServerConfig) -> ServerKind {
    match &server.http {
        Some(http) if http.upstream.is_some() => ServerKind::Http,
        _ => ServerKind::Piped,
    }
}

/// Whom a server runs as, and in which surroundings.
fn credentials(name: &str, server: &ServerConfig) -> Result<Credentials, Failure> {
    let wrong = |what: String, hint: &str| {
        let account = Account::new(format!("{}: {what}", server.at)).hint(hint);
        Err(Failure::Usage(account))
    };
    let user = server.user.as_deref().unwrap_or(usual_user());
    let credentials = match Credentials::choose(Some(user)) {
        Ok(credentials) => credentials,
        Err(error) => {
            return wrong(
                format!("the server {name} cannot run as `{user}`: {error}"),
                "make that user (useradd --system), or give another one as `user`",
            );
        }
    };
    if let Some(directory) = &server.directory
        && !directory.is_dir()
    {
        return wrong(
            format!("there is no directory {}", directory.display()),
            "make it, or name another one as `directory`",
        );
    }
    let command: Vec<OsString> = server.command.iter().map(Into::into).collect();
    let credentials = enforce::reaching(credentials, &server.reach, &command);
    let mut environment: Vec<(String, String)> = ENVIRONMENT
        .iter()
        .filter(|(name, _)| !server.environment.contains_key(*name))
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let said = server.environment.iter();
    environment.extend(said.map(|(name, value)| (name.clone(), value.clone())));
    Ok(credentials.within(Surroundings {
        environment: Some(environment),
        directory: Some(server.directory.clone().unwrap_or_else(|| "/".into())),
    }))
}

/// The grants of a server's clients over HTTP, and the policies that these name.
type Bearers = (Arc<Grants>, Arc<GrantPolicies>);

/// What servers are got ready with.
struct Preparing {
    state: Option<PathBuf>,
    limits: Arc<Limits>,
}

impl Preparing {
    fn prepare(&self, name: &str, server: &ServerConfig) -> Result<Prepared, Failure> {
        let (policy, reload) =
            enforce::policy_to_follow(&server.policy, server.replies, kind(server))?;
        let credentials = credentials(name, server)?;
        let limits = Arc::clone(&self.limits);
        let governed = (!server.command.is_empty()).then_some(&credentials);
        let mut judge = enforce::judge_by(policy, self.state.as_deref(), limits, governed)?;
        let http = match &server.http {
            None => None,
            Some(http) => {
                let (plan, grants) = self.over_http(name, server, http, governed)?;
                if let Some((grants, policies)) = grants {
                    judge = judge.with_grants(grants).with_grant_policies(policies);
                }
                Some(plan)
            }
        };
        let pinning = server.pin.map(|pin| Pinning {
            strict: pin == Pin::Strict,
            rule: RuleRef {
                path: format!("{}.pin", server.at.path),
                ..server.at.clone()
            },
        });
        let servers = StdioPlan {
            server: server.command.iter().map(Into::into).collect(),
            name: Arc::from(name),
            credentials,
            judge: judge.with_pinning(pinning),
            metrics: None,
            reload,
        };
        Ok(Prepared { servers, http })
    }

    /// How a server is served over HTTP, and whose calls are decided by grants.
    fn over_http(
        &self,
        name: &str,
        server: &ServerConfig,
        http: &HttpConfig,
        governed: Option<&Credentials>,
    ) -> Result<(HttpPlan, Option<Bearers>), Failure> {
        let reception = reception(http)?;
        let tls = reception.tls()?;
        let authorities = http.upstream.clone().map(|upstream| {
            let authorities = reception.authorities(upstream.is_tls())?;
            Ok::<_, Failure>((upstream, authorities))
        });
        let upstream = authorities.transpose()?;
        let grants = match http.anonymous {
            true => None,
            false => Some(Arc::new(enforce::grants(self.state.as_deref(), governed)?)),
        };
        let policies = grants.map(|grants| {
            let policies = enforce::grant_policies(
                Arc::clone(&grants),
                Arc::from(name),
                governed.map(|credentials| credentials.user),
                server.replies,
                kind(server),
            );
            (grants, policies)
        });
        let (grants, prepare) = policies.clone().unzip();
        let prepare = prepare.map(|policies| -> Arc<dyn Prepare> { Arc::new(policies) });
        let plan = HttpPlan {
            listen: http.listen,
            tls,
            reception: reception.plan(Arc::from(name), grants, prepare),
            upstream,
        };
        Ok((plan, policies))
    }
}

/// Makes the directory of the socket, if it is the usual one: `/run` is empty after each start of the host.
fn make_directory_of(socket: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt as _;
    let Some(directory) = socket
        .parent()
        .filter(|_| socket == Path::new(USUAL_SOCKET))
    else {
        return Ok(());
    };
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o755).create(directory);
    made.map_err(|error| {
        let account = Account::new("cannot make").on(directory.display());
        Failure::Internal(account.because(error))
    })
}
