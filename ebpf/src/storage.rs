//! The storage of tasks, sockets and files, which `aya_ebpf` can only make with type information.

use core::{cell::UnsafeCell, ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{bpf_map_def, bpf_map_type},
    helpers::generated::{bpf_inode_storage_get, bpf_sk_storage_get, bpf_task_storage_get},
};
use capwarden_abi::lsm::Ward;

pub const NO_PREALLOC: u32 = 1;

#[repr(transparent)]
struct Definition(UnsafeCell<bpf_map_def>);
// SAFETY: only the kernel gives the address a meaning; nobody reads or writes it here.
unsafe impl Sync for Definition {}

impl Definition {
    const fn new(kind: u32) -> Self {
        Self(UnsafeCell::new(bpf_map_def {
            type_: kind,
            key_size: 4,
            value_size: 8,
            max_entries: 0,
            map_flags: NO_PREALLOC,
            id: 0,
            pinning: 0,
        }))
    }

    const fn pointer(&self) -> *mut c_void {
        self.0.get().cast()
    }
}

/// Which tree a task belongs to.
#[repr(transparent)]
pub struct TaskStorage(Definition);

impl TaskStorage {
    pub const fn new() -> Self {
        Self(Definition::new(bpf_map_type::BPF_MAP_TYPE_TASK_STORAGE))
    }

    #[inline(always)]
    pub fn get(&self, task: *mut c_void) -> Option<Ward> {
        // SAFETY: the verifier checks the task; no value is needed where none is made. What is found
        // lives as long as this program runs.
        unsafe {
            bpf_task_storage_get(self.0.pointer(), task.cast(), ptr::null_mut(), 0)
                .cast::<Ward>()
                .as_ref()
        }
        .copied()
    }

    /// False if there is no memory for it.
    #[inline(always)]
    pub fn set(&self, task: *mut c_void, mut ward: Ward) -> bool {
        const CREATE: u64 = 1;
        // SAFETY: the verifier checks the task; the value is as large as the map's.
        let made = unsafe {
            bpf_task_storage_get(
                self.0.pointer(),
                task.cast(),
                (&raw mut ward).cast(),
                CREATE,
            )
        };
        !made.is_null()
    }
}

/// Sockets that the agent has marked.
#[repr(transparent)]
pub struct SocketStorage(Definition);

impl SocketStorage {
    pub const fn new() -> Self {
        Self(Definition::new(bpf_map_type::BPF_MAP_TYPE_SK_STORAGE))
    }

    /// Whether this `struct sock` is.
    #[inline(always)]
    pub fn has(&self, sock: *mut c_void) -> bool {
        // SAFETY: the verifier checks the socket; no value is needed where none is made.
        let found = unsafe { bpf_sk_storage_get(self.0.pointer(), sock, ptr::null_mut(), 0) };
        !found.is_null()
    }
}

/// Files that the agent has marked, whatever they are called.
#[repr(transparent)]
pub struct FileStorage(Definition);

impl FileStorage {
    pub const fn new() -> Self {
        Self(Definition::new(bpf_map_type::BPF_MAP_TYPE_INODE_STORAGE))
    }

    /// Whether the file with this `struct inode` is.
    #[inline(always)]
    pub fn has(&self, inode: *mut c_void) -> bool {
        // SAFETY: the verifier checks the inode; no value is needed where none is made.
        let found = unsafe { bpf_inode_storage_get(self.0.pointer(), inode, ptr::null_mut(), 0) };
        !found.is_null()
    }
}
