//! What the agent shares with the programs that watch over a host's packet sockets.

use crate::lsm::NAME;

/// Bytes of a program's file name that are told.
pub const PROGRAM: usize = 32;

/// [`Socket::descriptor`]: it is not known.
pub const NO_DESCRIPTOR: u32 = u32::MAX;

/// Somebody has asked for a packet socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Socket {
    /// The process, as the agent's PID namespace shows it, or the host's if it is not in that.
    pub process: u32,
    /// Its effective user, as the host numbers users.
    pub user: u32,
    /// Not 0: it was refused.
    pub refused: u32,
    /// The number that it got, or [`NO_DESCRIPTOR`].
    pub descriptor: u32,
    /// The name that the process gives itself.
    pub name: [u8; NAME],
    /// The beginning of the name of the file that it executes; zeroes if it is not known.
    pub program: [u8; PROGRAM],
}

/// Where the hook's program finds things, in bytes, by the running kernel's type information.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookTerms {
    /// `task_struct.mm`
    pub task_memory: u32,
    /// `mm_struct.exe_file`
    pub memory_program: u32,
    /// `file.f_inode`
    pub file_inode: u32,
    /// `file.f_path.dentry`
    pub file_dentry: u32,
    /// `dentry.d_name.name`
    pub dentry_name: u32,
    /// The device of the agent's PID namespace.
    pub namespace_device: u32,
    /// The inode of the agent's PID namespace.
    pub namespace_inode: u32,
    /// Not 0: who is not allowed is refused, and not only told of.
    pub lockdown: u32,
}

/// Where the tracepoint's program finds the arguments of a system call, in bytes of `struct pt_regs`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallTerms {
    /// The call's number.
    pub number: u32,
    /// The first argument.
    pub first: u32,
    /// The second argument.
    pub second: u32,
    /// The number of `socket`.
    pub socket: u32,
    /// The number of `socket` in the other table of system calls, and there the first and the second argument.
    pub other_socket: u32,
    /// See [`CallTerms::other_socket`].
    pub other_first: u32,
    /// See [`CallTerms::other_socket`].
    pub other_second: u32,
    /// The device of the agent's PID namespace.
    pub namespace_device: u32,
    /// The inode of the agent's PID namespace.
    pub namespace_inode: u32,
    /// Zero.
    pub unused: u32,
}
