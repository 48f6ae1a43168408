//! What the sessions room tells whoever keeps the record.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::{
    Grant, NetworkRefusal, ProgramGrant, ProxyGrant, Relation, Roll, SessionEnd, SessionId,
    sampling::{Refused, Sampler},
};
use crate::{
    kernel::{Caller, Refusal, SocketKind},
    policy::Baseline,
};

/// Something that happened to a session, or was kept from happening.
#[derive(Clone, Debug)]
pub enum SessionEvent {
    /// A session is open: its guard is loaded, and the next capture socket is its own.
    Opened {
        /// The session.
        session: SessionId,
        /// What it was granted.
        grant: Arc<Grant>,
    },
    /// A process got a capture socket.
    Armed {
        /// The session.
        session: SessionId,
        /// The process.
        caller: Caller,
        /// Raw or cooked.
        kind: SocketKind,
    },
    /// A process has attached a filter of its own to its socket: more than `ret #0`, with which
    /// libpcap makes a socket deaf for a moment.
    FilterAttached {
        /// The session that the socket counts for.
        session: SessionId,
        /// The process.
        caller: Caller,
        /// Raw or cooked.
        kind: SocketKind,
        /// Its instructions.
        length: usize,
        /// SHA-256 of them.
        digest: [u8; 32],
        /// What it accepts, compared with the filter that was asked for.
        relation: Relation,
    },
    /// A process was refused a capture socket, or a filter on one.
    Refused {
        /// The process; none if it was gone before it could be identified.
        caller: Option<Caller>,
        /// Why.
        refusal: Refusal,
        /// How many of its kind this stands for, of which it is the last.
        times: u64,
    },
    /// The server's network is bounded from now on, before the server is started.
    Bounded {
        /// What it may do without a session.
        baseline: Baseline,
    },
    /// A session for a proxy is open: the server may listen where it says.
    ProxyOpened {
        /// The session.
        session: SessionId,
        /// What it was granted.
        grant: Arc<ProxyGrant>,
    },
    /// A session for programs is open: what the server forks belongs to it.
    ProgramOpened {
        /// The session.
        session: SessionId,
        /// What it was granted.
        grant: Arc<ProgramGrant>,
    },
    /// The kernel has refused the server something in the network.
    NetworkRefused(NetworkRefusal),
    /// The server was ended for the end of a session, and started again, or not.
    Restarted(Restart),
    /// A session has ended, and its processes are gone; those of a proxy may live on.
    Ended(SessionEnd),
}

/// Something that happened, and at which server.
#[derive(Clone, Debug)]
pub struct ServerEvent {
    /// What the server is called.
    pub server: Arc<str>,
    /// What happened.
    pub event: SessionEvent,
}

/// What came of restarting a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// The session at whose end it was.
    pub session: SessionId,
    /// How long clients could not be served.
    pub took: Duration,
    /// Why there is no server any more; none if there is one.
    pub failed: Option<String>,
}

/// The sending side. Never waits. Refusals, which a hostile process can cause in any number, are
/// thinned out here, before the queue (`sampling.rs`); everything else happens a bounded number of
/// times for each call, and if it does not fit the reader is told that the record is not whole.
#[derive(Clone)]
pub struct Events {
    /// Whose events these are.
    server: Arc<str>,
    sender: mpsc::Sender<ServerEvent>,
    sampler: Arc<Mutex<Sampler>>,
    refusals: Arc<AtomicU64>,
    network_refusals: Arc<AtomicU64>,
    /// The last session's number: whose events go to one reader have different ones.
    numbers: Arc<AtomicU32>,
    /// Who tells of them.
    roll: Roll,
    overflow: watch::Sender<bool>,
}

/// The receiving side.
pub struct Happened {
    receiver: mpsc::Receiver<ServerEvent>,
    sampler: Arc<Mutex<Sampler>>,
    /// Counts of refusals that are to be told next.
    counts: VecDeque<ServerEvent>,
    over: bool,
}

const QUEUE: usize = 4_096;
/// How often it is looked whether a flood of refusals has ended.
const SWEEP: Duration = Duration::from_secs(5);

impl Events {
    /// The id of one more session.
    pub(super) fn next_session(&self) -> SessionId {
        SessionId(self.numbers.fetch_add(1, Ordering::Relaxed).wrapping_add(1))
    }

