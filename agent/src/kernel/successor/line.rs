//! What is said between an agent and its successor.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    time::Duration,
};

use rustix::io::Errno;

use super::super::launch::channel;

/// The longest word with its text, in bytes.
const LONGEST: usize = 4_096;

/// One side's end of the socket.
#[derive(Debug)]
pub(in crate::kernel) struct Line(pub(super) OwnedFd);

impl AsRawFd for Line {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// One thing that is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// The successor has been forked. The kernel says which process that is.
    Forked,
    /// A listener comes with this, for what is named so.
    Socket(String),
    /// These were all listeners.
    All,
    /// The successor can serve: its version, and what it is called in the audit log.
    Ready(String, String),
    /// It is to serve from now on.
    Serve,
    /// It does.
    Serving,
    /// The service manager knows it as the main process.
    Known,
    /// The earlier agent has ended what it alone could have of this server.
    Freed(String),
    /// Something of another version.
    Unknown,
}

impl Word {
    fn encode(&self) -> String {
        match self {
            Self::Forked => FORKED.to_owned(),
            Self::Socket(name) => format!("socket {name}"),
            Self::All => "all".to_owned(),
            Self::Ready(version, agent) => format!("ready {version} {agent}"),
            Self::Serve => "serve".to_owned(),
            Self::Serving => "serving".to_owned(),
            Self::Known => "known".to_owned(),
            Self::Freed(server) => format!("freed {server}"),
            Self::Unknown => "unknown".to_owned(),
        }
    }

    fn decode(bytes: &[u8]) -> Self {
        let text = str::from_utf8(bytes).unwrap_or_default();
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        match word {
            FORKED => Self::Forked,
            "socket" => Self::Socket(rest.to_owned()),
            "all" => Self::All,
            "ready" => {
                let (version, agent) = rest.split_once(' ').unwrap_or((rest, ""));
                Self::Ready(version.to_owned(), agent.to_owned())
            }
            "serve" => Self::Serve,
            "serving" => Self::Serving,
            "known" => Self::Known,
            "freed" => Self::Freed(rest.to_owned()),
            _ => Self::Unknown,
        }
    }
}

/// See [`Word::Forked`].
pub(super) const FORKED: &str = "forked";

/// What was said, by whom, and what came with it.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) word: Word,
    pub(super) sender: Option<u32>,
    pub(super) socket: Option<OwnedFd>,
}

impl Line {
    pub(super) fn say(&self, word: &Word, with: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = word.encode();
        if text.len() > LONGEST {
            return Err(io::Error::other("what is to be said is too long"));
        }
        Ok(channel::send_bytes(&self.0, text.as_bytes(), with)?)
    }

    /// The next word that is there already; none if the other side has gone.
    pub(super) fn next(&self) -> io::Result<Option<Heard>> {
        let mut bytes = [0; LONGEST];
        let mut heard = match channel::receive_bytes(self.0.as_fd(), &mut bytes) {
            Err(Errno::CONNRESET) => return Ok(None),
            heard => heard?,
        };
        let said = bytes.get(..heard.length).unwrap_or_default();
        Ok((!said.is_empty()).then(|| Heard {
            word: Word::decode(said),
            sender: heard.sender,
            socket: heard.descriptors.pop(),
        }))
    }

    /// The next word, once there is one; at most so long is waited.
    pub(super) fn wait(&self, at_most: Duration) -> io::Result<Option<Heard>> {
        channel::wait(&self.0, Some(at_most))?;
        self.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_were_written_and_others_are_passed_over() {
        for word in [
            Word::Forked,
            Word::Socket("http web server".to_owned()),
            Word::All,
            Word::Ready("1.2.3".to_owned(), "0123456789abcdef".to_owned()),
            Word::Serve,
            Word::Serving,
            Word::Known,
            Word::Freed("web".to_owned()),
        ] {
            assert_eq!(Word::decode(word.encode().as_bytes()), word);
        }
        for other in [&b"later 3"[..], b"", b"\xff\xfe", b"serves"] {
            assert_eq!(Word::decode(other), Word::Unknown, "{other:?}");
        }
    }
}
