//! The service manager: what it is told of this process, and which sockets it has passed.
//!
//! systemd's protocol is a datagram to the socket that `NOTIFY_SOCKET` names, and descriptors from 3 on
//! that `LISTEN_FDS` counts and `LISTEN_FDNAMES` names. Whoever speaks it can be the manager; without
//! one, nothing is told.
//!
//! <https://www.freedesktop.org/software/systemd/man/252/sd_notify.html>,
//! <https://www.freedesktop.org/software/systemd/man/252/sd_listen_fds.html>,
//! <https://www.freedesktop.org/software/systemd/man/252/sd_watchdog_enabled.html>

use std::{
    env,
    ffi::OsStr,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::{ffi::OsStrExt as _, net::UnixListener},
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::sleep,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{FdFlags, fcntl_getfd, fcntl_setfd},
    net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
        SocketFlags, SocketType, connect, sendmsg, socket_with, sockopt::socket_acceptconn,
    },
    pipe::{PipeFlags, pipe_with},
    time::{ClockId, clock_gettime},
};

use crate::backlog::{Backlog, Hearer};

/// The first descriptor that a service manager passes.
const FIRST: RawFd = 3;
/// More are not looked at.
const MOST: RawFd = 4_096;
/// Characters of a status at most.
const LONGEST_STATUS: usize = 200;
/// Bytes of what waits until the manager has read what it was told before: dozens of reloads.
const BACKLOG: usize = 16 << 10;
/// How long it is waited at once for a manager that does not read.
const PATIENCE: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};
/// How long it is waited where the kernel has room, and does not give it.
const AGAIN: Duration = Duration::from_millis(10);

/// Whoever started this process as a service. Nobody waits for it: what it does not read at once it is told by a thread, in
/// the same order.
#[derive(Debug)]
pub struct Manager(Arc<Backlog<Socket>>);

impl Manager {
    /// The one that the environment names; none if there is none. One that cannot be told anything is
    /// told of in the log.
    #[must_use]
    pub fn of_environment() -> Option<Self> {
        let address = env::var_os("NOTIFY_SOCKET")?;
        Self::at(&address)
            .inspect_err(|error| {
                tracing::warn!(%error, "the service manager at NOTIFY_SOCKET cannot be told anything");
            })
            .ok()
    }

    /// The one at the address that `NOTIFY_SOCKET` holds: a path, or `@` and the name of an abstract
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
        Ok(Self(Backlog::new(Socket(socket), BACKLOG)))
    }

    /// Clients are served from now on, or again.
    pub fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={}\n", line(status)));
    }

    /// The configuration is being loaded again, until [`ready`](Self::ready) is said.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}\n"));
    }

    /// The process is about to end.
    pub fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=Ending the sessions\n");
    }

    /// Another process is the main one from now on, and serves: who watches over the service, and hears
    /// only its main process (`NotifyAccess=main`), is to hear that one. This one is not heard any more.
    ///
    /// # Errors
    /// The manager does not take it, at this moment or at all.
    pub fn replaced_by(&self, process: u32, status: &str) -> io::Result<()> {
        let status = line(status);
        // Its watchdog waits anew: that process was not heard yet.
        let words = format!("MAINPID={process}\nREADY=1\nSTATUS={status}\nWATCHDOG=1\n");
        self.tell(&words, &[])
    }

    /// Throws away the descriptors that it keeps under a name.
    ///
    /// # Errors
    /// The manager does not take it, at this moment or at all.
    pub fn forget(&self, name: &str) -> io::Result<()> {
        self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}\n"), &[])
    }

    /// Waits until the manager has read what it was told, at most so long (`BARRIER=1`, systemd 246). Blocks.
    ///
    /// # Errors
    /// It has not, or cannot be told so.
    pub fn heard(&self, at_most: Duration) -> io::Result<()> {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        self.tell("BARRIER=1", &[theirs.as_fd()])?;
        drop(theirs);
        // It closes its copy when it has come so far.
        let limit = Timespec::try_from(at_most).map_err(io::Error::other)?;
        let mut wanted = [PollFd::new(&ours, PollFlags::IN)];
        match poll(&mut wanted, Some(&limit))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }

    /// What is shown of the service. False if a manager that does not read would be told later, when it may be something
    /// else that is to be shown.
    #[must_use]
    pub fn status(&self, status: &str) -> bool {
        let words = format!("STATUS={}\n", line(status));
        match self.tell(&words, &[]) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                not_told(&words, &error);
                true
            }
        }
    }

    /// The process is well: the watchdog waits anew. A manager that does not read is not told later, when that may not be so
    /// any more.
    pub fn alive(&self) {
        if let Err(error) = self.tell("WATCHDOG=1\n", &[]) {
            not_told("WATCHDOG=1", &error);
        }
    }

    fn say(&self, words: &str) {
        self.0.tell(words.to_owned());
    }

    /// Tells something, with copies of descriptors, at once or not at all.
    pub(super) fn tell(&self, words: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if self.0.is_behind() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.hearer().tell(words, descriptors)
    }
}

