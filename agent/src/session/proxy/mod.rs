//! Sessions for proxies: a listener may live in the server's own process, which has no stop, so a
//! session is a slot in the guard of the server's network, and its end is the end of the slot.
//!
//! ```text
//! terms ─▶ names looked up ─▶ slot ─▶ the call is forwarded; the server listens
//!                              │  cap, deadline, stop call, exit: nothing passes any more
//!                              ▼
//!                            counts are final, the event is sent; the server lives on
//! ```
//! Two proxies of one server are told apart by where they listen. What a server connects to from
//! its own process counts for the session that allows it; where several do, for the oldest, as nothing
//! in the kernel says for whom it does so. `policy check` warns where their caps differ.

mod grant;
mod lifecycle;
pub(super) mod lookup;
mod network;

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{
    EndReason, GrantError, SessionError, SessionEvent, SessionId, SessionKind, Sessions, Snapshot,
    Standing, registry::MAX_SESSIONS, snapshot::milliseconds,
};
use crate::{
    kernel::{self, Credentials, Interface, NetworkError, NetworkInterfaces, NetworkSlot},
    policy::{Baseline, InterfaceTerms, ProxyEnd, ProxyTerms},
};
use lifecycle::Lifecycle;
pub(super) use lifecycle::{Signal, reason};

pub use grant::ProxyGrant;
pub(super) use network::Network;
pub use network::NetworkRefusal;

/// Why a proxy cannot have a session, or a server's network cannot be bounded.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// An interface is not there.
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// See [`NetworkError`].
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A name has no address.
    #[error("{name} cannot be looked up: {why}")]
    Name {
        /// The name.
        name: String,
        /// What the host's resolver says.
        why: String,
    },
    /// There is nothing that the guard could be attached to.
    #[error("there is no cgroup for the server: cgroup v2 is not mounted, or not writable")]
    NoCgroup,
    /// It is bounded already.
    #[error("the server's network is bounded already")]
    Twice,
    /// The policy wants what cannot be done here.
    #[error(
        "the policy has the server restarted at its end, which is possible only for a server on \
         pipes that capwarden started"
    )]
    NoRestart,
    /// The policy came when the server was running.
    #[error(
        "the server was started when its policy granted no proxies, so its network is not bounded: \
         it must be started again"
    )]
    NotBounded,
}

/// A proxy that has not ended.
pub(super) struct LiveProxy {
    grant: Arc<ProxyGrant>,
    slot: Arc<NetworkSlot>,
    signals: mpsc::UnboundedSender<Signal>,
}

impl LiveProxy {
    /// Ends it.
    pub(super) fn end(&self, reason: EndReason) {
        let _ = self.signals.send(Signal::End(reason));
    }

    /// What it has come to.
    pub(super) fn snapshot(&self, session: SessionId) -> Snapshot {
        let (terms, passed) = (&self.grant.terms, self.slot.counts().unwrap_or_default());
        let reason = self.slot.ended().ok().flatten().map(reason);
        let interfaces = self.grant.interfaces.iter();
        Snapshot {
            standing: match (reason.is_some(), passed.listeners) {
                (true, _) => Standing::Ending,
                (false, 0) => Standing::Waiting,
                (false, _) => Standing::Live,
            },
            reason,
            granted: self.grant.summary(),
            interfaces: interfaces.map(|interface| interface.name.clone()).collect(),
            age_ms: milliseconds(self.grant.made.elapsed()),
            left_ms: self.grant.deadline.map(|end| milliseconds(end.remaining())),
            ..Snapshot::of_slot(
                session,
                SessionKind::Proxy,
                &passed,
                terms.packets,
                terms.bytes,
            )
        }
    }

    fn slot(&self) -> Arc<NetworkSlot> {
        Arc::clone(&self.slot)
    }

    pub(super) fn update_interfaces(&self, present: &[Interface]) -> Result<(), NetworkError> {
        if self.grant.terms.interfaces == InterfaceTerms::Any {
            return Ok(());
        }
        let indexes = self.grant.indexes(present);
        self.slot.set_interfaces(&NetworkInterfaces::Only(indexes))
    }
}

impl Sessions {
    /// Bounds the network of the server that is to be started: without a session, it may do what
    /// the baseline says and no more. If this fails, the server must not be started.
    pub async fn bound_network(
        &self,
        credentials: &Credentials,
        baseline: Baseline,
    ) -> Result<(), SessionError> {
        let network = Network::attach(&self.0, credentials, &baseline).await?;
        self.0.network.set(network).map_err(|_| ProxyError::Twice)?;
        self.0.events.send(SessionEvent::Bounded { baseline });
        Ok(())
    }

    /// Opens a session for a proxy: when this returns, the server may listen where it says.
    pub async fn start_proxy(
        &self,
        terms: ProxyTerms,
    ) -> Result<(SessionId, Arc<ProxyGrant>), SessionError> {
        let network = self.0.network.get().ok_or(ProxyError::NotBounded)?;
        if terms.end == ProxyEnd::Restart && self.0.restart.receiver_count() == 0 {
            return Err(ProxyError::NoRestart.into());
        }
        let present = kernel::list().await?;
        let grant = Arc::new(ProxyGrant::make(terms, &present).await?);
        let slot = Arc::new(network.open(grant.network_terms()).await?);
        let (signals, inbox) = mpsc::unbounded_channel();
        let session = self.insert_proxy(&grant, &slot, &signals)?;
        network.follow(slot.id(), session, signals);
        self.0.events.send(SessionEvent::ProxyOpened {
            session,
            grant: Arc::clone(&grant),
        });
        let lifecycle = Lifecycle::new(self.clone(), session, Arc::clone(&grant), slot);
        tokio::spawn(lifecycle.run(inbox));
        Ok((session, grant))
    }

    fn insert_proxy(
        &self,
        grant: &Arc<ProxyGrant>,
        slot: &Arc<NetworkSlot>,
        signals: &mpsc::UnboundedSender<Signal>,
    ) -> Result<SessionId, SessionError> {
        let mut table = self.0.table();
        if table.closed {
            return Err(SessionError::Closed);
        }
        if table.proxies.len() >= MAX_SESSIONS {
            return Err(SessionError::TooMany);
        }
        let session = self.0.events.next_session();
        let live = LiveProxy {
            grant: Arc::clone(grant),
            slot: Arc::clone(slot),
            signals: signals.clone(),
        };
        table.proxies.insert(session, live);
        Ok(session)
    }

    /// Whether a proxy has listened so far, as the kernel has seen it; false if its session has ended.
    pub fn proxy_listens(&self, session: SessionId) -> bool {
        let slot = self.0.table().proxies.get(&session).map(LiveProxy::slot);
        let counts = slot.and_then(|slot| slot.counts().ok());
        counts.is_some_and(|counts| counts.listeners > 0)
    }

    /// How much the kernel has refused the server in its network so far.
    pub fn network_refusals(&self) -> u64 {
        self.0.network.get().map_or(0, Network::refusals)
    }

    /// What it has refused since then, as phrases that go after `was not allowed to`; a few of them, of
    /// those that may be heard, by the session under which it was refused.
    pub fn network_refused_since(
        &self,
        refusals: u64,
        hears: &dyn Fn(Option<SessionId>) -> bool,
    ) -> Vec<String> {
        let network = self.0.network.get();
        network.map_or_else(Vec::new, |network| network.refused_since(refusals, hears))
    }
}
