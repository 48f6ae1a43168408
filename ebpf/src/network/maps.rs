//! The maps, and the two kinds of map that `aya_ebpf` can only make with type information.

use core::{cell::UnsafeCell, ffi::c_void, marker::PhantomData, ptr};

use aya_ebpf::{
    bindings::{bpf_map_def, bpf_map_type, bpf_sock},
    helpers::generated::{bpf_map_lookup_elem, bpf_sk_storage_get},
    macros::map,
    maps::{Array, LruHashMap, RingBuf},
};
use capwarden_abi::network::{
    MAX_PEERS, Peer, Rule, SLOTS, SlotControl, SlotState, SocketTag, Totals,
};

#[map]
pub static CONTROL: Array<SlotControl> = Array::with_max_entries(SLOTS as u32, 0);

#[map]
pub static STATE: Array<SlotState> = Array::with_max_entries(SLOTS as u32, 0);

#[map]
pub static TOTALS: Array<Totals> = Array::with_max_entries(1, 0);

#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);

#[map]
pub static PEERS: LruHashMap<Peer, u8> = LruHashMap::with_max_entries(MAX_PEERS, 0);

/// The rules of all slots. The agent replaces the array as a whole, so that nobody sees half of an
/// old rule and half of a new one.
#[map]
pub static RULES: ArrayOfArrays<Rule> = ArrayOfArrays::new();

#[map]
pub static TAGS: SocketStorage<SocketTag> = SocketStorage::new();

#[repr(transparent)]
pub struct ArrayOfArrays<T> {
    definition: Definition,
    value: PhantomData<T>,
}

impl<T> ArrayOfArrays<T> {
    const fn new() -> Self {
        Self {
            definition: Definition::new(bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, 1, 0),
            value: PhantomData,
        }
    }

    /// The array that is there now. It stays whole for as long as this program runs.
    #[inline(always)]
    pub fn current(&self) -> Option<Inner<T>> {
        let first = 0_u32;
        // SAFETY: the map is one of maps, with keys of four bytes.
        let inner =
            unsafe { bpf_map_lookup_elem(self.definition.pointer(), (&raw const first).cast()) };
        (!inner.is_null()).then_some(Inner {
            map: inner,
            value: PhantomData,
        })
    }
}

pub struct Inner<T> {
    map: *mut c_void,
    value: PhantomData<T>,
}

impl<T> Inner<T> {
    #[inline(always)]
    pub fn get(&self, index: u32) -> Option<&T> {
        // SAFETY: a map with keys of four bytes and values of type `T`, which live as long as it.
        unsafe {
            bpf_map_lookup_elem(self.map, (&raw const index).cast())
                .cast::<T>()
                .as_ref()
        }
    }
}

#[repr(transparent)]
pub struct SocketStorage<T> {
    definition: Definition,
    value: PhantomData<T>,
}

impl<T> SocketStorage<T> {
    const fn new() -> Self {
        const NO_PREALLOC: u32 = 1;
        /// Accepted sockets get a copy of their listener's.
        const CLONE: u32 = 1 << 9;
        Self {
            definition: Definition::new(
                bpf_map_type::BPF_MAP_TYPE_SK_STORAGE,
                size_of::<T>() as u32,
                0,
                NO_PREALLOC | CLONE,
            ),
            value: PhantomData,
        }
    }

    /// Null if there is none.
    ///
    /// # Safety
    /// The pointer is a socket that the kernel gave this program.
    #[inline(always)]
    pub unsafe fn get(&self, socket: *mut bpf_sock) -> *mut T {
        // SAFETY: the caller's promise; no value is needed where none is made.
        let found = unsafe {
            bpf_sk_storage_get(self.definition.pointer(), socket.cast(), ptr::null_mut(), 0)
        };
        found.cast()
    }

    /// Null if there is no memory for it.
    ///
    /// # Safety
    /// As for `get`.
    #[inline(always)]
    pub unsafe fn get_or_insert(&self, socket: *mut bpf_sock, mut value: T) -> *mut T {
        const CREATE: u64 = 1;
        // SAFETY: the caller's promise; the value is as large as the map's.
        let found = unsafe {
            bpf_sk_storage_get(
                self.definition.pointer(),
                socket.cast(),
                (&raw mut value).cast(),
                CREATE,
            )
        };
        found.cast()
    }
}

#[repr(transparent)]
struct Definition(UnsafeCell<bpf_map_def>);
// SAFETY: only the kernel gives the address a meaning; nobody reads or writes it here.
unsafe impl Sync for Definition {}

impl Definition {
    const fn new(kind: u32, value_size: u32, max_entries: u32, flags: u32) -> Self {
        Self(UnsafeCell::new(bpf_map_def {
            type_: kind,
            key_size: 4,
            value_size,
            max_entries,
            map_flags: flags,
            id: 0,
            pinning: 0,
        }))
    }

    #[inline(always)]
    const fn pointer(&self) -> *mut c_void {
        self.0.get().cast()
    }
}
