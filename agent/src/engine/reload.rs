//! Keeps the policy what its file says, while the agent runs.
//!
//! On SIGHUP, and when the file has changed, it is loaded and checked as at the start. One that
//! cannot be used changes nothing: the policy that was loaded before stays, and that is told in
//! the log and the record. Neither is one loaded that the governed server's user could change, since
//! then the server could grant itself what it likes. Sessions keep what they were granted, counters what they counted.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::sleep,
};

use super::{
    Judge,
    record::{GateObserver, PolicySource},
};
use crate::{kernel::FileWatch, policy::Policy, store};

/// How long a file must have stayed as it is: it may still be written.
const QUIET: Duration = Duration::from_millis(500);
/// How often that is tried. A file that never comes to rest is loaded as it is then.
const TRIES: usize = 20;

/// Loads and checks the policy; an error says what is wrong, and where.
type Load = dyn Fn() -> Result<Policy, String> + Send + Sync;

/// How the policy is loaded again.
#[derive(Clone)]
pub struct Reload {
    /// The file, which is watched.
    path: PathBuf,
    /// The file's state before it was first loaded.
    stamp: Option<Stamp>,
    load: Arc<Load>,
}

impl Reload {
    /// Watches this file, and loads it so. Changes count from now on, so this is made before the
    /// policy is first loaded. `load` may block.
    pub fn new(
        path: &Path,
        load: impl Fn() -> Result<Policy, String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            stamp: Stamp::of(path),
            path: path.to_owned(),
            load: Arc::new(load),
        }
    }
}

impl fmt::Debug for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reload")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp([i128; 7]);

impl Stamp {
    /// None if there is no such file.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        Some(Self([
            meta.dev().into(),
            meta.ino().into(),
            meta.len().into(),
            meta.mtime().into(),
            meta.mtime_nsec().into(),
            meta.ctime().into(),
            meta.ctime_nsec().into(),
        ]))
    }
}

/// The state of a file that has changed, once it stays as it is; at last as it is then.
pub(super) async fn at_rest(path: &Path, mut stamp: Option<Stamp>) -> Option<Stamp> {
    for _ in 0..TRIES {
        sleep(QUIET).await;
        let now = Stamp::of(path);
        if std::mem::replace(&mut stamp, now) == now {
            break;
        }
    }
    stamp
}

/// Why a policy file is not to be loaded again: `governed`, as whom servers run, could change it.
pub(super) fn unsafe_to_load(path: &Path, governed: Option<u32>) -> Option<String> {
    let why = match store::exposed(path, governed) {
        Ok(None) => return None,
        // It cannot be read either, and that is told.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Ok(Some(by)) => format!(
            "the server could change it, so it is not loaded again: {by}; `{}`",
            by.remedy()
        ),
        Err(error) => format!("cannot be looked at: {error}"),
    };
    Some(format!("{}: {why}", path.display()))
}

/// Loads the policy again whenever there is reason to, until it is dropped. `governed` is the user
/// that servers run as, if any is started.
pub(super) fn follow_policy(
    reload: Reload,
    governed: Option<u32>,
    judge: Arc<Judge>,
    record: GateObserver,
) -> io::Result<JoinSet<()>> {
    if let Some(why) = unsafe_to_load(&reload.path, governed) {
        tracing::warn!("{why}");
    }
    let mut asked = signal(SignalKind::hangup())?;
    let mut watch = FileWatch::new(&reload.path)
        .inspect_err(|error| {
            tracing::warn!(%error, "the policy file cannot be watched: send SIGHUP when it has changed");
        })
        .ok();
    let mut follower = Follower {
        seen: reload.stamp,
        reload,
        governed,
        judge,
        record,
        failed: false,
    };
    let mut following = JoinSet::new();
    following.spawn(async move {
        // It may have changed before it was watched.
        follower.look(false).await;
        loop {
            let changed = async {
                match &mut watch {
                    Some(watch) => watch.changed().await,
                    None => std::future::pending().await,
                }
            };
            let asked = tokio::select! {
                changed = changed => {
                    if let Err(error) = changed {
                        tracing::error!(%error, "the policy file is no longer watched: send SIGHUP when it has changed");
                        watch = None;
                    }
                    false
                }
                told = asked.recv() => match told {
                    Some(()) => true,
                    None => return,
                },
            };
            follower.look(asked).await;
        }
    });
    Ok(following)
}

struct Follower {
    reload: Reload,
    governed: Option<u32>,
    judge: Arc<Judge>,
    record: GateObserver,
    /// The file's state when it was last loaded.
    seen: Option<Stamp>,
    /// What the file says now cannot be used.
    failed: bool,
}

impl Follower {
    /// Loads the policy if its file has changed, or if somebody asks for it.
    async fn look(&mut self, asked: bool) {
        let mut stamp = Stamp::of(&self.reload.path);
        if !asked && stamp == self.seen {
            return;
        }
        stamp = at_rest(&self.reload.path, stamp).await;
        if !asked && stamp == self.seen {
            return;
        }
        // If it changes from here on, that is told of later.
        self.seen = stamp;
        self.load(!asked).await;
    }

    /// Loads the policy, whatever has happened. One that is the same is told of unless `quiet`.
    async fn load(&mut self, quiet: bool) {
        let (reload, governed) = (self.reload.clone(), self.governed);
        let load = move || match unsafe_to_load(&reload.path, governed) {
            Some(why) => Err(why),
            None => (reload.load)(),
        };
        let loaded = tokio::task::spawn_blocking(load).await;
        let loaded = loaded.unwrap_or_else(|error| Err(error.to_string()));
        let current = self.judge.policy();
        let before = PolicySource::of(&current);
        match loaded {
            Ok(policy) if policy.digest() == current.digest() => {
                if self.failed || !quiet {
                    tracing::info!(file = before.file, "the policy is as it was");
                }
                self.failed = false;
            }
            Ok(policy) => {
                let source = PolicySource::of(&policy);
                tracing::info!(
                    sha256 = source.digest,
                    "policy reloaded: {}",
                    policy.summary()
                );
                if policy.baseline() != current.baseline() {
                    tracing::warn!(
                        "the policy's baseline is another one now: servers that run keep the one \
                         they were started with"
                    );
                }
                self.record.policy_reloaded(&before, &policy);
                self.judge.replace_policy(policy);
                self.failed = false;
            }
            Err(why) => {
                tracing::error!(
                    "the policy file cannot be used, so the policy of before stays in force: {why}"
                );
                self.record.policy_refused(&before, &why);
                self.failed = true;
            }
        }
    }
}
