//! One session from its first breath to its last: a task that waits for the first of its ends and
//! then winds the session down.
//!
//! ```text
//! open ──first socket──▶ live ──▶ ended: the guard delivers nothing more
//!   │                               │  what was delivered is read by the capturing process
//!   └──────nobody came─────────────▶│  the process is asked to end, so that its file is whole
//!                                   ▼  and is killed if it does not
//!                                 closed: counts are final, the event is sent
//! ```

use std::{future::pending, sync::Arc, time::Duration};

use capwarden_abi::ended;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};

use super::{EndReason, Grant, SessionEnd, SessionEvent, SessionId, Sessions};
use crate::kernel::{
    BootTime, Cgroup, EndEvents, Holder, Instances, Process, Readable, has_ended, holders,
};

/// How long after the reply a capture may still come: servers start it detached (0.85 s measured).
const LATE_START: Duration = Duration::from_secs(2);
/// A session that nobody used ends this long after the reply.
const UNUSED: Duration = Duration::from_secs(15);
/// libpcap's ring hands a block over when it is full or this old (tcpdump: 1 s). Ending a process
/// earlier would lose packets that it was granted.
const RING_BLOCK: Duration = Duration::from_millis(1_100);
/// How long a process gets to read what it was given.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// How long a process gets to write its file and end.
const GRACE: Duration = Duration::from_secs(3);
/// How long a killed process may take to be gone.
const LEAVE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(20);
/// Whoever has just got a socket goes on first: loading a program keeps a processor for a
/// millisecond, which is often the one that the process was woken on.
const BREATH: Duration = Duration::from_millis(4);

/// What others tell a session.
#[derive(Clone, Copy, Debug)]
pub(super) enum Signal {
    /// The call that opened it was answered.
    Replied,
    /// This process got a capture socket.
    Armed(u32),
    /// The server was told to stop the capture.
    Stopping,
    /// End.
    End(EndReason),
}

pub(super) struct Lifecycle {
    sessions: Sessions,
    session: SessionId,
    opened: BootTime,
    deadline: Option<BootTime>,
    inbox: mpsc::UnboundedReceiver<Signal>,
    /// While it is held, no other capture is started, and what the server forks is this session's.
    starting: Option<OwnedSemaphorePermit>,
    replied: Option<Instant>,
    stopping: bool,
    sockets: u32,
    /// Waits for each process that got a socket.
    owners: JoinSet<()>,
    /// All processes that ever got one: where there is no cgroup, these are looked at.
    seen: Vec<u32>,
    /// What the next sockets are armed with.
    instances: Arc<Instances>,
    /// Tells of the filters that processes attach themselves.
    comparing: JoinHandle<()>,
}

impl Lifecycle {
    pub(super) fn new(
        sessions: Sessions,
        session: SessionId,
        grant: &Arc<Grant>,
        inbox: mpsc::UnboundedReceiver<Signal>,
        starting: OwnedSemaphorePermit,
        instances: Arc<Instances>,
        comparing: JoinHandle<()>,
    ) -> Self {
        Self {
            sessions,
            session,
            opened: grant.made,
            deadline: grant.deadline,
            inbox,
            starting: Some(starting),
            replied: None,
            stopping: false,
            sockets: 0,
            owners: JoinSet::new(),
            seen: Vec::new(),
            instances,
            comparing,
        }
    }

