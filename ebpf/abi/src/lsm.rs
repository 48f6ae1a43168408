//! What the agent shares with its programs on Linux security hooks.

/// Bytes of a Unix socket's address behind its family: a path, or an abstract name behind a zero.
pub const PATH: usize = 108;

/// Bytes of the name that a process gives itself, zeroes at its end included.
pub const NAME: usize = 16;

/// What the kernel writes on packet and raw sockets' behalf: [`Denial::hook`].
pub mod hook {
    /// `socket_create`: family, type, protocol.
    pub const CREATE: u32 = 1;
    /// `socket_bind`: of a packet socket that no agent has armed.
    pub const BIND: u32 = 2;
    /// `socket_sendmsg`: a frame.
    pub const SEND: u32 = 3;
    /// `socket_setsockopt`: level, option.
    pub const OPTION: u32 = 4;
    /// `file_receive` of a socket: family, type, protocol.
    pub const RECEIVE_SOCKET: u32 = 5;
    /// `file_receive` of a kernel object that needs privileges to be made: a program, a map, …
    pub const RECEIVE_OBJECT: u32 = 6;
    /// `userns_create`.
    pub const NAMESPACE: u32 = 7;
    /// `bpf`: its command.
    pub const BPF: u32 = 8;
    /// `ptrace_access_check`: the other process, the mode.
    pub const PTRACE: u32 = 9;
    /// `unix_stream_connect`: to a service that acts for others.
    pub const CONNECT: u32 = 10;
}

/// The governed tree that a task belongs to: the value of the tasks' storage.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ward {
    /// Its number. Never 0.
    pub number: u32,
    /// A bit for each service, by its number, that its processes may connect to.
    pub reach: u32,
}

/// Something that was refused.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Denial {
    /// One of [`hook`].
    pub hook: u32,
    /// The tree that the process belongs to.
    pub ward: u32,
    /// The process, as the agent's PID namespace shows it.
    pub process: u32,
    /// Its thread.
    pub thread: u32,
    /// The details that [`hook`] names, in this order.
    pub details: [u32; 3],
    /// Zero.
    pub unused: u32,
    /// The name that the process gives itself.
    pub name: [u8; NAME],
}

/// Where things are in the running kernel's structures, in bytes, by its own type information.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// `socket.sk`
    pub socket_sk: u32,
    /// `sock.__sk_common.skc_family`
    pub sock_family: u32,
    /// `sock.sk_type`
    pub sock_type: u32,
    /// `sock.sk_protocol`
    pub sock_protocol: u32,
    /// `file.f_inode`
    pub file_inode: u32,
    /// `file.f_path.dentry`
    pub file_dentry: u32,
    /// `inode.i_sb`
    pub inode_super: u32,
    /// `super_block.s_magic`
    pub super_magic: u32,
    /// `dentry.d_name.name`
    pub dentry_name: u32,
    /// `unix_sock.addr`
    pub unix_address: u32,
    /// `unix_address.len`
    pub unix_address_length: u32,
    /// `unix_address.name[0].sun_path`
    pub unix_address_path: u32,
    /// `task_struct.tgid`
    pub task_process: u32,
    /// The device of the agent's PID namespace.
    pub namespace_device: u32,
    /// The inode of the agent's PID namespace.
    pub namespace_inode: u32,
    /// Zero.
    pub unused: u32,
}
