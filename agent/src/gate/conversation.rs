//! What is decided about the messages of one client and one server, whoever carries them.
//!
//! A transport brings each message here and does what it is told: [`Conversation::client_message`]
//! and [`Conversation::open`] for what a client sends, [`Conversation::server_message`] for what a
//! server sends. Nothing here reads or writes, so nothing here waits for a peer.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::watch;

use super::{
    book::{Book, Flight, NoRoom},
    bounds::Bounds,
    captures::Captures,
    envelope::Id,
    events::{CallEnd, Decide, GateEvent, Observer, Side},
    handshake::Handshake,
    owners::Owners,
    question::Questions,
    stops::Notes,
    tools::Schemas,
};
use crate::{
    principal::Caller,
    session::{EndReason, SessionEnd, SessionKind},
};

/// How much of a dropped message is logged.
const LOGGED: usize = 200;
/// Dropped messages that are told of one by one; of the rest, one in [`DROPS_THEN`] is. Who writes
/// junk can do so without end.
const DROPS_FIRST: u64 = 50;
const DROPS_THEN: u64 = 10_000;

/// Who decides, who opens sessions, who keeps the record.
#[derive(Debug)]
pub struct Gate<P, C, O> {
    /// Decides calls.
    pub policy: P,
    /// Opens and ends sessions.
    pub captures: C,
    /// Is told of everything.
    pub observer: O,
    /// What each conversation keeps itself within.
    pub bounds: Bounds,
}

/// A [`Gate`], whatever it is made of.
pub trait Rooms: Send + Sync + 'static {
    /// See [`Gate::policy`].
    type Policy: Decide;
    /// See [`Gate::captures`].
    type Captures: Captures;
    /// See [`Gate::observer`].
    type Observer: Observer;

    /// See [`Gate::policy`].
    fn policy(&self) -> &Self::Policy;
    /// See [`Gate::captures`].
    fn captures(&self) -> &Self::Captures;
    /// See [`Gate::observer`].
    fn observer(&self) -> &Self::Observer;
    /// See [`Gate::bounds`].
    fn bounds(&self) -> &Bounds;
}

impl<P: Decide, C: Captures, O: Observer> Rooms for Gate<P, C, O> {
    type Policy = P;
    type Captures = C;
    type Observer = O;

    fn policy(&self) -> &P {
        &self.policy
    }

    fn captures(&self) -> &C {
        &self.captures
    }

    fn observer(&self) -> &O {
        &self.observer
    }

    fn bounds(&self) -> &Bounds {
        &self.bounds
    }
}

/// What a gate's policy reserves for a call.
pub(super) type Ticket<G> = <<G as Rooms>::Policy as Decide>::Ticket;

/// What is known of one server, from all conversations with it.
#[derive(Debug, Default)]
pub(super) struct Memory {
    notes: Mutex<Notes>,
    schemas: Mutex<Schemas>,
    owners: Mutex<Owners>,
    /// Messages that were dropped.
    drops: AtomicU64,
}

impl Memory {
    /// A session has ended.
    pub(super) fn forget(&self, end: &SessionEnd) {
        lock(&self.notes).forget(end.session);
    }
}

/// One client's dealings with one server.
pub(super) struct Conversation<G: Rooms> {
    pub(super) gate: Arc<G>,
    memory: Arc<Memory>,
    pub(super) caller: Caller,
    book: Mutex<Book<Ticket<G>>>,
    questions: Mutex<Questions>,
    handshake: Mutex<Handshake>,
    /// A call can be held while its client asks its user.
    pub(super) holds: bool,
    /// The client may be sent notifications.
    ready: watch::Sender<bool>,
}

impl<G: Rooms> Conversation<G> {
    pub(super) fn new(gate: Arc<G>, memory: Arc<Memory>, caller: Caller) -> Self {
        let book = Mutex::new(Book::new(gate.bounds().in_flight));
        Self {
            gate,
            memory,
            caller,
            book,
            questions: Mutex::default(),
            handshake: Mutex::default(),
            holds: false,
            ready: watch::Sender::new(false),
        }
    }

    /// Lets calls wait for an answer of the client that comes beside them: [`FromClient::Ask`] is
    /// heard of.
    ///
    /// [`FromClient::Ask`]: super::client::FromClient::Ask
    pub(super) fn holding(self) -> Self {
        Self {
            holds: true,
            ..self
        }
    }

    /// Becomes true when the client may be sent notifications.
    pub(super) fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// The client has been told that its handshake is over.
    pub(super) fn shook_hands(&self) {
        self.ready.send_replace(true);
    }

    /// The client sent a request that is not its first of a handshake: it can take notifications
    /// unless it still waits for the handshake's answer.
    pub(super) fn speaks(&self) {
        if !*self.ready.borrow() && !self.book().initializing() {
            self.ready.send_replace(true);
        }
    }

    /// A session has ended.
    pub(super) fn ended(&self, end: &SessionEnd) {
        self.memory.forget(end);
    }

    /// The client gave a request up; `text` is its id as JSON.
    pub(super) fn cancel(&self, id: &Id, text: &str) {
        let cancelled = self.book().cancel(id);
        self.questions().withdraw(id);
        if let Some(session) = cancelled {
            if let Some(session) = session {
                // The client ignores the answer now, so nobody will know the capture's name.
                self.gate.captures().end(session, EndReason::CallFailed);
            }
            self.observe(GateEvent::Cancelled {
                connection: self.caller.connection,
                id: text.to_owned(),
                session,
            });
        }
    }

