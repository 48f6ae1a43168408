//! What the sessions room tells whoever keeps the record.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use tokio::sync::{mpsc, watch};

use super::{Grant, NetworkRefusal, ProgramGrant, ProxyGrant, Relation, SessionEnd, SessionId};
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
    /// A session has ended, and its processes are gone; those of a proxy may live on.
    Ended(SessionEnd),
}

/// The sending side. Never waits. Refusals, which a hostile process can cause in any number, are
/// thinned out here, before the queue; everything else happens a bounded number of times for each
/// call, and if it does not fit the reader is told that the record is not whole.
#[derive(Clone, Debug)]
pub struct Events {
    sender: mpsc::Sender<SessionEvent>,
    refusals: Arc<AtomicU64>,
    network_refusals: Arc<AtomicU64>,
    /// The last session's number: whose events go to one reader have different ones.
    numbers: Arc<AtomicU32>,
    overflow: watch::Sender<bool>,
}

const QUEUE: usize = 4_096;
/// Refusals told one by one; of the rest, one in [`REFUSALS_THEN`] is.
const REFUSALS_FIRST: u64 = 100;
const REFUSALS_THEN: u64 = 1_000;

impl Events {
    /// The id of one more session.
    pub(super) fn next_session(&self) -> SessionId {
        SessionId(self.numbers.fetch_add(1, Ordering::Relaxed).wrapping_add(1))
    }

    /// A channel for events.
    pub fn channel() -> (Self, mpsc::Receiver<SessionEvent>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let events = Self {
            sender,
            refusals: Arc::default(),
            network_refusals: Arc::default(),
            numbers: Arc::default(),
            overflow: watch::Sender::new(false),
        };
        (events, receiver)
    }

    /// Becomes true once an event could not be told.
    pub fn overflow(&self) -> watch::Receiver<bool> {
        self.overflow.subscribe()
    }

    /// How many sockets and filters were refused, those that are not told of included.
    pub fn refusals(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.refusals)
    }

    pub(super) fn refused(&self, caller: Option<Caller>, mut refusal: Refusal) {
        let number = self.refusals.fetch_add(1, Ordering::Relaxed) + 1;
        if number > REFUSALS_FIRST {
            if !number.is_multiple_of(REFUSALS_THEN) {
                return;
            }
            let _ = write!(refusal.reason, " (refusal number {number})");
        }
        self.send(SessionEvent::Refused { caller, refusal });
    }

    /// How much was refused in the network, what is not told of included.
    pub fn network_refusals(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.network_refusals)
    }

    pub(super) fn network_refused(&self, mut refusal: NetworkRefusal) {
        let number = self.network_refusals.fetch_add(1, Ordering::Relaxed) + 1;
        if number > REFUSALS_FIRST {
            if !number.is_multiple_of(REFUSALS_THEN) {
                return;
            }
            let _ = write!(refusal.what, " (refusal number {number})");
        }
        self.send(SessionEvent::NetworkRefused(refusal));
    }

    pub(super) fn send(&self, event: SessionEvent) {
        if let Err(mpsc::error::TrySendError::Full(event)) = self.sender.try_send(event) {
            tracing::error!("the record cannot keep up with what happens: the agent stops");
            tracing::debug!(?event, "what is not recorded");
            self.overflow.send_replace(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Errno;

    #[test]
    fn refusals_without_end_neither_fill_the_queue_nor_the_disk() {
        let (events, mut receiver) = Events::channel();
        for _ in 0..10_000 {
            let reason = "no capture session is open".into();
            events.refused(
                None,
                Refusal {
                    errno: Errno::PERM,
                    reason,
                },
            );
        }
        let mut told = 0;
        while receiver.try_recv().is_ok() {
            told += 1;
        }
        assert_eq!(told, 100 + 10);
        assert!(!*events.overflow().borrow());
    }
}
