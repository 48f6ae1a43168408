//! The one room with `unsafe` and raw system calls: what is asked of the kernel, and what it is
//! trusted with.
//!
//! | file | what |
//! |---|---|
//! | `launch` | starts a governed process, confined before its first instruction: by fork, or by a launcher |
//! | `mounts`, `deputy` | what it sees of the host's directories; daemons that would start programs for it, and where they listen |
//! | `seccomp`, `notify`, `broker` | what it may call, and the agent's answers to `socket(AF_PACKET)` |
//! | `manager`, `keeper` | the service manager: what it is told and passes; listeners that outlive an agent |
//! | `successor` | the program's next version: started beside this one, with its listeners, and told when it serves |
//! | `pulse` | whether the loops that answer governed processes are stuck |
//! | `own_filter`, `aside` | reading the filter that it attaches itself; threads that wait for the verifier |
//! | `rings`, `packet_membership` | reading what receive ring, or what of an interface, it wants, and setting it |
//! | `socket` | the arming sequence; [`ArmedSocket`] as proof of it |
//! | `egress` | what keeps capture sockets from sending |
//! | `guard`, `link` | the session's program and maps |
//! | `instance` | one copy of the program for each socket, and the slot for the socket's own filter |
//! | `network` | where a server's sockets may listen and connect, and how much passes them |
//! | `tree`, `btf` | which session a process belongs to |
//! | `host` | whoever captures on this host: told of, or refused |
//! | `lsm` | the backstop on Linux security hooks, where the kernel has them |
//! | `object` | what an object file of kernel programs has, as the kernel wants it |
//! | `sys`, `bpf` | the calls that rustix and aya do not have |
//! | `cgroup`, `program_group`, `process`, `users` | finding, capping and ending processes, and whose they are |
//! | `access` | what a user may do with files, asked as that user |
//! | `interfaces`, `clock`, `readable` | what grants name, and what sessions wait for |
//! | `watch` | noticing that a file has changed |
//! | `local_socket` | Unix sockets at a path, for one user or for a group |
//! | `stdio` | pipes and sockets that a thread reads and writes, waiting for them |
//! | `peer` | whose the other end of a connection is |
//! | `sock_diag`, `packet_sockets` | what the kernel's tables say of sockets, and of packet sockets |
//! | `memory` | memory that the allocator keeps |
//! | `probe` | what this host offers, by trying it |
#![expect(
    unsafe_code,
    reason = "the only room with unsafe code; each block says why it is sound"
)]

mod access;
mod aside;
mod bpf;
mod broker;
mod btf;
mod cgroup;
mod clock;
mod deputy;
mod egress;
mod guard;
mod host;
mod instance;
mod interfaces;
mod keeper;
mod launch;
mod link;
mod local_socket;
mod lsm;
mod manager;
mod memory;
mod mounts;
mod network;
mod notify;
mod object;
mod own_filter;
mod packet_membership;
mod packet_sockets;
mod peer;
mod probe;
mod process;
mod program_group;
mod pulse;
mod readable;
mod rings;
mod seccomp;
mod sock_diag;
mod socket;
mod stdio;
mod successor;
mod sys;
mod tree;
mod users;
mod watch;

pub use access::{AccessError, enterable_by, executable_by, readable_by};
pub use bpf::LoadError;
pub use broker::{Admit, Broker, Caller, Refusal, Rejection};
pub use cgroup::Cgroup;
pub use clock::BootTime;
pub use deputy::Deputy;
pub use egress::{Egress, EgressError};
pub use guard::{EndEvents, Guard, GuardError, GuardPlan, has_ended};
pub use host::{Asked, Capturer, HostWatch, WatchedBy, capturers, is_governed, program_file};
pub use instance::{Instances, LoadedFilter, Slot};
pub use interfaces::{Interface, changed, changes, list, name_of};
pub use keeper::{Keeper, Kept, Stored, kept};
pub use launch::{
    Governed, LAUNCHER_VERB, Launch, LaunchError, Pipes, Way, descriptors, launch, launch_by,
    launcher, launcher_socket,
};
pub use link::LinkError;
pub use local_socket::LocalSocket;
pub use lsm::{Backstop, BackstopError, Membership};
pub use manager::{Manager, passed_listener, watchdog};
pub use memory::give_back;
pub use mounts::available as mounts_available;
pub use network::{
    AddressRange, MAX_SLOT_RULES, NetworkCall, NetworkCaps, NetworkCounts, NetworkEnd,
    NetworkError, NetworkEvent, NetworkEvents, NetworkGuard, NetworkInterfaces, NetworkNews,
    NetworkRule, NetworkSlot, NetworkTerms, NetworkUse, SlotId, Transport,
};
pub use notify::Listener;
pub use packet_membership::PacketMembership;
pub use packet_sockets::packet_sockets;
pub use peer::{Peer, tcp_owner};
pub use probe::{Host, Layer, Status, Tool, probe};
pub use process::{Holder, Process, holders};
pub use program_group::ProgramGroup;
pub use pulse::stuck;
pub use readable::{Owner, Readable};
pub use rustix::io::Errno;
pub use socket::{ArmError, ArmedSocket, INJECTION_MARK, SocketCall, SocketKind, arm};
pub use stdio::{Input, Output};
pub use successor::{Predecessor, Program, Ready, Successor, Word, Words};
pub use tree::{ForkEvents, ProgramCounts, ProgramEvent, Tree, TreeError};
pub use users::{
    Credentials, NoSuchUser, Surroundings, group_id, group_name, invoking_user, user_id,
};
pub use watch::{FileWatch, Inotify};
