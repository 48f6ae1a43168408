//! The requests that the client waits for.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use super::{captures::Opened, envelope::Id};
use crate::{
    policy::{Call, Change},
    session::SessionId,
};

/// What is to be done with the answer to a request.
#[derive(Debug)]
pub(super) enum Flight {
    /// Nothing.
    Passing,
    /// The client may be sent notifications from here on.
    Initialize,
    /// Hide tools in it.
    ToolList,
    /// A call like any other. The call is kept if it is small.
    Call(Option<Box<Call>>),
    /// Not forwarded yet: its session is being opened.
    Opening,
    /// A call that opened a session.
    Capture(Box<CaptureFlight>),
    /// A call that ends a capture: its string arguments may say which.
    Ending(Vec<String>, Option<Box<Call>>),
}

/// A call that opened a session.
#[derive(Debug)]
pub(super) struct CaptureFlight {
    pub(super) opened: Opened,
    pub(super) changes: Vec<Change>,
    /// Kept if it is small.
    pub(super) call: Option<Box<Call>>,
}

/// A request that was answered.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) flight: Flight,
    pub(super) cancelled: bool,
}

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoRoom {
    #[error("a request with this id is still waiting for its answer")]
    Taken,
    #[error("too many requests wait for an answer: try again when some have been answered")]
    Full,
}

impl NoRoom {
    pub(super) fn code(self) -> i32 {
        match self {
            Self::Taken => -32600,
            // Outside the range that JSON-RPC and MCP keep for themselves.
            Self::Full => -31001,
        }
    }
}

/// The requests in flight, of a bounded number.
#[derive(Debug)]
pub(super) struct Book {
    flights: HashMap<Id, Settled>,
    /// Cancelled requests, oldest first: the server need not answer them, so they make room.
    cancelled: VecDeque<Id>,
    limit: usize,
    initializing: usize,
}

impl Book {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            flights: HashMap::new(),
            cancelled: VecDeque::new(),
            limit,
            initializing: 0,
        }
    }

    /// Whether a request can be taken; only [`Self::admit`] takes it.
    pub(super) fn room(&mut self, id: &Id) -> Result<(), NoRoom> {
        if self.flights.contains_key(id) {
            return Err(NoRoom::Taken);
        }
        while self.flights.len() >= self.limit {
            let Some(oldest) = self.cancelled.pop_front() else {
                return Err(NoRoom::Full);
            };
            self.remove(&oldest);
        }
        Ok(())
    }

    /// Takes a request.
    pub(super) fn admit(&mut self, id: Id, flight: Flight) -> Result<(), NoRoom> {
        self.room(&id)?;
        self.initializing += usize::from(matches!(flight, Flight::Initialize));
        self.flights.insert(
            id,
            Settled {
                flight,
                cancelled: false,
            },
        );
        Ok(())
    }

    /// A session was opened for a call that waited for it. Gives the flight back if the call was
    /// cancelled meanwhile.
    pub(super) fn opened(
        &mut self,
        id: &Id,
        capture: Box<CaptureFlight>,
    ) -> Result<(), Box<CaptureFlight>> {
        match self.flights.get_mut(id) {
            Some(entry) if !entry.cancelled && matches!(entry.flight, Flight::Opening) => {
                entry.flight = Flight::Capture(capture);
                Ok(())
            }
            _ => {
                self.remove(id);
                Err(capture)
            }
        }
    }

    /// The server answered a request. A call that was not forwarded cannot have been answered.
    pub(super) fn answered(&mut self, id: &Id) -> Option<Settled> {
        match self.flights.get(id)?.flight {
            Flight::Opening => None,
            _ => self.remove(id),
        }
    }

    /// The client gave a request up. Returns whether it waited for an answer, and the session
    /// that nobody waits for now.
    pub(super) fn cancel(&mut self, id: &Id) -> Option<Option<SessionId>> {
        let Entry::Occupied(mut entry) = self.flights.entry(id.clone()) else {
            return None;
        };
        let request = entry.get_mut();
        if std::mem::replace(&mut request.cancelled, true) {
            return None;
        }
        let session = match &request.flight {
            // Whoever opens the session looks here, and takes the request out.
            Flight::Opening => return Some(None),
            Flight::Capture(capture) => Some(capture.opened.session),
            _ => None,
        };
        self.cancelled.push_back(id.clone());
        Some(session)
    }

    /// The gate answered a request itself, or could not forward it.
    pub(super) fn remove(&mut self, id: &Id) -> Option<Settled> {
        let settled = self.flights.remove(id)?;
        self.initializing -= usize::from(matches!(settled.flight, Flight::Initialize));
        if settled.cancelled {
            self.cancelled.retain(|other| other != id);
        }
        Some(settled)
    }

    /// An `initialize` waits for its answer.
    pub(super) fn initializing(&self) -> bool {
        self.initializing > 0
    }
}
