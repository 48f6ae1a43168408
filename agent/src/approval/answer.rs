//! What the user of a client said about a call, taken in its place among all that was said.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Refused, Request, canonical, entry::State, shown_id};
use crate::{
    policy::{Approver, Call, Said},
    principal::{Caller, Operator},
    store::StoreError,
};

/// Who approved of a call or denied it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// The client of the principal that calls, which says that its user was asked.
    Client,
    /// Somebody who can write the state directory.
    #[serde(untagged)]
    Operator(Operator),
}

impl From<Operator> for By {
    fn from(operator: Operator) -> Self {
        Self::Operator(operator)
    }
}

/// `uid:0`, `the client's user`.
impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => Approver::User.fmt(f),
            Self::Operator(operator) => operator.fmt(f),
        }
    }
}

/// The part of what an approval is bound to that the call itself says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    server: String,
    principal: String,
    grant: Option<String>,
    tool: String,
    arguments: String,
}

impl Bound {
    /// Of this call.
    ///
    /// # Errors
    ///
    /// It has a number that is not exact.
    pub fn of(caller: &Caller, call: &Call) -> Result<Self, Refused> {
        Ok(Self {
            server: caller.server.to_string(),
            principal: caller.principal.to_string(),
            grant: caller.grant.as_deref().map(str::to_owned),
            tool: call.tool.clone(),
            arguments: canonical::object(&call.arguments).map_err(|_| Refused::Inexact)?,
        })
    }

    fn is_of(&self, request: &Request) -> bool {
        self.server == request.server
            && self.principal == request.principal
            && self.grant == request.grant
            && self.tool == request.tool
            && self.arguments == request.arguments
    }
}

/// Why an answer was not taken. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// The state was not made here, or was changed.
    #[error("its requestState is not one that was given out")]
    Forged,
    /// The call differs from the one that was asked about.
    #[error("its requestState was given out for another call")]
    OtherCall,
    /// Its time was over.
    #[error("the question of {0} has expired")]
    Expired(String),
    /// Somebody has answered before.
    #[error("the question of {0} has been answered already")]
    Answered(String),
    /// The call cannot be compared with any.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What becomes of a request that somebody answered like this.
pub(super) fn state(said: Said, at: u64) -> State {
    let by = By::Client;
    let denied = |why: Option<&str>| State::Denied {
        by,
        at,
        why: why.map(str::to_owned),
    };
    match said {
        Said::Yes => State::Approved { by, at },
        Said::No => denied(None),
        Said::Dismissed => denied(Some("the question was dismissed")),
    }
}

/// Whether an answer to a call can be taken for this request, whose state was found to be true.
pub(super) fn check(
    id: &str,
    request: &Request,
    state: &State,
    live: bool,
    bound: &Bound,
) -> Result<(), NotTaken> {
    if request.by != Approver::User {
        return Err(NotTaken::Forged);
    }
    // Of what is over, the arguments are not kept.
    match state {
        State::Pending if live => {}
        State::Pending => return Err(NotTaken::Expired(shown_id(id))),
        _ => return Err(NotTaken::Answered(shown_id(id))),
    }
    if !bound.is_of(request) {
        return Err(NotTaken::OtherCall);
    }
    Ok(())
}
