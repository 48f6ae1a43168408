//! Who is running.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::bpf_pidns_info,
    helpers::generated::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_task_btf,
        bpf_get_ns_current_pid_tgid,
    },
};
use capwarden_abi::lsm::NAME;

/// Process and thread, by their numbers in this PID namespace, or the host's if they are not in that.
#[inline(always)]
pub fn numbers(device: u32, inode: u32) -> (u32, u32) {
    let mut numbers = bpf_pidns_info { pid: 0, tgid: 0 };
    // SAFETY: the structure has as many bytes as are named.
    let found = unsafe {
        bpf_get_ns_current_pid_tgid(
            u64::from(device),
            u64::from(inode),
            &raw mut numbers,
            size_of::<bpf_pidns_info>() as u32,
        )
    };
    if found == 0 {
        return (numbers.tgid, numbers.pid);
    }
    // SAFETY: no requirements.
    let both = unsafe { bpf_get_current_pid_tgid() };
    ((both >> 32) as u32, both as u32)
}

/// The name that the process gives itself.
#[inline(always)]
pub fn name() -> [u8; NAME] {
    let mut name = [0_u8; NAME];
    // SAFETY: the buffer has as many bytes as are named.
    unsafe { bpf_get_current_comm(name.as_mut_ptr().cast(), NAME as u32) };
    name
}

/// The running task, as the verifier knows it.
#[inline(always)]
#[allow(dead_code, reason = "not every object looks into tasks")]
pub fn task() -> *mut c_void {
    // SAFETY: no requirements.
    unsafe { bpf_get_current_task_btf() }.cast()
}
