//! What the sessions room tells whoever keeps the record.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::mpsc;

use super::{Grant, SessionEnd, SessionId};
use crate::kernel::{Caller, Refusal, SocketKind};

/// Something that happened to a session, or was kept from happening.
#[derive(Clone, Debug)]
pub enum SessionEvent {
    /// A session is armed: its guard is loaded, and the next capture socket is its own.
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
    /// A process was refused a capture socket.
    Refused {
        /// The process; none if it was gone before it could be identified.
        caller: Option<Caller>,
        /// Why.
        refusal: Refusal,
    },
    /// A session has ended, and its processes are gone.
    Ended(SessionEnd),
}

/// The sending side. Never waits: what a hostile process can cause in any number is dropped and
/// counted once the reader lags behind.
#[derive(Clone, Debug)]
pub struct Events {
    sender: mpsc::Sender<SessionEvent>,
    lost: Arc<AtomicU64>,
}

const QUEUE: usize = 4_096;

impl Events {
    /// A channel for events.
    pub fn channel() -> (Self, mpsc::Receiver<SessionEvent>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let lost = Arc::default();
        (Self { sender, lost }, receiver)
    }

    pub(super) fn send(&self, event: SessionEvent) {
        if let Err(mpsc::error::TrySendError::Full(event)) = self.sender.try_send(event) {
            self.lost.fetch_add(1, Ordering::Relaxed);
            tracing::error!(?event, "the record cannot keep up; an event is lost");
        }
    }

    /// How many events were dropped.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}
