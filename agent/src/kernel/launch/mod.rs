//! Starts a governed process: confined before its first instruction, known to the agent before it
//! can fork.
//!
//! | file | what |
//! |---|---|
//! | `steps` | what the process does to itself, between fork and exec |
//! | `fork` | as a child of the agent |
//! | `ask` | by a launcher, at the agent's request; `look` at what came of it |
//! | `launcher` | the launcher: a process of the governed user, without privileges |
//! | `channel`, `request` | what is said between them |
//! | `limits` | descriptors |
//!
//! A child inherits the filters and the mounts of its parent. The agent of a hardened service has some under which
//! no JIT runs, so its servers are started by launchers: the service manager runs one for each user that servers run
//! as (`packaging/systemd/capwarden-server@.service`), in the sandbox that servers are to have. Either way the
//! process takes the same [steps](steps::Step), and waits for the agent; what a launcher could have left out is
//! looked for by the agent itself.

mod ask;
pub(super) mod channel;
mod fork;
mod launcher;
mod limits;
mod look;
mod request;
mod steps;
#[cfg(test)]
pub(super) mod tests;

use std::{
    env,
    ffi::{CString, OsString},
    io,
    os::{fd::OwnedFd, unix::ffi::OsStringExt as _},
    path::PathBuf,
    process::ExitStatus,
};

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::process::Child;

use self::{
    ask::Asked,
    request::{Place, Request},
    steps::Step,
};
use super::{cgroup::Cgroup, notify::Listener, sys, users::Credentials};

pub(super) use ask::Connection;
pub use ask::launcher_socket;
pub use launcher::{LAUNCHER_VERB, launcher};
pub use limits::descriptors;

/// What to start, and as whom.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Program and arguments.
    pub command: &'a [OsString],
    /// Whose ids it gets, and whom it may reach.
    pub credentials: &'a Credentials,
    /// Where it lives; none where the host offers no cgroup.
    pub cgroup: Option<&'a Cgroup>,
    /// Give it pipes for standard input and output (an MCP server) instead of the agent's own.
    pub piped: bool,
}

/// Whose child a governed process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// The agent's.
    Fork,
    /// A launcher's. Their sockets are in this directory, each with the name of its user, or its number, and `.sock`.
    Launchers(PathBuf),
}

/// Where the launchers' sockets are; without it, governed processes are children of the agent.
const LAUNCHERS: &str = "CAPWARDEN_LAUNCHERS";

/// Where they are under the service, as `packaging/systemd/capwarden.service` says.
const USUAL_LAUNCHERS: &str = "/run/capwarden/launch";

/// What a service manager, or a unit of ours, tells the agent and nobody else.
const FOR_THE_AGENT: [&str; 9] = [
    LAUNCHERS,
    super::successor::CHANNEL,
    super::cgroup::PLACE,
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

impl Way {
    /// The one that the environment names: see `packaging/systemd/capwarden.service`.
    #[must_use]
    pub fn chosen() -> Self {
        env::var_os(LAUNCHERS).map_or(Self::Fork, |at| Self::Launchers(at.into()))
    }

    /// The one that the service takes on this host: by launchers, where packages have made the place for their sockets.
    #[must_use]
    pub fn of_service() -> Self {
        let usual = PathBuf::from(USUAL_LAUNCHERS);
        match (Self::chosen(), usual.is_dir()) {
            (Self::Fork, true) => Self::Launchers(usual),
            (chosen, _) => chosen,
        }
    }
}

/// A governed process, running. Its exit does not end its descendants.
#[derive(Debug)]
pub struct Governed {
    pid: u32,
    pipes: Option<Pipes>,
    process: Started,
}

#[derive(Debug)]
enum Started {
    Forked(Child),
    Asked(Asked),
}

/// The agent's ends of a server's standard input and output.
#[derive(Debug)]
pub struct Pipes {
    /// What is written to it, the server reads.
    pub input: OwnedFd,
    /// What the server writes.
    pub output: OwnedFd,
}

/// The server's ends.
struct TheirPipes {
    input: OwnedFd,
    output: OwnedFd,
}

impl Governed {
    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its pipes, once, if it was started with any.
    pub fn take_pipes(&mut self) -> Option<Pipes> {
        self.pipes.take()
    }

    /// Waits until it has ended, and says how. May be dropped and called again.
    ///
    /// # Errors
    /// Nobody knows how, since its launcher has ended before it.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        match &mut self.process {
            Started::Forked(child) => child.wait().await,
            Started::Asked(asked) => asked.wait().await,
        }
    }

    /// Kills it, if it has not ended.
    pub fn kill(&mut self) {
        match &mut self.process {
            Started::Forked(child) => drop(child.start_kill()),
            Started::Asked(asked) => asked.kill(),
        }
    }
}

