//! Where the gate meets those it asks: the rooms behind it do not know that it exists.

use crate::{
    gate::{Captures, Decide, OpenError, Opened},
    policy::{Call, Denial, Policy, Terms, Verdict},
    session::{EndReason, SessionId, Sessions},
};

impl Decide for Policy {
    fn visible(&self, tool: &str) -> bool {
        Self::visible(self, tool)
    }

    fn decide(&self, call: &Call) -> Verdict {
        let decision = Self::decide(self, call, &());
        let demand = decision.uses.first().map(|one| &one.rule);
        let demand = demand.or(decision.approval.as_ref().map(|one| &one.rule));
        let demand = demand.or(decision.proofs.first().map(|one| &one.rule));
        match demand {
            None => decision.verdict,
            // Nobody counts, approves or proves yet, so nothing of it may pass for done.
            Some(rule) => Verdict::Deny(Denial::new(
                "The policy asks for a limit, an approval or a proof, which cannot be had yet.",
                rule.clone(),
            )),
        }
    }
}

impl Captures for Sessions {
    async fn open(&self, terms: Terms) -> Result<Opened, OpenError> {
        match self.start(terms).await {
            Ok((session, grant)) => Ok(Opened {
                session,
                summary: grant.summary(),
                cut: grant.cut.as_ref().map(ToString::to_string),
            }),
            Err(error) => Err(OpenError(error.to_string())),
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
