//! The broker: makes capture sockets for governed processes, which cannot make any themselves.
//!
//! Every rule of this loop was paid for by somebody:
//! - no `socket` call is ever continued: what the broker does not understand is refused (`bind` and
//!   `setsockopt` are, with the reasons written there);
//! - the loop only receives, decides and answers; nothing in it waits for anything (a process's
//!   own filter goes through the verifier, which may take seconds, and a process's memory comes when
//!   whoever provides it likes: what takes either is done [`aside`], and the process waits);
//! - what `/proc` says about a caller counts only while its call still waits, so that is asked
//!   again after the last read;
//! - a caller in another network namespace is refused: the agent's sockets are born in its own.
//!
//! [`aside`]: super::aside

mod bind;
mod setsockopt;

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    os::unix::fs::MetadataExt,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

use super::{
    aside::Aside,
    keeper::Stored,
    notify::{Listener, Notification},
    packet_membership::PacketMembership,
    process::Process,
    pulse::Pulse,
    socket::{ArmedSocket, SocketCall},
    sys,
};
use crate::filter::Insn;

/// Who called `socket(AF_PACKET)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The thread.
    pub thread: u32,
    /// Its process.
    pub process: u32,
    /// The name that the process gives itself: for people, never for decisions.
    pub name: String,
}

/// Why a capture socket was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the caller sees.
    pub errno: Errno,
    /// What the operator sees.
    pub reason: String,
}

/// Why a process's own filter was not put on, or not taken off, or its receive ring or a membership not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// As the kernel would have rejected it: no news.
    Kernel(Errno),
    /// The agent would not.
    Refused(Refusal),
}

/// Decides who gets a capture socket. Called on the broker's thread, where it must not wait, but
/// for [`may_bind`](Self::may_bind), [`attach`](Self::attach), [`ring`](Self::ring) and
/// [`add_membership`](Self::add_membership).
pub trait Admit: Send + Sync + 'static {
    /// Makes the socket of the caller's session, or says why not.
    fn admit(&self, caller: &Caller, call: SocketCall) -> Result<ArmedSocket, Refusal>;
    /// Whether the caller may bind a capture socket to an interface (0: to all).
    fn may_bind(&self, caller: &Caller, index: u32) -> Result<(), Refusal>;
    /// The session that this socket was armed for, if that is not yet forgotten.
    fn armed_for(&self, inode: u64) -> Option<u32>;
    /// Takes the caller's own filter off an armed socket.
    fn detach(&self, inode: u64) -> Result<(), Rejection>;
    /// Puts the caller's own filter on an armed socket. Called on a thread where it may take long,
    /// for one caller of a session at a time. `waits` tells whether the caller's call still waits:
    /// one that was interrupted may have been followed by another, which must not be undone.
    fn attach(
        &self,
        caller: &Caller,
        inode: u64,
        filter: Vec<Insn>,
        waits: &dyn Fn() -> bool,
    ) -> Result<(), Rejection>;
    /// Gives the receive ring of an armed socket so much memory, in bytes, in place of what it had:
    /// `set` has the kernel do it. Called where and as [`attach`](Self::attach) is.
    fn ring(
        &self,
        inode: u64,
        bytes: u64,
        set: &dyn Fn() -> Result<(), Errno>,
    ) -> Result<(), Rejection>;
    /// Has an interface receive for an armed socket what that wants: `add` has the kernel do it. Called where and as
    /// [`attach`](Self::attach) is.
    fn add_membership(
        &self,
        inode: u64,
        wanted: &PacketMembership,
        add: &dyn Fn() -> Result<(), Errno>,
    ) -> Result<(), Rejection>;
    /// The caller has the socket.
    fn armed(&self, caller: Caller, call: SocketCall, inode: u64);
    /// The socket that was made for a caller could not be given to it, and is gone.
    fn withdrawn(&self, inode: u64);
    /// The caller was refused.
    fn refused(&self, caller: Option<Caller>, refusal: Refusal);
}