/// Where the manager listens.
#[derive(Debug)]
struct Socket(OwnedFd);

impl Socket {
    fn tell(&self, words: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let words = [io::IoSlice::new(words.as_bytes())];
        // A manager that does not read must not hold up who starts a server.
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        sendmsg(&self.0, &words, &mut ancillary, flags)?;
        Ok(())
    }
}

impl Hearer for Socket {
    type Message = String;

    fn size(words: &String) -> usize {
        words.len()
    }

    fn at_once(&self, words: &String) -> bool {
        match self.tell(words, &[]) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                // Nothing depends on whether it was heard: a manager that is not there ends us by itself.
                not_told(words, &error);
                true
            }
        }
    }

    fn in_time(&self, words: &String) -> bool {
        // There is room once the other side of a connected socket has read (`unix_dgram_poll`, Linux 4.4):
        // <https://github.com/torvalds/linux/blob/v4.4/net/unix/af_unix.c>
        let mut wanted = [PollFd::new(&self.0, PollFlags::OUT)];
        let room = poll(&mut wanted, Some(&PATIENCE));
        let told = self.at_once(words);
        if !told && room != Ok(0) {
            sleep(AGAIN);
        }
        told
    }

    fn lost(&self, messages: u64) -> Option<String> {
        tracing::error!(
            messages,
            "the service manager does not read what it is told, and may show another state of this service: see \
             `systemctl status`, and `systemctl daemon-reexec`"
        );
        None
    }
}

fn not_told(words: &str, error: &io::Error) {
    tracing::debug!(%error, words, "the service manager was not told");
}

/// A status is one line.
fn line(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(LONGEST_STATUS).map(plain).collect()
}

/// How long the manager waits for [`Manager::alive`] before it ends this process; none if it does not.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
    limit(number("WATCHDOG_USEC"), number("WATCHDOG_PID"))
}

/// From `WATCHDOG_USEC` and `WATCHDOG_PID`: what is in the environment may be meant for a parent.
fn limit(microseconds: Option<u64>, process: Option<u64>) -> Option<Duration> {
    let ours = process.is_none_or(|process| process == u64::from(std::process::id()));
    let limit = Duration::from_micros(microseconds.filter(|limit| *limit > 0)?);
    ours.then_some(limit)
}

/// The socket of this name that the manager listens at for us, once: after that there is none.
#[must_use]
pub fn passed_listener(name: &str) -> Option<UnixListener> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::AcqRel) {
        return None;
    }
    let (descriptor, _) = passed().into_iter().find(|(_, its)| its == name)?;
    // Whoever says that it was passed may be wrong; nothing else in this process listens yet.
    let link = std::fs::read_link(format!("/proc/self/fd/{descriptor}")).ok()?;
    if !link.as_os_str().as_bytes().starts_with(b"socket:") {
        return None;
    }
    // SAFETY: it is open, as was just seen, and not closed while it is looked at.
    let looked_at = unsafe { BorrowedFd::borrow_raw(descriptor) };
    socket_acceptconn(looked_at)
        .ok()
        .filter(|listens| *listens)?;
    // SAFETY: it was passed for this process to own, under a name that nobody else looks for, and is
    // taken once.
    let owned = unsafe { own(descriptor) }?;
    Some(UnixListener::from(owned))
}

/// The descriptors that were passed to this process, with their names.
pub(super) fn passed() -> Vec<(RawFd, String)> {
    let number = |name: &str| env::var(name).ok()?.parse().ok();
    // What a parent was passed is in the environment of its children too.
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").and_then(|count| RawFd::try_from(count).ok());
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    (FIRST..FIRST.saturating_add(count.unwrap_or(0).min(MOST)))
        .zip(names.split(':').map(str::to_owned))
        .collect()
}

