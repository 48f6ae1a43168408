//! How many descriptors the agent may have open, and what it starts.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors of the agent: one for each capture socket, of which a session has up to 64, and
/// there are up to 64 sessions. The usual limit of 1,024 is for programs that call `select`.
pub(super) const DESCRIPTORS: u64 = 8_192;

/// The limit that the agent was started with, which servers get back.
pub(super) fn first_limit() -> Rlimit {
    static FIRST: OnceLock<Rlimit> = OnceLock::new();
    *FIRST.get_or_init(|| getrlimit(Resource::Nofile))
}

/// Raises the agent's limit of descriptors to so many, or as far as it may, and returns what it is
/// then. What it starts has the limit that it had itself.
pub fn descriptors(wanted: u64) -> u64 {
    first_limit();
    let before = getrlimit(Resource::Nofile);
    let wanted = before.maximum.map_or(wanted, |most| most.min(wanted));
    let Some(now) = before.current.filter(|now| *now < wanted) else {
        return before.current.unwrap_or(u64::MAX);
    };
    let raised = Rlimit {
        current: Some(wanted),
        ..before
    };
    setrlimit(Resource::Nofile, raised).map_or(now, |()| wanted)
}
