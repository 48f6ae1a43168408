//! Kernels before 6.6: the program as a filter of the `clsact` queueing discipline, over netlink.
//!
//! A filter is found again by its priority and its handle. Ours have priority 1, which comes first,
//! and the owner's number for a handle. `clsact` is added where it is missing, and left there: others may have
//! come to use it since.
//!
//! The messages: <https://github.com/torvalds/linux/blob/v5.14/include/uapi/linux/rtnetlink.h>,
//! <https://github.com/torvalds/linux/blob/v5.14/include/uapi/linux/pkt_cls.h#L440>

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with},
};

const NEW_DISCIPLINE: u16 = 36;
const NEW_FILTER: u16 = 44;
const DELETE_FILTER: u16 = 45;

const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;

const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const CLSACT_EGRESS: u32 = 0xffff_fff3;

const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const BPF_DESCRIPTOR: u16 = 6;
const BPF_NAME: u16 = 7;
const BPF_FLAGS: u16 = 8;
const DIRECT_ACTION: u32 = 1;
const NESTED: u16 = 1 << 15;

/// Priority 1, `ETH_P_ALL` in network byte order.
const INFO: u32 = (1 << 16) | 0x0003_u16.to_be() as u32;

const ERROR: u16 = 2;
const HEADER: usize = 16;

/// Puts the program on the way out of an interface, in front of what has its priority. `EEXIST` if
/// it is there.
pub(super) fn attach(index: u32, program: BorrowedFd<'_>, owner: u32) -> Result<(), Errno> {
    let mut netlink = Netlink::open()?;
    let added = Message::new(NEW_DISCIPLINE, CREATE | EXCLUSIVE)
        .about(index, CLSACT_HANDLE, CLSACT, 0)
        .attribute(KIND, b"clsact\0");
    match netlink.ask(added) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let descriptor = program.as_raw_fd().cast_unsigned();
    let options = Message::default()
        .attribute(BPF_DESCRIPTOR, &descriptor.to_ne_bytes())
        .attribute(BPF_NAME, format!("{}\0", super::name(owner)).as_bytes())
        .attribute(BPF_FLAGS, &DIRECT_ACTION.to_ne_bytes());
    let filter = Message::new(NEW_FILTER, CREATE | EXCLUSIVE)
        .about(index, owner, CLSACT_EGRESS, INFO)
        .attribute(KIND, b"bpf\0")
        .attribute(OPTIONS | NESTED, &options.0);
    netlink.ask(filter)
}

/// Takes an owner's program off.
pub(super) fn detach(index: u32, owner: u32) -> Result<(), Errno> {
    let filter = Message::new(DELETE_FILTER, 0)
        .about(index, owner, CLSACT_EGRESS, INFO)
        .attribute(KIND, b"bpf\0");
    Netlink::open()?.ask(filter)
}

/// A message, or the attributes within one.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; 4]; // its length comes last
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST | ACKNOWLEDGE | flags).to_ne_bytes());
        bytes.extend([0; 8]); // sequence, port
        Self(bytes)
    }

    /// `struct tcmsg`
    fn about(mut self, index: u32, handle: u32, parent: u32, info: u32) -> Self {
        self.0.extend([0; 4]);
        for number in [index, handle, parent, info] {
            self.0.extend(number.to_ne_bytes());
        }
        self
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        const ATTRIBUTE: usize = 4;
        let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        for (byte, value) in self.0.iter_mut().zip(length.to_ne_bytes()) {
            *byte = value;
        }
        self.0
    }
}

struct Netlink(OwnedFd);

impl Netlink {
    fn open() -> Result<Self, Errno> {
        let kind = SocketType::RAW;
        let flags = SocketFlags::CLOEXEC;
        socket_with(AddressFamily::NETLINK, kind, flags, None).map(Self) // NETLINK_ROUTE
    }

    /// Sends a request, and gives the kernel's answer to it.
    fn ask(&mut self, message: Message) -> Result<(), Errno> {
        send(&self.0, &message.finish(), SendFlags::empty())?;
        let mut answer = [0_u8; 1024];
        let (_, length) = recv(&self.0, &mut answer, RecvFlags::empty())?;
        let answer = answer.get(..length).unwrap_or_default();
        // An acknowledgement is an error of 0.
        let kind = answer.get(4..6).and_then(|kind| kind.first_chunk());
        let error = answer.get(HEADER..).and_then(|error| error.first_chunk());
        match (kind.map(|kind| u16::from_ne_bytes(*kind)), error) {
            (Some(ERROR), Some(error)) => match i32::from_ne_bytes(*error) {
                0 => Ok(()),
                error => Err(Errno::from_raw_os_error(error.wrapping_neg())),
            },
            _ => Err(Errno::PROTO),
        }
    }
}
