//! What the sessions of a server have come to at this moment: read from the maps of their guards, and from
//! what the kernel says of their processes.

use std::{fs, sync::Arc, time::Duration};

use capwarden_abi::{State, ended};
use serde::{Deserialize, Serialize};

use super::{
    EndReason, Protocols, SessionId, SessionKind, Sessions,
    registry::{Live, Shared},
};
use crate::{
    kernel::{BootTime, Cgroup, NetworkCounts, has_ended, holders},
    policy::{FilterOrigin, FilterTerm, InterfaceTerms},
};

/// Processes of one session that are named.
const NAMED: usize = 32;

/// One session, at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Which session.
    pub session: SessionId,
    /// What it is for.
    pub kind: SessionKind,
    /// Where it stands.
    pub standing: Standing,
    /// Why it is ending, where the kernel says so already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<EndReason>,
    /// What was granted, in one line for people.
    pub granted: String,
    /// The interfaces that it covered when it was opened; none where every one is granted.
    pub interfaces: Vec<String>,
    /// The capture filter that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
    /// The policy's capture filter, which holds beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<String>,
    /// What the policy's filter takes from the one that was asked for, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<String>,
    /// Packets: delivered by a capture's guard; of a proxy or programs, in both directions together.
    pub packets: Count,
    /// Bytes: delivered by a capture's guard, as captured; of a proxy or programs, in the direction in which
    /// there are more.
    pub bytes: Count,
    /// What a capture's guard has delivered, by protocol.
    #[serde(default, skip_serializing_if = "Protocols::is_empty")]
    pub protocols: Protocols,
    /// What passed the sockets of a proxy or of programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<Passed>,
    /// Capture sockets that were armed; of a proxy, TCP sockets that listen.
    pub sockets: u64,
    /// Sockets and filters that its processes were refused; of a proxy or programs, connections that were too
    /// many.
    pub refused: u64,
    /// Processes that run, where its terms count them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Count>,
    /// The processes that hold its capture sockets, or are its programs: the first few.
    pub processes: Vec<Member>,
    /// How long it has been open, in milliseconds.
    pub age_ms: u64,
    /// How long it may last yet, in milliseconds; none without a deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
}

impl Snapshot {
    /// What is known alike of all sessions that are a slot of the network guard, by what that has counted; `packets` and
    /// `bytes` are their caps. That nobody has come yet, and how long it lasts, is for its kind to say.
    pub(super) fn of_slot(
        session: SessionId,
        kind: SessionKind,
        passed: &NetworkCounts,
        packets: Option<u64>,
        bytes: Option<u64>,
    ) -> Self {
        Self {
            session,
            kind,
            standing: Standing::Waiting,
            reason: None,
            granted: String::new(),
            interfaces: Vec::new(),
            asked: None,
            within: None,
            cut: None,
            packets: Count {
                seen: passed.packets,
                cap: packets,
            },
            bytes: Count {
                seen: passed.bytes_in.max(passed.bytes_out),
                cap: bytes,
            },
            protocols: Protocols::default(),
            passed: Some(Passed::from(passed)),
            sockets: passed.listeners,
            refused: passed.refused,
            running: None,
            processes: Vec::new(),
            age_ms: 0,
            left_ms: None,
        }
    }
}

/// How much there was, and how much there may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// So far.
    pub seen: u64,
    /// At most; none without a cap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<u64>,
}

/// What passed the sockets of a proxy or of programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// Bytes to them, IP headers included.
    pub bytes_in: u64,
    /// Bytes from them.
    pub bytes_out: u64,
    /// TCP connections accepted.
    pub accepted: u64,
    /// TCP connections begun.
    pub made: u64,
    /// Packets that did not pass.
    pub dropped: u64,
}

impl From<&NetworkCounts> for Passed {
    fn from(counts: &NetworkCounts) -> Self {
        Self {
            bytes_in: counts.bytes_in,
            bytes_out: counts.bytes_out,
            accepted: counts.accepted,
            made: counts.made,
            dropped: counts.dropped,
        }
    }
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It is open, and nobody has come to use it yet.
    Waiting,
    /// It is used.
    Live,
    /// Nothing is delivered any more; its processes are being seen off.
    Ending,
}

/// A process of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub pid: u32,
    /// What it calls itself.
    pub name: String,
}

impl Member {
    fn of(pid: u32) -> Self {
        let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        let name = String::from_utf8_lossy(&name).trim_end().to_owned();
        Self { pid, name }
    }

    /// The first few of these.
    pub(super) fn all(pids: &[u32]) -> Vec<Self> {
        pids.iter().take(NAMED).map(|pid| Self::of(*pid)).collect()
    }
}

