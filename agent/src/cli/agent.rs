//! `capwarden agent`: the daemon. `prepare` makes of its configuration what the engine serves; `check` looks whether
//! that would be possible.

mod check;
mod finding;
mod prepare;
mod script;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;

#[cfg(feature = "otlp")]
use crate::telemetry::otlp::Collector;
use crate::{
    audit::Log,
    config::{Config, ConfigError, USUAL_FILE, USUAL_GROUP, USUAL_SOCKET},
    engine::{self, DaemonPlan, Outcome},
    kernel::Predecessor,
};

use self::prepare::Preparing;
use super::{
    counters::Counters,
    enforce,
    exit::Exit,
    failure::{Account, Failure},
    paths,
};

/// Serve many MCP servers to many users of this host, as a service
///
/// Which servers, under which policies, and to whom is what its configuration says: /etc/capwarden/agent.yaml,
/// and drop-ins in /etc/capwarden/agent.d/. A client comes by `capwarden connect NAME`, which any user
/// may run, and gets a server of its own behind the gate and under the guard, as with `run`. The kernel says
/// who it is.
///
/// SIGHUP, and a change of a file, loads the configuration again; one that cannot be used changes nothing. On SIGHUP,
/// a newer version of the program that was installed takes over, and whoever is connected stays with this one.
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
    /// Say whether the configuration can be used, with all that it names, and do nothing
    ///
    /// Whether policies and certificates load; whether each server's user, program and directory are there, and it may
    /// execute and enter them; whether it may execute the capture tools that are there, where its policy grants captures;
    /// whether the service has a launcher for that user, addresses can be listened at, and the log and the state are
    /// safe. Each thing that is found is told with its place and the next step. The exit status is
    /// 0 if all can be served, also with warnings; 3 if something is wrong; 2 if the configuration is not there.
    /// Without root, not all of it can be looked at.
    #[arg(long)]
    check: bool,
    /// Print what --check finds as JSON: `findings` is a list, each with severity, file, line, column, server, key,
    /// message and help
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
            return check::run(&self.config, self.json);
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
            load: Arc::new(move || load(&file).map_err(|failure| failure.all_in_a_line())),
            prepare: Arc::new(move |name, server| {
                let prepared = preparing.prepare(name, server);
                prepared.map_err(|failure| failure.all_in_a_line())
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
}

/// Reads the configuration.
fn load(file: &Path) -> Result<Config, Failure> {
    Config::load(file).map_err(|error| match error {
        ConfigError::Wrong(error) => Failure::Policy(error),
        ConfigError::Missing(file) if file == Path::new(USUAL_FILE) => Failure::Usage(
            Account::new("there is no file").on(USUAL_FILE).hint(
                "the packages put one there; without them write it, `version: 1` and `servers:`, as capwarden-agent.yaml(5) says, or name another with --config FILE",
            ),
        ),
        ConfigError::Missing(file) => match paths::is_there(&file) {
            Err(failure) => failure,
            Ok(()) => Failure::Usage(Account::new("there is no file").on(file.display())),
        },
        ConfigError::Exposed { ref by, .. } => {
            let remedy = by.remedy();
            Failure::Usage(Account::new(error.to_string()).hint(remedy))
        }
        ConfigError::System { .. } => Failure::Internal(Account::new(error.to_string())),
    })
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
