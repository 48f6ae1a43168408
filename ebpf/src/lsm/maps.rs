//! The maps, and the storage of tasks and sockets, which `aya_ebpf` can only make with type information.

use core::{cell::UnsafeCell, ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{bpf_map_def, bpf_map_type},
    helpers::generated::{bpf_sk_storage_get, bpf_task_storage_get},
    macros::map,
    maps::{HashMap, LpmTrie, RingBuf},
};
use capwarden_abi::lsm::{PATH, Ward};

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
pub static TASKS: Storage<Ward> = Storage::new(bpf_map_type::BPF_MAP_TYPE_TASK_STORAGE);

/// Sockets that an agent has armed: not 0.
#[map]
pub static ARMED: Storage<u64> = Storage::new(bpf_map_type::BPF_MAP_TYPE_SK_STORAGE);

const NO_PREALLOC: u32 = 1;

#[repr(transparent)]
pub struct Storage<T>(UnsafeCell<bpf_map_def>, core::marker::PhantomData<T>);
// SAFETY: only the kernel gives the address a meaning; nobody reads or writes it here.
unsafe impl<T> Sync for Storage<T> {}

impl<T> Storage<T> {
    const fn new(kind: u32) -> Self {
        let definition = bpf_map_def {
            type_: kind,
            key_size: 4,
            value_size: size_of::<T>() as u32,
            max_entries: 0,
            map_flags: NO_PREALLOC,
            id: 0,
            pinning: 0,
        };
        Self(UnsafeCell::new(definition), core::marker::PhantomData)
    }

    const fn pointer(&self) -> *mut c_void {
        self.0.get().cast()
    }
}

impl Storage<Ward> {
    /// What a task has, if anything.
    #[inline(always)]
    pub fn get(&self, task: *mut c_void) -> Option<Ward> {
        // SAFETY: the verifier checks the task; no value is needed where none is made. What is found
        // lives as long as this program runs.
        unsafe {
            bpf_task_storage_get(self.pointer(), task.cast(), ptr::null_mut(), 0)
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
                self.pointer(),
                task.cast(),
                (&raw mut ward).cast(),
                CREATE,
            )
        };
        !made.is_null()
    }
}

impl Storage<u64> {
    /// Whether a `struct sock` has any.
    #[inline(always)]
    pub fn has(&self, sock: *mut c_void) -> bool {
        // SAFETY: the verifier checks the socket; no value is needed where none is made.
        let found = unsafe { bpf_sk_storage_get(self.pointer(), sock, ptr::null_mut(), 0) };
        !found.is_null()
    }
}
