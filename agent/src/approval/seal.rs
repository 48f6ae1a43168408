//! What a question is known by that a client puts to its user, so that nobody can answer another.

use std::{fmt, io};

use ring::hmac;

use super::Request;
use crate::principal::code;

/// What every state begins with.
const PREFIX: &str = "capwarden";

/// Makes states for questions, and knows them again: `capwarden.<mark>.<id>.<code>`, where the code is
/// HMAC-SHA256 over the request's id and all that an approval of it is bound to.
///
/// The key is this process's and goes nowhere: after an agent's end its questions can be answered no
/// more, and the same call is asked for anew. By the mark a state is told from a server's, and from one
/// of another capwarden behind this one, which are none of its business.
pub struct Seal {
    key: hmac::Key,
    mark: String,
}

impl Seal {
    /// With a new key.
    ///
    /// # Errors
    ///
    /// The host has no randomness.
    pub fn generate() -> io::Result<Self> {
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &code::random::<32>()?),
            mark: code::encode(&code::random::<10>()?),
        })
    }

    /// The state of the question for a request.
    pub(super) fn state(&self, id: &str, request: &Request) -> String {
        let tag = hmac::sign(&self.key, &message(id, request));
        let (mark, tag) = (&self.mark, code::encode(tag.as_ref()));
        format!("{PREFIX}.{mark}.{id}.{tag}")
    }

    /// Whether a state says that it is one of this process's. Whether it is true is another matter.
    #[must_use]
    pub fn owns(&self, state: &str) -> bool {
        self.parts(state).is_some()
    }

    /// The id of the request whose question a state claims to be.
    pub(super) fn id<'a>(&self, state: &'a str) -> Option<&'a str> {
        self.parts(state)?.split_once('.').map(|(id, _)| id)
    }

    /// Whether the state was made for this request. The comparison takes as long for a wrong code as
    /// for a right one.
    pub(super) fn is_for(&self, state: &str, request: &Request) -> bool {
        let parts = self.parts(state).and_then(|parts| parts.split_once('.'));
        parts.is_some_and(|(id, tag)| {
            code::decode::<32>(tag)
                .is_some_and(|tag| hmac::verify(&self.key, &message(id, request), &tag).is_ok())
        })
    }

    /// `<id>.<code>`.
    fn parts<'a>(&self, state: &'a str) -> Option<&'a str> {
        let rest = state.strip_prefix(PREFIX)?.strip_prefix('.')?;
        rest.strip_prefix(self.mark.as_str())?.strip_prefix('.')
    }
}

/// No id and no digest has a line end.
fn message(id: &str, request: &Request) -> Vec<u8> {
    format!("capwarden question 1\n{id}\n{}", request.digest).into_bytes()
}

/// Without its key.
impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal").finish_non_exhaustive()
    }
}
