//! G: a server whose network is bounded, and ways to other addresses.

use libc::{EACCES, EAFNOSUPPORT, EINVAL, EPERM, EPROTONOSUPPORT, ESOCKTNOSUPPORT};

use super::internet;
use crate::{
    attacker::{Attacker, SOCK_DGRAM, SOCK_STREAM, SOL_SOCKET},
    row::{Free, Layer, Must, Outcome, Row, Seen, Setting, row},
    sys::number,
    world::{SHARED_PORT, TCP_PORT, UDP_PORT},
};

const REFUSED: Must = Must::Errno(EPERM);
const NO_PROTOCOL: Must = Must::Errno(EPROTONOSUPPORT);
const WITHOUT: &[i32] = &[EPROTONOSUPPORT, ESOCKTNOSUPPORT, EAFNOSUPPORT, EINVAL];

pub(crate) const ROWS: &[Row] = &[
    bounded(
        "G1",
        "connect to an address that no rule names",
        REFUSED,
        tcp4,
    )
    .every_way(),
    bounded("G1b", "the same as ::ffff:127.0.0.1", REFUSED, tcp_mapped).absent(&[EAFNOSUPPORT]),
    bounded("G1c", "the same over IPv6", REFUSED, tcp6).absent(&[EAFNOSUPPORT]),
    bounded("G1d", "the same as 0.0.0.0", REFUSED, tcp_any),
    bounded("G2", "send a datagram to it", REFUSED, udp).every_way(),
    bounded("G2d", "the same to ::ffff:127.0.0.1", REFUSED, udp_mapped).absent(&[EAFNOSUPPORT]),
    bounded(
        "G2b",
        "the same from a connected socket",
        REFUSED,
        udp_connected,
    ),
    bounded("G2c", "the same with MSG_FASTOPEN", REFUSED, fast_open),
    hidden("G3", "MPTCP", transport::<1, 262>).every_way(),
    hidden("G3b", "SCTP", transport::<1, 132>),
    hidden("G3c", "UDP-Lite", transport::<2, 136>),
    hidden("G3d", "SMC over IPv4", transport::<1, 256>),
    bounded("G4", "a ping socket", REFUSED, ping).absent(&[EACCES]),
    bounded("G5", "listen", REFUSED, listen).every_way(),
    bounded(
        "G6",
        "share a port of another process of the user's (SO_REUSEPORT)",
        REFUSED,
        share_port,
    ),
    Row {
        free: Free::Root,
        ..bounded("G7", "a source route (IP_OPTIONS)", REFUSED, source_route)
    },
];

/// Stopped by the network guard.
const fn bounded(
    id: &'static str,
    says: &'static str,
    must: Must,
    run: fn(&mut Attacker) -> Outcome,
) -> Row {
    row(id, says, Layer::Network, must, run)
        .anyone()
        .within(Setting::Bounded)
}

/// A transport that seccomp says does not exist.
const fn hidden(id: &'static str, says: &'static str, run: fn(&mut Attacker) -> Outcome) -> Row {
    row(id, says, Layer::Seccomp, NO_PROTOCOL, run)
        .anyone()
        .within(Setting::Bounded)
        .absent(WITHOUT)
}

/// Connects by TCP, through the attack's door.
fn connect(a: &mut Attacker, family: u64, address: &[u8]) -> Outcome {
    let socket = a.open_socket(family, SOCK_STREAM, 0)?;
    let at = a.memory.put(address);
    a.attack(number::CONNECT, [socket, at, address.len() as u64, 0, 0, 0])?;
    Seen::won("a connection")
}

fn tcp4(a: &mut Attacker) -> Outcome {
    connect(a, 2, &internet(TCP_PORT))
}

fn tcp_any(a: &mut Attacker) -> Outcome {
    let mut address = internet(TCP_PORT);
    address[4..8].fill(0);
    connect(a, 2, &address)
}

