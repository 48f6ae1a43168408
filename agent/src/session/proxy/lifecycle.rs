//! One proxy's session from its opening to the first of its ends.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, interval_at},
};

use super::{
    Network, ProxyGrant,
    lookup::{self, Known, REFRESH},
};
use crate::{
    kernel::{BootTime, NetworkEnd, NetworkSlot},
    policy::ProxyEnd,
    session::{
        EndReason, Protocols, ProxyCounts, SessionEnd, SessionEvent, SessionId, Sessions,
        lifecycle::until,
    },
};

/// How often the guard is asked whether it has ended a session.
const LOOK: Duration = Duration::from_secs(1);

/// What others tell a session.
#[derive(Clone, Copy, Debug)]
pub(in crate::session) enum Signal {
    /// The guard has ended it.
    Ended(NetworkEnd),
    /// End.
    End(EndReason),
}

pub(super) struct Lifecycle {
    sessions: Sessions,
    session: SessionId,
    grant: Arc<ProxyGrant>,
    slot: Arc<NetworkSlot>,
    opened: BootTime,
    /// What the kernel had refused by then and could not tell of.
    lost: u64,
}

impl Lifecycle {
    pub(super) fn new(
        sessions: Sessions,
        session: SessionId,
        grant: Arc<ProxyGrant>,
        slot: Arc<NetworkSlot>,
    ) -> Self {
        let lost = sessions.0.network.get().map_or(0, Network::lost);
        Self {
            sessions,
            session,
            opened: grant.made,
            grant,
            slot,
            lost,
        }
    }

    pub(super) async fn run(self, inbox: mpsc::UnboundedReceiver<Signal>) {
        let reason = self.until_end(inbox).await;
        if let Err(error) = self.slot.revoke() {
            // Its deadline and caps hold without us.
            tracing::error!(session = %self.session, %error, "a proxy could not be ended");
        }
        let slot = Arc::clone(&self.slot);
        match tokio::task::spawn_blocking(move || slot.reset_connections()).await {
            Ok(Ok(closed)) => {
                tracing::debug!(session = %self.session, closed, "connections closed");
            }
            Ok(Err(error)) => tracing::warn!(session = %self.session, %error, "peers have to wait"),
            Err(_) => {}
        }
        let counts = self.slot.counts().unwrap_or_default();
        let shared = Arc::clone(&self.sessions.0);
        let mut lost = 0;
        if let Some(network) = shared.network.get() {
            // What was refused until now is this session's still.
            network.hear();
            lost = network.lost().saturating_sub(self.lost);
            network.forget(self.slot.id());
        }
        shared.events.send(SessionEvent::Ended(SessionEnd {
            session: self.session,
            reason,
            packets: counts.packets,
            bytes: counts.bytes_in.saturating_add(counts.bytes_out),
            sockets: 0,
            milliseconds: u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX),
            protocols: Protocols::default(),
            proxy: Some(ProxyCounts {
                bytes_in: counts.bytes_in,
                bytes_out: counts.bytes_out,
                accepted: counts.accepted,
                made: counts.made,
                dropped: counts.dropped,
                refused: counts.refused,
                lost,
            }),
            program: None,
        }));
        // A proxy that never was leaves nothing behind in the server.
        let was = counts.listeners > 0 || counts.made > 0 || counts.packets > 0;
        if was && self.grant.terms.end == ProxyEnd::Restart && !shared.table().closed {
            shared.restart.send_replace(Some(self.session));
        }
        shared.remove_proxy(self.session);
    }

    async fn until_end(&self, mut inbox: mpsc::UnboundedReceiver<Signal>) -> EndReason {
        let mut refresh = interval_at(Instant::now() + REFRESH, REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut known = self.grant.names.clone();
        // The kernel tells of an end, but not if it has too much else to tell.
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => if let Some(reason) = self.guards_reason() {
                    return reason;
                },
                signal = inbox.recv() => return match signal {
                    Some(Signal::Ended(end)) => reason(end),
                    // A cap that was reached meanwhile is the true reason.
                    Some(Signal::End(told)) => self.guards_reason().unwrap_or(told),
                    None => EndReason::Revoked,
                },
                () = until(self.grant.deadline) => {
                    return self.guards_reason().unwrap_or(EndReason::Deadline);
                }
                _ = refresh.tick(), if !known.is_empty() => {
                    if let Some(now) = self.look_up(&known).await {
                        known = now;
                    }
                }
            }
        }
    }

    /// Looks the names up again. What they stand for, if that is something else now.
    async fn look_up(&self, known: &[Known]) -> Option<Vec<Known>> {
        let now = match lookup::names(&self.grant.terms.upstream).await {
            Ok(now) if now == known => return None,
            Ok(now) => now,
            Err(error) => {
                tracing::warn!(session = %self.session, %error, "the addresses of before stay");
                return None;
            }
        };
        let (slot, rules) = (Arc::clone(&self.slot), self.grant.rules(&now));
        match tokio::task::spawn_blocking(move || slot.set_rules(&rules)).await {
            Ok(Ok(())) => Some(now),
            Ok(Err(error)) => {
                tracing::warn!(session = %self.session, %error, "the addresses of before stay");
                None
            }
            Err(_) => None,
        }
    }

    fn guards_reason(&self) -> Option<EndReason> {
        self.slot.ended().ok().flatten().map(reason)
    }
}

pub(in crate::session) fn reason(end: NetworkEnd) -> EndReason {
    match end {
        NetworkEnd::Packets => EndReason::PacketCap,
        NetworkEnd::BytesIn | NetworkEnd::BytesOut => EndReason::ByteCap,
        NetworkEnd::Deadline => EndReason::Deadline,
        NetworkEnd::Revoked => EndReason::Revoked,
    }
}