/// Why it could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The program is not there, or may not be executed by the governed user.
    #[error("cannot execute {program}: {source}")]
    Execute {
        /// As it was named.
        program: String,
        /// What `exec` said.
        source: io::Error,
    },
    /// The confinement could not be put on; nothing was executed.
    #[error("cannot confine {program}: {step}: {source}")]
    Confine {
        /// As it was named.
        program: String,
        /// Which step.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The directory that it is to be started in is not there, or the governed user may not enter it; nothing was
    /// executed.
    #[error(
        "cannot start {program} in {directory}: {source}; make that directory, and see that {user} may enter it, and \
         each above it (x), in the mounts that it has",
        directory = .directory.display()
    )]
    Directory {
        /// As it was named.
        program: String,
        /// The directory.
        directory: PathBuf,
        /// The user's name, or number.
        user: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no launcher for the user.
    #[error(
        "cannot start {program}: nobody starts servers as {user} here ({at}: {source}); if that user is to have \
         servers, run `systemctl enable --now capwarden-server@{user}.socket`",
        at = .at.display()
    )]
    NoLauncher {
        /// As it was named.
        program: String,
        /// The user's name, or number.
        user: String,
        /// Where the launcher would listen.
        at: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What a launcher started is not confined as it has to be; nothing was executed.
    #[error(
        "cannot start {program} as {user}: {why}; see `systemctl cat capwarden-server@{user}.service`"
    )]
    Unconfined {
        /// As it was named.
        program: String,
        /// The user's name, or number.
        user: String,
        /// What is different.
        why: String,
    },
    /// The agent's side failed.
    #[error("cannot start {program}: {source}")]
    Prepare {
        /// As it was named.
        program: String,
        /// What failed.
        source: io::Error,
    },
}

/// Starts `launch`, in the way that the environment names. `admit` is called with the process's number and the
/// listener once the process is confined and before it executes anything; when it fails, the process ends there.
/// To be called within a runtime.
///
/// # Errors
/// Nothing was executed then.
pub fn launch<T: Send>(
    launch: &Launch<'_>,
    admit: impl FnOnce(u32, Listener) -> io::Result<T> + Send,
) -> Result<(Governed, T), LaunchError> {
    launch_by(&Way::chosen(), launch, admit)
}

/// The same, in this way.
///
/// # Errors
/// Nothing was executed then.
pub fn launch_by<T: Send>(
    way: &Way,
    launch: &Launch<'_>,
    admit: impl FnOnce(u32, Listener) -> io::Result<T> + Send,
) -> Result<(Governed, T), LaunchError> {
    sys::ignore_signals();
    match way {
        Way::Fork => fork::launch(launch, admit),
        Way::Launchers(directory) => ask::launch(directory, launch, admit),
    }
}

impl Launch<'_> {
    /// The program, as it was named.
    fn program(&self) -> String {
        let program = self.command.first();
        program.map_or_else(String::new, |program| {
            program.to_string_lossy().into_owned()
        })
    }

    fn prepare(&self, source: io::Error) -> LaunchError {
        let program = self.program();
        LaunchError::Prepare { program, source }
    }

    /// What is told of a process that could not take one of its steps.
    fn stopped_at(&self, step: Step, source: io::Error) -> LaunchError {
        let program = self.program();
        match (step, &self.credentials.surroundings.directory) {
            (Step::Directory, Some(directory)) => LaunchError::Directory {
                program,
                directory: directory.clone(),
                user: self.credentials.name(),
                source,
            },
            _ => LaunchError::Confine {
                program,
                step: step.name(),
                source,
            },
        }
    }

    /// What is executed, where, and with which environment.
    fn request(&self) -> Request {
        let surroundings = &self.credentials.surroundings;
        let mut environment: Vec<(OsString, OsString)> = match &surroundings.environment {
            Some(_) => Vec::new(),
            None => env::vars_os().collect(),
        };
        let own = self.credentials.environment();
        environment.retain(|(name, _)| {
            let is = |other: &str| name == other;
            !FOR_THE_AGENT.into_iter().any(is) && !own.iter().any(|(other, _)| is(other))
        });
        environment.extend(
            own.into_iter()
                .map(|(name, value)| (name.into(), value.into())),
        );
        let added = surroundings.environment.iter().flatten();
        environment.extend(added.map(|(name, value)| (name.into(), value.into())));
        // A path has no null character.
        let path = |path: PathBuf| CString::new(path.into_os_string().into_vec());
        let place = match &surroundings.directory {
            Some(directory) => Place::In(path(directory.clone()).unwrap_or_default()),
            None => {
                let here = env::current_dir().unwrap_or_else(|_| "/".into());
                Place::Near(path(here).unwrap_or_default())
            }
        };
        Request {
            command: self.command.to_vec(),
            environment,
            place,
        }
    }

    /// Both ends of its pipes, if it is to have any.
    fn pipes(&self) -> io::Result<Option<(Pipes, TheirPipes)>> {
        if !self.piped {
            return Ok(None);
        }
        let (their_input, input) = pipe_with(PipeFlags::CLOEXEC)?;
        let (output, their_output) = pipe_with(PipeFlags::CLOEXEC)?;
        let theirs = TheirPipes {
            input: their_input,
            output: their_output,
        };
        Ok(Some((Pipes { input, output }, theirs)))
    }
}