/// Stops the broker when it is dropped; its governed processes then get no more capture sockets.
#[derive(Debug)]
pub struct Broker {
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    /// Forgotten once it answers no more.
    stored: Option<Stored>,
}

impl Broker {
    /// Starts answering.
    pub fn start(listener: Listener, admit: impl Admit) -> std::io::Result<Self> {
        Self::run(listener, admit, false)
    }

    /// Goes on answering for an agent that has died: its listener was kept (see `keeper`). What that one
    /// left without an answer is refused when the next call comes, for only then can it be named.
    pub fn adopt(listener: Listener, admit: impl Admit) -> std::io::Result<Self> {
        Self::run(listener, admit, true)
    }

    fn run(listener: Listener, admit: impl Admit, mut abandoned: bool) -> std::io::Result<Self> {
        let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let namespace = fs::metadata("/proc/self/ns/net")?.ino();
        let aside = Aside::start()?;
        let (listener, admit) = (Arc::new(listener), Arc::new(admit));
        let thread = thread::Builder::new()
            .name("broker".into())
            .spawn(move || {
                sys::block_signals(); // see `Listener::hand_over`
                let pulse = Pulse::new();
                while wait(&listener, &stopped) {
                    pulse.begin();
                    let Some(call) = receive(&listener) else {
                        pulse.rest();
                        continue;
                    };
                    if std::mem::take(&mut abandoned) {
                        refuse_abandoned(&listener, &*admit, &call);
                    }
                    answer(&listener, &admit, namespace, &aside, call);
                    pulse.rest();
                }
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
            stored: None,
        })
    }

    /// Whether nobody is left who could ask.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// The same, whose listener somebody keeps for as long.
    #[must_use]
    pub fn with_stored(self, stored: Option<Stored>) -> Self {
        // A struct that is dropped with care cannot be taken apart.
        let mut broker = self;
        broker.stored = stored;
        broker
    }
}

/// How long a thread may take to end: one that reads a caller's memory is as slow as whoever provides that.
pub(super) const LEAVE: Duration = Duration::from_secs(3);

/// Waits for a thread's end, but not for ever: it goes with the process at the latest.
pub(super) fn join_within(thread: JoinHandle<()>, limit: Duration) {
    let start = Instant::now();
    while !thread.is_finished() {
        if start.elapsed() > limit {
            tracing::warn!(
                "a thread still waits for a governed process's memory, and is left to it"
            );
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    let _ = thread.join();
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.stop.take()); // the loop sees the pipe hang up
        if let Some(thread) = self.thread.take() {
            join_within(thread, LEAVE);
        }
    }
}

/// True when a call waits; false when the broker is to stop, or nobody governed is left.
fn wait(listener: &Listener, stopped: &OwnedFd) -> bool {
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(stopped.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "the broker cannot wait for calls; it stops");
                return false;
            }
            Ok(_) => {
                let [calls, stop] = fds.map(|fd| fd.revents());
                if !stop.is_empty() {
                    return false;
                }
                if calls.contains(PollFlags::IN) {
                    return true;
                }
                if !calls.is_empty() {
                    return false;
                }
            }
        }
    }
}

fn receive(listener: &Listener) -> Option<Notification> {
    match listener.receive() {
        Ok(call) => Some(call),
        // The caller died, or the kernel woke us for nothing.
        Err(Errno::NOENT | Errno::AGAIN) => None,
        Err(error) => {
            tracing::warn!(%error, "a call could not be received");
            None
        }
    }
}

/// Refuses what an agent has received that died before it answered.
fn refuse_abandoned(listener: &Listener, admit: &impl Admit, call: &Notification) {
    let refusal = Refusal {
        errno: Errno::PERM,
        reason: "the agent that it asked has died".to_owned(),
    };
    for _ in 0..listener.fail_abandoned(call, refusal.errno) {
        admit.refused(None, refusal.clone());
    }
}

