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
//! An agent that hands over ([`successor`](super::successor)) is heard no more from then on, and nobody else would answer for it. So
//! it has everything thrown away before: if it is killed, `socket(AF_PACKET)` of those it serves fails at once (ENOSYS),
//! where it would wait for ever by a listener that is kept and that nobody receives from.
//!
//! systemd drops a listener by itself when the last process under its filter has ended.
//!
//! The protocol: <https://www.freedesktop.org/software/systemd/man/252/sd_pid_notify_with_fds.html>,
//! <https://www.freedesktop.org/software/systemd/man/252/sd_listen_fds.html>
//!
//! [`Broker::adopt`]: super::Broker::adopt

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    io,
    os::fd::{AsFd as _, RawFd},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    manager::{Manager, own, passed},
    notify::Listener,
};

/// What the name of a kept listener begins with; the process that was started under it follows.
const PREFIX: &str = "capwarden-";

/// What is kept for this process, by the process that was started under each listener; none once it has retired: see
/// [`Keeper::retire`].
static KEPT: Mutex<Option<BTreeSet<u32>>> = Mutex::new(Some(BTreeSet::new()));

fn all_kept() -> MutexGuard<'static, Option<BTreeSet<u32>>> {
    // Whole after every statement.
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name(process: u32) -> String {
    format!("{PREFIX}{process}")
}

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
        let mut kept = all_kept();
        let Some(kept) = &mut *kept else {
            return;
        };
        kept.remove(&self.process);
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
        KEEPER
            .get_or_init(|| Manager::of_environment().map(Self))
            .as_ref()
    }

    /// This process is about to be no longer the service's main one, and then not heard by its manager: what it
    /// starts is kept by nobody. What it has kept so far is to be [thrown away](Manager::forget): the names of that.
    #[must_use]
    pub fn retire() -> Vec<String> {
        let kept = all_kept().take();
        kept.into_iter().flatten().map(name).collect()
    }

    /// It stays the main one after all.
    pub fn resume() {
        all_kept().get_or_insert_default();
    }

    /// Keeps the listener of a process that is being started, until what comes back is dropped; none if this process
    /// has retired.
    ///
    /// # Errors
    /// As of [`keep`](Self::keep).
    pub fn store(&'static self, process: u32, listener: &Listener) -> io::Result<Option<Stored>> {
        let mut kept = all_kept();
        let Some(kept) = &mut *kept else {
            return Ok(None);
        };
        self.keep(process, listener)?;
        kept.insert(process);
        Ok(Some(Stored {
            keeper: self,
            process,
        }))
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
        let words = format!("FDSTORE=1\nFDNAME={}\n", name(process));
        self.0.tell(&words, &[listener.as_fd()])
    }

    /// Has the copy thrown away: its processes have ended.
    ///
    /// # Errors
    /// The keeper does not listen.
    pub fn forget(&self, process: u32) -> io::Result<()> {
        self.0.forget(&name(process))
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
            // Whoever passed it keeps it still.
            if let Some(all) = &mut *all_kept() {
                all.insert(process);
            }
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

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::net::UnixDatagram};

    use super::*;

    #[test]
    fn what_is_kept_is_named_when_the_process_retires_and_nothing_more_is_kept_until_it_stays_after_all()
     {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let heard = UnixDatagram::bind(&path).unwrap();
        heard.set_nonblocking(true).unwrap();
        let keeper: &Keeper = Box::leak(Box::new(Keeper::at(path.as_os_str()).unwrap()));
        let store = |process| {
            let listener = Listener::new(File::open("/dev/null").unwrap().into());
            keeper.store(process, &listener).unwrap()
        };
        let told = || {
            let mut buffer = [0; 1024];
            let length = heard.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        };
        let store_is = |words: &str| assert_eq!(told().as_deref(), Some(words));
        let (one, other) = (store(4711), store(4712));
        store_is("FDSTORE=1\nFDNAME=capwarden-4711\n");
        store_is("FDSTORE=1\nFDNAME=capwarden-4712\n");
        drop(other);
        store_is("FDSTOREREMOVE=1\nFDNAME=capwarden-4712\n");

        assert_eq!(Keeper::retire(), ["capwarden-4711"]);
        assert!(Keeper::retire().is_empty());
        assert!(store(4713).is_none());
        drop(one);
        assert_eq!(told(), None, "it is thrown away by who has retired");
        Keeper::resume();
        assert!(store(4714).is_some());
        store_is("FDSTORE=1\nFDNAME=capwarden-4714\n");
        store_is("FDSTOREREMOVE=1\nFDNAME=capwarden-4714\n");
    }
}
