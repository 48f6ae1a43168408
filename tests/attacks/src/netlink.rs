//! Route netlink: a message, its attributes, and the kernel's answer.

use crate::sys::{Answer, memory::Memory, native};

pub(crate) const NEWLINK: u16 = 16;
pub(crate) const NEWADDR: u16 = 20;
pub(crate) const NEWQDISC: u16 = 36;

/// `NLM_F_REQUEST | NLM_F_ACK`, and for what is to be made.
const ACKNOWLEDGED: u16 = 0x5;
const CREATE: u16 = 0x600;

pub(crate) const IFLA_IFNAME: u16 = 3;
pub(crate) const IFLA_LINKINFO: u16 = 18;
pub(crate) const IFLA_NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
const IFF_UP: u32 = 1;

/// One attribute: its type and length, and padding behind it.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A name, with its final zero.
pub(crate) fn name(kind: u16, name: &str) -> Vec<u8> {
    attribute(kind, &[name.as_bytes(), &[0]].concat())
}

/// `struct ifinfomsg`.
pub(crate) fn link(index: u32, flags: u32) -> Vec<u8> {
    let words = [0, index, flags, flags];
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Asks for one thing.
pub(crate) fn ask(memory: &mut Memory, kind: u16, make: bool, body: &[u8]) -> Answer {
    let socket = native(libc::SYS_socket, [16, 3 | 0o2_000_000, 0, 0, 0, 0])?;
    let answer = ask_on(memory, socket, kind, make, body);
    native(libc::SYS_close, [socket, 0, 0, 0, 0, 0])?;
    answer
}

fn ask_on(memory: &mut Memory, socket: u64, kind: u16, make: bool, body: &[u8]) -> Answer {
    let flags = ACKNOWLEDGED | if make { CREATE } else { 0 };
    answer(&exchange(memory, socket, kind, flags, body)?).map(|()| 0)
}

/// Asks a question; what is behind the answer's header.
pub(crate) fn question(
    memory: &mut Memory,
    socket: u64,
    kind: u16,
    body: &[u8],
) -> Result<Vec<u8>, i32> {
    const REQUEST: u16 = 1;
    let said = exchange(memory, socket, kind, REQUEST, body)?;
    answer(&said)?;
    Ok(said)
}

/// The errno of an answer that is one: `struct nlmsghdr`, then the error, 0 or a negative errno.
fn answer(said: &[u8]) -> Result<(), i32> {
    const ERROR: [u8; 2] = 2_u16.to_ne_bytes();
    let (Some(kind), Some(error)) = (said.get(4..6), said.get(16..20)) else {
        return Err(libc::EPROTO);
    };
    let error = error.try_into().map_or(0, i32::from_ne_bytes);
    match (kind == ERROR, error) {
        (true, error @ i32::MIN..=-1) => Err(-error),
        _ => Ok(()),
    }
}

/// The value of the first attribute of a kind.
pub(crate) fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let (header, _) = attributes.split_first_chunk::<4>()?;
        let [l0, l1, k0, k1] = *header;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let found = u16::from_ne_bytes([k0, k1]) & 0x3fff;
        if found == kind {
            return attributes.get(4..length);
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

fn exchange(
    memory: &mut Memory,
    socket: u64,
    kind: u16,
    flags: u16,
    body: &[u8],
) -> Result<Vec<u8>, i32> {
    let length = u32::try_from(16 + body.len()).unwrap_or(0);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    message.extend(body);
    let (at, count) = (memory.put(&message), message.len() as u64);
    native(libc::SYS_sendto, [socket, at, count, 0, 0, 0])?;
    let room = memory.zeros(8192);
    let count = native(libc::SYS_recvfrom, [socket, room, 8192, 0, 0, 0])?;
    Ok(memory.read(room, usize::try_from(count).unwrap_or(0)))
}

/// A pair of veth interfaces: `here` with this index, its peer in another network namespace.
pub(crate) fn veth(
    memory: &mut Memory,
    here: &str,
    index: u32,
    peer: &str,
    namespace: i32,
) -> Answer {
    let namespace = attribute(IFLA_NET_NS_FD, &namespace.to_ne_bytes());
    let peer = [link(0, 0), name(IFLA_IFNAME, peer), namespace].concat();
    let data = attribute(INFO_DATA, &attribute(VETH_PEER, &peer));
    let info = [name(INFO_KIND, "veth"), data].concat();
    let body = [
        link(index, 0),
        name(IFLA_IFNAME, here),
        attribute(IFLA_LINKINFO, &info),
    ];
    ask(memory, NEWLINK, true, &body.concat())
}

/// An interface of a kind that needs nothing else.
pub(crate) fn simple(memory: &mut Memory, kind: &str, called: &str) -> Answer {
    let info = attribute(IFLA_LINKINFO, &name(INFO_KIND, kind));
    let body = [link(0, 0), name(IFLA_IFNAME, called), info];
    ask(memory, NEWLINK, true, &body.concat())
}

/// Sets an interface up.
pub(crate) fn up(memory: &mut Memory, index: u32) -> Answer {
    ask(memory, NEWLINK, false, &link(index, IFF_UP))
}

/// Gives an interface an IPv4 address.
pub(crate) fn address(memory: &mut Memory, index: u32, address: [u8; 4], prefix: u8) -> Answer {
    const LOCAL: u16 = 2;
    const ADDRESS: u16 = 1;
    let mut body = vec![2, prefix, 0, 0];
    body.extend(index.to_ne_bytes());
    body.extend(attribute(LOCAL, &address));
    body.extend(attribute(ADDRESS, &address));
    ask(memory, NEWADDR, true, &body)
}

/// Puts a `clsact` queueing discipline on an interface, which filters that mirror packets go on.
pub(crate) fn clsact(memory: &mut Memory, index: u32) -> Answer {
    const TCA_KIND: u16 = 1;
    let words = [0, index, 0xffff_0000, 0xffff_fff1, 0];
    let body: Vec<u8> = words
        .iter()
        .flat_map(|word: &u32| word.to_ne_bytes())
        .collect();
    let body = [body, name(TCA_KIND, "clsact")].concat();
    ask(memory, NEWQDISC, true, &body)
}
