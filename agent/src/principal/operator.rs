//! Who runs capwarden's verbs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Somebody who approved of a call, made a grant, or took one back. It is for the record: what
/// lets them is that they can write the state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Operator {
    /// The user that the verb ran as.
    pub uid: u32,
    /// The user who called sudo, if it was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sudo_uid: Option<u32>,
}

/// `uid:0`, `uid:1000 by sudo`.
impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sudo_uid {
            Some(uid) => write!(f, "uid:{uid} by sudo"),
            None => write!(f, "uid:{}", self.uid),
        }
    }
}
