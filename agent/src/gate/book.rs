//! The requests that the client waits for.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    time::Duration,
};

use super::{captures::Opened, envelope::Id, reply::DenialShape};
use crate::{
    policy::Change,
    session::{SessionId, SessionKind},
};

/// What is to be done with the answer to a request.
#[derive(Debug)]
pub(super) enum Flight<T> {
    /// Nothing.
    Passing,
    /// The client may be sent notifications from here on.
    Initialize,
    /// Hide tools in it.
    ToolList,
    /// Not forwarded yet: it is being decided, or its session is being opened. Whoever does that
    /// has its ticket.
    Opening,
    /// A call like any other.
    Call(T),
    /// A call that opened a session.
    Capture(Box<CaptureFlight<T>>),
    /// A call that ends a session of this kind: its arguments may say which.
    Ending(SessionKind, Vec<String>, T),
}

/// A call that opened a session.
#[derive(Debug)]
pub(super) struct CaptureFlight<T> {
    pub(super) kind: SessionKind,
    /// Another call had opened it, which this one does not end.
    pub(super) joined: bool,
    pub(super) opened: Opened,
    pub(super) changes: Vec<Change>,
    pub(super) ticket: T,
    pub(super) patience: Option<Patience>,
}

/// How long the answer to a call may take, and how the gate answers if it takes longer.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    pub(super) within: Duration,
    /// The request's id, as JSON.
    pub(super) id_text: String,
    pub(super) shape: DenialShape,
}

impl<T> Flight<T> {
    /// The ticket of a call that was forwarded.
    pub(super) fn ticket(self) -> Option<T> {
        match self {
            Self::Passing | Self::Initialize | Self::ToolList | Self::Opening => None,
            Self::Call(ticket) | Self::Ending(_, _, ticket) => Some(ticket),
            Self::Capture(capture) => Some(capture.ticket),
        }
    }
}

