//! `setsockopt(SOL_PACKET, PACKET_RX_RING)`: what a governed process that waits in the call wants,
//! and doing it for it.
//!
//! A ring is kernel memory that is charged to nobody, up to 2 GiB for each socket. How much it is to
//! be stands behind a pointer, so a call that went on could mean another size by then. So it
//! never does: the size is read once, and the agent sets the ring itself, on the same socket, to the very
//! bytes that it read. The process maps it through its own descriptor.
//!
//! <https://github.com/torvalds/linux/blob/v5.14/net/packet/af_packet.c#L3800>

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use super::{
    notify::Notification,
    own_filter,
    sys::{self, RingRequest},
};

/// `sizeof(struct tpacket_req)`: versions 1 and 2.
const SHORTEST: usize = 16;

/// A ring that a process wants on a socket. Which of the two structures it is depends on the
/// socket's version; the first four numbers are the same.
#[derive(Clone, Debug)]
pub(super) struct RingCall {
    request: RingRequest,
    /// How much of it the process gave.
    length: usize,
}

impl RingCall {
    /// Reads the call's arguments. True of the caller only if its call still waits afterwards.
    ///
    /// # Errors
    /// What the kernel would say: `EINVAL`.
    pub(super) fn read(call: &Notification) -> Result<Self, Errno> {
        let [_, _, _, value, _] = call.arguments;
        let length = usize::try_from(call.number_argument(4).cast_signed());
        let mut request = RingRequest::default();
        let length = length.map_err(|_| Errno::INVAL)?.min(request.len());
        let (wanted, _) = request.split_at_mut(length);
        let memory = File::open(format!("/proc/{}/mem", call.thread)).map_err(|_| Errno::INVAL)?;
        // The kernel reads as much as the socket's version has, which may be all that there is.
        let length = read_some(&memory, value, wanted).map_err(|_| Errno::INVAL)?;
        if length < SHORTEST {
            return Err(Errno::INVAL);
        }
        let call = Self { request, length };
        let (size, blocks) = call.blocks();
        // The kernel reads the size as a number with a sign.
        if blocks > 0 && i32::try_from(size).map_or(true, |size| size == 0) {
            return Err(Errno::INVAL);
        }
        Ok(call)
    }

    /// How many bytes each block has, and how many blocks there are.
    fn blocks(&self) -> (u32, u32) {
        let [s0, s1, s2, s3, n0, n1, n2, n3, ..] = self.request;
        let size = u32::from_ne_bytes([s0, s1, s2, s3]);
        (size, u32::from_ne_bytes([n0, n1, n2, n3]))
    }

    /// The memory that it takes, in bytes; 0 for none, which frees what there is. The kernel
    /// takes whole powers of two of pages for each block.
    pub(super) fn memory(&self) -> u64 {
        let (size, blocks) = self.blocks();
        u64::from(size)
            .next_power_of_two()
            .saturating_mul(blocks.into())
    }

    /// Has the kernel do it.
    pub(super) fn set(&self, socket: &OwnedFd) -> Result<(), Errno> {
        let given = self.request.get(..self.length).ok_or(Errno::INVAL)?;
        sys::set_receive_ring(socket.as_fd(), given)
    }
}

/// Takes the ring of a socket away.
pub(super) fn clear(socket: &OwnedFd) -> Result<(), Errno> {
    sys::set_receive_ring(socket.as_fd(), &RingRequest::default())
}

/// The socket that a number means to the thread that waits, and its inode.
///
/// # Errors
/// `EBADF` or `ENOTSOCK`, as the kernel would say.
pub(super) fn socket_of(call: &Notification, process: u32) -> Result<(OwnedFd, u64), Errno> {
    let number = call.number_argument(0).cast_signed();
    let Some(inode) = own_filter::socket_inode(call) else {
        let link = format!("/proc/{}/fd/{number}", call.thread);
        return Err(match fs::read_link(link) {
            Ok(_) => Errno::NOTSOCK,
            Err(_) => Errno::BADF,
        });
    };
    // A thread may have a descriptor table of its own; it can be opened since Linux 6.9.
    let of_thread = PidfdFlags::from_bits_retain(libc::O_EXCL.cast_unsigned());
    for (id, flags) in [(process, PidfdFlags::empty()), (call.thread, of_thread)] {
        let taken = Pid::from_raw(id.cast_signed())
            .ok_or(Errno::SRCH)
            .and_then(|id| pidfd_open(id, flags))
            .and_then(|owner| pidfd_getfd(owner, number, PidfdGetfdFlags::empty()));
        if let Ok(socket) = taken
            && rustix::fs::fstat(&socket)?.st_ino == inode
        {
            return Ok((socket, inode));
        }
    }
    Err(Errno::BADF)
}

/// The inodes of all packet sockets in the agent's network namespace, whoever has them. One that is
/// not there any more has no ring either.
///
/// The kernel hands the table out in pieces, and goes on by counting: when a socket in front is closed between two
/// of them, one that lives is left out. So it is read until nothing has gone from one time to the next.
///
/// # Errors
/// The table cannot be read, or sockets come and go faster than that.
pub fn packet_sockets() -> io::Result<HashSet<u64>> {
    const ATTEMPTS: usize = 16;
    let mut before = table()?;
    for _ in 0..ATTEMPTS {
        let after = table()?;
        if before.is_subset(&after) {
            return Ok(after);
        }
        before = after;
    }
    Err(io::Error::other(
        "packet sockets are closed while they are listed, again and again",
    ))
}

fn table() -> io::Result<HashSet<u64>> {
    let table = fs::read_to_string("/proc/thread-self/net/packet")?;
    let inodes = table.lines().skip(1);
    Ok(inodes
        .filter_map(|line| line.split_whitespace().last()?.parse().ok())
        .collect())
}

/// Reads until the end of what is mapped.
fn read_some(memory: &File, address: u64, bytes: &mut [u8]) -> io::Result<usize> {
    let mut read = 0_usize;
    while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
        let at = address.wrapping_add(u64::try_from(read).unwrap_or(0));
        match memory.read_at(rest, at) {
            Ok(0) | Err(_) if read > 0 => break,
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(more) => read = read.saturating_add(more),
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants(size: u32, blocks: u32) -> u64 {
        let mut request = RingRequest::default();
        request[..4].copy_from_slice(&size.to_ne_bytes());
        request[4..8].copy_from_slice(&blocks.to_ne_bytes());
        let length = SHORTEST;
        RingCall { request, length }.memory()
    }

    #[test]
    fn memory_of_a_ring_is_what_the_kernel_takes() {
        assert_eq!(wants(4_096, 16), 65_536);
        assert_eq!(wants(3 * 4_096, 2), 2 * 4 * 4_096, "whole powers of two");
        assert_eq!(wants(1 << 17, 0), 0);
        assert_eq!(wants(0, 0), 0);
        assert_eq!(wants(u32::MAX, u32::MAX), (1 << 32) * u64::from(u32::MAX));
    }

    #[test]
    fn packet_sockets_are_listed_while_they_live() {
        use super::super::{SocketCall, SocketKind};
        let Ok(socket) = sys::packet_socket(SocketCall::of(SocketKind::Raw)) else {
            assert!(!rustix::process::geteuid().is_root());
            return;
        };
        let inode = rustix::fs::fstat(&socket).unwrap().st_ino;
        assert!(packet_sockets().unwrap().contains(&inode));
        drop(socket);
        assert!(!packet_sockets().unwrap().contains(&inode));
    }
}
