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
//! An agent that has handed over ([`successor`](super::successor)) is heard no more. What was kept stays kept for as long as its
//! processes live; the listener of a server that such an agent starts again is not kept, and if that agent is killed, the
//! server's `socket(AF_PACKET)` fails at once (ENOSYS) instead of waiting.
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
    os::fd::{AsFd as _, RawFd},
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    manager::{Manager, own, passed},
    notify::Listener,
};

/// What the name of a kept listener begins with; the process that was started under it follows.
const PREFIX: &str = "capwarden-";

/// Nothing is told any more: see [`Keeper::retire`].
static RETIRED: AtomicBool = AtomicBool::new(false);

/// Somebody who keeps descriptors for this process.
#[derive(Debug)]
pub struct Keeper(Manager);

/// Has a listener kept for as long as this lives; if the agent is killed, for longer.
#[derive(Debug)]
pub struct Stored {
    keeper: &'static Keeper,
    process: u32,
}

impl Drop for Stored {
    fn drop(&mut self) {
        // A keeper sees by itself that nobody is left under the filter.
        if RETIRED.load(Ordering::Acquire) {
            return;
        }
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
        if RETIRED.load(Ordering::Acquire) {
            return None;
        }
        KEEPER
            .get_or_init(|| Manager::of_environment().map(Self))
            .as_ref()
    }

    /// From now on this process is not the service's main one, and not heard by its manager: what it starts is
    /// kept by nobody.
    pub fn retire() {
        RETIRED.store(true, Ordering::Release);
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
        Manager::at(address).map(Self)
    }

    /// Hands over a copy of the listener of a process that is being started. The copy lasts when this returns:
    /// it is in the keeper's queue.
    ///
    /// # Errors
    /// The keeper does not take it.
    pub fn keep(&self, process: u32, listener: &Listener) -> io::Result<()> {
        let words = format!("FDSTORE=1\nFDNAME={PREFIX}{process}\n");
        self.0.tell(&words, &[listener.as_fd()])
    }

    /// Has the copy thrown away: its processes have ended.
    ///
    /// # Errors
    /// The keeper does not listen.
    pub fn forget(&self, process: u32) -> io::Result<()> {
        let words = format!("FDSTOREREMOVE=1\nFDNAME={PREFIX}{process}\n");
        self.0.tell(&words, &[])
    }
}

/// Takes over the listeners that were passed to this process. Once: after that, there are none.
/// Descriptors of other kinds are left alone, for whoever they are meant for.
#[must_use]
pub fn kept() -> Vec<Kept> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::AcqRel) {
        return Vec::new();
    }
    passed()
        .into_iter()
        .filter_map(|(descriptor, name)| {
            let process = name.strip_prefix(PREFIX)?.parse().ok()?;
            let listener = take(descriptor)?;
            Some(Kept { process, listener })
        })
        .collect()
}

/// Owns a descriptor that was passed, if it is a listener.
fn take(descriptor: RawFd) -> Option<Listener> {
    if !Listener::is_at(descriptor) {
        return None;
    }
    // SAFETY: it was passed for this process to own, and is taken once.
    let owned = unsafe { own(descriptor) };
    owned.map(Listener::new)
}