/// `struct sockaddr_in6`.
fn internet6(address: [u8; 16], port: u16) -> [u8; 28] {
    let mut bytes = [0; 28];
    bytes[0] = 10;
    bytes[2..4].copy_from_slice(&port.to_be_bytes());
    bytes[8..24].copy_from_slice(&address);
    bytes
}

/// `::ffff:127.0.0.1`
const MAPPED: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1];

fn tcp_mapped(a: &mut Attacker) -> Outcome {
    connect(a, 10, &internet6(MAPPED, TCP_PORT))
}

fn tcp6(a: &mut Attacker) -> Outcome {
    let mut loopback = [0; 16];
    loopback[15] = 1;
    connect(a, 10, &internet6(loopback, TCP_PORT))
}

fn udp(a: &mut Attacker) -> Outcome {
    let socket = a.open_socket(2, SOCK_DGRAM, 0)?;
    let (bytes, address) = (a.memory.put(b"hello"), a.memory.put(&internet(UDP_PORT)));
    a.attack(number::SENDTO, [socket, bytes, 5, 0, address, 16])?;
    Seen::won("a datagram sent")
}

fn udp_mapped(a: &mut Attacker) -> Outcome {
    let socket = a.open_socket(10, SOCK_DGRAM, 0)?;
    let address = a.memory.put(&internet6(MAPPED, UDP_PORT));
    let bytes = a.memory.put(b"hello");
    a.call(number::SENDTO, [socket, bytes, 5, 0, address, 28])?;
    Seen::won("a datagram sent")
}

fn udp_connected(a: &mut Attacker) -> Outcome {
    let socket = a.open_socket(2, SOCK_DGRAM, 0)?;
    let address = a.memory.put(&internet(UDP_PORT));
    a.call(number::CONNECT, [socket, address, 16, 0, 0, 0])?;
    let bytes = a.memory.put(b"hello");
    a.call(number::SENDTO, [socket, bytes, 5, 0, 0, 0])?;
    Seen::won("a datagram sent")
}

fn fast_open(a: &mut Attacker) -> Outcome {
    const FASTOPEN: u64 = 0x2000_0000;
    let socket = a.open_socket(2, SOCK_STREAM, 0)?;
    let (bytes, address) = (a.memory.put(b"hello"), a.memory.put(&internet(TCP_PORT)));
    a.call(number::SENDTO, [socket, bytes, 5, FASTOPEN, address, 16])?;
    Seen::won("a connection")
}

fn transport<const KIND: u64, const PROTOCOL: u64>(a: &mut Attacker) -> Outcome {
    a.socket(2, KIND, PROTOCOL)?;
    Seen::won("a socket")
}

fn ping(a: &mut Attacker) -> Outcome {
    a.socket(2, SOCK_DGRAM, 1)?;
    Seen::won("a socket")
}

fn listen(a: &mut Attacker) -> Outcome {
    let socket = a.open_socket(2, SOCK_STREAM, 0)?;
    // Each door one of its own.
    let address = a.memory.put(&internet(7020 + u16::from(a.way as u8)));
    a.attack(number::BIND, [socket, address, 16, 0, 0, 0])?;
    Seen::won("an address to listen on")
}

fn share_port(a: &mut Attacker) -> Outcome {
    const REUSE_PORT: u64 = 15;
    let socket = a.open_socket(2, SOCK_DGRAM, 0)?;
    a.set(socket, SOL_SOCKET, REUSE_PORT, &1_u32.to_ne_bytes())?;
    let address = a.memory.put(&internet(SHARED_PORT));
    a.call(number::BIND, [socket, address, 16, 0, 0, 0])?;
    Seen::won("a part of another's datagrams")
}

fn source_route(a: &mut Attacker) -> Outcome {
    const IP_OPTIONS: u64 = 4;
    // Loose source route by 10.99.0.2.
    let route = [131, 7, 4, 10, 99, 0, 2, 0];
    let socket = a.open_socket(2, SOCK_DGRAM, 0)?;
    a.set(socket, 0, IP_OPTIONS, &route)?;
    Seen::won("packets that go by another host first")
}
