//! How much there is of everything that clients share over HTTP. How much of it each may have is
//! said by [`Shares`](super::shares::Shares).

/// Connections at once, where there are descriptors for them.
const CONNECTIONS: u64 = 16_384;
/// Descriptors that are kept for all else: captures, servers, logs, stores.
const OTHERS: u64 = 4_608;
/// Descriptors of a connection: its own, and that of one to the server.
const EACH: u64 = 2;
/// How many descriptors are wanted.
pub const DESCRIPTORS: u64 = EACH * CONNECTIONS + OTHERS;

/// Connections that may wait to be taken. The host may allow fewer.
pub(super) const BACKLOG: u32 = 4_096;
/// Clients that are turned away at once, and told so.
pub(super) const FAREWELLS: usize = 64;
/// MCP sessions with an HTTP server, where there may be fewer connections than that.
const FEWEST_SESSIONS: usize = 1_024;
/// Servers on pipes at once, and so MCP sessions with them. Each has processes, and threads of the agent.
pub(super) const SERVERS: usize = 32;
/// Bytes of clients' messages that are read, and wait to be carried on, at once.
pub(super) const MESSAGES: usize = 256 << 20;
/// Bytes of servers' answers that wait to be complete, or to be taken by clients, at once.
pub(super) const ANSWERS: usize = 256 << 20;

/// How many connections there may be at once for so many descriptors.
#[must_use]
pub fn connections(descriptors: u64) -> usize {
    let spared = OTHERS.min(descriptors / 4);
    let most = (descriptors.saturating_sub(spared) / EACH).clamp(1, CONNECTIONS);
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// MCP sessions at once with an HTTP server, where there may be so many connections. They stay when
/// their connections go, so that there are many of them even for a few.
pub(super) fn sessions(connections: usize) -> usize {
    connections.max(FEWEST_SESSIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_the_descriptors() {
        for (descriptors, expected) in [
            (0, 1),
            (256, 96),
            (1_024, 384),
            (20_000, 7_696),
            (DESCRIPTORS, 16_384),
            (u64::MAX, 16_384),
        ] {
            assert_eq!(connections(descriptors), expected, "{descriptors}");
        }
    }
}
