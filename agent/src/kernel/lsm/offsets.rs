//! Where the backstop's programs find the members of kernel structures.

use std::{error::Error, fs, os::unix::fs::MetadataExt};

use capwarden_abi::lsm::Offsets;

use crate::kernel::{btf::Types, object};

/// By the running kernel's type information.
pub(super) fn find(types: &Types) -> Result<Offsets, Box<dyn Error>> {
    let namespace = fs::metadata("/proc/self/ns/pid")?;
    let at = |structure, member| types.offset(structure, &[member]);
    Ok(Offsets {
        socket_sk: at("socket", "sk")?,
        sock_family: types.offset("sock", &["__sk_common", "skc_family"])?,
        sock_type: at("sock", "sk_type")?,
        sock_protocol: at("sock", "sk_protocol")?,
        file_inode: at("file", "f_inode")?,
        file_dentry: at("file", "f_path")? + at("path", "dentry")?,
        inode_super: at("inode", "i_sb")?,
        super_magic: at("super_block", "s_magic")?,
        dentry_name: at("dentry", "d_name")? + at("qstr", "name")?,
        unix_address: at("unix_sock", "addr")?,
        unix_address_length: at("unix_address", "len")?,
        unix_address_path: at("unix_address", "name")? + at("sockaddr_un", "sun_path")?,
        task_process: at("task_struct", "tgid")?,
        namespace_device: u32::try_from(namespace.dev())?,
        namespace_inode: u32::try_from(namespace.ino())?,
        unused: 0,
    })
}

/// As the programs read them.
pub(super) fn bytes(offsets: &Offsets) -> &[u8] {
    // SAFETY: `#[repr(C)]` integers only, no padding: every byte is initialised.
    unsafe { object::bytes(offsets) }
}
