//! The guard of one server's network: what it tells, and to whom that matters.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{
    ProxyError, SessionError,
    lifecycle::Signal,
    lookup::{self, Known, REFRESH},
};
use crate::{
    kernel::{
        Credentials, NetworkCall, NetworkCaps, NetworkEvent, NetworkEvents, NetworkGuard,
        NetworkInterfaces, NetworkNews, NetworkSlot, NetworkTerms, Readable, SlotId, Transport,
    },
    policy::Baseline,
    session::{Events, SessionId, registry::Shared},
};

/// Refusals that are kept to be told to a model.
const KEPT: usize = 64;
/// Of these, what one answer tells.
const TOLD: usize = 8;

/// Something that the kernel refused the server in its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRefusal {
    /// The session by whose caps it was refused; none where neither a session nor the baseline
    /// allows it.
    pub session: Option<SessionId>,
    /// What, as a phrase: `connect to 10.0.0.1:80 (tcp)`.
    pub what: String,
}

/// The guard of one server's network.
pub(in crate::session) struct Network {
    guard: NetworkGuard,
    news: Arc<News>,
    /// They hear the guard, and look the baseline's names up again. They end with this.
    _tasks: JoinSet<()>,
}

/// What the guard tells.
struct News {
    source: Arc<NetworkEvents>,
    told: Mutex<Told>,
    events: Events,
}

/// What it has told.
#[derive(Default)]
struct Told {
    sessions: HashMap<SlotId, (SessionId, mpsc::UnboundedSender<Signal>)>,
    /// How much was refused.
    refusals: u64,
    /// The last of it, with its number.
    last: VecDeque<(u64, String)>,
}

impl Network {
    pub(super) async fn attach(
        shared: &Arc<Shared>,
        credentials: &Credentials,
        baseline: &Baseline,
    ) -> Result<Self, SessionError> {
        let known = lookup::names(&baseline.connect).await?;
        let terms = NetworkTerms {
            rules: lookup::rules(&baseline.listen, &baseline.connect, &known),
            interfaces: NetworkInterfaces::Any,
            caps: NetworkCaps::default(),
            deadline: None,
        };
        let (shared, credentials) = (Arc::clone(shared), credentials.clone());
        let events = shared.events.clone();
        // The verifier takes a quarter of a second.
        let attached = tokio::task::spawn_blocking(move || {
            let cgroup = shared.cgroup.as_ref().ok_or(ProxyError::NoCgroup)?;
            Ok::<_, ProxyError>(NetworkGuard::attach(cgroup, &credentials, &terms)?)
        });
        let (guard, slot) = attached.await.map_err(io::Error::other)??;
        let source = guard
            .take_events()
            .ok_or_else(|| io::Error::other("the network guard has no events"))?;
        let news = Arc::new(News {
            source: Arc::new(source),
            told: Mutex::default(),
            events,
        });
        let mut tasks = JoinSet::new();
        let mut readable = Readable::new(Arc::clone(&news.source))?;
        let heard = Arc::clone(&news);
        tasks.spawn(async move {
            while readable.ready().await.is_ok() {
                heard.hear();
            }
        });
        tasks.spawn(keep(slot, baseline.clone(), known));
        Ok(Self {
            guard,
            news,
            _tasks: tasks,
        })
    }

    /// A slot for a session.
    pub(in crate::session) async fn open(
        &self,
        terms: NetworkTerms,
    ) -> Result<NetworkSlot, SessionError> {
        let guard = self.guard.clone();
        // It waits for the kernel, some milliseconds.
        let opened = tokio::task::spawn_blocking(move || guard.open(&terms)).await;
        let opened = opened.map_err(io::Error::other)?;
        Ok(opened.map_err(ProxyError::from)?)
    }

    /// A session is to be told of its slot's end.
    pub(in crate::session) fn follow(
        &self,
        slot: SlotId,
        session: SessionId,
        signals: mpsc::UnboundedSender<Signal>,
    ) {
        let mut told = self.news.told();
        told.sessions.insert(slot, (session, signals));
    }

    pub(in crate::session) fn forget(&self, slot: SlotId) {
        self.news.told().sessions.remove(&slot);
    }

    /// Something that is to be told to models as a refusal, as a phrase. The record has it elsewhere.
    pub(in crate::session) fn note(&self, what: String) {
        self.news.told().note(what);
    }

    pub(super) fn refusals(&self) -> u64 {
        self.news.hear();
        self.news.told().refusals
    }

    pub(super) fn refused_since(&self, refusals: u64) -> Vec<String> {
        self.news.hear();
        self.news.told().since(refusals)
    }
}

