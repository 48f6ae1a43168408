//! Closes the TCP connections of a slot, so that whoever is at their other ends hears of it: they
//! would wait for packets that do not come any more.
//!
//! The kernel lists its sockets with the guard's tags (`INET_DIAG_REQ_SK_BPF_STORAGES`, Linux 5.7), and
//! destroys those of the slot (`SOCK_DESTROY`, Linux 4.5, `CONFIG_INET_DIAG_DESTROY`): they send a
//! reset, and the server's next use of one fails. Listeners are left alone: servers do not expect to
//! lose one, and nothing of them is heard. Where the kernel cannot do so, connections stay as they
//! are, and carry nothing.

use std::{
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send,
        socket_with,
    },
};

/// `SOCK_DIAG_BY_FAMILY`
const BY_FAMILY: u16 = 20;
/// `SOCK_DESTROY`
const DESTROY: u16 = 21;
/// `NLMSG_ERROR`, which also acknowledges.
const ERROR: u16 = 2;
/// `NLMSG_DONE`
const DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`
const DUMP: u16 = 0x301;
/// `NLM_F_REQUEST | NLM_F_ACK`
const CONFIRM: u16 = 5;
/// `struct nlmsghdr`
const HEADER: usize = 16;
/// `struct inet_diag_msg`
const MESSAGE: usize = 72;
/// Of that, family and state, before `struct inet_diag_sockid`.
const BEFORE_ID: usize = 4;
/// `struct inet_diag_sockid`
const ID: usize = 48;
/// `INET_DIAG_REQ_SK_BPF_STORAGES`, and `SK_DIAG_BPF_STORAGE_REQ_MAP_FD` in it.
const WITH_STORAGE: u16 = 2;
const MAP: u16 = 1;
/// `INET_DIAG_SK_BPF_STORAGES`, `SK_DIAG_BPF_STORAGE` in it, `SK_DIAG_BPF_STORAGE_MAP_VALUE` in that.
const STORAGES: u16 = 20;
const STORAGE: u16 = 1;
const VALUE: u16 = 3;
/// States that a connection can be in, as bits of the kernel's numbers: neither `LISTEN` (10), nor
/// `TIME_WAIT` (6) or `NEW_SYN_RECV` (12), which are no whole sockets.
const CONNECTIONS: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
const TCP: u8 = 6;
/// `AF_INET`, `AF_INET6`
const FAMILIES: [u8; 2] = [2, 10];
/// How long the listing of all sockets may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// A connection, as the kernel names it.
type Id = [u8; ID];

/// Closes the connections whose tag begins with these bytes, of this thread's network namespace. How
/// many there were.
pub(super) fn close(tags: BorrowedFd<'_>, tag: &[u8]) -> Result<usize, Errno> {
    let netlink = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    let mut closed = 0;
    for family in FAMILIES {
        for id in tagged(&netlink, family, tags, tag)? {
            match destroy(&netlink, family, &id) {
                Ok(()) => closed += 1,
                // It has gone by itself.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(closed)
}

fn tagged(
    netlink: &OwnedFd,
    family: u8,
    tags: BorrowedFd<'_>,
    tag: &[u8],
) -> Result<Vec<Id>, Errno> {
    let mut request = request(BY_FAMILY, DUMP, family, CONNECTIONS, &[0; ID]);
    let map = attribute(MAP, &tags.as_raw_fd().to_ne_bytes());
    request.extend(attribute(WITH_STORAGE, &map));
    set_length(&mut request);
    send(netlink, &request, SendFlags::empty())?;
    let mut found = Vec::new();
    let mut bytes = vec![0; 64 << 10];
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let (length, _) = recv(netlink, bytes.as_mut_slice(), RecvFlags::empty())?;
        let mut rest = bytes.get(..length).unwrap_or_default();
        while let Some((message, behind)) = cut::<u32>(rest, HEADER) {
            rest = behind;
            match number(message, 4).map(u16::from_ne_bytes) {
                Some(BY_FAMILY) => found.extend(id_of(message, tag)),
                Some(DONE) => return Ok(found),
                Some(ERROR) => return Err(code(message)),
                _ => {}
            }
        }
    }
    Err(Errno::TIMEDOUT)
}

/// The connection that a message is about, if it has the tag.
fn id_of(message: &[u8], tag: &[u8]) -> Option<Id> {
    let attributes = message.get(HEADER + MESSAGE..)?;
    let storage = inside(inside(attributes, STORAGES)?, STORAGE)?;
    let value = inside(storage, VALUE)?;
    value.starts_with(tag).then_some(())?;
    number(message, HEADER + BEFORE_ID)
}

fn destroy(netlink: &OwnedFd, family: u8, id: &Id) -> Result<(), Errno> {
    let mut request = request(DESTROY, CONFIRM, family, u32::MAX, id);
    set_length(&mut request);
    send(netlink, &request, SendFlags::empty())?;
    let mut answer = [0; 1024];
    let (length, _) = recv(netlink, &mut answer, RecvFlags::empty())?;
    let answer = answer.get(..length).unwrap_or_default();
    match number(answer, HEADER).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        _ => Err(code(answer)),
    }
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn request(kind: u16, flags: u16, family: u8, states: u32, id: &Id) -> Vec<u8> {
    let mut request = vec![0; 4];
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8]); // sequence and port: there is one answer
    request.extend([family, TCP, 0, 0]);
    request.extend(states.to_ne_bytes());
    request.extend(id);
    request
}

fn set_length(request: &mut [u8]) {
    let length = u32::try_from(request.len()).unwrap_or(0);
    for (into, byte) in request.iter_mut().zip(length.to_ne_bytes()) {
        *into = byte;
    }
}

/// `struct nlattr`
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(0);
    let head = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    [&head, value].concat()
}

/// What an attribute of this kind has.
fn inside(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    const NESTED: u16 = 1 << 15;
    while let Some((attribute, rest)) = cut::<u16>(attributes, 4) {
        if number(attribute, 2).map(u16::from_ne_bytes)? & !NESTED == kind {
            return attribute.get(4..);
        }
        attributes = rest;
    }
    None
}

/// The first of several that begin with their length, and the rest.
fn cut<L: Length>(bytes: &[u8], least: usize) -> Option<(&[u8], &[u8])> {
    let length = L::read(bytes)?;
    let first = bytes.get(..length).filter(|_| length >= least)?;
    let behind = length.next_multiple_of(4).min(bytes.len());
    Some((first, bytes.get(behind..)?))
}

trait Length {
    fn read(bytes: &[u8]) -> Option<usize>;
}

impl Length for u16 {
    fn read(bytes: &[u8]) -> Option<usize> {
        number(bytes, 0).map(Self::from_ne_bytes).map(usize::from)
    }
}

impl Length for u32 {
    fn read(bytes: &[u8]) -> Option<usize> {
        let length = number(bytes, 0).map(Self::from_ne_bytes)?;
        usize::try_from(length).ok()
    }
}

fn code(answer: &[u8]) -> Errno {
    let code = number(answer, HEADER).map_or(-libc::EINVAL, i32::from_ne_bytes);
    Errno::from_raw_os_error(code.saturating_neg())
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}
