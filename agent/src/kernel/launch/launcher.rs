//! The launcher: starts governed processes of its own user when the agent asks for one.
//!
//! It has no privileges, and gets no more. The service manager starts it with the socket that it listens on
//! (`LISTEN_FDS`), on which nobody but root can connect, and nobody without the agent's capabilities can ask (`channel`):
//! root may be governed, or be root of a container. Each process is a child of it, which confines itself, and hands
//! its listener over to the agent itself; the launcher tells how it ended. It is of the same user as what it starts,
//! and outside of their confinement: they cannot trace it, or read its memory (Landlock, and it
//! is not dumpable), but where Linux is older than 6.12 they could kill it. Then nobody can tell how they
//! ended, and the service manager starts another one.
//!
//! When another version of the program is put in its place, it becomes that one, in the same process, as soon as nobody
//! whom it has started is left: a restart would take their `/tmp`, and nobody could tell how they ended.

use std::{
    io,
    os::{
        fd::{AsFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Child, Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::{
    io::{Errno, FdFlags, fcntl_setfd},
    net::{
        SocketFlags, SocketType, accept_with,
        sockopt::{set_socket_passcred, socket_acceptconn, socket_peercred, socket_type},
    },
    process::{DumpableBehavior, set_dumpable_behavior},
};

use super::{
    channel::{self, Message},
    request::{LONGEST, Request},
    steps::ChildPlan,
};
use crate::kernel::{Program, sys};

/// The hidden verb under which the agent's program file is a launcher.
pub const LAUNCHER_VERB: &str = "__launcher";

/// The socket that the service manager passes.
const SOCKET: RawFd = 3;
/// Processes that one launcher watches over; more are not started.
const MOST: usize = 512;
/// How long the agent may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of each thread, which does little but wait.
const STACK: usize = 256 * 1024;

/// Is a launcher, until it is killed.
pub fn launcher() -> ExitCode {
    let Err(error) = serve();
    // Standard error is the service manager's journal.
    eprintln!("capwarden {LAUNCHER_VERB}: {error}");
    ExitCode::FAILURE
}

fn serve() -> io::Result<std::convert::Infallible> {
    // Nobody of the same user traces it, or reads its memory.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let socket = passed()?;
    sys::ignore_signals();
    let busy = Arc::new(AtomicUsize::new(0));
    let mut program = Program::own().ok();
    loop {
        channel::wait(&socket, None)?;
        // Whoever asks is answered by the other version then.
        if busy.load(Ordering::Acquire) == 0
            && let Some(replaced) = program.take_if(|program| program.is_replaced())
        {
            let error = become_another(&replaced, &socket);
            eprintln!(
                "capwarden {LAUNCHER_VERB}: the other version in {} is not used: {error}",
                replaced.path().display()
            );
        }
        let connection = match accept_with(&socket, SocketFlags::CLOEXEC) {
            Ok(connection) => connection,
            Err(Errno::INTR | Errno::CONNABORTED) => continue,
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                thread::sleep(Duration::from_millis(100));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let from_root = socket_peercred(&connection).is_ok_and(|peer| peer.uid.is_root());
        if !from_root || busy.load(Ordering::Acquire) >= MOST {
            let _ = channel::send(&connection, Message::Unable(Errno::AGAIN), &[]);
            continue;
        }
        busy.fetch_add(1, Ordering::AcqRel);
        let one = Busy(Arc::clone(&busy));
        let started = thread::Builder::new()
            .stack_size(STACK)
            .name("launch".into())
            .spawn(move || {
                let _one = one;
                answer(&connection);
            });
        // The connection closes, which the agent sees.
        if let Err(error) = started {
            eprintln!("capwarden {LAUNCHER_VERB}: no thread: {error}");
        }
    }
}

/// Executes another version, which gets the socket as the service manager has passed it.
fn become_another(program: &Program, socket: &OwnedFd) -> io::Error {
    let error = match fcntl_setfd(socket, FdFlags::empty()) {
        Ok(()) => program.execute(),
        Err(error) => error.into(),
    };
    let _ = fcntl_setfd(socket, FdFlags::CLOEXEC);
    error
}

/// One of those that are watched over.
struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The socket that was passed to this process.
fn passed() -> io::Result<OwnedFd> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    let for_us =
        number("LISTEN_PID") == Some(std::process::id()) && number("LISTEN_FDS") == Some(1);
    if !for_us {
        return Err(io::Error::other(
            "it is started by the service manager, for capwarden-server@USER.socket",
        ));
    }
    // SAFETY: as was just seen it was passed for this process to own, and this is done once.
    let socket = unsafe { OwnedFd::from_raw_fd(SOCKET) };
    if socket_type(&socket)? != SocketType::SEQPACKET || !socket_acceptconn(&socket)? {
        return Err(io::Error::other(
            "what was passed is no socket that keeps messages apart (ListenSequentialPacket=)",
        ));
    }
    fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    Ok(socket)
}

/// Starts what one connection asks for, and tells how it ended.
fn answer(connection: &OwnedFd) {
    let started = asked(connection)
        .and_then(|(request, descriptors)| start(connection, request, descriptors));
    let told = match started {
        Ok(mut child) => {
            let _ = channel::send(connection, Message::Started, &[]);
            child.wait().map(|status| Message::Ended(status.into_raw()))
        }
        Err(errno) => Ok(Message::Unable(errno)),
    };
    // Whoever has gone has no more questions.
    if let Ok(message) = told {
        let _ = channel::send(connection, message, &[]);
    }
}

/// What the agent wants.
fn asked(connection: &OwnedFd) -> Result<(Request, [OwnedFd; 3]), Errno> {
    set_socket_passcred(connection, true)?;
    channel::wait(connection, Some(PATIENCE))?;
    let mut bytes = vec![0; LONGEST + 1];
    let received = channel::receive_bytes(connection.as_fd(), &mut bytes)?;
    if !channel::is_proved(received.sender) {
        return Err(Errno::PERM);
    }
    let bytes = bytes
        .get(..received.length)
        .filter(|bytes| bytes.len() <= LONGEST);
    let request = bytes.and_then(Request::decode).ok_or(Errno::PROTO)?;
    let descriptors = received.descriptors.try_into().map_err(|_| Errno::PROTO)?;
    Ok((request, descriptors))
}

fn start(
    connection: &OwnedFd,
    request: Request,
    [input, output, errors]: [OwnedFd; 3],
) -> Result<Child, Errno> {
    let mut words = request.command.into_iter();
    let mut command = Command::new(words.next().unwrap_or_default());
    command
        .args(words)
        .env_clear()
        .envs(request.environment)
        .stdin(input)
        .stdout(output)
        .stderr(errors);
    let channel = connection.try_clone();
    let channel = channel.map_err(|error| errno(&error))?;
    let mut plan = Some(ChildPlan::of_launcher(channel, Some(request.place)));
    // SAFETY: the closure makes system calls only; it neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || plan.take().map_or(Ok(()), ChildPlan::confine));
    }
    command.spawn().map_err(|error| errno(&error))
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
