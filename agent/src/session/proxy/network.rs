//! The guard of one server's network: what it tells, and to whom that matters.

use std::{
    cmp::Reverse,
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
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

/// Refusals that are kept to be told to a model, each thing once.
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
    /// How often, this being the last time.
    pub times: u64,
    /// What kind of thing that is: `connect (tcp, IPv4)`. There are few.
    pub class: &'static str,
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
    guard: NetworkGuard,
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
    /// Of that, what the kernel could not tell of.
    lost: u64,
    /// What was refused, each thing once.
    last: Vec<Last>,
}

/// The last time that a thing was refused.
struct Last {
    /// The number of that refusal.
    number: u64,
    what: String,
    session: Option<SessionId>,
    /// What it has in common with others: the address, say, whatever the port. A scan of one makes
    /// no other be forgotten.
    group: Group,
}

/// See [`Last::group`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Group {
    Address(NetworkCall, IpAddr),
    Other,
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
            guard: guard.clone(),
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
    pub(in crate::session) fn note(&self, session: SessionId, what: String) {
        let mut told = self.news.told();
        told.refusals += 1;
        told.keep(what, Some(session), Group::Other);
    }

    /// Takes up what has happened.
    pub(in crate::session) fn hear(&self) {
        self.news.hear();
    }

    /// What was refused so far that the kernel could not tell of.
    pub(in crate::session) fn lost(&self) -> u64 {
        self.news.guard.lost_events().unwrap_or(0)
    }

    pub(super) fn refusals(&self) -> u64 {
        self.news.hear();
        self.news.told().refusals
    }

    pub(super) fn refused_since(
        &self,
        refusals: u64,
        hears: &dyn Fn(Option<SessionId>) -> bool,
    ) -> Vec<String> {
        self.news.hear();
        self.news.told().since(refusals, hears)
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
        if let Some(refusal) = self
            .guard
            .lost_events()
            .ok()
            .and_then(|lost| told.take_up_lost(lost))
        {
            self.events.network_refused(refusal);
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
        let (what, class) = words(&event.what)?;
        self.refusals += 1;
        // Which protocols and options there are is tried by the way; no model has asked for it.
        let by_the_way = matches!(
            event.what,
            NetworkNews::Socket(_) | NetworkNews::Option { .. }
        );
        if !by_the_way {
            let group = match event.what {
                NetworkNews::Address { call, to, .. } => Group::Address(call, to.ip()),
                NetworkNews::TooManyMade(to) => Group::Address(NetworkCall::Connect, to.ip()),
                _ => Group::Other,
            };
            self.keep(what.clone(), session, group);
        }
        Some(NetworkRefusal {
            session,
            what,
            times: 1,
            class,
        })
    }

    /// What is to be recorded of so much that could not be told in all.
    fn take_up_lost(&mut self, lost: u64) -> Option<NetworkRefusal> {
        let times = lost.checked_sub(self.lost).filter(|times| *times > 0)?;
        self.lost = lost;
        self.refusals += times;
        let what = "do what was too much at once to be told".to_owned();
        self.keep(what.clone(), None, Group::Other);
        Some(NetworkRefusal {
            session: None,
            what,
            times,
            class: "lost",
        })
    }

    fn keep(&mut self, what: String, session: Option<SessionId>, group: Group) {
        let number = self.refusals;
        let known = self.last.iter_mut();
        if let Some(known) = known
            .into_iter()
            .find(|one| one.what == what && one.session == session)
        {
            known.number = number;
            return;
        }
        if self.last.len() >= KEPT {
            // The oldest of those that are most alike.
            let alike = |group| self.last.iter().filter(|one| one.group == group).count();
            let oldest = self.last.iter().enumerate();
            let oldest = oldest.max_by_key(|(_, one)| (alike(one.group), Reverse(one.number)));
            if let Some(at) = oldest.map(|(at, _)| at) {
                self.last.swap_remove(at);
            }
        }
        self.last.push(Last {
            number,
            what,
            session,
            group,
        });
    }

    /// What was refused since then, each thing once, of that which may be heard.
    fn since(&self, refusals: u64, hears: &dyn Fn(Option<SessionId>) -> bool) -> Vec<String> {
        let since = self.last.iter().filter(|one| one.number > refusals);
        let mut since: Vec<&Last> = since.filter(|one| hears(one.session)).collect();
        since.sort_by_key(|one| one.number);
        let mut told: Vec<String> = Vec::new();
        for one in since {
            if !told.contains(&one.what) {
                told.push(one.what.clone());
            }
        }
        let more = told.len().saturating_sub(TOLD);
        told.truncate(TOLD);
        if more > 0 {
            told.push(format!("do {more} more such things"));
        }
        told
    }
}

