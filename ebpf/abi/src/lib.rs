//! The memory layouts that the agent and its kernel programs share.
//!
//! Every type here is `#[repr(C)]`, has no padding that is not named, and is valid for any bit
//! pattern, so that the agent may read what a kernel program wrote without parsing it.
#![no_std]
#![forbid(unsafe_code)]

pub mod host;
pub mod lsm;
pub mod network;
pub mod protocol;

/// How many interfaces one grant can name. The guard compares them one by one for every packet,
/// so the bound is a bound on its cost too.
pub const MAX_INTERFACES: usize = 64;

/// The mark on every frame that a capture socket injects (`"capw"`), by which they are dropped. The
/// governed process cannot change it: that takes `CAP_NET_ADMIN`.
pub const INJECTION_MARK: u32 = 0x6361_7077;

/// Options of `SOL_PACKET` that capture tools need: what is in neither list lets packets past the guard's snap length
/// (`COPY_THRESH`), takes other sockets' packets (`FANOUT`), or injects (`TX_RING`, `QDISC_BYPASS`).
pub mod packet_option {
    /// Promiscuous mode and multicast addresses: kernel memory that is charged to nobody, and a change of what an
    /// interface receives.
    pub const ADD_MEMBERSHIP: u32 = 1;
    /// Kernel memory that is charged to nobody, in a size that stands behind a pointer.
    pub const RX_RING: u32 = 5;
    /// What the agent sets for governed processes, within bounds.
    pub const BY_AGENT: [u32; 2] = [ADD_MEMBERSHIP, RX_RING];
    /// What they may set themselves: `DROP_MEMBERSHIP`, `AUXDATA`, `VERSION`, `RESERVE`, `TIMESTAMP`,
    /// `IGNORE_OUTGOING`.
    pub const BY_PROCESS: [u32; 6] = [2, 8, 10, 12, 17, 23];
}

/// [`Terms::payload`]: deliver each packet whole.
pub const PAYLOAD_FULL: u32 = u32::MAX;

/// [`Terms::link`]: frames begin with an Ethernet header (`SOCK_RAW` on an Ethernet-like device).
pub const LINK_ETHERNET: u32 = 0;
/// [`Terms::link`]: packets begin with the network header (`SOCK_DGRAM`, or a raw-IP device).
pub const LINK_NETWORK: u32 = 1;

/// The word of `__sk_buff.cb` in which a process's own filter leaves how many bytes it wants; the
/// kernel clears it before each packet.
pub const OWN_LENGTH: usize = 0;

/// What a session was granted: fixed when its guard is loaded, read-only in the kernel, so that
/// the verifier folds every rule that is not in use out of the program.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Packets that may be delivered in all; 0 means no packet cap.
    pub packets: u64,
    /// Bytes that may be delivered in all, as captured (after trimming); 0 means no byte cap.
    pub bytes: u64,
    /// `CLOCK_BOOTTIME` in nanoseconds after which nothing is delivered; 0 means no deadline.
    pub deadline: u64,
    /// Bytes delivered of one packet at most.
    pub snap: u32,
    /// Bytes delivered after the end of the transport header at most, or [`PAYLOAD_FULL`].
    pub payload: u32,
    /// What packets begin with: [`LINK_ETHERNET`] or [`LINK_NETWORK`].
    pub link: u32,
    /// 1 when cooked sockets may see every interface, 0 when only those in
    /// [`Control::interfaces`]. Raw sockets never see others: their filters fit one link type.
    pub any_interface: u32,
}

/// Why the guard stopped delivering, in [`State::ended`].
pub mod ended {
    /// Still delivering.
    pub const NO: u64 = 0;
    /// The packet cap was reached.
    pub const PACKETS: u64 = 1;
    /// The byte cap was reached.
    pub const BYTES: u64 = 2;
    /// The deadline passed.
    pub const DEADLINE: u64 = 3;
}

/// What the guard writes: one element of an array map that all sockets of the session share. The
/// agent only reads it, as a write from there could undo a packet's count.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Packets delivered.
    pub packets: u64,
    /// Bytes delivered, as captured (after trimming).
    pub bytes: u64,
    /// One of [`ended`].
    pub ended: u64,
    /// The kernel tick (`jiffies`) in which the deadline was last seen to be far away.
    pub early_tick: u64,
}

/// What the agent writes while the session lives: one element of an array map that the guard only
/// reads.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// Not 0: deliver nothing more.
    pub revoked: u32,
    /// Entries of [`Control::interfaces`] in use.
    pub interface_count: u32,
    /// Interface indexes that are granted.
    pub interfaces: [u32; MAX_INTERFACES],
}

/// What fork tagging knows about a process: the value of its `TAGS` map, keyed by the process id
/// as the agent's PID namespace shows it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The governed server, or command, that the process descends from.
    pub server: u32,
    /// The session whose call was open when the process, or its ancestor, was forked; 0 for none.
    pub session: u32,
}

/// What the agent tells fork tagging of a session for programs: the value of its `PROGRAMS` map,
/// keyed by session.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramControl {
    /// The id of the session's cgroup: who forks in there, forks into it.
    pub cgroup: u64,
    /// Processes that may run at a time; 0 means no cap.
    pub processes: u64,
    /// Not 0: nobody may fork any more.
    pub ended: u64,
}

/// What fork tagging counts of a session for programs: the value of its `PROGRAM_COUNTS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramCounts {
    /// Processes that run.
    pub running: u64,
    /// The most that ever ran at a time.
    pub peak: u64,
    /// Not 0: there were more than the cap.
    pub over: u64,
}

/// What fork tagging tells of a session for programs as it happens.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramEvent {
    /// The session.
    pub session: u32,
    /// A process that was forked outside the session's cgroup; 0 where there were more than the cap.
    pub process: u32,
}

/// Byte offsets into kernel structures, read from the running kernel's BTF.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskOffsets {
    /// `task_struct.pid`
    pub pid: u32,
    /// `task_struct.tgid`
    pub tgid: u32,
    /// `task_struct.group_leader`
    pub group_leader: u32,
    /// `task_struct.thread_pid`
    pub thread_pid: u32,
    /// `task_struct.signal`
    pub signal: u32,
    /// `signal_struct.live`
    pub signal_live: u32,
    /// `pid.level`
    pub pid_level: u32,
    /// `pid.numbers`
    pub pid_numbers: u32,
    /// `sizeof(struct upid)`
    pub upid_size: u32,
    /// `upid.nr`
    pub upid_nr: u32,
    /// `upid.ns`
    pub upid_ns: u32,
    /// `pid_namespace.ns.inum`
    pub namespace_inode: u32,
    /// The inode of the agent's own PID namespace.
    pub agent_namespace: u32,
}
