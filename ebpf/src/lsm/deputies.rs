//! Services that would do for a governed process what it cannot do itself.

use core::ptr;

use aya_ebpf::{
    helpers::{bpf_probe_read_kernel, generated},
    maps::lpm_trie::Key,
};
use capwarden_abi::lsm::PATH;

use crate::{maps::DEPUTIES, offsets::offset};

/// The number of the service that listens at this `struct sock`, if it is one of those. It goes by the
/// address that the service has bound to, as it wrote that: it may be restarted, and whoever connects has
/// no say in it.
#[inline(always)]
pub fn which(listener: *const u8) -> Option<u32> {
    /// The address family, which `len` counts too.
    const FAMILY: u32 = 2;
    let address: *const u8 = read(listener, offset!(unix_address))?;
    if address.is_null() {
        return None; // it has not bound to any
    }
    let length: u32 = read(address, offset!(unix_address_length))?;
    let length = length.wrapping_sub(FAMILY);
    if length == 0 || length > PATH as u32 {
        return None;
    }
    let mut key = Key::new(length * 8, [0_u8; PATH]);
    let path = address.wrapping_add(offset!(unix_address_path) as usize);
    // SAFETY: the length was compared with the buffer's; the helper checks the address.
    let copied = unsafe {
        generated::bpf_probe_read_kernel(ptr::from_mut(&mut key.data).cast(), length, path.cast())
    };
    if copied != 0 {
        return None;
    }
    DEPUTIES.get(&key).copied()
}

#[inline(always)]
fn read<T>(base: *const u8, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address and fails instead of faulting.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset as usize).cast::<T>()) }.ok()
}
