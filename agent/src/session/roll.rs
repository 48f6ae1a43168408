//! The sessions of all servers whose events go to one reader: for whoever looks at them, or ends one, from
//! outside.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::{EndReason, SessionId, Sessions, Snapshot, registry::Shared};

/// Knows the sessions of each server for as long as they are kept elsewhere; it keeps none. Cheap to clone.
#[derive(Clone, Default)]
pub struct Roll(Arc<Mutex<Vec<Weak<Shared>>>>);

impl Roll {
    pub(super) fn enrol(&self, sessions: &Arc<Shared>) {
        let mut servers = self.servers();
        servers.retain(|server| server.strong_count() > 0);
        servers.push(Arc::downgrade(sessions));
    }

    /// Every session that is open, oldest first, and what its server is called. Looks into `/proc`: not for a thread that others wait for.
    #[must_use]
    pub fn snapshots(&self) -> Vec<(Arc<str>, Snapshot)> {
        let mut all = Vec::new();
        for server in self.now() {
            let name = server.server();
            let snapshots = server.snapshots().into_iter();
            all.extend(snapshots.map(|snapshot| (Arc::clone(name), snapshot)));
        }
        all.sort_unstable_by_key(|(_, snapshot)| snapshot.session);
        all
    }

    /// The sessions that have not ended.
    #[must_use]
    pub fn live(&self) -> Vec<SessionId> {
        self.now().iter().flat_map(Sessions::live).collect()
    }

    /// What the server is called whose session this is; none if it has ended, or never was.
    #[must_use]
    pub fn server_of(&self, session: SessionId) -> Option<Arc<str>> {
        let servers = self.now();
        let its = servers
            .iter()
            .find(|server| server.live().contains(&session));
        its.map(|server| Arc::clone(server.server()))
    }

    /// Ends a session. False if it has ended, or never was.
    #[must_use]
    pub fn end(&self, session: SessionId, reason: EndReason) -> bool {
        let servers = self.now();
        let its = servers
            .iter()
            .find(|server| server.live().contains(&session));
        if let Some(server) = its {
            server.end(session, reason);
        }
        its.is_some()
    }

    fn now(&self) -> Vec<Sessions> {
        let servers = self.servers();
        servers
            .iter()
            .filter_map(Weak::upgrade)
            .map(Sessions)
            .collect()
    }

    fn servers(&self) -> MutexGuard<'_, Vec<Weak<Shared>>> {
        // Whole after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Roll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Roll").finish_non_exhaustive()
    }
}
