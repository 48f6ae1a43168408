//! Capture sockets that are born armed.
//!
//! Order matters (measured; see `arm`): the socket is made with protocol 0, so that it hears
//! nothing, then gets the guard, then the lock, and only then the protocol that was asked for. No
//! packet can be queued before the guard stands, and nobody can take the guard off: with
//! `SO_LOCK_FILTER` set, attaching, detaching and unlocking all fail with EPERM, for root too
//! (Linux 3.9, <https://github.com/torvalds/linux/blob/v5.14/net/core/sock.c#L1094>).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::{io::Errno, net::SocketFlags};

use super::{guard::Guard, instance::Slot, sys};

/// The two kinds of `AF_PACKET` socket that capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    /// `SOCK_RAW`: packets begin with the link header.
    Raw,
    /// `SOCK_DGRAM`: packets begin with the network header, the link header is "cooked" by the
    /// reader.
    Cooked,
}

impl SocketKind {
    /// For people and for the audit log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Cooked => "cooked",
        }
    }
}

/// What a governed process asked for: `socket(AF_PACKET, kind | flags, protocol)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketCall {
    /// Which kind.
    pub kind: SocketKind,
    /// `SOCK_CLOEXEC` was given.
    pub close_on_exec: bool,
    /// `SOCK_NONBLOCK` was given.
    pub non_blocking: bool,
    /// In network byte order, as in the system call; 0 for none.
    pub protocol: u16,
}

const SOCK_RAW: u32 = 3;
const SOCK_DGRAM: u32 = 2;

impl SocketCall {
    /// A socket without flags or protocol.
    pub(super) fn of(kind: SocketKind) -> Self {
        Self {
            kind,
            close_on_exec: true,
            non_blocking: false,
            protocol: 0,
        }
    }

    /// Reads the second and third argument of `socket(2)`; the kernel looks at 32 bits of each.
    pub fn parse(kind: u32, protocol: u32) -> Option<Self> {
        let flags = SocketFlags::from_bits_retain(kind & !0xf);
        if !(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).contains(flags) {
            return None;
        }
        Some(Self {
            kind: match kind & 0xf {
                SOCK_RAW => SocketKind::Raw,
                SOCK_DGRAM => SocketKind::Cooked,
                _ => return None,
            },
            close_on_exec: flags.contains(SocketFlags::CLOEXEC),
            non_blocking: flags.contains(SocketFlags::NONBLOCK),
            protocol: u16::try_from(protocol).ok()?,
        })
    }
}

/// A packet socket with a locked guard on it. Only [`arm`] makes one, and only an `ArmedSocket`
/// can be handed to a governed process.
#[derive(Debug)]
pub struct ArmedSocket {
    fd: OwnedFd,
    inode: u64,
}

impl ArmedSocket {
    /// The socket's inode, as `/proc/<pid>/fd` shows it.
    pub fn inode(&self) -> u64 {
        self.inode
    }
}

impl AsFd for ArmedSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub use capwarden_abi::INJECTION_MARK;

/// Makes the socket that was asked for, with an instance of the session's guard on it, and gives
/// the slot for the filter that its holder may attach.
///
/// # Errors
/// The errno of the step that failed, and its name. `ENOTSUP` where the session's filters cannot
/// be applied to this kind of socket.
pub fn arm(guard: &Guard, call: SocketCall) -> Result<(ArmedSocket, Slot), ArmError> {
    let step = |step| move |errno| ArmError { step, errno };
    let instance = guard.instances().take(call.kind).map_err(|error| {
        tracing::error!(%error, "no instance of the guard could be made");
        ArmError {
            step: "loading the guard",
            errno: Errno::from_io_error(&error.error).unwrap_or(Errno::NOMEM),
        }
    })?;
    let instance = instance.ok_or(ArmError {
        step: "the session's filters do not apply to this kind of socket",
        errno: Errno::NOTSUP,
    })?;
    let fd = sys::packet_socket(call).map_err(step("socket(AF_PACKET)"))?;
    sys::set_socket_option(fd.as_fd(), libc::SO_MARK, INJECTION_MARK)
        .map_err(step("setsockopt(SO_MARK)"))?;
    let program = instance.program.as_raw_fd();
    sys::set_socket_option(fd.as_fd(), libc::SO_ATTACH_BPF, program)
        .map_err(step("setsockopt(SO_ATTACH_BPF)"))?;
    sys::set_socket_option(fd.as_fd(), libc::SO_LOCK_FILTER, 1_i32)
        .map_err(step("setsockopt(SO_LOCK_FILTER)"))?;
    if call.protocol != 0 {
        sys::bind_packet_protocol(fd.as_fd(), call.protocol).map_err(step("bind"))?;
    }
    let inode = rustix::fs::fstat(&fd).map_err(step("fstat"))?.st_ino;
    Ok((ArmedSocket { fd, inode }, instance.slot))
}

/// Why a socket could not be armed. It never existed for the governed process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{step}: {errno}")]
pub struct ArmError {
    /// The call that failed.
    pub step: &'static str,
    /// Its error.
    pub errno: Errno,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_call_parses_flags_and_refuses_other_kinds() {
        let call = SocketCall::parse(3 | 0o2_000_000 | 0o4_000, 0x0300).unwrap();
        assert_eq!(call.kind, SocketKind::Raw);
        assert!(call.close_on_exec && call.non_blocking);
        assert_eq!(call.protocol, 0x0300);
        assert_eq!(SocketCall::parse(10, 0), None, "SOCK_PACKET");
        assert_eq!(SocketCall::parse(3 | 0x40, 0), None, "unknown flag");
        assert_eq!(
            SocketCall::parse(3, 0x1_0000),
            None,
            "protocol beyond 16 bits"
        );
    }
}
