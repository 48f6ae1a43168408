//! What the record is told of definitions.

use crate::principal::Operator;

/// Something became of a tool's definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The server.
    pub server: String,
    /// The tool.
    pub tool: String,
    /// SHA-256 of the definition, in hexadecimal; empty of one that cannot be read.
    pub digest: String,
    /// What became of it.
    pub what: What,
}

/// What became of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It was in the first list of its server, and is accepted by that.
    FirstSeen,
    /// The server lists the tool for the first time: it is held back.
    New,
    /// The server defines the tool otherwise than accepted: it is held back.
    Changed,
    /// It cannot be read, or there is no room to keep it: it is held back, for this reason.
    Unfit(String),
    /// The operator accepted it, at this second since 1970. Told by each agent whose server lists it.
    Accepted(Operator, u64),
}

impl What {
    /// In one word, for the record.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::FirstSeen => "first-seen",
            Self::New => "new",
            Self::Changed => "changed",
            Self::Unfit(_) => "unfit",
            Self::Accepted(..) => "accepted",
        }
    }
}