/// Owns a descriptor that was passed, if it is open. No child gets it.
///
/// # Safety
///
/// It was passed for this process to own, and nobody else has taken it or will.
pub(super) unsafe fn own(descriptor: RawFd) -> Option<OwnedFd> {
    std::fs::read_link(format!("/proc/self/fd/{descriptor}")).ok()?;
    // SAFETY: it is open, as was just seen, and the caller says that it is ours alone.
    let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let flags = fcntl_getfd(&owned).ok()?;
    fcntl_setfd(&owned, flags | FdFlags::CLOEXEC).ok()?;
    Some(owned)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn manager_is_told_in_its_protocol() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let heard = UnixDatagram::bind(&path).unwrap();
        let manager = Manager::at(path.as_os_str()).unwrap();
        let next = || {
            let mut buffer = [0; 1024];
            let length = heard.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        manager.ready("2 servers\nREADY=0");
        assert_eq!(next(), "READY=1\nSTATUS=2 servers READY=0\n");
        manager.reloading();
        let told = next();
        let (head, time) = told.split_once("MONOTONIC_USEC=").unwrap();
        assert_eq!(head, "RELOADING=1\n");
        assert!(time.trim_end().parse::<u64>().unwrap() > 0);
        manager.alive();
        assert_eq!(next(), "WATCHDOG=1\n");
        manager.replaced_by(4711, "2 servers").unwrap();
        assert_eq!(
            next(),
            "MAINPID=4711\nREADY=1\nSTATUS=2 servers\nWATCHDOG=1\n"
        );
        // Nobody has read that far.
        let late = manager.heard(Duration::from_millis(1)).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        assert_eq!(next(), "BARRIER=1");
        manager.stopping();
        assert!(next().starts_with("STOPPING=1\n"));
        assert!(Manager::at(OsStr::new("relative")).is_err());
    }

    #[test]
    fn manager_that_does_not_read_holds_nobody_up_and_is_told_all_but_that_all_was_well() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let heard = UnixDatagram::bind(&path).unwrap();
        heard
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let manager = Manager::at(path.as_os_str()).unwrap();
        let other = UnixDatagram::unbound().unwrap();
        other.set_nonblocking(true).unwrap();
        let mut unread = 0;
        while other.send_to(b"other", &path).is_ok() {
            unread += 1;
            assert!(unread < 100_000, "it is never full");
        }
        manager.reloading();
        manager.alive();
        manager.ready("1 server");
        assert!(!manager.status("2 servers"));
        for number in 0..1_000 {
            manager.ready(&format!("{number} of as many as there is no room for"));
        }
        let late = manager.replaced_by(4711, "1 server").unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::WouldBlock);
        let next = || {
            let mut buffer = [0; 1024];
            let length = heard.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        for _ in 0..unread {
            assert_eq!(next(), "other");
        }
        assert!(next().starts_with("RELOADING=1\n"));
        assert_eq!(next(), "READY=1\nSTATUS=1 server\n");
        // Of the rest, what there is no room for is lost.
        manager.stopping();
        let (mut kept, mut told) = (0, next());
        while told.starts_with(&format!("READY=1\nSTATUS={kept} of ")) && kept < 1_000 {
            (kept, told) = (kept + 1, next());
        }
        assert!((10..1_000).contains(&kept), "{kept}");
        assert!(told.starts_with("STOPPING=1\n"), "{told}");
        manager.0.settled(Duration::from_secs(10));
        assert!(manager.status("2 servers"));
        assert_eq!(next(), "STATUS=2 servers\n");
        manager.replaced_by(4711, "1 server").unwrap();
        assert!(next().starts_with("MAINPID=4711\n"));
    }

    #[test]
    fn watchdog_is_for_whom_it_names() {
        let own = u64::from(std::process::id());
        let second = Some(Duration::from_secs(1));
        assert_eq!(limit(Some(1_000_000), Some(own)), second);
        assert_eq!(limit(Some(1_000_000), None), second);
        assert_eq!(limit(Some(1_000_000), Some(own + 1)), None);
        assert_eq!(limit(Some(0), None), None);
        assert_eq!(limit(None, None), None);
    }
}
