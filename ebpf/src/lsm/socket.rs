//! Sockets: which kinds a governed process may have, and what it may do with a capture socket.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_sock_from_file;
use capwarden_abi::packet_option;

use crate::{maps::ARMED, offsets::offset, structures::Structure};

const UNIX: u32 = 1;
const INET: u32 = 2;
const INET6: u32 = 10;
const NETLINK: u32 = 16;
const PACKET: u32 = 17;

/// A `struct sock`.
pub struct Socket(Structure);

/// The `struct sock` of a `struct socket`.
#[inline(always)]
pub fn of(socket: *const c_void) -> Option<Socket> {
    let socket = Structure::new(socket)?;
    socket.follow(offset!(socket_sk)).map(Socket)
}

/// The same of a file, if it is a socket.
#[inline(always)]
pub fn of_file(file: *mut c_void) -> Option<Socket> {
    // SAFETY: the verifier checks the file.
    let socket = unsafe { bpf_sock_from_file(file.cast()) };
    of(socket.cast::<c_void>())
}

impl Socket {
    #[inline(always)]
    fn family(&self) -> u32 {
        u32::from(self.0.read::<u16>(offset!(sock_family)))
    }

    #[inline(always)]
    pub fn is_packet(&self) -> bool {
        self.family() == PACKET
    }

    #[inline(always)]
    pub fn is_armed(&self) -> bool {
        ARMED.has(self.0.pointer())
    }

    /// Family, type and protocol.
    #[inline(always)]
    pub fn kind(&self) -> (u32, u32, u32) {
        let kind: u16 = self.0.read(offset!(sock_type));
        let protocol: u16 = self.0.read(offset!(sock_protocol));
        (self.family(), u32::from(kind), u32::from(protocol))
    }
}

/// Whether a governed process may have such a socket, whoever has made it. The same as in the agent's seccomp
/// filter: TCP and UDP, Unix sockets, and of netlink the routes and the families that say what
/// they are called.
#[inline(always)]
pub fn harmless(family: u32, kind: u32, protocol: u32) -> bool {
    const RAW: u32 = 3;
    const OLD_PACKET: u32 = 10;
    const ROUTE: u32 = 0;
    const GENERIC: u32 = 16;
    match family {
        UNIX => true,
        INET | INET6 => kind != RAW && kind != OLD_PACKET,
        NETLINK => protocol == ROUTE || protocol == GENERIC,
        _ => false,
    }
}

/// Whether an option of a packet socket is none of those that a governed process may set itself, as in the agent's
/// seccomp filter; and whether it is about filters, which are the agent's.
#[inline(always)]
pub fn loosens(level: u32, option: u32) -> bool {
    const SOL_SOCKET: u32 = 1;
    const SOL_PACKET: u32 = 263;
    match level {
        // The old and the new ways to attach, to detach and to unlock a filter.
        SOL_SOCKET => matches!(option, 26 | 27 | 44 | 50 | 51 | 52 | 68),
        SOL_PACKET => !packet_option::BY_PROCESS.contains(&option),
        _ => false,
    }
}
