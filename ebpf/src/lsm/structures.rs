//! Members of kernel structures. Where they are, the agent has read from the running kernel's own type
//! information; the verifier takes that for constants, and so knows the type of what is read.

use core::ptr;

use capwarden_abi::lsm::Offsets;

/// Written by the agent before the object is loaded; frozen after.
#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = Offsets {
    socket_sk: 0,
    sock_family: 0,
    sock_type: 0,
    sock_protocol: 0,
    file_inode: 0,
    file_dentry: 0,
    inode_super: 0,
    super_magic: 0,
    dentry_name: 0,
    unix_address: 0,
    unix_address_length: 0,
    unix_address_path: 0,
    task_process: 0,
    namespace_device: 0,
    namespace_inode: 0,
    unused: 0,
};

/// One of [`OFFSETS`].
macro_rules! offset {
    ($member:ident) => {
        // SAFETY: a valid static; volatile, since the compiler must not fold the zeros in.
        unsafe { core::ptr::read_volatile(&raw const $crate::structures::OFFSETS.$member) }
    };
}
pub(crate) use offset;

/// A structure that a hook was given, or that was found by following pointers from there.
#[derive(Clone, Copy)]
pub struct Structure(*const u8);

impl Structure {
    /// None for a null pointer.
    #[inline(always)]
    pub fn new<T>(pointer: *const T) -> Option<Self> {
        (!pointer.is_null()).then_some(Self(pointer.cast()))
    }

    /// A member.
    #[inline(always)]
    pub fn read<T: Copy>(self, offset: u32) -> T {
        // SAFETY: the verifier checks the member's place and size by the structure's type, and has the
        // kernel read zeros where the structure has gone.
        unsafe { ptr::read_volatile(self.0.wrapping_add(offset as usize).cast()) }
    }

    /// The structure that a member points at.
    #[inline(always)]
    pub fn follow(self, offset: u32) -> Option<Self> {
        Self::new(self.read::<*const u8>(offset))
    }

    /// For helpers that want one of its type.
    #[inline(always)]
    pub fn pointer<T>(self) -> *mut T {
        self.0.cast_mut().cast()
    }
}