impl News {
    fn told(&self) -> MutexGuard<'_, Told> {
        // Whole after every statement.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up what has happened. Whoever returns from this knows of all that had.
    fn hear(&self) {
        let mut told = self.told();
        while let Some(event) = self.source.next_event() {
            if let Some(refusal) = told.take_up(&event) {
                self.events.network_refused(refusal);
            }
        }
    }
}

impl Told {
    /// What is to be recorded of an event.
    fn take_up(&mut self, event: &NetworkEvent) -> Option<NetworkRefusal> {
        let session = event.slot.and_then(|slot| self.sessions.get(&slot));
        if let NetworkNews::Ended(end) = event.what {
            if let Some((_, signals)) = session {
                let _ = signals.send(Signal::Ended(end));
            }
            return None;
        }
        let session = session.map(|(session, _)| *session);
        let what = words(&event.what)?;
        // Which protocols and options there are is tried by the way; no model has asked for it.
        let by_the_way = matches!(
            event.what,
            NetworkNews::Socket(_) | NetworkNews::Option { .. }
        );
        if by_the_way {
            self.refusals += 1;
        } else {
            self.note(what.clone());
        }
        Some(NetworkRefusal { session, what })
    }

    fn note(&mut self, what: String) {
        self.refusals += 1;
        if self.last.len() >= KEPT {
            self.last.pop_front();
        }
        self.last.push_back((self.refusals, what));
    }

    /// What was refused since then, each thing once.
    fn since(&self, refusals: u64) -> Vec<String> {
        let mut since: Vec<String> = Vec::new();
        for (number, what) in &self.last {
            if *number > refusals && !since.contains(what) {
                since.push(what.clone());
            }
        }
        let more = since.len().saturating_sub(TOLD);
        since.truncate(TOLD);
        if more > 0 {
            since.push(format!("do {more} more such things"));
        }
        since
    }
}

/// What was refused, as a phrase.
fn words(news: &NetworkNews) -> Option<String> {
    Some(match news {
        NetworkNews::Address { call, to, protocol } => {
            let verb = match call {
                NetworkCall::Bind => "listen on",
                NetworkCall::Connect => "connect to",
                NetworkCall::Send => "send to",
            };
            let protocol = match protocol {
                Some(Transport::Tcp) => "tcp",
                Some(Transport::Udp) => "udp",
                None => "another protocol",
            };
            format!("{verb} {to} ({protocol})")
        }
        NetworkNews::Socket(number) => format!("open a socket of IP protocol {number}"),
        NetworkNews::Option { level, option } => {
            format!("set the socket option {option} of level {level}")
        }
        NetworkNews::TooManyAccepted => "accept more connections".to_owned(),
        NetworkNews::TooManyMade(to) => format!("make more connections, as to {to}"),
        NetworkNews::Ended(_) => return None,
    })
}

/// Keeps the baseline, and the names in it what they stand for.
async fn keep(slot: NetworkSlot, baseline: Baseline, mut known: Vec<Known>) {
    let slot = Arc::new(slot);
    if known.is_empty() {
        std::future::pending::<()>().await;
    }
    let mut turns = interval_at(Instant::now() + REFRESH, REFRESH);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let now = match lookup::names(&baseline.connect).await {
            Ok(now) if now == known => continue,
            Ok(now) => now,
            Err(error) => {
                tracing::warn!(%error, "the server's baseline: the addresses of before stay");
                continue;
            }
        };
        let rules = lookup::rules(&baseline.listen, &baseline.connect, &now);
        let own = Arc::clone(&slot);
        match tokio::task::spawn_blocking(move || own.set_rules(&rules)).await {
            Ok(Ok(())) => known = now,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the server's baseline: the addresses of before stay");
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(port: u16) -> NetworkEvent {
        NetworkEvent {
            time: 0,
            slot: None,
            what: NetworkNews::Address {
                call: NetworkCall::Connect,
                to: ([10, 0, 0, 1], port).into(),
                protocol: Some(Transport::Tcp),
            },
        }
    }

    #[test]
    fn what_was_refused_since_is_told_once_and_bounded() {
        let mut told = Told::default();
        told.take_up(&refused(1));
        let since = told.refusals;
        assert!(told.since(since).is_empty());
        for _ in 0..3 {
            let refusal = told.take_up(&refused(2)).unwrap();
            assert_eq!(refusal.what, "connect to 10.0.0.1:2 (tcp)");
        }
        let probe = NetworkEvent {
            what: NetworkNews::Socket(132),
            ..refused(0)
        };
        assert!(told.take_up(&probe).is_some(), "recorded");
        assert_eq!(told.since(since), ["connect to 10.0.0.1:2 (tcp)"]);
        for port in 100..1_000 {
            told.take_up(&refused(port));
        }
        let all = told.since(since);
        assert_eq!(all.len(), TOLD + 1);
        assert_eq!(all.last().unwrap(), "do 56 more such things");
        assert_eq!(told.last.len(), KEPT);
    }
}
