//! The policies that grants name: each decides the calls that come with such a grant, in place of the
//! agent's own.
//!
//! One is loaded for the first request that comes with its grant, before that is answered, as strictly
//! as the agent's own; then its file is looked at every [`LOOK`]. One that cannot be used changes
//! nothing, but while there is none that ever could be, or the file is gone, all calls under it are
//! denied. Who names a policy in a grant can write the state directory; who bears the grant cannot
//! choose.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{sync::watch, time::sleep};

use super::{
    record::{GateObserver, PolicySource},
    reload::{Stamp, at_rest, unsafe_to_load},
};
use crate::{
    gate::http::Prepare,
    policy::{Baseline, Policy, ProgramNeeds},
    principal::{Grants, MOST_GRANTS},
};

/// How often their files are looked at.
const LOOK: Duration = Duration::from_millis(500);

type Load = dyn Fn(&Path) -> Result<Policy, String> + Send + Sync;

/// The policies of the grants of one server.
pub struct GrantPolicies {
    grants: Arc<Grants>,
    server: Arc<str>,
    load: Box<Load>,
    /// The user that servers run as, if any is started.
    governed: Option<u32>,
    known: Mutex<HashMap<Arc<str>, Known>>,
    /// Held by who loads one that was not known.
    loading: tokio::sync::Mutex<()>,
}

/// A policy file.
struct Known {
    /// Its state when it was last loaded; none if it was not there.
    seen: Option<Stamp>,
    /// What decides by it; none: all is denied.
    policy: Option<Arc<Policy>>,
    /// The last one that could be used.
    last: Option<PolicySource>,
}

impl GrantPolicies {
    /// Those of a server's grants, loaded and checked in this way, which may block. `governed` is the
    /// user that servers run as: a file that they could change is not loaded.
    pub fn new(
        grants: Arc<Grants>,
        server: Arc<str>,
        governed: Option<u32>,
        load: impl Fn(&Path) -> Result<Policy, String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            grants,
            server,
            load: Box::new(load),
            governed,
            known: Mutex::default(),
            loading: tokio::sync::Mutex::new(()),
        }
    }

    /// The policy of this file; none if it cannot be used, or was never asked for.
    pub(super) fn get(&self, file: &str) -> Option<Arc<Policy>> {
        self.known().get(file)?.policy.clone()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Arc<str>, Known>> {
        // Entries are replaced as a whole, so a panic elsewhere does not spoil them.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn first(self: Arc<Self>, grant: Arc<str>) {
        let Ok(bearer) = self.grants.recheck(&grant, &self.server) else {
            return; // its calls are denied
        };
        let Some(file) = bearer.policy else {
            return;
        };
        if self.known().contains_key(&file) {
            return;
        }
        let _loading = self.loading.lock().await;
        if self.known().contains_key(&file) {
            return;
        }
        self.make_room();
        let seen = Stamp::of(Path::new(&*file));
        let policy = match self.read(&file).await {
            Ok(policy) => {
                tracing::info!(
                    sha256 = policy.digest(),
                    "the policy of the grant {}: {}",
                    bearer.name,
                    policy.summary()
                );
                Some(policy)
            }
            Err(why) => {
                tracing::error!(
                    "the policy of the grant {} cannot be used, so all calls under it are denied: {why}",
                    bearer.name
                );
                None
            }
        };
        let known = Known {
            seen,
            last: policy.as_deref().map(PolicySource::of),
            policy,
        };
        self.known().insert(file, known);
    }

    /// Forgets the files that no grant names any more, once there are too many.
    fn make_room(&self) {
        if self.known().len() < MOST_GRANTS {
            return;
        }
        let named: HashSet<String> = match self.grants.list() {
            Ok(grants) => grants
                .into_values()
                .filter_map(|(grant, _)| grant.policy)
                .collect(),
            Err(_) => HashSet::new(),
        };
        self.known().retain(|file, _| named.contains(&**file));
    }

    async fn read(self: &Arc<Self>, file: &Arc<str>) -> Result<Arc<Policy>, String> {
        let (own, file) = (Arc::clone(self), Arc::clone(file));
        let load = move || {
            let path = Path::new(&*file);
            match unsafe_to_load(path, own.governed) {
                Some(why) => Err(why),
                None => (own.load)(path).map(Arc::new),
            }
        };
        let loaded = tokio::task::spawn_blocking(load).await;
        loaded.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// Loads again what has changed, for ever. `changes` is told when other tools may be visible.
    pub(super) async fn follow(self: Arc<Self>, changes: watch::Sender<u64>, record: GateObserver) {
        loop {
            sleep(LOOK).await;
            let files: Vec<(Arc<str>, Option<Stamp>)> = {
                let known = self.known();
                let files = known.iter();
                files
                    .map(|(file, known)| (Arc::clone(file), known.seen))
                    .collect()
            };
            for (file, seen) in files {
                let now = Stamp::of(Path::new(&*file));
                if now != seen {
                    self.look(&file, now, &record).await;
                    changes.send_modify(|times| *times += 1);
                }
            }
        }
    }

    /// A file has changed.
    async fn look(self: &Arc<Self>, file: &Arc<str>, now: Option<Stamp>, record: &GateObserver) {
        if now.is_none() {
            let last = self.change(file, |known| {
                known.seen = None;
                known.policy = None;
                known.last.clone()
            });
            let why = "it is gone, so all calls under it are denied";
            tracing::error!("the policy {file} of a grant: {why}");
            if let Some(last) = last {
                record.policy_refused(&last, why);
            }
            return;
        }
        let stamp = at_rest(Path::new(&**file), now).await;
        match self.read(file).await {
            Ok(policy) => {
                let source = PolicySource::of(&policy);
                let last = self.change(file, |known| {
                    known.seen = stamp;
                    known.policy = Some(Arc::clone(&policy));
                    known.last.replace(source.clone())
                });
                if last
                    .as_ref()
                    .is_none_or(|last| last.digest != source.digest)
                {
                    tracing::info!(
                        sha256 = source.digest,
                        "the policy of a grant was reloaded: {}",
                        policy.summary()
                    );
                    record.policy_reloaded(last.as_ref().unwrap_or(&source), &policy);
                }
            }
            Err(why) => {
                let last = self.change(file, |known| {
                    known.seen = stamp;
                    known.last.clone()
                });
                let becomes = match self.get(file) {
                    Some(_) => "the policy of before stays in force",
                    None => "all calls under it stay denied",
                };
                tracing::error!("the policy {file} of a grant cannot be used, so {becomes}: {why}");
                if let Some(last) = last {
                    record.policy_refused(&last, &why);
                }
            }
        }
    }

    fn change<T: Default>(&self, file: &str, change: impl FnOnce(&mut Known) -> T) -> T {
        self.known().get_mut(file).map(change).unwrap_or_default()
    }
}

/// What a server of a grant's own may do with the network without a session, and what its programs are to
/// be held to: what the grant's policy says, or the agent's where that says nothing.
pub(super) fn bounds(own: &Policy, agents: &Policy) -> (Option<Baseline>, Option<ProgramNeeds>) {
    (
        own.baseline().or_else(|| agents.baseline()),
        own.programs().or_else(|| agents.programs()),
    )
}

impl Prepare for Arc<GrantPolicies> {
    fn prepare(&self, grant: &Arc<str>) -> BoxFuture<'static, ()> {
        Box::pin(Arc::clone(self).first(Arc::clone(grant)))
    }
}

impl fmt::Debug for GrantPolicies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantPolicies").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
