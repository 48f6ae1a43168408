//! Whose process it is that calls.
//!
//! Two answers, either of which suffices. The tag in the task's own storage is inherited by every fork, whatever the
//! process does to itself afterwards. The cgroup, or one above it, is governed: that finds a process
//! which somebody has moved there, and one whose tag could not be read: before Linux 6.2, storage of tasks
//! cannot be read on a CPU where somebody else who was doing that has been interrupted
//! (<https://github.com/torvalds/linux/commit/e8b02296a6b8d07de752d6157d863a642117bcd3>).

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use capwarden_abi::lsm::Ward;

use crate::{
    maps::{CGROUPS, TASKS},
    whose,
};

/// Cgroups nest deeper nowhere that servers are started.
const MAX_LEVEL: i32 = 16;

/// The tree that the calling process belongs to, if it is governed.
#[inline(always)]
pub fn ward_of_current() -> Option<Ward> {
    tag_of_current().or_else(by_cgroup)
}

#[inline(always)]
pub fn tag_of_current() -> Option<Ward> {
    TASKS.get(whose::task())
}

/// The tag of another.
#[inline(always)]
pub fn tag_of(task: *mut c_void) -> Option<Ward> {
    TASKS.get(task)
}

/// False if it could not be.
#[inline(always)]
pub fn tag(task: *mut c_void, ward: Ward) -> bool {
    TASKS.set(task, ward) || TASKS.set(task, ward)
}

#[inline(always)]
fn by_cgroup() -> Option<Ward> {
    let mut level = 1; // the root is nobody's
    while level <= MAX_LEVEL {
        // SAFETY: no requirements.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if id == 0 {
            return None;
        }
        // SAFETY: the value is copied out at once.
        if let Some(ward) = unsafe { CGROUPS.get(id) } {
            return Some(*ward);
        }
        level += 1;
    }
    None
}
