//! Where members are, for the programs of this object.

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
        unsafe { core::ptr::read_volatile(&raw const $crate::offsets::OFFSETS.$member) }
    };
}
pub(crate) use offset;
