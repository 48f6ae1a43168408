//! How much there is of everything that clients share over HTTP. How much of it each may have is
//! said by [`Shares`](super::shares::Shares).

/// Connections at once, where there are descriptors for them.
const CONNECTIONS: u64 = 16_384;
/// Streams of the server that stay open, at once, where there are descriptors for them: who listens to one has
/// another connection to call on.
const STREAMS: u64 = CONNECTIONS / 2;
/// Requests that the server works on at once.
const CALLS: u64 = 1_024;
/// Messages to the server that ask nothing of it, at once: it takes them as they come.
const WORDS: u64 = 64;
/// Descriptors that are kept for all else: captures, servers, logs, stores.
const OTHERS: u64 = 4_608;
/// How many descriptors are wanted.
pub const DESCRIPTORS: u64 = CONNECTIONS + STREAMS + CALLS + WORDS + OTHERS;

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

/// What so many descriptors are enough for. Each client's connection is one, and so is each to the
/// server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Connections of clients at once.
    pub connections: usize,
    /// Streams of the server that stay open, at once.
    pub(super) streams: usize,
    /// Connections of clients and streams of the server together.
    pub(super) open: usize,
    /// Requests that the server works on at once.
    pub(super) calls: usize,
    /// Messages to the server that ask nothing of it, at once.
    pub(super) words: usize,
}

impl Capacity {
    /// Divides so many descriptors.
    #[must_use]
    pub fn of(descriptors: u64) -> Self {
        let left = descriptors - OTHERS.min(descriptors / 4);
        let (calls, words) = (CALLS.min(left / 4), WORDS.min(left / 16));
        let open = left - calls - words;
        let size = |number: u64| usize::try_from(number.max(1)).unwrap_or(usize::MAX);
        Self {
            // However many come, some of them can listen.
            connections: size(CONNECTIONS.min(open / 16 * 15)),
            streams: size(STREAMS.min(open / 3)),
            open: size(open.min(CONNECTIONS + STREAMS)),
            calls: size(calls),
            words: size(words),
        }
    }

    /// MCP sessions at once with an HTTP server. They stay when their connections go, so that there
    /// are many of them even for a few.
    pub(super) fn sessions(&self) -> usize {
        self.connections.max(FEWEST_SESSIONS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_open_at_once_fits_the_descriptors() {
        for (descriptors, connections, streams, calls) in [
            (0, 1, 1, 1),
            (256, 120, 44, 48),
            (1_024, 495, 176, 192),
            (20_000, 13_410, 4_768, 1_024),
            (DESCRIPTORS, 16_384, 8_192, 1_024),
            (u64::MAX, 16_384, 8_192, 1_024),
        ] {
            let capacity = Capacity::of(descriptors);
            let Capacity { open, words, .. } = capacity;
            let found = (capacity.connections, capacity.streams, capacity.calls);
            assert_eq!(found, (connections, streams, calls), "{descriptors}");
            let at_once = u64::try_from(open + calls + words).unwrap();
            assert!(
                descriptors == 0
                    || at_once <= descriptors / 4 * 3 + 1
                    || at_once + OTHERS <= descriptors
            );
            assert!(capacity.connections <= open, "{descriptors}");
        }
    }

    #[test]
    fn one_user_may_have_ten_thousand_clients_where_there_are_20_000_descriptors() {
        let connections = Capacity::of(20_000).connections;
        let shares = crate::gate::http::shares::Shares::new(connections);
        let clients: Vec<_> = std::iter::from_fn(|| shares.try_take(&"one", 1)).collect();
        assert!(clients.len() >= 10_000, "{}", clients.len());
    }
}