impl Sessions {
    /// What the server is called whose sessions these are.
    pub(super) fn server(&self) -> &Arc<str> {
        self.0.events.server()
    }

    /// All sessions that are open, oldest first. Looks into `/proc`: not for a thread that others wait for.
    #[must_use]
    pub fn snapshots(&self) -> Vec<Snapshot> {
        let mut all = self.0.captures();
        let table = self.0.table();
        let proxies = table.proxies.iter();
        all.extend(proxies.map(|(session, proxy)| proxy.snapshot(*session)));
        let programs: Vec<_> = table
            .programs
            .iter()
            .map(|(session, program)| {
                let tree = table.tree.as_ref();
                let counts = tree.map(|tree| tree.program_counts(session.0));
                (*session, program.clone(), counts.unwrap_or_default())
            })
            .collect();
        drop(table);
        let programs = programs.iter();
        all.extend(programs.map(|(session, program, counts)| program.snapshot(*session, counts)));
        all.sort_unstable_by_key(|snapshot| snapshot.session);
        all
    }
}

impl Shared {
    fn captures(&self) -> Vec<Snapshot> {
        let table = self.table();
        let root = table.root;
        let live = table.live.iter();
        let mut found: Vec<(Snapshot, Vec<u64>)> = live
            .map(|(session, live)| {
                let inodes = live.sockets.iter().map(|socket| socket.inode);
                (capture(*session, live), inodes.collect())
            })
            .collect();
        drop(table);
        if found.iter().all(|(_, inodes)| inodes.is_empty()) {
            return found.into_iter().map(|(snapshot, _)| snapshot).collect();
        }
        let cgroup = self.cgroup.as_ref();
        let processes = cgroup.map_or_else(|| root.into_iter().collect(), Cgroup::processes);
        for (snapshot, inodes) in &mut found {
            let holders = holders(&processes, inodes);
            let holders: Vec<u32> = holders.iter().map(|one| one.process.pid()).collect();
            snapshot.processes = Member::all(&holders);
        }
        found.into_iter().map(|(snapshot, _)| snapshot).collect()
    }
}

fn capture(session: SessionId, live: &Live) -> Snapshot {
    let (grant, state) = (&live.grant, live.guard.state().unwrap_or_default());
    let late = grant.deadline.is_some_and(BootTime::has_passed);
    let reason = guards_reason(&state).or(late.then_some(EndReason::Deadline));
    let terms = &grant.terms;
    Snapshot {
        session,
        kind: SessionKind::Capture,
        standing: match (live.revoked || reason.is_some(), live.sockets.is_empty()) {
            (true, _) => Standing::Ending,
            (false, true) => Standing::Waiting,
            (false, false) => Standing::Live,
        },
        reason,
        granted: grant.summary(),
        interfaces: match terms.interfaces {
            InterfaceTerms::Any => Vec::new(),
            InterfaceTerms::Matching(_) => {
                let interfaces = grant.interfaces.iter();
                interfaces.map(|interface| interface.name.clone()).collect()
            }
        },
        asked: joined(&terms.filters, FilterOrigin::Requested),
        within: joined(&terms.filters, FilterOrigin::Policy),
        cut: grant.cut.as_ref().map(ToString::to_string),
        packets: Count {
            seen: state.packets,
            cap: terms.packets,
        },
        bytes: Count {
            seen: state.bytes,
            cap: terms.bytes,
        },
        protocols: live
            .guard
            .protocols()
            .map(|all| Protocols::from(&all))
            .unwrap_or_default(),
        passed: None,
        sockets: u64::try_from(live.sockets.len()).unwrap_or(u64::MAX),
        refused: live.refusals.into(),
        running: None,
        processes: Vec::new(),
        age_ms: milliseconds(grant.made.elapsed()),
        left_ms: grant.deadline.map(|end| milliseconds(end.remaining())),
    }
}

fn guards_reason(state: &State) -> Option<EndReason> {
    has_ended(state).then_some(match state.ended {
        ended::PACKETS => EndReason::PacketCap,
        ended::BYTES => EndReason::ByteCap,
        _ => EndReason::Deadline,
    })
}

/// The filters of one origin, as one.
fn joined(filters: &[FilterTerm], origin: FilterOrigin) -> Option<String> {
    let mut its = filters.iter().filter(|filter| filter.origin == origin);
    let first = its.next()?.expression.clone();
    Some(its.fold(first, |all, next| {
        format!("({all}) and ({})", next.expression)
    }))
}

pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