/// A request that the client waits for, or gave up.
#[derive(Debug)]
pub(super) struct Request<T> {
    pub(super) flight: Flight<T>,
    pub(super) cancelled: bool,
    /// What the kernel had refused the server when the request was forwarded.
    pub(super) refusals: u64,
    /// It makes room for others: it was cancelled, or nobody waits for it just now.
    spare: bool,
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
pub(super) struct Book<T> {
    flights: HashMap<Id, Request<T>>,
    /// Requests that make room, oldest first: the server need not answer those that were
    /// cancelled, and nobody waits for the others.
    spare: VecDeque<Id>,
    /// Requests that the gate has answered as the server had not; the oldest are forgotten.
    late: VecDeque<Id>,
    limit: usize,
    initializing: usize,
}

/// Requests of which it is remembered that the server's answer comes too late.
const LATE: usize = 64;

impl<T> Book<T> {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            flights: HashMap::new(),
            spare: VecDeque::new(),
            late: VecDeque::new(),
            limit,
            initializing: 0,
        }
    }

    /// Takes a request. Gives back the one that had to go for it, if one had to.
    pub(super) fn admit(
        &mut self,
        id: Id,
        flight: Flight<T>,
    ) -> Result<Option<Request<T>>, NoRoom> {
        // The late answer would be taken for this one's.
        if self.flights.contains_key(&id) || self.late.contains(&id) {
            return Err(NoRoom::Taken);
        }
        let mut gone = None;
        if self.flights.len() >= self.limit {
            let oldest = self.spare.pop_front().ok_or(NoRoom::Full)?;
            gone = self.remove(&oldest);
        }
        self.initializing += usize::from(matches!(flight, Flight::Initialize));
        self.flights.insert(
            id,
            Request {
                flight,
                cancelled: false,
                refusals: 0,
                spare: false,
            },
        );
        Ok(gone)
    }

    /// A call that waited is forwarded now, when the kernel has refused the server so much. Gives
    /// the flight back if the call was cancelled meanwhile.
    pub(super) fn forwarding(
        &mut self,
        id: &Id,
        flight: Flight<T>,
        refusals: u64,
    ) -> Result<(), Flight<T>> {
        match self.flights.get_mut(id) {
            Some(request) if !request.cancelled && matches!(request.flight, Flight::Opening) => {
                request.flight = flight;
                request.refusals = refusals;
                Ok(())
            }
            _ => {
                self.remove(id);
                Err(flight)
            }
        }
    }

    /// The server answered a request. A call that was not forwarded cannot have been answered.
    pub(super) fn answered(&mut self, id: &Id) -> Option<Request<T>> {
        match self.flights.get(id)?.flight {
            Flight::Opening => None,
            _ => self.remove(id),
        }
    }

    /// The time is up for the answer to the call that opened a session; none if it was answered,
    /// or nobody waits for it.
    pub(super) fn overdue(&mut self, id: &Id, session: SessionId) -> Option<Request<T>> {
        let request = self.flights.get(id)?;
        match &request.flight {
            Flight::Capture(capture) if capture.opened.session == session && !request.cancelled => {
            }
            _ => return None,
        }
        if self.late.len() >= LATE {
            self.late.pop_front();
        }
        self.late.push_back(id.clone());
        self.remove(id)
    }

    /// Whether an answer comes too late. It is asked once for each.
    pub(super) fn too_late(&mut self, id: &Id) -> bool {
        let place = self.late.iter().position(|late| late == id);
        place.and_then(|place| self.late.remove(place)).is_some()
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
            // Whoever decides it, or opens its session, looks here, and takes the request out.
            Flight::Opening => return Some(None),
            Flight::Capture(capture) if !capture.joined => Some(capture.opened.session),
            _ => None,
        };
        if !std::mem::replace(&mut request.spare, true) {
            self.spare.push_back(id.clone());
        }
        Some(session)
    }

    /// Nobody waits for a request just now. Returns the session that it opened.
    pub(super) fn park(&mut self, id: &Id) -> Option<SessionId> {
        let request = self.flights.get_mut(id)?;
        if !std::mem::replace(&mut request.spare, true) {
            self.spare.push_back(id.clone());
        }
        match &request.flight {
            // Of programs, it counts which calls are on their way to the server.
            Flight::Capture(capture)
                if !request.cancelled && capture.kind != SessionKind::Program =>
            {
                Some(capture.opened.session)
            }
            _ => None,
        }
    }

    /// The gate answered a request itself, or could not forward it.
    pub(super) fn remove(&mut self, id: &Id) -> Option<Request<T>> {
        let settled = self.flights.remove(id)?;
        self.initializing -= usize::from(matches!(settled.flight, Flight::Initialize));
        if settled.spare {
            self.spare.retain(|other| other != id);
        }
        Some(settled)
    }

    /// Nobody waits for anything any more.
    pub(super) fn clear(&mut self) -> impl Iterator<Item = Request<T>> {
        self.take().map(|(_, request)| request)
    }

    /// The same, with the requests' ids.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (Id, Request<T>)> {
        self.initializing = 0;
        self.spare.clear();
        self.late.clear();
        std::mem::take(&mut self.flights).into_iter()
    }

    /// The requests that the server has got, with their ids. Those that are still to be forwarded stay.
    pub(super) fn take_sent(&mut self) -> Vec<(Id, Request<T>)> {
        let flights = self.flights.iter();
        let sent = flights.filter(|(_, request)| !matches!(request.flight, Flight::Opening));
        let sent: Vec<Id> = sent.map(|(id, _)| id.clone()).collect();
        let take = |id: Id| self.remove(&id).map(|request| (id, request));
        sent.into_iter().filter_map(take).collect()
    }

    /// Whether a request is in flight.
    pub(super) fn has(&self, id: &Id) -> bool {
        self.flights.contains_key(id)
    }

    /// An `initialize` waits for its answer.
    pub(super) fn initializing(&self) -> bool {
        self.initializing > 0
    }
}
