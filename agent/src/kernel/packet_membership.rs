//! `setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP)`: promiscuous mode, or a multicast address, that a governed process
//! which waits in the call wants of an interface.
//!
//! Each that is not like one before is kernel memory that is charged to nobody, as many as anybody asks for; and the
//! interface receives more by it, whoever hears that. Which interface it is stands behind a pointer, so a call that
//! went on could mean another one by then. As with rings, the agent does it itself, on the same socket, by the very
//! bytes that it read. Leaving goes on: it frees.
//!
//! <https://github.com/torvalds/linux/blob/v5.14/net/packet/af_packet.c#L3768>

use std::{
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use rustix::io::Errno;

use super::{notify::Notification, sys};

/// `sizeof(struct packet_mreq)`: interface, kind, how long the address is, room for eight bytes of it.
const SHORTEST: usize = 16;
/// `sizeof(struct packet_mreq_max)`: room for an address of 32 bytes.
const LONGEST: usize = 40;
/// Where the address begins.
const ADDRESS: usize = 8;

/// What is asked of an interface. Two are equal if the kernel takes them for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketMembership(Vec<u8>);

impl PacketMembership {
    /// Reads the call's arguments. True of the caller only if its call still waits afterwards.
    ///
    /// # Errors
    /// What the kernel would say: `EINVAL` or `EFAULT`.
    pub(super) fn read(call: &Notification) -> Result<Self, Errno> {
        let [_, _, _, value, _] = call.arguments;
        let length = usize::try_from(call.number_argument(4).cast_signed());
        let length = length.map_err(|_| Errno::INVAL)?.min(LONGEST);
        if length < SHORTEST {
            return Err(Errno::INVAL);
        }
        let memory = File::open(format!("/proc/{}/mem", call.thread)).map_err(|_| Errno::FAULT)?;
        let mut request = vec![0; length];
        let read = memory.read_exact_at(&mut request, value);
        read.map_err(|_| Errno::FAULT)?;
        Self::of(request)
    }

    /// Of what stands behind the pointer.
    fn of(mut request: Vec<u8>) -> Result<Self, Errno> {
        let address = request
            .get(6..ADDRESS)
            .and_then(|length| length.first_chunk());
        let address = address.copied().map_or(0, u16::from_ne_bytes);
        let end = ADDRESS.saturating_add(address.into());
        if end > request.len() {
            return Err(Errno::INVAL);
        }
        // What is behind the address means nothing, and makes no difference.
        request.truncate(end.max(SHORTEST));
        if let Some(behind) = request.get_mut(end..) {
            behind.fill(0);
        }
        Ok(Self(request))
    }

    /// The index of the interface.
    pub fn interface(&self) -> u32 {
        let index = self.0.first_chunk().copied();
        index.map_or(0, u32::from_ne_bytes)
    }

    /// Has the kernel do it.
    pub(super) fn add(&self, socket: &OwnedFd) -> Result<(), Errno> {
        sys::set_packet_option(socket.as_fd(), libc::PACKET_ADD_MEMBERSHIP, &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(index: u32, kind: u16, length: u16, address: &[u8], room: usize) -> Vec<u8> {
        let mut request = index.to_ne_bytes().to_vec();
        request.extend(kind.to_ne_bytes());
        request.extend(length.to_ne_bytes());
        request.extend(address);
        request.resize(ADDRESS + room, 0xee);
        request
    }

    #[test]
    fn equal_are_those_that_the_kernel_takes_for_one() {
        let of = |length, address: &[u8], room| {
            PacketMembership::of(request(7, 0, length, address, room))
        };
        let six = of(6, &[1, 0, 0x5e, 0, 0, 1], 8).unwrap();
        assert_eq!(six.interface(), 7);
        assert_eq!(six, of(6, &[1, 0, 0x5e, 0, 0, 1], 32).unwrap());
        assert_ne!(six, of(6, &[1, 0, 0x5e, 0, 0, 2], 8).unwrap());
        assert_ne!(six, of(5, &[1, 0, 0x5e, 0, 0, 1], 8).unwrap());
        assert_eq!(of(32, &[1; 32], 32).unwrap().0.len(), LONGEST);
        assert_eq!(of(9, &[1; 8], 8), Err(Errno::INVAL), "longer than there is");
        assert_eq!(of(u16::MAX, &[], 32), Err(Errno::INVAL));
    }
}
