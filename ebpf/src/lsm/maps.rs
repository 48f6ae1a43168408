//! The maps.

use aya_ebpf::{
    macros::map,
    maps::{HashMap, LpmTrie, RingBuf},
};
use capwarden_abi::lsm::{PATH, Ward};

use crate::storage::{NO_PREALLOC, SocketStorage, TaskStorage};

/// Governed cgroups, by id.
#[map]
pub static CGROUPS: HashMap<u64, Ward> = HashMap::with_max_entries(1_024, 0);

/// Beginnings of the addresses of services that act for others.
#[map]
pub static DEPUTIES: LpmTrie<[u8; PATH], u32> = LpmTrie::with_max_entries(256, NO_PREALLOC);

/// [`capwarden_abi::lsm::Denial`]s.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);

/// Governed tasks: the agent tags the first one of a tree.
#[map]
pub static TASKS: TaskStorage = TaskStorage::new();

/// Sockets that an agent has armed: not 0.
#[map]
pub static ARMED: SocketStorage = SocketStorage::new();
