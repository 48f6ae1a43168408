//! Sessions for programs: what a tool of the server starts, such as a browser, with all that this
//! starts in turn.
//!
//! ```text
//! terms ─▶ names looked up ─▶ slot, cgroup, window ─▶ the call is forwarded; the server forks
//!                                  │                     │ tagged: counted, moved into the cgroup
//!                                  ▼                     ▼
//!             cap, deadline, stop call, exit: nothing passes, nobody forks, all are killed
//! ```
//! There is one at a time, whatever tools open it: a browser may be started by any of a server's
//! tools, at the first that needs one. A call that finds it open joins it, and what the server
//! forks while it is open belongs to it, but for captures that are being started. Calls that are
//! on their way when it ends still have their processes tagged for it, which are killed.
//!
//! Its end leaves the server alone, which never was in the cgroup.

mod gather;
mod lifecycle;

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::mpsc;

use super::{
    Count, EndReason, Member, SessionError, SessionEvent, SessionId, SessionKind, Sessions,
    Snapshot, Standing,
    proxy::{ProxyError, Signal, lookup, reason},
    registry::{MAX_SESSIONS, Shared, Table},
    snapshot::milliseconds,
};
use crate::{
    kernel::{
        BootTime, Credentials, NetworkCaps, NetworkInterfaces, NetworkSlot, NetworkTerms,
        ProgramCounts, ProgramGroup,
    },
    policy::ProgramTerms,
};
use lifecycle::Lifecycle;

/// Why programs cannot have a session, or a server cannot have such sessions.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// Nobody could tell which processes they are.
    #[error("processes cannot be tagged when they fork on this host (capwarden doctor says why)")]
    NoForkTags,
    /// There is nothing that they could be kept in.
    #[error("there is no cgroup for them: cgroup v2 is not mounted, or not writable")]
    NoCgroup,
    /// The cgroup cannot be made, or cannot be capped.
    #[error("their cgroup cannot be made: {0}")]
    Cgroup(io::Error),
    /// The policy caps memory, which is not possible here.
    #[error("{0}")]
    NoMemory(String),
    /// Others run, by other terms.
    #[error(
        "{0} is open with other terms, and there is one such session at a time; end it first, or wait"
    )]
    OtherTerms(SessionId),
    /// A capture is open: what the server starts belongs to one session only.
    #[error(
        "the server has a capture open, {0}, and what it starts belongs to one session; end that first"
    )]
    Capturing(SessionId),
}

/// The terms of a session for programs, with everything looked up.
#[derive(Clone, Debug)]
pub struct ProgramGrant {
    /// What the policy allowed.
    pub terms: ProgramTerms,
    /// What the names among them stood for when the session was opened.
    pub names: Vec<(String, BTreeSet<IpAddr>)>,
    /// When it was made: what its time is counted from.
    pub made: BootTime,
    /// When it ends.
    pub deadline: BootTime,
}

impl ProgramGrant {
    async fn make(terms: ProgramTerms) -> Result<Self, ProxyError> {
        let names = lookup::names(&terms.connect).await?;
        let made = BootTime::now();
        Ok(Self {
            names,
            made,
            deadline: made.after(terms.duration),
            terms,
        })
    }

    /// The terms of its slot in the guard of the server's network.
    fn network_terms(&self) -> NetworkTerms {
        let terms = &self.terms;
        NetworkTerms {
            rules: lookup::rules(&[], &terms.connect, &self.names),
            interfaces: NetworkInterfaces::Any,
            caps: NetworkCaps {
                packets: terms.packets,
                bytes_in: terms.bytes,
                bytes_out: terms.bytes,
                accepted: None,
                made: terms.connections,
            },
            deadline: Some(self.deadline),
        }
    }

    /// What was granted, in one line for people.
    pub fn summary(&self) -> String {
        self.terms.to_string()
    }
}

/// A session for programs, until the last of its processes has gone.
#[derive(Clone)]
pub(super) struct LiveProgram {
    grant: Arc<ProgramGrant>,
    slot: Arc<NetworkSlot>,
    group: Arc<ProgramGroup>,
    /// Calls that were forwarded for it, and not answered yet.
    calls: Arc<AtomicUsize>,
    /// It has ended; its processes are being killed.
    over: bool,
    signals: mpsc::UnboundedSender<Signal>,
}

impl LiveProgram {
    /// Ends it.
    pub(super) fn end(&self, reason: EndReason) {
        let _ = self.signals.send(Signal::End(reason));
    }

    /// A call that came for it was answered.
    pub(super) fn replied(&self) {
        let less = |calls: usize| calls.checked_sub(1);
        let order = Ordering::AcqRel;
        let _ = self.calls.fetch_update(order, Ordering::Acquire, less);
    }

    /// What it has come to, with what fork tagging counts of it.
    pub(super) fn snapshot(&self, session: SessionId, counts: &ProgramCounts) -> Snapshot {
        let (terms, passed) = (&self.grant.terms, self.slot.counts().unwrap_or_default());
        let reason = match (self.group.is_out_of_memory(), counts.over) {
            (true, _) => Some(EndReason::MemoryCap),
            (false, 1..) => Some(EndReason::ProcessCap),
            (false, 0) => self.slot.ended().ok().flatten().map(reason),
        };
        Snapshot {
            standing: match (self.over || reason.is_some(), counts.peak) {
                (true, _) => Standing::Ending,
                (false, 0) => Standing::Waiting,
                (false, _) => Standing::Live,
            },
            reason,
            granted: self.grant.summary(),
            running: Some(Count {
                seen: counts.running,
                cap: terms.processes,
            }),
            processes: Member::all(&self.group.processes()),
            age_ms: milliseconds(self.grant.made.elapsed()),
            left_ms: Some(milliseconds(self.grant.deadline.remaining())),
            ..Snapshot::of_slot(
                session,
                SessionKind::Program,
                &passed,
                terms.packets,
                terms.bytes,
            )
        }
    }

