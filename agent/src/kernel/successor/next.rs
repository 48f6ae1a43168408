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

/// A successor. It is killed when this is dropped before it is [known](Successor::known).
#[derive(Debug)]
pub struct Successor {
    line: Readable<Line>,
    process: Process,
    known: bool,
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
            known: false,
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

    /// Whether its process has not ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    /// Waits until it can serve.
    ///
    /// # Errors
    /// It has ended before.
    pub async fn ready(&mut self) -> io::Result<Ready> {
        loop {
            if let Word::Ready(version, agent) = self.next().await? {
                return Ok(Ready {
                    process: self.process(),
                    version,
                    agent,
                });
            }
        }
    }

    /// The next word, once there is one. May be dropped and called again.
    async fn next(&mut self) -> io::Result<Word> {
        loop {
            match self.line.get().next() {
                Ok(Some(heard)) => return Ok(heard.word),
                Ok(None) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.line.ready().await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Has it serve from now on, and waits until it does.
    ///
    /// # Errors
    /// It has ended.
    pub async fn serve(&mut self) -> io::Result<()> {
        self.say(&Word::Serve, &[])?;
        while self.next().await? != Word::Serving {}
        Ok(())
    }

    /// Tells it that whoever is to know of it does. It goes on when this is dropped.
    ///
    /// # Errors
    /// It has ended.
    pub fn known(&mut self) -> io::Result<()> {
        self.known = true;
        self.say(&Word::Known, &[])
    }

    /// Waits until it has ended. May be dropped and called again.
    pub async fn ended(&mut self) {
        while self.next().await.is_ok() {}
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
        if !self.known {
            self.process.kill();
        }
    }
}