fn answer(
    listener: &Arc<Listener>,
    admit: &Arc<impl Admit>,
    namespace: u64,
    aside: &Aside,
    call: Notification,
) {
    match libc::c_long::from(call.number) {
        libc::SYS_socket => answer_socket(listener, &**admit, namespace, &call, identify(&call)),
        libc::SYS_bind => bind::answer(listener, admit, call, aside),
        libc::SYS_setsockopt => setsockopt::answer(listener, admit, call, identify(&call), aside),
        _ => {
            let _ = listener.fail(&call, Errno::PERM);
        }
    }
}

fn answer_socket(
    listener: &Listener,
    admit: &impl Admit,
    namespace: u64,
    call: &Notification,
    caller: Option<Caller>,
) {
    let answer = decide(listener, admit, namespace, call, caller.as_ref());
    let sent = match &answer {
        Ok((wanted, socket)) => listener.hand_over(call, socket, wanted.close_on_exec),
        Err(refusal) => listener.fail(call, refusal.errno),
    };
    if let (Ok((_, socket)), Err(_)) = (&answer, &sent) {
        admit.withdrawn(socket.inode());
    }
    match (answer, caller, sent) {
        (Ok((wanted, socket)), Some(caller), Ok(())) => {
            admit.armed(caller, wanted, socket.inode());
        }
        (Err(refusal), caller, Ok(())) => admit.refused(caller, refusal),
        (_, _, Err(Errno::NOENT | Errno::INPROGRESS)) => {} // the caller died: nothing was given
        (_, caller, Err(errno)) => {
            // A full descriptor table, say. The call must not stay unanswered.
            let _ = listener.fail(call, errno);
            let reason = format!("the socket could not be handed over: {errno}");
            admit.refused(caller, Refusal { errno, reason });
        }
        (Ok(_), None, Ok(())) => {} // `decide` refuses callers that it cannot identify
    }
}

fn decide(
    listener: &Listener,
    admit: &impl Admit,
    namespace: u64,
    call: &Notification,
    caller: Option<&Caller>,
) -> Result<(SocketCall, ArmedSocket), Refusal> {
    let refuse = |errno, reason: &str| Refusal {
        errno,
        reason: reason.to_owned(),
    };
    if call.number_argument(0) != libc::AF_PACKET.cast_unsigned() {
        return Err(refuse(Errno::PERM, "not a call that the broker answers"));
    }
    let wanted = SocketCall::parse(call.number_argument(1), call.number_argument(2))
        .ok_or_else(|| refuse(Errno::INVAL, "not a kind of capture socket"))?;
    let caller = caller.ok_or_else(|| refuse(Errno::PERM, "the caller could not be identified"))?;
    let theirs = fs::metadata(format!("/proc/{}/ns/net", call.thread)).map(|meta| meta.ino());
    if theirs.ok() != Some(namespace) {
        return Err(refuse(
            Errno::PERM,
            "the caller is in another network namespace than the grant",
        ));
    }
    if !listener.is_waiting(call) {
        return Err(refuse(Errno::PERM, "the caller is gone"));
    }
    admit.admit(caller, wanted).map(|socket| (wanted, socket))
}

/// Reads who waits. Only true if the call still waits afterwards.
fn identify(call: &Notification) -> Option<Caller> {
    let read = |file: &str| fs::read(format!("/proc/{}/{file}", call.thread)).ok();
    // Nearly every caller is its process's first thread, whose number is the process's. Only such
    // a thread can be opened as a process; asking is many times faster than reading its status.
    let process = match Process::open(call.thread) {
        Some(_) => call.thread,
        None => {
            let status = read("status")?;
            let status = String::from_utf8_lossy(&status);
            let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
            line?.trim().parse().ok()?
        }
    };
    let name = read("comm")?;
    Some(Caller {
        thread: call.thread,
        process,
        name: String::from_utf8_lossy(&name).trim_end().to_owned(), // it can be any bytes
    })
}

#[cfg(test)]
mod tests;