    /// A request that was to be forwarded could not be: the server takes no more. Whether it was
    /// still in flight.
    pub(super) fn undelivered(&self, id: &Id) -> bool {
        let request = self.book().remove(id);
        let waited = request.is_some();
        if let Some(request) = request {
            if let Flight::Capture(capture) = &request.flight
                && !capture.joined
            {
                let session = capture.opened.session;
                self.gate.captures().end(session, EndReason::ServerExit);
            }
            self.settle(request.flight, CallEnd::NotForwarded);
        }
        waited
    }

    /// A request that was forwarded will not be answered, and ended like this.
    pub(super) fn forsake(&self, id: &Id, end: CallEnd) {
        let request = self.book().remove(id);
        let Some(request) = request else { return };
        if let Flight::Capture(capture) = &request.flight
            && !request.cancelled
            && !capture.joined
        {
            let session = capture.opened.session;
            match end {
                // Told below.
                CallEnd::Lost if capture.kind == SessionKind::Program => {}
                // It may have begun, so it goes on; if nobody comes, it ends.
                CallEnd::Lost => self.gate.captures().replied(session),
                _ => self.gate.captures().end(session, EndReason::CallFailed),
            }
        }
        self.settle(request.flight, end);
    }

    /// The client does not wait for a request's answer now, but may ask for it again. Others that
    /// need its room get it.
    pub(super) fn park(&self, id: &Id) {
        let session = self.book().park(id);
        if let Some(session) = session {
            self.gate.captures().replied(session);
        }
    }

    /// Nobody will answer what is still in flight.
    pub(super) fn close(&self) {
        let left: Vec<_> = self.book().clear().collect();
        for request in left {
            self.settle(request.flight, CallEnd::Lost);
        }
    }

    /// The same, because the server has gone. The requests that the client waits for are to be told.
    pub(super) fn abandoned(&self) -> Vec<Id> {
        let left: Vec<_> = self.book().take().collect();
        let told = left.into_iter().filter_map(|(id, request)| {
            // One that is being decided, or waits for its session, is told by whoever does that.
            let waits = !request.cancelled && !matches!(request.flight, Flight::Opening);
            self.settle(request.flight, CallEnd::Lost);
            waits.then_some(id)
        });
        told.collect()
    }

    /// The server has gone, and another one comes: nobody will answer what was sent to the first. The
    /// requests that the client waits for are to be told.
    pub(super) fn bereft(&self) -> Vec<Id> {
        let left = self.book().take_sent();
        let told = left.into_iter().filter_map(|(id, request)| {
            self.settle(request.flight, CallEnd::Lost);
            (!request.cancelled).then_some(id)
        });
        told.collect()
    }

    /// Whether a request is in flight.
    pub(super) fn awaits(&self, id: &Id) -> bool {
        self.book().has(id)
    }

    /// Takes a request into the book.
    pub(super) fn admit(&self, id: &Id, flight: Flight<Ticket<G>>) -> Result<(), NoRoom> {
        let gone = self.book().admit(id.clone(), flight)?;
        if let Some(gone) = gone {
            self.settle(gone.flight, CallEnd::Lost);
        }
        Ok(())
    }

    /// Tells the policy how a call ended that was let through, without an answer; and its session, if
    /// that counts its calls.
    pub(super) fn settle(&self, flight: Flight<Ticket<G>>, end: CallEnd) {
        if let Flight::Capture(capture) = &flight
            && capture.kind == SessionKind::Program
        {
            self.gate.captures().replied(capture.opened.session);
        }
        if let Some(ticket) = flight.ticket() {
            self.gate.policy().settle(ticket, end);
        }
    }

    /// Records a message that is not let through.
    pub(super) fn dropped(&self, from: Side, bytes: u64, why: &str, message: &[u8]) {
        let number = self.memory.drops.fetch_add(1, Ordering::Relaxed) + 1;
        if number > DROPS_FIRST && !number.is_multiple_of(DROPS_THEN) {
            return;
        }
        tracing::warn!(bytes, why, number, "dropped a line of {from}");
        // It may hold secrets.
        let start = String::from_utf8_lossy(message.get(..LOGGED).unwrap_or(message));
        tracing::debug!(number, line = %start.escape_debug(), "the dropped line");
        self.observe(GateEvent::Dropped {
            from,
            bytes,
            why: why.to_owned(),
            lines: match number {
                ..=DROPS_FIRST => 1,
                _ => DROPS_THEN.min(number - DROPS_FIRST),
            },
        });
    }

    pub(super) fn observe(&self, event: GateEvent) {
        self.gate.observer().observe(event);
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book<Ticket<G>>> {
        lock(&self.book)
    }

    pub(super) fn questions(&self) -> MutexGuard<'_, Questions> {
        lock(&self.questions)
    }

    pub(super) fn handshake(&self) -> MutexGuard<'_, Handshake> {
        lock(&self.handshake)
    }

    pub(super) fn notes(&self) -> MutexGuard<'_, Notes> {
        lock(&self.memory.notes)
    }

    pub(super) fn owners(&self) -> MutexGuard<'_, Owners> {
        lock(&self.memory.owners)
    }

    pub(super) fn schemas(&self) -> MutexGuard<'_, Schemas> {
        lock(&self.memory.schemas)
    }
}

/// These tables are whole after every statement, so a panic elsewhere does not spoil them.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The length of a message, for the record.
pub(super) fn length(message: &[u8]) -> u64 {
    u64::try_from(message.len()).unwrap_or(u64::MAX)
}
