//! A listener outlives its agent where somebody keeps a copy of it: the service manager, in its store of file
//! descriptors (`FileDescriptorStoreMax=`, systemd 219), or whoever speaks its protocol.
//!
//! ```text
//! agent A ── FDSTORE=1, FDNAME=capwarden-<pid> ──▶ keeper         (NOTIFY_SOCKET)
//!    ✗ dies; a call that A would have answered waits
//! agent B ◀── descriptors from 3 on ──────────── keeper          (LISTEN_FDS, LISTEN_FDNAMES, LISTEN_PID)
//! ```
//! **Kept** is the listener: `socket(AF_PACKET)` of a governed process waits for the next agent instead of failing
//! with ENOSYS, and its filter stays the one with a listener, so that nobody governed can install one of
//! his own. **Not kept** are sessions, and who belongs to which: the next agent refuses what it has not
//! granted itself. Capture sockets that are armed already keep their guard without any agent. Calls that
//! A had received and not answered are refused by B as soon as it receives one ([`Broker::adopt`]).
//!
//! systemd drops a listener by itself when the last process under its filter has ended.
//!
//! The protocol: <https://www.freedesktop.org/software/systemd/man/252/sd_pid_notify_with_fds.html>,
//! <https://www.freedesktop.org/software/systemd/man/252/sd_listen_fds.html>
//!
//! [`Broker::adopt`]: super::Broker::adopt

use std::{
    ffi::OsStr,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd},
    net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
        SocketFlags, SocketType, connect, sendmsg, socket_with,
    },
};

use super::notify::Listener;

/// The first descriptor that a service manager passes.
const FIRST: RawFd = 3;
/// More are not looked at.
const MOST: RawFd = 4_096;
/// What the name of a kept listener begins with; the process that was started under it follows.
const PREFIX: &str = "capwarden-";

/// Somebody who keeps descriptors for this process.
#[derive(Debug)]
pub struct Keeper {
    socket: OwnedFd,
}

/// Has a listener kept for as long as this lives; if the agent is killed, for longer.
#[derive(Debug)]
pub struct Stored {
    keeper: &'static Keeper,
    process: u32,
}

impl Drop for Stored {
    fn drop(&mut self) {
        // A keeper sees by itself that nobody is left under the filter.
        let _ = self.keeper.forget(self.process);
    }
}

/// A listener that was kept.
#[derive(Debug)]
pub struct Kept {
    /// The process that was started under its filter; it may have ended since, and its children not.
    pub process: u32,
    /// The listener itself.
    pub listener: Listener,
}

impl Keeper {
    /// The one whom the environment names; none if there is none.
    pub fn of_environment() -> Option<&'static Self> {
        static KEEPER: OnceLock<Option<Keeper>> = OnceLock::new();
        let find = || {
            let address = std::env::var_os("NOTIFY_SOCKET")?;
            Self::at(&address)
                .inspect_err(|error| tracing::warn!(%error, "nobody at NOTIFY_SOCKET"))
                .ok()
        };
        KEEPER.get_or_init(find).as_ref()
    }

    /// Keeps the listener of a process that is being started, until what comes back is dropped.
    ///
    /// # Errors
    /// As of [`keep`](Self::keep).
    pub fn store(&'static self, process: u32, listener: &Listener) -> io::Result<Stored> {
        self.keep(process, listener)?;
        Ok(Stored {
            keeper: self,
            process,
        })
    }

    /// The keeper at the address that `NOTIFY_SOCKET` holds: a path, or `@` and the name of an abstract
    /// socket.
    ///
    /// # Errors
    /// Nobody is there, or the address is of another kind.
    pub fn at(address: &OsStr) -> io::Result<Self> {
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
            [b'/', ..] => SocketAddrUnix::new(address.as_bytes())?,
            _ => {
                return Err(io::Error::other(
                    "it is neither a path nor an abstract socket",
                ));
            }
        };
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        connect(&socket, &address)?;
        Ok(Self { socket })
    }

    /// Hands over a copy of the listener of a process that is being started. The copy lasts when this returns:
    /// it is in the keeper's queue.
    ///
    /// # Errors
    /// The keeper does not take it.
    pub fn keep(&self, process: u32, listener: &Listener) -> io::Result<()> {
        let words = format!("FDSTORE=1\nFDNAME={PREFIX}{process}\n");
        self.tell(&words, &[listener.as_fd()])
    }

    /// Has the copy thrown away: its processes have ended.
    ///
    /// # Errors
    /// The keeper does not listen.
    pub fn forget(&self, process: u32) -> io::Result<()> {
        self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={PREFIX}{process}\n"), &[])
    }

    fn tell(&self, words: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let words = [io::IoSlice::new(words.as_bytes())];
        // A keeper that does not read must not hold up who starts a server.
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        sendmsg(&self.socket, &words, &mut ancillary, flags)?;
        Ok(())
    }
}

/// Takes over the listeners that were passed to this process. Once: after that, there are none.
/// Descriptors of other kinds are left alone, for whoever they are meant for.
#[must_use]
pub fn kept() -> Vec<Kept> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let number = |name: &str| std::env::var(name).ok()?.parse().ok();
    // What a parent was passed is in the environment of its children too.
    if number("LISTEN_PID") != Some(std::process::id()) || TAKEN.swap(true, Ordering::AcqRel) {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").and_then(|count| RawFd::try_from(count).ok());
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    (FIRST..FIRST.saturating_add(count.unwrap_or(0).min(MOST)))
        .zip(names.split(':'))
        .filter_map(|(descriptor, name)| {
            let process = name.strip_prefix(PREFIX)?.parse().ok()?;
            let listener = take(descriptor)?;
            Some(Kept { process, listener })
        })
        .collect()
}

/// Owns a descriptor that was passed, if it is a listener. No child gets it.
fn take(descriptor: RawFd) -> Option<Listener> {
    let is_listener = |name: &std::path::Path| name.as_os_str() == "anon_inode:seccomp notify";
    let link = std::fs::read_link(format!("/proc/self/fd/{descriptor}")).ok()?;
    if !is_listener(&link) {
        return None;
    }
    // SAFETY: it is open, as was just seen; it was passed for this process to own, in which nobody
    // else opens listeners of that number before they are taken, which happens once.
    let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let closing = |flags: FdFlags| fcntl_setfd(&owned, flags | FdFlags::CLOEXEC);
    let closes: Result<(), Errno> = fcntl_getfd(&owned).and_then(closing);
    closes.ok().map(|()| Listener::new(owned))
}
