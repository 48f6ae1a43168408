//! Files that are no sockets: objects of the kernel that only the privileged can make.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_probe_read_kernel;

use crate::{offsets::offset, structures::Structure};

/// `ANON_INODE_FS_MAGIC`: files without a place in any file system. Nobody but the kernel names them.
const ANONYMOUS: u64 = 0x0904_1934;

/// Beginnings of their names: programs, maps, links and iterators of `bpf` (`bpf-map`, `bpf_link`), type
/// information, performance events, rings for system calls.
const NAMES: [[u8; 4]; 5] = [*b"bpf-", *b"bpf_", *b"btf\0", *b"[per", *b"[io_"];

/// Whether it takes privileges to make such a file.
#[inline(always)]
pub fn is_privileged_object(file: *mut c_void) -> bool {
    begins(file).is_some_and(|name| NAMES.iter().any(|one| u32::from_ne_bytes(*one) == name))
}

/// How the name of a file that has no place begins.
#[inline(always)]
fn begins(file: *mut c_void) -> Option<u32> {
    let file = Structure::new(file)?;
    let system = file
        .follow(offset!(file_inode))?
        .follow(offset!(inode_super))?;
    if system.read::<u64>(offset!(super_magic)) != ANONYMOUS {
        return None;
    }
    let entry = file.follow(offset!(file_dentry))?;
    let name: *const u32 = entry.read(offset!(dentry_name));
    // SAFETY: the helper checks the address and fails instead of faulting.
    unsafe { bpf_probe_read_kernel(name) }.ok()
}