/// What was refused, as a phrase, and what kind of thing that is.
fn words(news: &NetworkNews) -> Option<(String, &'static str)> {
    Some(match news {
        NetworkNews::Address { call, to, protocol } => {
            let verb = match call {
                NetworkCall::Bind => "listen on",
                NetworkCall::Connect => "connect to",
                NetworkCall::Send => "send to",
            };
            let name = match protocol {
                Some(Transport::Tcp) => "tcp",
                Some(Transport::Udp) => "udp",
                None => "another protocol",
            };
            (format!("{verb} {to} ({name})"), class(*call, *protocol, to))
        }
        NetworkNews::Socket(number) => (
            format!("open a socket of IP protocol {number}"),
            "socket protocol",
        ),
        NetworkNews::Option { level, option } => (
            format!("set the socket option {option} of level {level}"),
            "socket option",
        ),
        NetworkNews::TooManyAccepted => ("accept more connections".to_owned(), "too many accepted"),
        NetworkNews::TooManyMade(to) => (
            format!("make more connections, as to {to}"),
            "too many made",
        ),
        NetworkNews::Ended(_) => return None,
    })
}

fn class(call: NetworkCall, protocol: Option<Transport>, to: &SocketAddr) -> &'static str {
    use NetworkCall::{Bind, Connect, Send};
    match (call, protocol, to.is_ipv4()) {
        (Bind, Some(Transport::Tcp), true) => "listen (tcp, IPv4)",
        (Bind, Some(Transport::Tcp), false) => "listen (tcp, IPv6)",
        (Bind, Some(Transport::Udp), true) => "listen (udp, IPv4)",
        (Bind, Some(Transport::Udp), false) => "listen (udp, IPv6)",
        (Bind, None, _) => "listen (another protocol)",
        (Connect, Some(Transport::Tcp), true) => "connect (tcp, IPv4)",
        (Connect, Some(Transport::Tcp), false) => "connect (tcp, IPv6)",
        (Connect, Some(Transport::Udp), true) => "connect (udp, IPv4)",
        (Connect, Some(Transport::Udp), false) => "connect (udp, IPv6)",
        (Connect, None, _) => "connect (another protocol)",
        (Send, Some(Transport::Tcp), true) => "send (tcp, IPv4)",
        (Send, Some(Transport::Tcp), false) => "send (tcp, IPv6)",
        (Send, Some(Transport::Udp), true) => "send (udp, IPv4)",
        (Send, Some(Transport::Udp), false) => "send (udp, IPv6)",
        (Send, None, _) => "send (another protocol)",
    }
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
        let all = |_| true;
        let mut told = Told::default();
        told.take_up(&refused(1));
        let since = told.refusals;
        assert!(told.since(since, &all).is_empty());
        for _ in 0..3 {
            let refusal = told.take_up(&refused(2)).unwrap();
            assert_eq!(refusal.what, "connect to 10.0.0.1:2 (tcp)");
        }
        let probe = NetworkEvent {
            what: NetworkNews::Socket(132),
            ..refused(0)
        };
        assert!(told.take_up(&probe).is_some(), "recorded");
        assert_eq!(told.since(since, &all), ["connect to 10.0.0.1:2 (tcp)"]);
        for port in 100..1_000 {
            told.take_up(&refused(port));
        }
        let told_of = told.since(since, &all);
        assert_eq!(told_of.len(), TOLD + 1);
        assert_eq!(told_of.last().unwrap(), "do 56 more such things");
        assert_eq!(told.last.len(), KEPT);
    }

    #[test]
    fn scan_hides_no_single_refusal_from_the_model() {
        let mut told = Told::default();
        let single = NetworkEvent {
            what: NetworkNews::Address {
                call: NetworkCall::Connect,
                to: ([192, 0, 2, 7], 443).into(),
                protocol: Some(Transport::Tcp),
            },
            ..refused(0)
        };
        told.take_up(&single);
        for port in 0..5_000 {
            told.take_up(&refused(port));
        }
        let told_of = told.since(0, &|_| true);
        assert_eq!(told_of[0], "connect to 192.0.2.7:443 (tcp)");
        assert_eq!(told.last.len(), KEPT);
    }

    #[test]
    fn what_was_lost_is_counted_once() {
        let mut told = Told::default();
        assert_eq!(told.take_up_lost(0), None);
        let lost = told.take_up_lost(7).unwrap();
        assert_eq!((lost.times, lost.session, told.refusals), (7, None, 7));
        assert_eq!(told.take_up_lost(7), None);
        assert_eq!(told.take_up_lost(9).unwrap().times, 2);
        assert_eq!(told.since(0, &|_| true), [lost.what]);
    }

    #[test]
    fn only_those_hear_of_it_who_may() {
        let mut told = Told::default();
        let (signals, _inbox) = mpsc::unbounded_channel();
        let slot = SlotId::for_tests(3);
        told.sessions.insert(slot, (SessionId(5), signals));
        told.take_up(&NetworkEvent {
            slot: Some(slot),
            what: NetworkNews::TooManyAccepted,
            ..refused(0)
        });
        told.take_up(&refused(1));
        let own = told.since(0, &|session| session == Some(SessionId(5)));
        assert_eq!(own, ["accept more connections"]);
        assert_eq!(told.since(0, &|session| session.is_none()).len(), 1);
        assert!(told.since(0, &|_| false).is_empty());
    }
}
