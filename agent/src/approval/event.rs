//! What the record is told of requests.

use super::{By, Request};

/// Something became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The request's id.
    pub id: String,
    /// What became of it.
    pub what: What,
    /// Who calls.
    pub principal: String,
    /// The server.
    pub server: String,
    /// The tool.
    pub tool: String,
    /// The rule that asks for the approval.
    pub rule: String,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It was made.
    Requested,
    /// It was approved, at this second since 1970.
    Approved(By, u64),
    /// It was denied, with this reason.
    Denied(By, u64, Option<String>),
    /// A call used it up. Told by the agent that forwards the call, with who had approved and when.
    Used(By, u64),
    /// It can be used again: the server never saw the call.
    GivenBack,
    /// Its time was over before it was used or denied.
    Expired,
}

impl What {
    /// How the answer came that it tells of: from the `client`, from an `operator`; `none` if it tells of
    /// no answer.
    #[must_use]
    pub const fn through(&self) -> &'static str {
        match self {
            Self::Approved(By::Client, _)
            | Self::Denied(By::Client, ..)
            | Self::Used(By::Client, _) => "client",
            Self::Approved(..) | Self::Denied(..) | Self::Used(..) => "operator",
            Self::Requested | Self::GivenBack | Self::Expired => "none",
        }
    }

    /// In one word, for the record and the metrics.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Approved(..) => "approved",
            Self::Denied(..) => "denied",
            Self::Used(..) => "used",
            Self::GivenBack => "given-back",
            Self::Expired => "expired",
        }
    }
}

impl Event {
    pub(super) fn new(id: &str, request: &Request, what: What) -> Self {
        Self {
            id: id.to_owned(),
            what,
            principal: request.principal.clone(),
            server: request.server.clone(),
            tool: request.tool.clone(),
            rule: request.rule.clone(),
        }
    }
}