    /// A channel for the events of the server of this name; see [`Events::of`] for those of others.
    pub fn channel(server: &str) -> (Self, Happened) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let events = Self {
            server: server.into(),
            sender,
            sampler: Arc::default(),
            refusals: Arc::default(),
            network_refusals: Arc::default(),
            numbers: Arc::default(),
            roll: Roll::default(),
            overflow: watch::Sender::new(false),
        };
        let happened = Happened {
            receiver,
            sampler: Arc::clone(&events.sampler),
            counts: VecDeque::new(),
            over: false,
        };
        (events, happened)
    }

    /// The same channel for another server's events. Its refusals are counted by themselves.
    #[must_use]
    pub fn of(&self, server: &Arc<str>) -> Self {
        Self {
            server: Arc::clone(server),
            refusals: Arc::default(),
            network_refusals: Arc::default(),
            ..self.clone()
        }
    }

    /// What the server is called whose events these are.
    pub fn server(&self) -> &Arc<str> {
        &self.server
    }

    /// The sessions whose events these are.
    pub fn roll(&self) -> Roll {
        self.roll.clone()
    }

    /// Becomes true once an event could not be told.
    pub fn overflow(&self) -> watch::Receiver<bool> {
        self.overflow.subscribe()
    }

    /// How many sockets and filters were refused, those that are not told of included.
    pub fn refusals(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.refusals)
    }

    pub(super) fn refused(
        &self,
        session: Option<SessionId>,
        caller: Option<Caller>,
        refusal: Refusal,
    ) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
        self.sample(Refused::Socket {
            session,
            caller,
            refusal,
        });
    }

    /// How much was refused in the network, what is not told of included.
    pub fn network_refusals(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.network_refusals)
    }

    pub(super) fn network_refused(&self, refusal: NetworkRefusal) {
        self.network_refusals
            .fetch_add(refusal.times, Ordering::Relaxed);
        if refusal.times > 1 {
            // It is a count already.
            return self.send(SessionEvent::NetworkRefused(refusal));
        }
        self.sample(Refused::Network(refusal));
    }

    fn sample(&self, refused: Refused) {
        let told = lock(&self.sampler).note(&self.server, refused, Instant::now());
        if let Some(event) = told {
            self.put(event);
        }
    }

    /// A server was restarted, or could not be.
    pub fn restarted(&self, restart: Restart) {
        self.send(SessionEvent::Restarted(restart));
    }

    pub(super) fn send(&self, event: SessionEvent) {
        if let SessionEvent::Ended(end) = &event {
            let counts = lock(&self.sampler).end(end.session);
            counts.into_iter().for_each(|count| self.put(count));
        }
        self.put(ServerEvent {
            server: Arc::clone(&self.server),
            event,
        });
    }

    fn put(&self, event: ServerEvent) {
        if let Err(mpsc::error::TrySendError::Full(event)) = self.sender.try_send(event) {
            tracing::error!("the record cannot keep up with what happens: the agent stops");
            tracing::debug!(?event, "what is not recorded");
            self.overflow.send_replace(true);
        }
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Happened {
    /// The next event; none once all who could tell of one have gone. Nothing is lost if it is not
    /// waited for to the end.
    pub async fn recv(&mut self) -> Option<ServerEvent> {
        loop {
            if let Some(count) = self.counts.pop_front() {
                return Some(count);
            }
            if self.over {
                return None;
            }
            match timeout(SWEEP, self.receiver.recv()).await {
                Ok(Some(event)) => return Some(event),
                Ok(None) => {
                    self.over = true;
                    self.counts.extend(lock(&self.sampler).finish());
                }
                Err(_) => self
                    .counts
                    .extend(lock(&self.sampler).sweep(Instant::now())),
            }
        }
    }
}

fn lock(sampler: &Mutex<Sampler>) -> MutexGuard<'_, Sampler> {
    // Whole after every statement.
    sampler.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Errno;

    #[tokio::test]
    async fn refusals_without_end_neither_fill_the_queue_nor_the_disk() {
        let (events, mut happened) = Events::channel("pcap");
        for _ in 0..10_000 {
            let reason = "no capture session is open".into();
            events.refused(
                None,
                None,
                Refusal {
                    errno: Errno::PERM,
                    reason,
                },
            );
        }
        assert!(!*events.overflow().borrow());
        drop(events);
        let mut told = Vec::new();
        while let Some(event) = happened.recv().await {
            match event.event {
                SessionEvent::Refused { times, .. } => told.push(times),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(told, [1, 1, 1, 1, 1, 9_995]);
    }

    #[tokio::test]
    async fn events_of_servers_that_share_a_channel_are_told_apart_and_counted_apart() {
        let (one, mut happened) = Events::channel("one");
        let other = one.of(&Arc::from("other"));
        let refusal = || Refusal {
            errno: Errno::PERM,
            reason: "no capture session is open".into(),
        };
        for _ in 0..7 {
            one.refused(None, None, refusal());
        }
        other.refused(None, None, refusal());
        let counted = |events: &Events| events.refusals().load(Ordering::Relaxed);
        assert_eq!((counted(&one), counted(&other)), (7, 1));
        drop((one, other));
        let mut told = Vec::new();
        while let Some(event) = happened.recv().await {
            match event.event {
                SessionEvent::Refused { times, .. } => told.push((event.server.to_string(), times)),
                other => panic!("{other:?}"),
            }
        }
        let mut expected: Vec<_> = [1; 5].map(|times| ("one".to_owned(), times)).to_vec();
        expected.extend([("other".to_owned(), 1), ("one".to_owned(), 2)]);
        assert_eq!(told, expected);
    }
}
