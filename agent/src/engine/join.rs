//! Where the gate meets those it asks: the rooms behind it do not know that it exists.

use crate::{
    gate::{Captures, OpenError, Opened, ProgramOpened},
    policy::{ProgramTerms, ProxyTerms, Terms},
    session::{EndReason, SessionError, SessionId, SessionKind, Sessions},
};

impl Captures for Sessions {
    async fn open(&self, terms: Terms) -> Result<Opened, OpenError> {
        match self.start(terms).await {
            Ok((session, grant)) => Ok(Opened {
                session,
                summary: grant.summary(),
                cut: grant.cut.as_ref().map(ToString::to_string),
            }),
            Err(SessionError::Grant(error)) => {
                let instead = error.instead();
                // What follows is a sentence of its own.
                let stop = if instead.is_some() { "." } else { "" };
                Err(OpenError {
                    reason: format!("{error}{stop}"),
                    instead,
                })
            }
            Err(error) => Err(OpenError::new(error.to_string())),
        }
    }

    async fn open_proxy(&self, terms: ProxyTerms) -> Result<Opened, OpenError> {
        match self.start_proxy(terms).await {
            Ok((session, grant)) => Ok(Opened {
                session,
                summary: grant.summary(),
                cut: None,
            }),
            Err(error) => Err(OpenError::new(format!(
                "The proxy's session cannot be opened: {error}."
            ))),
        }
    }

    async fn open_program(&self, terms: ProgramTerms) -> Result<ProgramOpened, OpenError> {
        match self.start_program(terms).await {
            Ok((session, grant, joined)) => Ok(ProgramOpened {
                opened: Opened {
                    session,
                    summary: grant.summary(),
                    cut: None,
                },
                joined,
            }),
            Err(error) => Err(OpenError::new(format!(
                "The session for programs cannot be opened: {error}."
            ))),
        }
    }

    fn refusals(&self) -> u64 {
        self.network_refusals()
    }

    fn refused_since(
        &self,
        refusals: u64,
        hears: &dyn Fn(Option<SessionId>) -> bool,
    ) -> Vec<String> {
        self.network_refused_since(refusals, hears)
    }

    fn listens(&self, session: SessionId) -> bool {
        self.proxy_listens(session)
    }

    fn replied(&self, session: SessionId) {
        Self::replied(self, session);
    }

    fn stopping(&self, session: SessionId) {
        Self::stopping(self, session);
    }

    fn end(&self, session: SessionId, reason: EndReason) {
        Self::end(self, session, reason);
    }

    fn live(&self) -> Vec<SessionId> {
        Self::live(self)
    }

    fn live_of(&self, kind: SessionKind) -> Vec<SessionId> {
        Self::live_of(self, kind)
    }
}
