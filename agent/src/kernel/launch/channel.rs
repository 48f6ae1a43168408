//! What is said while a process is started, over a socket that keeps messages apart.
//!
//! ```text
//! agent                                          child, or its launcher
//!   │ ──── a request, and three descriptors ────▶  │   (only to a launcher)
//!   │ ◀─── Confined, and the listener ───────────  │   the child, between fork and exec
//!   │ ──── one byte: go ─────────────────────────▶ │
//!   │ ◀─── Started, or Unable ───────────────────  │   the launcher, after exec
//!   │ ◀─── Ended ────────────────────────────────  │   the launcher
//! ```
//! `Failed` may take the place of `Confined`. Who sends is told by the kernel (`SO_PASSCRED`), not by the message.
//!
//! A request is sent in the name of process 1, which the kernel lets nobody do who lacks `CAP_SYS_ADMIN`, and so nobody who
//! is governed, root or not: by that a launcher, which may look at no other user's process, knows its agent. Whoever has that
//! capability on the host needs no launcher.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, UCred, recvmsg, sendmsg,
    },
    process::{Gid, Pid, Uid},
};

use super::steps::Step;

/// What a child waits for.
pub(super) const GO: u8 = 1;
/// What it may get instead; or the connection closes.
pub(super) const STOP: u8 = 0;

/// A kind and a number.
const LENGTH: usize = 5;
const CONFINED: u8 = 0;
const STARTED: u8 = 100;
const UNABLE: u8 = 101;
const ENDED: u8 = 102;

/// What the agent is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The child with this number is confined, and waits; its listener comes with this.
    Confined(u32),
    /// It could not be.
    Failed(Step, Errno),
    /// It was executed.
    Started,
    /// It could not be.
    Unable(Errno),
    /// It has ended, with this status as `wait` gives it.
    Ended(i32),
}

impl Message {
    fn encode(self) -> [u8; LENGTH] {
        let (kind, number) = match self {
            Self::Confined(pid) => (CONFINED, pid),
            Self::Failed(step, errno) => (step as u8, errno.raw_os_error().cast_unsigned()),
            Self::Started => (STARTED, 0),
            Self::Unable(errno) => (UNABLE, errno.raw_os_error().cast_unsigned()),
            Self::Ended(status) => (ENDED, status.cast_unsigned()),
        };
        let [a, b, c, d] = number.to_ne_bytes();
        [kind, a, b, c, d]
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let &[kind, a, b, c, d] = bytes else {
            return None;
        };
        let number = u32::from_ne_bytes([a, b, c, d]);
        let errno = || Errno::from_raw_os_error(number.cast_signed());
        match kind {
            CONFINED => Some(Self::Confined(number)),
            STARTED => Some(Self::Started),
            UNABLE => Some(Self::Unable(errno())),
            ENDED => Some(Self::Ended(number.cast_signed())),
            step => {
                let step = Step::ALL.into_iter().find(|one| *one as u8 == step)?;
                Some(Self::Failed(step, errno()))
            }
        }
    }
}

/// What came, with whom it is from and what came with it.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) message: Message,
    /// The sender's number, where the kernel was asked for it.
    pub(super) sender: Option<u32>,
    pub(super) descriptor: Option<OwnedFd>,
}

/// Sends a message. System calls only: also for the child between fork and exec.
pub(super) fn send(
    channel: &OwnedFd,
    message: Message,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    send_bytes(channel, &message.encode(), descriptors)
}

/// The same, of anything, with at most three descriptors.
pub(in crate::kernel) fn send_bytes(
    channel: &OwnedFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    send_with(channel, bytes, descriptors, None)
}

/// The same, in the name of process 1. `EPERM` if the own process may not.
pub(super) fn send_request(
    channel: &OwnedFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let init = UCred {
        pid: Pid::INIT,
        uid: Uid::ROOT,
        gid: Gid::ROOT,
    };
    send_with(channel, bytes, descriptors, Some(init))
}

/// Whether a request was sent in that name: the receiving end has to have asked for it (`SO_PASSCRED`).
pub(super) fn is_proved(sender: Option<u32>) -> bool {
    sender == Some(1)
}

fn send_with(
    channel: &OwnedFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    name: Option<UCred>,
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3), ScmCredentials(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if let Some(name) = name {
        ancillary.push(SendAncillaryMessage::ScmCredentials(name));
    }
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let bytes = [io::IoSlice::new(bytes)];
    sendmsg(channel, &bytes, &mut ancillary, SendFlags::NOSIGNAL).map(drop)
}

/// Receives a message without waiting for one. None if the other side has gone.
pub(super) fn receive(channel: BorrowedFd<'_>) -> Result<Option<Received>, Errno> {
    let mut bytes = [0_u8; LENGTH];
    let mut received = receive_bytes(channel, &mut bytes)?;
    let Some(bytes) = bytes
        .get(..received.length)
        .filter(|bytes| !bytes.is_empty())
    else {
        return Ok(None);
    };
    Ok(Some(Received {
        message: Message::decode(bytes).ok_or(Errno::PROTO)?,
        sender: received.sender,
        descriptor: received.descriptors.pop(),
    }))
}

/// Bytes that came, without what is longer than there was room for.
pub(in crate::kernel) struct Bytes {
    pub(in crate::kernel) length: usize,
    pub(in crate::kernel) sender: Option<u32>,
    pub(in crate::kernel) descriptors: Vec<OwnedFd>,
}

/// The same, of anything.
pub(in crate::kernel) fn receive_bytes(
    channel: BorrowedFd<'_>,
    into: &mut [u8],
) -> Result<Bytes, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3), ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let mut parts = [io::IoSliceMut::new(into)];
    let length = recvmsg(channel, &mut parts, &mut ancillary, flags)?.bytes;
    let (mut sender, mut descriptors) = (None, Vec::new());
    for message in ancillary.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(came) => descriptors.extend(came),
            RecvAncillaryMessage::ScmCredentials(of) => {
                sender = u32::try_from(of.pid.as_raw_nonzero().get()).ok();
            }
            _ => {}
        }
    }
    Ok(Bytes {
        length,
        sender,
        descriptors,
    })
}

/// Waits until something has come, or the other side has gone; at most so long.
pub(in crate::kernel) fn wait(channel: &impl AsFd, at_most: Option<Duration>) -> Result<(), Errno> {
    let limit = at_most.and_then(|limit| Timespec::try_from(limit).ok());
    let mut wanted = [PollFd::new(channel, PollFlags::IN)];
    loop {
        match poll(&mut wanted, limit.as_ref()) {
            Err(Errno::INTR) => {}
            Ok(0) => return Err(Errno::TIMEDOUT),
            ready => return ready.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written() {
        let mut all = vec![
            Message::Confined(4_000_000_000),
            Message::Started,
            Message::Unable(Errno::NOENT),
            Message::Ended(0x8b),
            Message::Ended(-1),
        ];
        all.extend(Step::ALL.map(|step| Message::Failed(step, Errno::PERM)));
        for message in all {
            assert_eq!(Message::decode(&message.encode()), Some(message));
        }
        for other in [&[][..], &[0; 4], &[0; 6], &[99, 0, 0, 0, 0]] {
            assert_eq!(Message::decode(other), None, "{other:?}");
        }
    }
}
