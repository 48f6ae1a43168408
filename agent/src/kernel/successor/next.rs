//! The agent's side: it starts its successor, and lets it serve.

use std::{
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd},
        unix::process::CommandExt as _,
    },
    process::Command,
    time::Duration,
};

use rustix::{
    io::{FdFlags, fcntl_setfd},
    net::{
        AddressFamily, SocketFlags, SocketType, socketpair,
        sockopt::{Timeout, set_socket_passcred, set_socket_timeout},
    },
    process::setsid,
};

use super::{
    CHANNEL, Line, Program, Word,
    line::{FORKED, Heard},
};
use crate::kernel::{launch::channel, process::Process, readable::Readable, sys};

/// How long a successor may take to hear one word.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is in the environment of a service for this process alone.
const OURS_ALONE: [&str; 4] = ["LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "WATCHDOG_PID"];

/// A successor that can serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Its process.
    pub process: u32,
    /// Its version.
    pub version: String,
    /// What it is called in the audit log.
    pub agent: String,
}

/// A successor. It is killed when this is dropped before it was told to serve.
#[derive(Debug)]
pub struct Successor {
    line: Readable<Line>,
    process: Process,
    serves: bool,
}

impl Successor {
    /// Executes a program, which is no child of this process then, and gives it these listeners. Blocks for that;
    /// must be called within a runtime.
    ///
    /// # Errors
    /// It cannot be executed, others than root could have put it there, or it ends at once.
    pub fn start(program: &Program, sockets: &[(String, BorrowedFd<'_>)]) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        // Before anything is said: who says it is told by the kernel.
        set_socket_passcred(&ours, true)?;
        set_socket_timeout(&ours, Timeout::Send, Some(PATIENCE))?;
        let mut command = Command::new(program.file()?);
        command.arg0(program.name()).args(program.arguments());
        for name in OURS_ALONE {
            command.env_remove(name);
        }
        command.env(CHANNEL, theirs.as_raw_fd().to_string());
        let detach = move || {
            // What has lost its mark, or never had it, is not for the successor.
            sys::close_on_exec_from(3)?;
            // Whoever is left is its own session's, and a child of PID 1, or of who stands in for it.
            sys::fork_and_leave()?;
            setsid()?;
            channel::send_bytes(&theirs, FORKED.as_bytes(), &[])?;
            fcntl_setfd(&theirs, FdFlags::empty())?;
            Ok(())
        };
        // SAFETY: the closure makes system calls only; it neither allocates nor takes a lock.
        unsafe { command.pre_exec(detach) };
        // Returns once it is executed, or has said why not.
        let spawned = command.spawn();
        drop(command); // with our copy of its end
        let line = Line(ours);
        spawned?.wait()?;
        let process = match line.wait(PATIENCE)? {
            Some(Heard {
                word: Word::Forked,
                sender: Some(sender),
                ..
            }) => Process::open(sender),
            _ => None,
        };
        let process = process.ok_or(io::ErrorKind::UnexpectedEof)?;
        let successor = Self {
            line: Readable::new(line)?,
            process,
            serves: false,
        };
        let given = sockets
            .iter()
            .try_for_each(|(name, socket)| successor.say(&Word::Socket(name.clone()), &[*socket]));
        match given.and_then(|()| successor.say(&Word::All, &[])) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            given => given.map(|()| successor),
        }
    }

    fn say(&self, word: &Word, with: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.line.get().say(word, with)
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until it can serve.
    ///
    /// # Errors
    /// It has ended before.
    pub async fn ready(&mut self) -> io::Result<Ready> {
        loop {
            match self.line.get().next() {
                Ok(Some(Heard {
                    word: Word::Ready(version, agent),
                    ..
                })) => {
                    return Ok(Ready {
                        process: self.process(),
                        version,
                        agent,
                    });
                }
                Ok(Some(_)) => {}
                Ok(None) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.line.ready().await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Has it serve from now on. It goes on when this is dropped.
    ///
    /// # Errors
    /// It has ended.
    pub fn serve(&mut self) -> io::Result<()> {
        self.say(&Word::Serve, &[])?;
        self.serves = true;
        Ok(())
    }

    /// Tells it that what only one of the two can have of this server is its own now.
    ///
    /// # Errors
    /// It has ended.
    pub fn free(&self, server: &str) -> io::Result<()> {
        self.say(&Word::Freed(server.to_owned()), &[])
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.serves {
            self.process.kill();
        }
    }
}
