//! A governed process as a child of a launcher: the agent asks for it, looks at what it gets, and lets it go on.
//!
//! A launcher has the rights of the user whom it starts servers for, and could be lying where that user can. So its
//! word counts for little: who hands a listener over is told by the kernel, what that process is [`look`] sees,
//! it is moved into its cgroup by the agent, and only then executes anything. What is believed is how it ended.

use std::{
    io,
    os::{
        fd::{AsFd as _, AsRawFd, OwnedFd, RawFd},
        unix::{fs::FileTypeExt as _, process::ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
        sockopt::{Timeout, set_socket_passcred, set_socket_timeout, socket_peercred},
    },
};

use super::{
    Governed, Launch, LaunchError, Started,
    channel::{self, GO, Message},
    look,
};
use crate::kernel::{
    cgroup::Cgroup, notify::Listener, process::Process, readable::Readable, users::Credentials,
};

/// How long a launcher may take for one step: the service manager may have to start it first.
const PATIENCE: Duration = Duration::from_secs(20);

/// See [`launch_by`](super::launch_by).
pub(super) fn launch<T: Send>(
    directory: &Path,
    launch: &Launch<'_>,
    admit: impl FnOnce(u32, Listener) -> io::Result<T> + Send,
) -> Result<(Governed, T), LaunchError> {
    let prepare = |source: io::Error| launch.prepare(source);
    let failed = |error: Errno| prepare(error.into());
    let request = launch.request().encode().ok_or_else(|| {
        let limit = super::request::LONGEST / 1024;
        prepare(io::Error::other(format!(
            "its command and its environment are longer than {limit} KiB, or have a null character"
        )))
    })?;
    let connection = connected(directory, launch)?;
    let (pipes, theirs) = launch.pipes().map_err(prepare)?.unzip();
    {
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let (input, output) = match &theirs {
            Some(theirs) => (theirs.input.as_fd(), theirs.output.as_fd()),
            None => (stdin.as_fd(), stdout.as_fd()),
        };
        let descriptors = [input, output, stderr.as_fd()];
        channel::send_request(&connection, &request, &descriptors).map_err(failed)?;
    }
    drop(theirs);

    let (process, listener) = confined(&connection, launch)?;
    let pid = process.pid();
    if let Some(cgroup) = launch.cgroup {
        let moved = cgroup.add(pid);
        moved.map_err(|source| LaunchError::Confine {
            program: launch.program(),
            step: "moving it into its cgroup",
            source,
        })?;
    }
    // It has the mounts of its launcher, which the agent cannot change for one of its servers.
    let unfound = launch.credentials.reach.iter();
    for deputy in unfound.filter(|deputy| !deputy.is_found_by(pid)) {
        tracing::warn!(
            "`reach: {}`: {} does not find it: give capwarden-server@{}.service a drop-in with {}, and restart it",
            deputy.name(),
            launch.program(),
            launch.credentials.name(),
            deputy.drop_in()
        );
    }
    let admitted = admit(pid, listener).map_err(prepare)?;
    channel::send_bytes(&connection, &[GO], &[]).map_err(failed)?;
    match next(&connection).map_err(failed)? {
        (Message::Started, _, _) => {}
        (Message::Unable(errno), _, _) => {
            return Err(LaunchError::Execute {
                program: launch.program(),
                source: errno.into(),
            });
        }
        _ => return Err(failed(Errno::PROTO)),
    }
    let asked = Asked::new(connection, process).map_err(prepare)?;
    let governed = Governed {
        pid,
        pipes,
        process: Started::Asked(asked),
    };
    Ok((governed, admitted))
}

/// A connection to the launcher of the user.
fn connected(directory: &Path, launch: &Launch<'_>) -> Result<OwnedFd, LaunchError> {
    first(directory, launch.credentials, to).map_err(|(at, source)| LaunchError::NoLauncher {
        program: launch.program(),
        user: launch.credentials.name(),
        at,
        source,
    })
}

/// The socket of the launcher that starts servers as this user, which is only looked at.
///
/// # Errors
///
/// Where it would be, and what the system says of that.
pub fn launcher_socket(
    directory: &Path,
    credentials: &Credentials,
) -> Result<PathBuf, (PathBuf, io::Error)> {
    first(directory, credentials, |at| {
        match at.symlink_metadata()?.file_type().is_socket() {
            true => Ok(at.to_owned()),
            false => Err(io::Error::other("it is no socket")),
        }
    })
}

/// What comes of the first place of a user's launcher at which anything does.
fn first<T>(
    directory: &Path,
    credentials: &Credentials,
    mut of: impl FnMut(&Path) -> io::Result<T>,
) -> Result<T, (PathBuf, io::Error)> {
    let mut failure = None;
    // A user may be named by a number, too.
    for name in [credentials.name(), credentials.user.to_string()] {
        let at = directory.join(format!("{name}.sock"));
        match of(&at) {
            Ok(found) => return Ok(found),
            Err(error) => failure = failure.or(Some((at, error))),
        }
    }
    Err(failure.unwrap_or_else(|| (PathBuf::new(), io::ErrorKind::NotFound.into())))
}

fn to(at: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    // What is received says who has sent it.
    set_socket_passcred(&socket, true)?;
    connect(&socket, &SocketAddrUnix::new(at)?)?;
    // The service manager's, who listened there before the launcher did.
    if !socket_peercred(&socket)?.uid.is_root() {
        let why = "who listens there is not the service manager";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(socket)
}

/// The next message, its sender, and what came with it.
fn next(connection: &OwnedFd) -> Result<(Message, Option<u32>, Option<OwnedFd>), Errno> {
    channel::wait(connection, Some(PATIENCE))?;
    let received = channel::receive(connection.as_fd())?.ok_or(Errno::CONNRESET)?;
    Ok((received.message, received.sender, received.descriptor))
}

/// The process that was started, as the kernel knows it, once it is confined and waits.
fn confined(connection: &OwnedFd, launch: &Launch<'_>) -> Result<(Process, Listener), LaunchError> {
    let prepare = |error: Errno| launch.prepare(error.into());
    let (sender, listener) = match next(connection).map_err(prepare)? {
        (Message::Confined(_), Some(sender), Some(listener)) => (sender, listener),
        (Message::Failed(step, errno), _, _) => {
            return Err(launch.stopped_at(step, errno.into()));
        }
        // It could not read what it was asked for.
        (Message::Unable(Errno::PROTO), _, _) => {
            let user = launch.credentials.name();
            let why = format!(
                "the launcher of {user} is of another version of capwarden, and starts nothing for this one; it becomes the \
                 version that is installed when the last server that it has started ends, or by: systemctl restart \
                 capwarden-server@{user}.service"
            );
            return Err(launch.prepare(io::Error::other(why)));
        }
        (Message::Unable(errno), _, _) => return Err(prepare(errno)),
        _ => return Err(prepare(Errno::PROTO)),
    };
    let unconfined = |why: String| LaunchError::Unconfined {
        program: launch.program(),
        user: launch.credentials.name(),
        why,
    };
    if !Listener::is_at(listener.as_raw_fd()) {
        return Err(unconfined(
            "what it handed over is no seccomp listener".to_owned(),
        ));
    }
    let process = Process::open(sender).ok_or_else(|| prepare(Errno::SRCH))?;
    if let Some(why) = look::difference(sender, launch.credentials) {
        return Err(unconfined(why));
    }
    // Else it was another that was looked at.
    if !process.is_alive() {
        return Err(prepare(Errno::SRCH));
    }
    Ok((process, Listener::new(listener)))
}

/// A process that a launcher has started.
#[derive(Debug)]
pub(super) struct Asked {
    connection: Readable<Connection>,
    process: Readable<Process>,
    ended: Option<ExitStatus>,
}

/// To a launcher.
#[derive(Debug)]
pub(in crate::kernel) struct Connection(OwnedFd);

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Asked {
    fn new(connection: OwnedFd, process: Process) -> io::Result<Self> {
        Ok(Self {
            connection: Readable::new(Connection(connection))?,
            process: Readable::new(process)?,
            ended: None,
        })
    }

    /// Waits for what its launcher says of its end; where that has gone, for the end itself.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        loop {
            match channel::receive(self.connection.get().0.as_fd()) {
                Ok(Some(received)) => {
                    if let Message::Ended(status) = received.message {
                        let status = ExitStatus::from_raw(status);
                        self.ended = Some(status);
                        return Ok(status);
                    }
                }
                Err(Errno::AGAIN) => drop(self.connection.ready().await?),
                Err(Errno::INTR) => {}
                Ok(None) | Err(_) => break,
            }
        }
        while self.process.get().is_alive() {
            self.process.ready().await?;
        }
        Err(io::Error::other(
            "its launcher has gone, so nobody knows how it ended",
        ))
    }

    pub(super) fn kill(&self) {
        self.process.get().kill();
    }
}

impl Cgroup {
    /// Moves a process into it that was started elsewhere.
    fn add(&self, process: u32) -> io::Result<()> {
        rustix::io::write(self.procs()?, process.to_string().as_bytes())?;
        Ok(())
    }
}
