//! One session for programs from its opening to the death of its last process.

use std::{sync::Arc, thread, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, interval_at},
};

use super::LiveProgram;
use crate::{
    kernel::{BootTime, ProgramCounts},
    session::{
        EndReason, ProgramEnd, Protocols, ProxyCounts, SessionEnd, SessionEvent, SessionId,
        Sessions,
        lifecycle::until,
        proxy::{Network, Signal, lookup, reason},
    },
};

/// How often it is looked at what no event tells.
const LOOK: Duration = Duration::from_millis(200);
/// A session whose processes have all gone ends after so long: a browser may be started anew.
const EMPTY: Duration = Duration::from_secs(2);
/// One that never had any ends so long after the last call for it was answered.
const UNUSED: Duration = Duration::from_secs(15);
/// How long killed processes may take to be gone.
const LEAVE: Duration = Duration::from_secs(5);
/// How long the kernel gets for those that were killed last.
const BREATH: Duration = Duration::from_millis(5);
/// How long what calls may still start that came for a session which has ended is killed. Until then, what
/// the server starts for others is, too.
const LATE: Duration = Duration::from_secs(60);

pub(super) struct Lifecycle {
    sessions: Sessions,
    session: SessionId,
    live: LiveProgram,
    opened: BootTime,
    /// What the kernel had refused by then and could not tell of.
    lost: u64,
    /// Since when it is without calls and processes.
    idle: Option<Instant>,
}

impl Lifecycle {
    pub(super) fn new(sessions: Sessions, session: SessionId, live: LiveProgram) -> Self {
        let lost = sessions.0.network.get().map_or(0, Network::lost);
        Self {
            lost,
            sessions,
            session,
            opened: live.grant.made,
            live,
            idle: None,
        }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Signal>) {
        let reason = self.until_end(&mut inbox).await;
        self.tell_server(reason);
        if let Err(error) = self.live.slot.revoke() {
            // Its deadline and caps hold without us.
            tracing::error!(session = %self.session, %error, "programs could not be cut off");
        }
        let shared = Arc::clone(&self.sessions.0);
        shared.programs_end(self.session);
        self.kill().await;
        if let Some(network) = shared.network.get() {
            // What was refused until now is this session's still.
            network.hear();
            network.forget(self.live.slot.id());
        }
        shared.events.send(SessionEvent::Ended(self.end(reason)));
        shared.quiet.notify_waiters();
        self.linger(&mut inbox).await;
        shared.remove_program(self.session);
        // It waits for the kernel until its cgroup can be removed.
        let live = self.live;
        let _ = tokio::task::spawn_blocking(move || drop(live)).await;
        shared.quiet.notify_waiters();
    }

    fn counts(&self) -> ProgramCounts {
        let table = self.sessions.0.table();
        let tree = table.tree.as_ref();
        tree.map(|tree| tree.program_counts(self.session.0))
            .unwrap_or_default()
    }

