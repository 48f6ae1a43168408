//! The sessions of whichever process is the server now.

use std::sync::{Arc, PoisonError, RwLock};

use crate::{
    gate::{Captures, OpenError, Opened, ProgramOpened},
    policy::{ProgramTerms, ProxyTerms, Terms},
    session::{EndReason, SessionId, SessionKind, Sessions},
};

/// Sessions that are replaced with their server. Cheap to clone, and all clones are the same.
#[derive(Clone)]
pub(super) struct Current(Arc<RwLock<Sessions>>);

impl Current {
    pub(super) fn new(sessions: Sessions) -> Self {
        Self(Arc::new(RwLock::new(sessions)))
    }

    /// Those of the server now.
    pub(super) fn now(&self) -> Sessions {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// There is another server.
    pub(super) fn replace(&self, sessions: Sessions) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = sessions;
    }
}

impl Captures for Current {
    async fn open(&self, terms: Terms) -> Result<Opened, OpenError> {
        let sessions = self.now();
        Captures::open(&sessions, terms).await
    }

    async fn open_proxy(&self, terms: ProxyTerms) -> Result<Opened, OpenError> {
        let sessions = self.now();
        Captures::open_proxy(&sessions, terms).await
    }

    async fn open_program(&self, terms: ProgramTerms) -> Result<ProgramOpened, OpenError> {
        let sessions = self.now();
        Captures::open_program(&sessions, terms).await
    }

    fn refusals(&self) -> u64 {
        Captures::refusals(&self.now())
    }

    fn refused_since(
        &self,
        refusals: u64,
        hears: &dyn Fn(Option<SessionId>) -> bool,
    ) -> Vec<String> {
        Captures::refused_since(&self.now(), refusals, hears)
    }

    fn listens(&self, session: SessionId) -> bool {
        Captures::listens(&self.now(), session)
    }

    fn replied(&self, session: SessionId) {
        self.now().replied(session);
    }

    fn stopping(&self, session: SessionId) {
        self.now().stopping(session);
    }

    fn end(&self, session: SessionId, reason: EndReason) {
        self.now().end(session, reason);
    }

    fn live(&self) -> Vec<SessionId> {
        self.now().live()
    }

    fn live_of(&self, kind: SessionKind) -> Vec<SessionId> {
        self.now().live_of(kind)
    }
}
