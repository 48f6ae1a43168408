//! A request in the table, and what has become of it.

use serde::{Deserialize, Serialize};

use super::{By, Request};

/// So far may the clock be set back before what it shows is not believed.
const SLACK: u64 = 60;

/// A request and what has become of it. Times are seconds since 1970, UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What was asked.
    pub request: Request,
    /// When.
    pub requested: u64,
    /// Until when the state below holds; then it is over.
    pub until: u64,
    /// How often its approval was given back.
    #[serde(default)]
    pub(super) given_back: u8,
    /// What was said about it.
    #[serde(flatten)]
    pub(super) state: State,
}

/// What was said about a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(super) enum State {
    Pending,
    Approved {
        by: By,
        at: u64,
    },
    Denied {
        by: By,
        at: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    Used {
        by: By,
        at: u64,
        used: u64,
    },
}

/// Where a request stands at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Standing {
    /// Nobody has looked at it yet.
    Pending,
    /// It can be used.
    Approved {
        /// Who approved.
        by: By,
        /// When.
        at: u64,
    },
    /// It was refused.
    Denied {
        /// Who refused.
        by: By,
        /// When.
        at: u64,
        /// Why, for the model.
        why: Option<String>,
    },
    /// A call has used it up.
    Used {
        /// Who had approved.
        by: By,
        /// When it was used.
        at: u64,
    },
    /// Its time is over, and it was neither used nor refused.
    Expired,
}

impl Entry {
    /// A new one.
    pub(super) fn pending(request: Request, now: u64) -> Self {
        Self {
            until: now.saturating_add(request.timeout),
            requested: now,
            given_back: 0,
            state: State::Pending,
            request,
        }
    }

    /// Whether what was said last still holds. It does not if the clock says that it will hold for
    /// longer than it was to: then the clock was set back.
    pub(super) fn is_live(&self, now: u64) -> bool {
        let longest = self.request.timeout.saturating_add(SLACK);
        now < self.until && self.until.saturating_sub(now) <= longest
    }

    /// Says something about it, which holds for as long as its rule says.
    pub(super) fn say(&mut self, state: State, now: u64) {
        self.state = state;
        self.until = now.saturating_add(self.request.timeout);
    }

    /// Where it stands.
    #[must_use]
    pub fn standing(&self, now: u64) -> Standing {
        match &self.state {
            State::Denied { by, at, why } => Standing::Denied {
                by: *by,
                at: *at,
                why: why.clone(),
            },
            State::Used { by, used, .. } => Standing::Used { by: *by, at: *used },
            _ if !self.is_live(now) => Standing::Expired,
            State::Pending => Standing::Pending,
            State::Approved { by, at } => Standing::Approved { by: *by, at: *at },
        }
    }
}
