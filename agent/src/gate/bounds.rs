//! What a gate keeps itself within, whatever its peers send.

use std::time::Duration;

use super::question::HOLD;

/// The longest message of a client, by default.
pub const CLIENT_LINE: usize = 4 << 20;
/// The longest message of a server, by default.
pub const SERVER_LINE: usize = 64 << 20;
/// Requests in flight at most, by default.
pub const IN_FLIGHT: usize = 1024;
/// How long one side may go on once the other has closed, by default.
pub const DRAIN: Duration = Duration::from_secs(10);

/// What a conversation keeps itself within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The longest message of the client, in bytes.
    pub client_line: usize,
    /// The longest message of the server, in bytes.
    pub server_line: usize,
    /// Requests in flight at most.
    pub in_flight: usize,
    /// How long one side may go on once the other has closed.
    pub drain: Duration,
    /// How long a call is held for its user's answer.
    pub hold: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            client_line: CLIENT_LINE,
            server_line: SERVER_LINE,
            in_flight: IN_FLIGHT,
            drain: DRAIN,
            hold: HOLD,
        }
    }
}
