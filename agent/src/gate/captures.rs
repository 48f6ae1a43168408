//! What the gate asks of the sessions room: a trait, so that the pump can be tested without a
//! kernel.

use std::{future::Future, sync::Arc};

use crate::{
    policy::{ProgramTerms, ProxyTerms, Terms},
    session::{EndReason, SessionId, SessionKind},
};

/// A session that is armed, waiting for the capture process, or the listener, that the forwarded call
/// will start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The session.
    pub session: SessionId,
    /// What was granted, in one line for people: `lo, "tcp port 80", 1000 packets, 60 s`.
    pub summary: String,
    /// What the policy leaves out of the requested filter, in a sentence with an example.
    pub cut: Option<String>,
}

/// A session for programs that a call has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramOpened {
    /// The session.
    pub opened: Opened,
    /// Another call had opened it.
    pub joined: bool,
}

/// Why a session that the policy allows could not be opened: a sentence for the model (libpcap's
/// own words for a bad filter, the host's for a missing interface).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct OpenError {
    /// Why.
    pub reason: String,
    /// What can be asked for instead, in a sentence.
    pub instead: Option<String>,
}

impl OpenError {
    /// With nothing to ask for instead.
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            instead: None,
        }
    }
}

/// Opens and ends sessions. All methods may be called from any task.
pub trait Captures: Send + Sync + 'static {
    /// Opens a session and arms it. Returns before any packet can be seen. Captures are started
    /// one at a time: this waits, for a bounded time, until the session opened before it has got
    /// its process.
    fn open(&self, terms: Terms) -> impl Future<Output = Result<Opened, OpenError>> + Send;

    /// Opens a session for a proxy: when this returns, the server may listen where the terms say.
    fn open_proxy(
        &self,
        terms: ProxyTerms,
    ) -> impl Future<Output = Result<Opened, OpenError>> + Send;

    /// Opens a session for programs, or joins the one that is open: when this returns, what the server
    /// starts belongs to it.
    fn open_program(
        &self,
        terms: ProgramTerms,
    ) -> impl Future<Output = Result<ProgramOpened, OpenError>> + Send;

    /// How much the kernel has refused the server so far: to be given to [`Self::refused_since`].
    fn refusals(&self) -> u64 {
        0
    }

    /// What the kernel has refused the server since then, in a few phrases: of that, what the one who
    /// is told of it may hear, by the session under which it was refused.
    fn refused_since(
        &self,
        _refusals: u64,
        _hears: &dyn Fn(Option<SessionId>) -> bool,
    ) -> Vec<String> {
        Vec::new()
    }

    /// Whether the proxy of a session has begun to listen.
    fn listens(&self, _session: SessionId) -> bool {
        false
    }

    /// The call that opened the session, or joined it, was answered, or will not be.
    fn replied(&self, session: SessionId);

    /// A call that stops the session goes to the server now: should its process end, that is why.
    fn stopping(&self, session: SessionId);

    /// Ends the session.
    fn end(&self, session: SessionId, reason: EndReason);

    /// The sessions that have not ended, oldest first.
    fn live(&self) -> Vec<SessionId>;

    /// Those of one kind.
    fn live_of(&self, kind: SessionKind) -> Vec<SessionId>;
}

/// Shared by several.
impl<T: Captures> Captures for Arc<T> {
    fn open(&self, terms: Terms) -> impl Future<Output = Result<Opened, OpenError>> + Send {
        T::open(self, terms)
    }

    fn open_proxy(
        &self,
        terms: ProxyTerms,
    ) -> impl Future<Output = Result<Opened, OpenError>> + Send {
        T::open_proxy(self, terms)
    }

    fn open_program(
        &self,
        terms: ProgramTerms,
    ) -> impl Future<Output = Result<ProgramOpened, OpenError>> + Send {
        T::open_program(self, terms)
    }

    fn refusals(&self) -> u64 {
        T::refusals(self)
    }

    fn refused_since(
        &self,
        refusals: u64,
        hears: &dyn Fn(Option<SessionId>) -> bool,
    ) -> Vec<String> {
        T::refused_since(self, refusals, hears)
    }

    fn listens(&self, session: SessionId) -> bool {
        T::listens(self, session)
    }

    fn replied(&self, session: SessionId) {
        T::replied(self, session);
    }

    fn stopping(&self, session: SessionId) {
        T::stopping(self, session);
    }

    fn end(&self, session: SessionId, reason: EndReason) {
        T::end(self, session, reason);
    }

    fn live(&self) -> Vec<SessionId> {
        T::live(self)
    }

    fn live_of(&self, kind: SessionKind) -> Vec<SessionId> {
        T::live_of(self, kind)
    }
}
