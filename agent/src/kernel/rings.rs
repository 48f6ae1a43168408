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
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use rustix::io::Errno;

use super::{
    notify::Notification,
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
        sys::set_packet_option(socket.as_fd(), libc::PACKET_RX_RING, given)
    }
}

/// Takes the ring of a socket away.
pub(super) fn clear(socket: &OwnedFd) -> Result<(), Errno> {
    sys::set_packet_option(
        socket.as_fd(),
        libc::PACKET_RX_RING,
        &RingRequest::default(),
    )
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
}