    pub(super) async fn run(mut self, ends: EndEvents) {
        self.refill();
        let reason = self.until_end(ends).await;
        let shared = Arc::clone(&self.sessions.0);
        shared.revoke(self.session);
        self.close_window();
        self.wind_down().await;
        let (counts, protocols) = shared.counts(self.session);
        shared.remove(self.session);
        // A cap may be reached before the socket that reached it is heard of.
        while let Ok(signal) = self.inbox.try_recv() {
            self.sockets += u32::from(matches!(signal, Signal::Armed(_)));
        }
        // What was attached is told before the end is.
        if let Err(error) = (&mut self.comparing).await {
            tracing::error!(session = %self.session, %error, "own filters were not told of");
        }
        shared.events.send(SessionEvent::Ended(SessionEnd {
            session: self.session,
            reason,
            packets: counts.packets,
            bytes: counts.bytes,
            sockets: self.sockets,
            milliseconds: u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX),
            protocols,
            proxy: None,
            program: None,
        }));
    }

    async fn until_end(&mut self, ends: EndEvents) -> EndReason {
        let mut ends = match Readable::new(ends) {
            Ok(ends) => ends,
            Err(error) => {
                tracing::error!(session = %self.session, %error, "the guard cannot be heard");
                return EndReason::Revoked;
            }
        };
        let shared = Arc::clone(&self.sessions.0);
        loop {
            // Before the look at who waits, so that nobody comes between unseen.
            let pressed = shared.pressed.notified();
            // A process that has just got its socket counts before one that has just left.
            while let Ok(signal) = self.inbox.try_recv() {
                if let Some(reason) = self.hear(signal) {
                    return reason;
                }
            }
            self.find_heirs().await;
            if let Some(reason) = self.idle_end() {
                return reason;
            }
            self.maybe_close_window();
            tokio::select! {
                ready = ends.ready() => {
                    if let Ok(ends) = ready {
                        ends.drain();
                    }
                    if let Some(reason) = self.guards_reason() {
                        return reason;
                    }
                }
                () = until(self.deadline) => return EndReason::Deadline,
                () = at(self.next_look()) => {}
                () = pressed, if self.starting.is_some() => {}
                Some(_) = self.owners.join_next(), if !self.owners.is_empty() => {}
                signal = self.inbox.recv() => {
                    let signal = signal.unwrap_or(Signal::End(EndReason::Revoked));
                    if let Some(reason) = self.hear(signal) {
                        return reason;
                    }
                }
            }
        }
    }

    fn hear(&mut self, signal: Signal) -> Option<EndReason> {
        match signal {
            Signal::Replied => self.replied = Some(Instant::now()),
            Signal::Armed(process) => self.watch(process),
            Signal::Stopping => self.stopping = true,
            // A cap that was reached meanwhile is the true reason.
            Signal::End(reason) => return Some(self.guards_reason().unwrap_or(reason)),
        }
        None
    }

    /// A tool may open its socket in one process and capture in another.
    async fn find_heirs(&mut self) {
        if self.sockets > 0 && self.owners.is_empty() && self.may_close_window() {
            for heir in self.holders().await {
                self.wait_for(heir.process);
            }
        }
    }

    fn wait_for(&mut self, process: Process) {
        self.owners.spawn(async move {
            if let Ok(mut exit) = Readable::new(process) {
                let _ = exit.ready().await;
            }
        });
    }

    /// The next socket is to find its program ready.
    fn refill(&self) {
        let instances = Arc::clone(&self.instances);
        tokio::spawn(async move {
            sleep(BREATH).await;
            tokio::task::spawn_blocking(move || instances.refill()).await
        });
    }

    fn watch(&mut self, process: u32) {
        self.sockets += 1;
        self.refill();
        if !self.seen.contains(&process) {
            self.seen.push(process);
        }
        if let Some(process) = Process::open(process) {
            self.wait_for(process);
        }
    }

    fn guards_reason(&self) -> Option<EndReason> {
        let (state, _) = self.sessions.0.counts(self.session);
        has_ended(&state).then_some(match state.ended {
            ended::PACKETS => EndReason::PacketCap,
            ended::BYTES => EndReason::ByteCap,
            _ => EndReason::Deadline,
        })
    }

    /// Nobody captures any more, or nobody ever came.
    fn idle_end(&self) -> Option<EndReason> {
        if self.starting.is_some() && !self.may_close_window() {
            return None;
        }
        if self.sockets > 0 {
            let reason = if self.stopping {
                EndReason::StopCall
            } else {
                EndReason::Closed
            };
            return self
                .owners
                .is_empty()
                .then(|| self.guards_reason().unwrap_or(reason));
        }
        self.replied
            .is_some_and(|replied| replied.elapsed() >= UNUSED)
            .then_some(EndReason::Unused)
    }

    /// The window stays open while processes of the call may still come, unless somebody waits
    /// and this session has its process.
    fn may_close_window(&self) -> bool {
        let late = self
            .replied
            .is_some_and(|replied| replied.elapsed() >= LATE_START);
        let served = self.sockets > 0;
        let over = served && self.replied.is_some() && self.owners.is_empty();
        late || over || (served && self.sessions.0.somebody_waits())
    }

    fn maybe_close_window(&mut self) {
        if self.may_close_window() {
            self.close_window();
        }
    }

    fn close_window(&mut self) {
        if let Some(starting) = self.starting.take() {
            self.sessions.0.close_window();
            drop(starting);
        }
    }

    /// When the passing of time alone may change something.
    fn next_look(&self) -> Option<Instant> {
        let replied = self.replied?;
        let wait = if self.starting.is_some() {
            LATE_START
        } else {
            UNUSED
        };
        (self.starting.is_some() || self.sockets == 0).then(|| replied + wait)
    }

    /// Ends the processes that hold the session's sockets, their files whole.
    async fn wind_down(&self) {
        let started = Instant::now();
        let mut holders = self.holders().await;
        while !holders.is_empty() {
            let elapsed = started.elapsed();
            let read = elapsed >= RING_BLOCK && !holders.iter().any(Holder::has_unread);
            if read || elapsed >= DRAIN_LIMIT {
                break;
            }
            sleep(POLL).await;
            holders = self.holders().await;
        }
        for holder in &holders {
            holder.process.ask_to_end();
        }
        let asked = Instant::now();
        while holders.iter().any(|holder| holder.process.is_alive()) && asked.elapsed() < GRACE {
            sleep(POLL).await;
        }
        for holder in holders.iter().filter(|holder| holder.process.is_alive()) {
            tracing::warn!(
                session = %self.session,
                pid = holder.process.pid(),
                "the capturing process did not end when asked; it is killed"
            );
            holder.process.kill();
        }
        let killed = Instant::now();
        while holders.iter().any(|holder| holder.process.is_alive()) && killed.elapsed() < LEAVE {
            sleep(POLL).await;
        }
    }

    /// Everybody who holds one of the session's sockets, but for the server itself.
    async fn holders(&self) -> Vec<Holder> {
        let sessions = self.sessions.clone();
        let session = self.session;
        let seen = self.seen.clone();
        let found = tokio::task::spawn_blocking(move || {
            let spared = sessions.spared();
            let mut processes = sessions.cgroup().map_or(seen, Cgroup::processes);
            processes.retain(|process| Some(*process) != spared);
            holders(&processes, &sessions.0.inodes(session))
        });
        found.await.unwrap_or_default()
    }
}

pub(super) async fn until(deadline: Option<BootTime>) {
    match deadline {
        // A little late: the guard is the one that decides, and says so.
        Some(deadline) => sleep(deadline.remaining() + Duration::from_millis(1)).await,
        None => pending().await,
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}
