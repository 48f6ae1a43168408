//! Whose sessions are whose, of the clients that share one server.

use std::collections::BTreeMap;

use crate::{principal::Principal, session::SessionId};

/// Sessions whose owners are known, those that ended included: the oldest are forgotten first.
const KNOWN: usize = 1_024;

/// Who has opened which session, and whether there is more than one client at all.
#[derive(Debug, Default)]
pub(super) struct Owners {
    first: Option<Principal>,
    several: bool,
    sessions: BTreeMap<SessionId, Principal>,
}

impl Owners {
    /// Somebody calls.
    pub(super) fn calls(&mut self, principal: &Principal) {
        match &self.first {
            None => self.first = Some(principal.clone()),
            Some(first) => self.several |= first != principal,
        }
    }

    /// Somebody's call opened a session.
    pub(super) fn opened(&mut self, session: SessionId, principal: &Principal) {
        self.sessions.insert(session, principal.clone());
        if self.sessions.len() > KNOWN {
            self.sessions.pop_first();
        }
    }

    /// Whether somebody may know what was refused: under a session of theirs; or without one, as
    /// long as nobody else has ever called the server, since it cannot be told for whom that was.
    pub(super) fn may_hear(&self, principal: &Principal, session: Option<SessionId>) -> bool {
        match session {
            Some(session) => self.sessions.get(&session) == Some(principal),
            None => !self.several,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_to_whom_the_session_belongs() {
        let (ann, bob) = (Principal::User(1), Principal::User(2));
        let mut owners = Owners::default();
        owners.calls(&ann);
        owners.opened(SessionId(1), &ann);
        assert!(owners.may_hear(&ann, None) && owners.may_hear(&ann, Some(SessionId(1))));
        owners.calls(&bob);
        owners.opened(SessionId(2), &bob);
        assert!(!owners.may_hear(&ann, None) && !owners.may_hear(&bob, None));
        assert!(!owners.may_hear(&bob, Some(SessionId(1))));
        assert!(!owners.may_hear(&ann, Some(SessionId(2))));
        assert!(!owners.may_hear(&ann, Some(SessionId(3))));
        for number in 0..5_000 {
            owners.opened(SessionId(number), &bob);
        }
        assert_eq!(owners.sessions.len(), KNOWN);
    }
}
