//! Moving the processes of sessions for programs into their cgroups, as they are forked.
//!
//! Those that the session's processes fork are born there; the server's own children are told of by
//! the kernel. Where that is not heard (the ring was full), the lifecycle looks at the server's
//! group by and by.

use std::{
    io,
    sync::{Arc, Weak},
};

use tokio::task::JoinSet;

use crate::{
    kernel::{ForkEvents, Process, ProgramEvent, Readable},
    session::{EndReason, SessionId, registry::Shared},
};

/// Hears of forks for as long as the sessions are there, and the result is kept.
pub(super) fn follow_forks(shared: &Arc<Shared>, events: ForkEvents) -> io::Result<JoinSet<()>> {
    let sessions = Arc::downgrade(shared);
    let mut readable = Readable::new(events)?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok(events) = readable.ready().await {
            let mut batch = Vec::new(); // no more than the ring holds
            while let Some(event) = events.next_event() {
                batch.push(event);
            }
            let sessions = Weak::clone(&sessions);
            // A write to a cgroup waits for the kernel.
            let heard = tokio::task::spawn_blocking(move || match sessions.upgrade() {
                Some(sessions) => batch.iter().for_each(|event| sessions.forked(event)),
                None => drop(batch),
            });
            if heard.await.is_err() {
                tracing::error!("forks of programs are found late from now on");
            }
        }
    });
    Ok(tasks)
}

impl Shared {
    fn forked(&self, event: &ProgramEvent) {
        let session = SessionId(event.session);
        if event.process == 0 {
            if let Some(live) = self.table().programs.get(&session) {
                live.end(EndReason::ProcessCap);
            }
            return;
        }
        self.take_in(session, event.process);
    }

    /// Moves a process of the session into its cgroup; of one that has ended, kills it.
    fn take_in(&self, session: SessionId, process: u32) {
        let Some(pinned) = Process::open(process) else {
            return;
        };
        let live = {
            let table = self.table();
            let tag = table.tree.as_ref().and_then(|tree| tree.tag(process));
            // It may have gone, and its number be another's.
            let is_its = tag.is_some_and(|tag| tag.session == session.0);
            table.programs.get(&session).filter(|_| is_its).cloned()
        };
        let Some(live) = live else {
            return;
        };
        if live.over {
            pinned.kill();
        } else if let Err(error) = live.group.add(process) {
            tracing::error!(%session, process, %error, "it cannot be kept in the session's cgroup");
            pinned.kill();
        }
    }

    /// The session's processes that are in the server's own group.
    fn strays(&self, session: SessionId) -> Vec<u32> {
        let Some(cgroup) = &self.cgroup else {
            return Vec::new();
        };
        let mut processes = cgroup.servers_processes();
        let table = self.table();
        processes.retain(|process| {
            let tag = table.tree.as_ref().and_then(|tree| tree.tag(*process));
            tag.is_some_and(|tag| tag.session == session.0)
        });
        processes
    }

    /// Takes in all that were not heard of. How many there were.
    pub(super) fn gather(&self, session: SessionId) -> usize {
        let strays = self.strays(session);
        strays
            .iter()
            .for_each(|process| self.take_in(session, *process));
        strays.len()
    }
}
