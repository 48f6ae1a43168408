//! Refusals, thinned out: a hostile process can cause them in any number, and a flood of one kind must
//! hide no other.
//!
//! The first [`FIRST`] of each kind are told one by one. Of the rest it is told how many there were: once
//! the kind has been quiet for [`QUIET`], while it goes on each [`QUIET`], and when its session or the agent
//! ends. A kind is what was refused, to which process (where the kernel says to which), in which
//! session of which server. At most [`KINDS`] are told apart at once; what comes beyond that, as when ports are scanned,
//! counts by its server and its class alone, of which there are few. So what is told of a flood is bounded, whatever
//! it is made of: about [`KINDS`] × ([`FIRST`] + 1) in each [`QUIET`].

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{NetworkRefusal, ServerEvent, SessionEvent, SessionId};
use crate::kernel::{Caller, Refusal};

/// Kinds that are told apart at once.
pub(super) const KINDS: usize = 128;
/// Refusals of one kind that are told one by one.
pub(super) const FIRST: u64 = 5;
/// A flood has ended when it has been quiet for so long.
pub(super) const QUIET: Duration = Duration::from_secs(60);

/// Something that was refused.
#[derive(Clone, Debug)]
pub(super) enum Refused {
    /// A capture socket, or a filter on one; in the session that its process belongs to.
    Socket {
        session: Option<SessionId>,
        caller: Option<Caller>,
        refusal: Refusal,
    },
    /// Something in the network.
    Network(NetworkRefusal),
}

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Kind {
    One {
        server: Arc<str>,
        session: Option<SessionId>,
        process: u32,
        what: String,
    },
    /// All of a server's and a class that are not told apart.
    Class(Arc<str>, &'static str),
}

/// What was seen of a kind.
struct Seen {
    server: Arc<str>,
    count: u64,
    /// Of these, those that were not told of.
    untold: u64,
    /// The last one.
    last: Refused,
    at: Instant,
    told: Instant,
}

/// Says what is told of.
#[derive(Default)]
pub(super) struct Sampler {
    kinds: HashMap<Kind, Seen>,
}

impl Refused {
    fn session(&self) -> Option<SessionId> {
        match self {
            Self::Socket { session, .. } => *session,
            Self::Network(refusal) => refusal.session,
        }
    }

    fn kind(&self, server: &Arc<str>) -> Kind {
        let (process, what) = match self {
            Self::Socket {
                caller, refusal, ..
            } => {
                let process = caller.as_ref().map_or(0, |caller| caller.process);
                (process, format!("{:?} {}", refusal.errno, refusal.reason))
            }
            Self::Network(refusal) => (0, refusal.what.clone()),
        };
        Kind::One {
            server: Arc::clone(server),
            session: self.session(),
            process,
            what,
        }
    }

    fn class(&self, server: &Arc<str>) -> Kind {
        let class = match self {
            Self::Socket { .. } => "socket",
            Self::Network(refusal) => refusal.class,
        };
        Kind::Class(Arc::clone(server), class)
    }

    fn told(self, times: u64) -> SessionEvent {
        match self {
            Self::Socket {
                caller, refusal, ..
            } => SessionEvent::Refused {
                caller,
                refusal,
                times,
            },
            Self::Network(refusal) => {
                SessionEvent::NetworkRefused(NetworkRefusal { times, ..refusal })
            }
        }
    }
}

impl Seen {
    /// What is told of those that were not.
    fn rest(&mut self, now: Instant) -> Option<ServerEvent> {
        self.told = now;
        match std::mem::take(&mut self.untold) {
            0 => None,
            untold => Some(self.tell(untold)),
        }
    }

    /// What is told of the last one, which stands for so many.
    fn tell(&self, times: u64) -> ServerEvent {
        ServerEvent {
            server: Arc::clone(&self.server),
            event: self.last.clone().told(times),
        }
    }
}

impl Sampler {
    /// What is to be told now of one that this server was refused now.
    pub(super) fn note(
        &mut self,
        server: &Arc<str>,
        refused: Refused,
        now: Instant,
    ) -> Option<ServerEvent> {
        let mut kind = refused.kind(server);
        if self.kinds.len() >= KINDS && !self.kinds.contains_key(&kind) {
            kind = refused.class(server);
        }
        let seen = self.kinds.entry(kind).or_insert_with(|| Seen {
            server: Arc::clone(server),
            count: 0,
            untold: 0,
            last: refused.clone(),
            at: now,
            told: now,
        });
        seen.count += 1;
        seen.at = now;
        seen.last = refused;
        if seen.count <= FIRST {
            return Some(seen.tell(1));
        }
        seen.untold += 1;
        None
    }

    /// What is told of floods that have ended, or gone on for long. Those that ended are forgotten:
    /// the next of their kind is told of anew.
    pub(super) fn sweep(&mut self, now: Instant) -> Vec<ServerEvent> {
        let mut told = Vec::new();
        self.kinds.retain(|_, seen| {
            let quiet = now.saturating_duration_since(seen.at) >= QUIET;
            if quiet || now.saturating_duration_since(seen.told) >= QUIET {
                told.extend(seen.rest(now));
            }
            !quiet
        });
        told
    }

    /// What is told of a session that ends.
    pub(super) fn end(&mut self, session: SessionId) -> Vec<ServerEvent> {
        let mut told = Vec::new();
        self.kinds.retain(|_, seen| {
            let its = seen.last.session() == Some(session);
            if its {
                told.extend(seen.rest(seen.at));
            }
            !its
        });
        told
    }

    /// What is told when there will be no more.
    pub(super) fn finish(&mut self) -> Vec<ServerEvent> {
        let mut kinds = std::mem::take(&mut self.kinds);
        let rest = kinds.values_mut();
        rest.filter_map(|seen| seen.rest(seen.at)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Errno;

    fn network(session: Option<u32>, what: &str) -> Refused {
        Refused::Network(NetworkRefusal {
            session: session.map(SessionId),
            what: what.to_owned(),
            times: 1,
            class: "connect (tcp, IPv4)",
        })
    }

    fn socket(process: u32) -> Refused {
        Refused::Socket {
            session: None,
            caller: Some(Caller {
                process,
                thread: process,
                name: "x".into(),
            }),
            refusal: Refusal {
                errno: Errno::PERM,
                reason: "no capture session is open".into(),
            },
        }
    }

    fn note(sampler: &mut Sampler, refused: Refused, now: Instant) -> Option<ServerEvent> {
        sampler.note(&Arc::from("pcap"), refused, now)
    }

    /// What was told, and how often each stands for.
    fn words(told: impl IntoIterator<Item = ServerEvent>) -> Vec<(String, u64)> {
        let word = |event: ServerEvent| match event.event {
            SessionEvent::NetworkRefused(refusal) => (refusal.what, refusal.times),
            SessionEvent::Refused { caller, times, .. } => {
                (caller.unwrap().process.to_string(), times)
            }
            other => panic!("{other:?}"),
        };
        let mut words: Vec<_> = told.into_iter().map(word).collect();
        words.sort();
        words
    }

    fn pair(what: &str, times: u64) -> (String, u64) {
        (what.to_owned(), times)
    }

    #[test]
    fn new_kind_is_told_of_in_the_middle_of_a_flood() {
        let (mut sampler, now) = (Sampler::default(), Instant::now());
        let mut told = 0;
        for _ in 0..100_000 {
            told += u64::from(note(&mut sampler, network(None, "a"), now).is_some());
            told += u64::from(note(&mut sampler, socket(7), now).is_some());
        }
        assert_eq!(told, 2 * FIRST);
        let new = [
            note(&mut sampler, network(None, "b"), now),
            note(&mut sampler, socket(8), now),
        ];
        assert_eq!(
            words(new.into_iter().flatten()),
            [pair("8", 1), pair("b", 1)]
        );
        // Nothing was quiet for long.
        assert!(sampler.sweep(now + QUIET / 2).is_empty());
        let ended = words(sampler.sweep(now + QUIET));
        assert_eq!(
            ended,
            [pair("7", 100_000 - FIRST), pair("a", 100_000 - FIRST)]
        );
        assert!(sampler.sweep(now + 2 * QUIET).is_empty() && sampler.kinds.is_empty());
        assert!(note(&mut sampler, network(None, "a"), now + 2 * QUIET).is_some());
    }

    #[test]
    fn flood_that_does_not_end_is_counted_meanwhile() {
        let (mut sampler, start) = (Sampler::default(), Instant::now());
        let mut counted = 0;
        for second in 0..600_u64 {
            let now = start + Duration::from_secs(second);
            counted += u64::from(note(&mut sampler, network(None, "a"), now).is_some());
            counted += words(sampler.sweep(now))
                .iter()
                .map(|(_, times)| times)
                .sum::<u64>();
        }
        counted += words(sampler.finish())
            .iter()
            .map(|(_, times)| times)
            .sum::<u64>();
        assert_eq!(counted, 600);
    }

    #[test]
    fn scan_is_bounded_and_counted_by_its_class() {
        let (mut sampler, now) = (Sampler::default(), Instant::now());
        let scan = (0..60_000)
            .filter_map(|port| note(&mut sampler, network(None, &port.to_string()), now));
        let told = u64::try_from(scan.count()).unwrap();
        assert_eq!(told, u64::try_from(KINDS).unwrap() + FIRST);
        // Of another class, one is still told of.
        assert!(note(&mut sampler, socket(7), now).is_some());
        assert_eq!(sampler.kinds.len(), KINDS + 2);
        assert_eq!(words(sampler.finish()), [pair("59999", 60_000 - told)]);
    }

    #[test]
    fn session_that_ends_has_its_counts_before() {
        let (mut sampler, now) = (Sampler::default(), Instant::now());
        for _ in 0..10 {
            for session in [Some(1), Some(2), None] {
                note(&mut sampler, network(session, "a"), now);
            }
        }
        assert_eq!(words(sampler.end(SessionId(1))), [pair("a", 10 - FIRST)]);
        assert!(sampler.end(SessionId(1)).is_empty());
        assert_eq!(words(sampler.finish()).len(), 2);
    }
}
