//! What an approval is asked for, and what it is bound to.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{LONGEST_ARGUMENTS, Refused, canonical};
use crate::{
    policy::{Approval, Approver, Call},
    principal::{Caller, code},
};

/// Bytes of a text that comes with a request for people to read.
const LONGEST_TEXT: usize = 1 << 10;

/// A call that needs an approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The governed server, by name.
    pub server: String,
    /// Who calls: `uid:1000`, `grant:laptop`.
    pub principal: String,
    /// The id of the grant that the call came with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// The tool.
    pub tool: String,
    /// The arguments as canonical JSON; empty once the request is over.
    pub arguments: String,
    /// The rule that asks for the approval.
    pub rule: String,
    /// Whom that asks.
    #[serde(default)]
    pub by: Approver,
    /// Why it does, for who is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What the call would come to, in a line: what a capture would be granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
    /// How many seconds it waits, and can be used once it is approved.
    pub timeout: u64,
    /// SHA-256 over all that it is bound to, in hexadecimal.
    pub(super) digest: String,
}

impl Request {
    /// The request for one call.
    ///
    /// # Errors
    ///
    /// The call cannot be approved: it is too large, or has a number that is not exact.
    pub fn new(
        caller: &Caller,
        call: &Call,
        approval: &Approval,
        effect: Option<String>,
    ) -> Result<Self, Refused> {
        let arguments = canonical::object(&call.arguments).map_err(|_| Refused::Inexact)?;
        let bytes = arguments.len().saturating_add(call.tool.len());
        if bytes > LONGEST_ARGUMENTS {
            return Err(Refused::TooLarge { bytes });
        }
        let mut request = Self {
            server: caller.server.to_string(),
            principal: caller.principal.to_string(),
            grant: caller.grant.as_deref().map(str::to_owned),
            tool: call.tool.clone(),
            arguments,
            rule: cut(approval.rule.to_string()),
            by: approval.by,
            why: approval.why.clone().map(cut),
            effect: effect.map(cut),
            timeout: approval.timeout.as_secs().max(1),
            digest: String::new(),
        };
        request.digest = request.bound_to();
        Ok(request)
    }

    /// Each part with its length before it, so that no two requests read the same.
    fn bound_to(&self) -> String {
        let mut digest = Sha256::new();
        let mut part = |bytes: &[u8]| {
            digest.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
            digest.update(bytes);
        };
        part(b"capwarden approval 1");
        part(self.server.as_bytes());
        part(self.principal.as_bytes());
        part(if self.grant.is_some() { b"1" } else { b"0" });
        part(self.grant.as_deref().unwrap_or_default().as_bytes());
        part(self.tool.as_bytes());
        part(self.arguments.as_bytes());
        // What was approved is what it comes to: under another policy it may come to more.
        part(self.effect.as_deref().unwrap_or_default().as_bytes());
        // What a client's user has approved is not what an operator would have.
        if self.by == Approver::User {
            part(b"user");
        }
        let digest = digest.finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// About how many bytes it takes up in the table.
    pub(super) fn bytes(&self) -> usize {
        self.arguments.len() + self.tool.len()
    }
}

fn cut(mut text: String) -> String {
    if text.len() > LONGEST_TEXT {
        text.truncate(text.floor_char_boundary(LONGEST_TEXT));
        text.push('…');
    }
    text
}

/// A new id: 40 random bits in 8 letters and digits.
pub(super) fn new_id() -> std::io::Result<String> {
    Ok(code::encode(&code::random::<5>()?))
}

/// An id as people read it: `K7QM-2F9X`.
#[must_use]
pub fn shown_id(id: &str) -> String {
    match id.split_at_checked(4) {
        Some((first, second)) if !second.is_empty() => format!("{first}-{second}"),
        _ => id.to_owned(),
    }
}
