//! The daemon's side of a hand-over: it starts its successor, and is followed only by one that can serve.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};

use crate::kernel::{Keeper, Manager, Program, Ready, Successor};

/// How long a successor may take until it can serve: it loads all policies, and asks the kernel for all that it has.
const READY: Duration = Duration::from_secs(30);
/// How often, and how many times, a service manager is told that has too much to read.
const AGAIN: Duration = Duration::from_millis(100);
const TIMES: usize = 50;
/// How many times it is waited so long for what a successor says at its end.
const LAST_WORDS: usize = 20;
/// How long it is waited until a service manager has read what it was told.
const HEARD: Duration = Duration::from_secs(5);
/// How long a successor may take that is to serve, which it can.
pub(super) const SERVING: Duration = Duration::from_secs(5);

/// A successor that can serve, and what is known of it.
pub(super) type Next = (Successor, Ready);

/// Who starts a successor, one at a time.
pub(super) struct HandOver {
    program: Option<Program>,
    patience: Duration,
    trying: JoinSet<Result<Next, String>>,
}

impl HandOver {
    pub(super) fn new() -> Self {
        let program = Program::own().inspect_err(|error| {
            tracing::warn!(%error, "an upgrade takes a restart: the own program is not found");
        });
        Self {
            program: program.ok(),
            patience: READY,
            trying: JoinSet::new(),
        }
    }

    /// Whether another version of the program is in its place.
    pub(super) fn is_due(&self) -> bool {
        self.program.as_ref().is_some_and(Program::is_replaced)
    }

    pub(super) fn is_under_way(&self) -> bool {
        !self.trying.is_empty()
    }

    /// Starts a successor, which gets these listeners.
    pub(super) fn begin(&mut self, sockets: Vec<(String, OwnedFd)>) {
        if let Some(program) = self.program.clone() {
            tracing::info!(
                "{} is another version: it is started, and takes clients once it can serve them",
                program.path().display()
            );
            self.trying.spawn(attempt(program, sockets, self.patience));
        }
    }

    /// What has become of the one that was started, once that is known; it is waited for ever if there is none. May be
    /// dropped and called again.
    pub(super) async fn outcome(&mut self) -> Result<Next, String> {
        match self.trying.join_next().await {
            Some(outcome) => outcome.unwrap_or_else(|error| Err(error.to_string())),
            None => std::future::pending().await,
        }
    }
}

async fn attempt(
    program: Program,
    sockets: Vec<(String, OwnedFd)>,
    patience: Duration,
) -> Result<Next, String> {
    let started = spawn_blocking(move || {
        let sockets: Vec<_> = sockets
            .iter()
            .map(|(name, socket)| (name.clone(), socket.as_fd()))
            .collect();
        Successor::start(&program, &sockets).map_err(|error| in_words(&error))
    });
    let mut successor = started.await.map_err(|error| error.to_string())??;
    match timeout(patience, successor.ready()).await {
        Ok(Ok(ready)) => Ok((successor, ready)),
        Ok(Err(error)) => {
            // It closes its end before it says why, and is killed with `successor`.
            for _ in 0..LAST_WORDS {
                if successor.is_alive() {
                    sleep(AGAIN).await;
                }
            }
            Err(in_words(&error))
        }
        Err(_) => Err(format!("it was not ready after {} s", patience.as_secs())),
    }
}

fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            "it ended before it was ready, and has said why above".to_owned()
        }
        _ => format!("it cannot be started: {error}"),
    }
}

/// Tells the service manager who serves from now on. After that, it does not hear this process any more.
pub(super) async fn announce(manager: &Manager, to: &Ready, status: &str) -> io::Result<()> {
    for name in Keeper::retire() {
        told(|| manager.forget(&name)).await?;
    }
    told(|| manager.replaced_by(to.process, status)).await
}

async fn told(tell: impl Fn() -> io::Result<()>) -> io::Result<()> {
    for _ in 1..TIMES {
        match tell() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(AGAIN).await,
            told => return told,
        }
    }
    tell()
}

/// Waits until the service manager has read all that it was told.
pub(super) async fn heard(manager: &Arc<Manager>) {
    let manager = Arc::clone(manager);
    let heard = spawn_blocking(move || manager.heard(HEARD)).await;
    if let Err(error) = heard.map_err(io::Error::other).and_then(|heard| heard) {
        tracing::warn!(%error, "the service manager has not said that it has heard of the new process");
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[tokio::test]
    async fn successor_that_hangs_is_given_up_and_one_that_others_may_change_is_not_started() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        fs::write(&path, "#!/bin/sh\nexec sleep 600\n").unwrap();
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o755);
        let program = Program::own().unwrap().elsewhere(&path);
        assert!(program.is_replaced());
        let mut hand_over = HandOver {
            program: Some(program),
            patience: Duration::from_millis(50),
            trying: JoinSet::new(),
        };
        assert!(hand_over.is_due() && !hand_over.is_under_way());
        hand_over.begin(Vec::new());
        assert!(hand_over.is_under_way());
        let why = hand_over.outcome().await.unwrap_err();
        assert_eq!(why, "it was not ready after 0 s");
        assert!(!hand_over.is_under_way());
        mode(0o757);
        hand_over.begin(Vec::new());
        let why = hand_over.outcome().await.unwrap_err();
        assert!(why.contains("may be changed by others"), "{why}");
    }
}