    fn has_calls(&self) -> bool {
        self.calls.load(Ordering::Acquire) > 0
    }
}

impl Sessions {
    /// Gets ready for sessions for programs of the server that is to be started. If this fails, the
    /// server must not be started.
    ///
    /// # Errors
    /// Also if `memory` is to be capped, and that is not possible here.
    pub fn prepare_programs(
        &self,
        credentials: &Credentials,
        memory: bool,
    ) -> Result<(), SessionError> {
        let cgroup = self.0.cgroup.as_ref().ok_or(ProgramError::NoCgroup)?;
        let events = match self.0.table().tree.as_mut() {
            Some(tree) => tree.take_events().ok_or(ProxyError::Twice)?,
            None => return Err(ProgramError::NoForkTags.into()),
        };
        cgroup.divide(credentials).map_err(ProgramError::Cgroup)?;
        if let Some(why) = cgroup.lacks_memory().filter(|_| memory) {
            return Err(ProgramError::NoMemory(why.to_owned()).into());
        }
        let tasks = gather::follow_forks(&self.0, events)?;
        self.0.forks.set(tasks).map_err(|_| ProxyError::Twice)?;
        Ok(())
    }

    /// Opens a session for programs, or joins the one that is open. When this returns, what the server
    /// forks belongs to it. Whether it was joined is in the result. Each time this succeeds,
    /// [`Sessions::replied`] is to be told.
    pub async fn start_program(
        &self,
        terms: ProgramTerms,
    ) -> Result<(SessionId, Arc<ProgramGrant>, bool), SessionError> {
        let _opening = self.0.opening.lock().await;
        if let Some((session, grant)) = self.0.join(&terms)? {
            return Ok((session, grant, true));
        }
        let network = self.0.network.get().ok_or(ProxyError::NotBounded)?;
        let grant = Arc::new(ProgramGrant::make(terms).await?);
        let slot = Arc::new(network.open(grant.network_terms()).await?);
        let (signals, inbox) = mpsc::unbounded_channel();
        let session = self.0.events.next_session();
        let (shared, memory) = (Arc::clone(&self.0), grant.terms.memory);
        let made = tokio::task::spawn_blocking(move || {
            let cgroup = shared.cgroup.as_ref().ok_or(ProgramError::NoCgroup)?;
            let made = cgroup.program_group(session.0, memory);
            made.map_err(ProgramError::Cgroup)
        });
        let group = Arc::new(made.await.map_err(io::Error::other)??);
        let live = LiveProgram {
            grant: Arc::clone(&grant),
            slot: Arc::clone(&slot),
            group,
            calls: Arc::new(AtomicUsize::new(1)),
            over: false,
            signals: signals.clone(),
        };
        self.0.insert_program(session, live.clone())?;
        network.follow(slot.id(), session, signals);
        self.0.events.send(SessionEvent::ProgramOpened {
            session,
            grant: Arc::clone(&grant),
        });
        let lifecycle = Lifecycle::new(self.clone(), session, live);
        tokio::spawn(lifecycle.run(inbox));
        Ok((session, grant, false))
    }
}

impl Shared {
    /// The session that is open, with one more call; an error if it has other terms.
    fn join(
        &self,
        terms: &ProgramTerms,
    ) -> Result<Option<(SessionId, Arc<ProgramGrant>)>, ProgramError> {
        let table = self.table();
        let Some((session, live)) = table.programs.iter().find(|(_, live)| !live.over) else {
            return Ok(None);
        };
        if live.grant.terms != *terms {
            return Err(ProgramError::OtherTerms(*session));
        }
        live.calls.fetch_add(1, Ordering::AcqRel);
        Ok(Some((*session, Arc::clone(&live.grant))))
    }

    fn insert_program(&self, session: SessionId, live: LiveProgram) -> Result<(), SessionError> {
        let mut table = self.table();
        if table.closed {
            return Err(SessionError::Closed);
        }
        if table.programs.len() >= MAX_SESSIONS {
            return Err(SessionError::TooMany);
        }
        let cgroup = live.group.id()?;
        let processes = live.grant.terms.processes;
        // Else a call that captures nothing could have programs started in its name, and unbounded.
        if let Some((capture, _)) = table.live.first_key_value() {
            return Err(ProgramError::Capturing(*capture).into());
        }
        let tree = table.tree.as_mut().ok_or(ProgramError::NoForkTags)?;
        tree.begin_programs(session.0, cgroup, processes)?;
        tree.open_window(self.server, session.0)?;
        table.programs.insert(session, live);
        Ok(())
    }
}

impl Table {
    /// The sessions for programs that have not ended.
    pub(super) fn open_programs(&self) -> impl Iterator<Item = SessionId> {
        let open = self.programs.iter().filter(|(_, live)| !live.over);
        open.map(|(session, _)| *session)
    }

    /// Whose the processes are that the server forks while nobody captures: those of the session that
    /// is open, or of one that has ended while a call that came for it is on its way.
    pub(super) fn programs_window(&self) -> Option<SessionId> {
        let newest = |over: bool| {
            let mut sessions = self.programs.iter().rev();
            sessions
                .find(|(_, live)| live.over == over && (!over || live.has_calls()))
                .map(|(session, _)| *session)
        };
        newest(false).or_else(|| newest(true))
    }
}