    fn end(&self, reason: EndReason) -> SessionEnd {
        let passed = self.live.slot.counts().unwrap_or_default();
        let network = self.sessions.0.network.get();
        SessionEnd {
            session: self.session,
            reason,
            packets: passed.packets,
            bytes: passed.bytes_in.saturating_add(passed.bytes_out),
            sockets: 0,
            milliseconds: u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX),
            protocols: Protocols::default(),
            proxy: None,
            program: Some(ProgramEnd {
                peak_processes: self.counts().peak,
                peak_memory: self.live.group.peak_memory(),
                passed: ProxyCounts {
                    bytes_in: passed.bytes_in,
                    bytes_out: passed.bytes_out,
                    accepted: passed.accepted,
                    made: passed.made,
                    dropped: passed.dropped,
                    refused: passed.refused,
                    lost: network.map_or(0, |network| network.lost().saturating_sub(self.lost)),
                },
            }),
        }
    }

    async fn until_end(&mut self, inbox: &mut mpsc::UnboundedReceiver<Signal>) -> EndReason {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refresh = interval_at(Instant::now() + lookup::REFRESH, lookup::REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut known = self.live.grant.names.clone();
        loop {
            tokio::select! {
                _ = look.tick() => {
                    self.gather().await;
                    if let Some(reason) = self.kernels_reason().or_else(|| self.idle_end()) {
                        return reason;
                    }
                }
                signal = inbox.recv() => {
                    let told = match signal {
                        Some(Signal::Ended(end)) => return reason(end),
                        Some(Signal::End(told)) => told,
                        None => EndReason::Revoked,
                    };
                    // A cap that was reached meanwhile is the true reason.
                    return self.kernels_reason().unwrap_or(told);
                }
                () = until(Some(self.live.grant.deadline)) => {
                    return self.kernels_reason().unwrap_or(EndReason::Deadline);
                }
                _ = refresh.tick(), if !known.is_empty() => {
                    let (slot, connect) = (&self.live.slot, &self.live.grant.terms.connect);
                    lookup::refresh(slot, &[], connect, &mut known).await;
                }
            }
        }
    }

    /// What the kernel has ended it for already.
    fn kernels_reason(&self) -> Option<EndReason> {
        if self.live.group.is_out_of_memory() {
            return Some(EndReason::MemoryCap);
        }
        if self.counts().over != 0 {
            return Some(EndReason::ProcessCap);
        }
        self.live.slot.ended().ok().flatten().map(reason)
    }

    /// Nobody needs it any more, or nobody ever did.
    fn idle_end(&mut self) -> Option<EndReason> {
        let counts = self.counts();
        if counts.running > 0 || self.live.has_calls() {
            self.idle = None;
            return None;
        }
        let idle = self.idle.get_or_insert_with(Instant::now).elapsed();
        if counts.peak > 0 {
            (idle >= EMPTY).then_some(EndReason::Closed)
        } else {
            (idle >= UNUSED).then_some(EndReason::Unused)
        }
    }

    async fn gather(&self) {
        let (shared, session) = (Arc::clone(&self.sessions.0), self.session);
        let _ = tokio::task::spawn_blocking(move || shared.gather(session)).await;
    }

    /// The answers to calls that are on their way say what has happened.
    fn tell_server(&self, reason: EndReason) {
        let is_cap = matches!(
            reason,
            EndReason::ProcessCap
                | EndReason::MemoryCap
                | EndReason::PacketCap
                | EndReason::ByteCap
                | EndReason::Deadline
        );
        if let Some(network) = self.sessions.0.network.get().filter(|_| is_cap) {
            let (session, granted) = (self.session, self.live.grant.summary());
            let what = format!(
                "go on with {session}, so that its programs are killed: {reason} ({granted})"
            );
            network.note(session, what);
        }
    }

    /// Kills every process of the session, and returns when there are none.
    async fn kill(&self) {
        let (shared, session) = (Arc::clone(&self.sessions.0), self.session);
        let group = Arc::clone(&self.live.group);
        let killed = tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            while started.elapsed() < LEAVE {
                group.kill();
                let strays = shared.gather(session);
                if strays == 0 && group.processes().is_empty() {
                    return true;
                }
                thread::sleep(BREATH);
            }
            false
        });
        if !killed.await.unwrap_or(false) {
            tracing::error!(session = %self.session, "some of its processes do not end");
        }
    }

    /// A call that is on its way may yet start something.
    async fn linger(&self, inbox: &mut mpsc::UnboundedReceiver<Signal>) {
        let mut look = interval(LOOK);
        let since = Instant::now();
        while self.live.has_calls() && since.elapsed() < LATE {
            tokio::select! {
                _ = look.tick() => self.kill().await,
                signal = inbox.recv() => if matches!(signal, None | Some(Signal::End(_))) {
                    break;
                },
            }
        }
        self.sessions.0.close_programs_window(self.session);
        self.kill().await;
    }
}

impl crate::session::registry::Shared {
    /// Nobody of the session may fork any more.
    fn programs_end(&self, session: SessionId) {
        let mut table = self.table();
        if let Some(live) = table.programs.get_mut(&session) {
            live.over = true;
        }
        if let Some(tree) = table.tree.as_mut() {
            tree.end_programs(session.0);
        }
    }

    /// What the server forks is the session's no more.
    fn close_programs_window(&self, session: SessionId) {
        if let Some(tree) = self.table().tree.as_mut() {
            tree.close_window_of(self.server, session.0);
        }
    }

    fn remove_program(&self, session: SessionId) {
        let mut table = self.table();
        table.programs.remove(&session);
        if let Some(tree) = table.tree.as_mut() {
            tree.forget_programs(session.0);
        }
    }
}
