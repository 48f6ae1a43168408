//! The successor's side: what it is given by the agent that has started it.

use std::{
    env, io,
    os::fd::{FromRawFd as _, OwnedFd, RawFd},
    time::Duration,
};

use rustix::{
    io::{FdFlags, fcntl_setfd},
    net::{SocketType, sockopt::socket_type},
};

use super::{CHANNEL, Line, Word, line::Heard};
use crate::kernel::readable::Readable;

/// How long the agent may take to give one listener.
const PATIENCE: Duration = Duration::from_secs(10);

/// The agent that has started this process as its successor, and waits for it.
#[derive(Debug)]
pub struct Predecessor {
    line: Line,
    sockets: Vec<(String, OwnedFd)>,
}

impl Predecessor {
    /// The one of this process, with the listeners that it gives; none if there is none. Once, before anything
    /// is executed that could inherit the descriptor. Blocks for a moment.
    ///
    /// # Errors
    /// Somebody seems to be there, and does not keep to what is agreed.
    pub fn of_environment() -> io::Result<Option<Self>> {
        let Some(number) = env::var_os(CHANNEL) else {
            return Ok(None);
        };
        let wrong = |why: &str| {
            io::Error::other(format!(
                "{CHANNEL} is set, and {why}: it is for the agent to set; start it without"
            ))
        };
        let number: Option<RawFd> = number.to_str().and_then(|number| number.parse().ok());
        let number = number.filter(|number| *number > 2);
        let number = number.ok_or_else(|| wrong("is no descriptor"))?;
        let there = std::fs::read_link(format!("/proc/self/fd/{number}"));
        if !there.is_ok_and(|there| there.to_string_lossy().starts_with("socket:")) {
            return Err(wrong("what it names is no socket"));
        }
        // SAFETY: it is open, as was just seen; it was left open for this process, under a name that nobody else
        // looks for, before anything else was opened here.
        let channel = unsafe { OwnedFd::from_raw_fd(number) };
        fcntl_setfd(&channel, FdFlags::CLOEXEC)?;
        if socket_type(&channel)? != SocketType::SEQPACKET {
            return Err(wrong("what it names is another socket"));
        }
        let line = Line(channel);
        let mut sockets = Vec::new();
        loop {
            match line.wait(PATIENCE)? {
                Some(Heard {
                    word: Word::Socket(name),
                    socket: Some(socket),
                    ..
                }) => sockets.push((name, socket)),
                Some(Heard {
                    word: Word::All, ..
                }) => break,
                Some(_) => {}
                None => return Err(io::Error::other("the agent that it was to follow has gone")),
            }
        }
        Ok(Some(Self { line, sockets }))
    }

    /// The listeners, once, with their names.
    pub fn take_sockets(&mut self) -> Vec<(String, OwnedFd)> {
        std::mem::take(&mut self.sockets)
    }

    /// Tells it that this process can serve. Must be called within a runtime.
    ///
    /// # Errors
    /// It has gone.
    pub fn ready(self, version: &str, agent: &str) -> io::Result<Words> {
        let word = Word::Ready(version.to_owned(), agent.to_owned());
        self.line.say(&word, &[])?;
        Ok(Words(Readable::new(self.line)?))
    }
}

/// What the agent says to its successor that can serve.
#[derive(Debug)]
pub struct Words(Readable<Line>);

impl Words {
    /// Tells the agent that this process serves.
    ///
    /// # Errors
    /// It has gone.
    pub fn serving(&self) -> io::Result<()> {
        self.0.get().say(&Word::Serving, &[])
    }

    /// The next word, once there is one; none if it has gone. May be dropped and called again.
    pub async fn next(&mut self) -> Option<Word> {
        loop {
            match self.0.get().next() {
                Ok(heard) => return heard.map(|heard| heard.word),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.0.ready().await.ok()?;
                }
                Err(_) => return None,
            }
        }
    }
}
