//! Where the gate meets those it asks: the rooms behind it do not know that it exists.

use crate::{
    gate::{Captures, OpenError, Opened},
    policy::Terms,
    session::{EndReason, SessionError, SessionId, Sessions},
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
}
