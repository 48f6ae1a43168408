//! Who calls: established by the transport, never by what a client says of itself.
//!
//! Over a pipe or a Unix socket it is the user whom the kernel names. Over HTTP it is whoever bears
//! a [`Grant`]: the operator makes it, its [`Token`] is shown once, and only a digest of that is
//! kept ([`Grants`]).
#![forbid(unsafe_code)]

pub(crate) mod code;
mod grant;
mod operator;
#[cfg(test)]
mod tests;
mod token;

use std::{fmt, sync::Arc};

pub use crate::policy::Ceiling;
pub use grant::{
    Bearer, Grant, GrantError, Grants, MOST_GRANTS, NewGrant, Rejected, Standing, is_server,
};
pub use operator::Operator;
pub use token::Token;

/// Whom a call is attributed to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Principal {
    /// The user at the other end of a pipe or a Unix socket, as the kernel names it.
    User(u32),
    /// Whoever bears a grant, by the name that the operator gave it.
    Bearer(Arc<str>),
}

/// `uid:1000`, `grant:laptop`.
impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(uid) => write!(f, "uid:{uid}"),
            Self::Bearer(name) => write!(f, "grant:{name}"),
        }
    }
}

/// Connections over HTTP are numbered from here on. Whoever is let in opens as many MCP sessions as
/// they like, so that nothing can be counted by one: see [`Caller::lasting_connection`].
pub const HTTP_CONNECTIONS: u64 = 1_000_000_000;

/// A connection's number, for people: `connection 2`, `HTTP session 7`. Requests over HTTP that belong
/// to no session have numbers beyond any that sessions come to.
#[must_use]
pub fn connection_words(number: u64) -> String {
    match number.checked_sub(HTTP_CONNECTIONS) {
        None => format!("connection {number}"),
        Some(session) if session < 1 << 32 => format!("HTTP session {}", session + 1),
        Some(_) => "HTTP without a session".to_owned(),
    }
}

/// The caller of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Whom the call is attributed to.
    pub principal: Principal,
    /// The bearer grant it came with. Over a pipe or a Unix socket there is none: the principal
    /// itself is what a limit per grant counts by.
    pub grant: Option<Arc<str>>,
    /// The client's connection: one pipe, one MCP session, or, in the stateless protocol, one
    /// grant. Unique while the agent lives.
    pub connection: u64,
    /// The governed server, by the name that the operator gave it.
    pub server: Arc<str>,
}

impl Caller {
    /// The connection, if it is one that costs its client something to open anew: a pipe, or a Unix
    /// socket with a server of its own.
    #[must_use]
    pub fn lasting_connection(&self) -> Option<u64> {
        (self.connection < HTTP_CONNECTIONS).then_some(self.connection)
    }
}
