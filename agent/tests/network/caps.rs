//! How much passes, over what, and until when.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    time::Duration,
};

use capwarden::kernel::{
    BootTime, NetworkCounts, NetworkEnd, NetworkInterfaces, NetworkTerms, Transport,
};
use libc::{EAGAIN, EINPROGRESS, EPERM};

use super::{Guarded, SILENCE, TCP4, UDP4, connect, listen, reaches, tcp, terms, udp};

/// IP and UDP headers.
const HEADERS: u64 = 28;

fn outward() -> NetworkTerms {
    terms([connect(Transport::Udp, "127.0.0.1", 9000..=9000)])
}

/// What came of 20 datagrams of 100 bytes, and their answers.
struct Exchange {
    out: usize,
    back: usize,
    counts: NetworkCounts,
    ended: Option<NetworkEnd>,
}

fn exchange(change: impl FnOnce(&mut NetworkTerms)) -> Exchange {
    let mut terms = outward();
    change(&mut terms);
    let (mut guarded, session) = Guarded::with(&terms);
    let peer = udp("127.0.0.1:9000");
    let server = &mut guarded.server;
    let socket = server.ask(UDP4).unwrap();
    server
        .ask(format!("connect {socket} 127.0.0.1:9000"))
        .unwrap();
    let port = server.ask(format!("port {socket}")).unwrap();
    let to = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()));
    let (mut out, mut back) = (0, 0);
    for _ in 0..20 {
        let sent = server.ask(format!("send {socket} 100"));
        if sent.is_ok() {
            assert_eq!(peer.recv(&mut [0; 256]).unwrap(), 100);
            out += 1;
            peer.send_to(&[1; 100], to).unwrap();
        } else {
            assert_eq!(sent, Err(EPERM));
            break;
        }
        match server.ask(format!("recv {socket}")) {
            Ok(100) => back += 1,
            other => assert_eq!(other, Err(EAGAIN)),
        }
    }
    Exchange {
        out,
        back,
        counts: session.counts().unwrap(),
        ended: session.ended().unwrap(),
    }
}

pub(crate) fn datagrams() {
    let all = exchange(|_| ());
    assert_eq!((all.out, all.back, all.ended), (20, 20, None));

    let each = 100 + HEADERS;
    let some = exchange(|terms| terms.caps.bytes_out = Some(7 * each));
    // The last one's answer comes after the end.
    assert_eq!((some.out, some.back), (7, 6));
    assert_eq!(some.counts.bytes_out, 7 * each);
    assert_eq!(some.counts.bytes_in, 6 * each);
    assert_eq!(some.ended, Some(NetworkEnd::BytesOut));

    let less = exchange(|terms| terms.caps.bytes_out = Some(7 * each - 1));
    assert_eq!((less.out, less.back), (6, 6), "a byte less");
    assert_eq!(less.counts.bytes_out, 6 * each);

    let inward = exchange(|terms| terms.caps.bytes_in = Some(7 * each));
    assert_eq!((inward.out, inward.back), (7, 7));
    assert_eq!(inward.counts.bytes_in, 7 * each);
    assert_eq!(inward.ended, Some(NetworkEnd::BytesIn));

    let few = exchange(|terms| terms.caps.packets = Some(7));
    assert_eq!((few.out, few.back), (4, 3));
    assert_eq!(few.counts.packets, 7);
    assert_eq!(few.ended, Some(NetworkEnd::Packets));
}

/// A stream gets never more than the cap, headers included, in either direction.
pub(crate) fn streams() {
    const CAP: u64 = 1_000_000;
    /// Of what the kernel handles as one packet, IP's header included.
    const LONGEST: u64 = 65_536 + 40;
    let mut out = terms([listen(Transport::Tcp, "127.0.0.1", 8080..=8080)]);
    let mut inward = out.clone();
    out.caps.bytes_out = Some(CAP);
    inward.caps.bytes_in = Some(CAP);
    for (terms, verb) in [(out, "flood $"), (inward, "sink $")] {
        let (mut guarded, session) = Guarded::with(&terms);
        guarded
            .server
            .all(&[TCP4, "bind $ 127.0.0.1:8080", "listen $", verb])
            .unwrap();
        let mut stream = TcpStream::connect("127.0.0.1:8080").unwrap();
        stream.set_read_timeout(Some(SILENCE)).unwrap();
        stream.set_write_timeout(Some(SILENCE)).unwrap();
        let mut bytes = vec![0; 65_536];
        let mut passed = 0_u64;
        let mut step = || match verb {
            "flood $" => stream.read(&mut bytes),
            _ => stream.write(&bytes),
        };
        while let Ok(some @ 1..) = step() {
            passed += u64::try_from(some).unwrap();
            assert!(passed < 100 * CAP, "no cap at all");
        }
        let counts = session.counts().unwrap();
        let (counted, end) = match verb {
            "flood $" => {
                assert!(passed < CAP, "{passed}");
                (counts.bytes_out, NetworkEnd::BytesOut)
            }
            _ => (counts.bytes_in, NetworkEnd::BytesIn), // what was written may be queued
        };
        assert!(counted <= CAP, "{counts:?}");
        // Nothing was cut off but the packet that would not have fitted, and what came with it.
        assert!(counted > CAP - 2 * LONGEST, "{counts:?}");
        assert_eq!(session.ended().unwrap(), Some(end));
        assert!(!reaches(8080), "the port is dead");
        assert!(guarded.server.ask(TCP4).is_ok(), "and the server lives");
    }
}

/// What is handed to the kernel as one, and sent as many.
pub(crate) fn segments() {
    let mut few = outward();
    few.caps.packets = Some(7);
    let (mut guarded, session) = Guarded::with(&few);
    let _peer = udp("127.0.0.1:9000");
    let server = &mut guarded.server;
    let socket = server.all(&[UDP4, "connect $ 127.0.0.1:9000", "option $ 17 103 100"]); // UDP_SEGMENT
    assert!(socket.is_ok());
    let sent = server.attempt(&[
        UDP4,
        "option $ 17 103 100",
        "connect $ 127.0.0.1:9000",
        "send $ 500",
    ]);
    assert_eq!(sent, Ok(500));
    assert_eq!(session.counts().unwrap().packets, 5);
    let sent = server.attempt(&[
        UDP4,
        "option $ 17 103 100",
        "connect $ 127.0.0.1:9000",
        "send $ 500",
    ]);
    assert_eq!(sent, Err(EPERM));
    assert_eq!(session.counts().unwrap().packets, 5);
}

pub(crate) fn connections() {
    let mut two = terms([
        listen(Transport::Tcp, "127.0.0.1", 8080..=8080),
        connect(Transport::Tcp, "127.0.0.1", 9000..=9000),
    ]);
    two.caps.accepted = Some(2);
    two.caps.made = Some(2);
    let (mut guarded, session) = Guarded::with(&two);
    let _upstream = tcp("127.0.0.1:9000");
    guarded
        .server
        .all(&[TCP4, "bind $ 127.0.0.1:8080", "listen $", "echo $"])
        .unwrap();
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect("127.0.0.1:8080").unwrap();
        stream.write_all(b"hello").unwrap();
        stream.read_exact(&mut [0; 5]).unwrap();
        kept.push(stream);
    }
    assert!(!reaches(8080), "the third");
    kept[0].write_all(b"hello").unwrap();
    kept[0].read_exact(&mut [0; 5]).unwrap();
    let up = [TCP4, "connect $ 127.0.0.1:9000"];
    assert!(guarded.server.all(&up).is_ok());
    assert!(guarded.server.all(&up).is_ok());
    assert_eq!(guarded.server.all(&up), Err(EPERM));
    let counts = session.counts().unwrap();
    assert_eq!((counts.accepted, counts.made), (2, 2));
    assert!(counts.refused >= 2);
    assert_eq!(session.ended().unwrap(), None);
}

pub(crate) fn interfaces() {
    const NONE_SUCH: u32 = 4_000_000;
    let mut elsewhere = outward();
    elsewhere
        .rules
        .push(connect(Transport::Tcp, "127.0.0.1", 9000..=9000));
    elsewhere.interfaces = NetworkInterfaces::Only(vec![NONE_SUCH]);
    let (mut guarded, session) = Guarded::with(&elsewhere);
    let (_udp, _tcp) = (udp("127.0.0.1:9000"), tcp("127.0.0.1:9000"));
    let datagram = [UDP4, "sendto $ 127.0.0.1:9000 5 0"];
    let stream = [TCP4, "connect $ 127.0.0.1:9000"];
    assert_eq!(guarded.server.attempt(&datagram), Err(EPERM));
    let stuck = guarded.server.attempt(&stream);
    assert!(matches!(stuck, Err(EINPROGRESS | EPERM)), "{stuck:?}");
    assert_eq!(session.counts().unwrap().packets, 0);
    let loopback = NetworkInterfaces::Only(vec![NONE_SUCH, 1]);
    session.set_interfaces(&loopback).unwrap();
    assert_eq!(guarded.server.attempt(&datagram), Ok(5));
    assert_eq!(guarded.server.attempt(&stream), Ok(0));
}

/// A socket whose datagrams come with the time at which the kernel got them.
struct Stamped<'a>(&'a std::net::UdpSocket);

impl<'a> Stamped<'a> {
    fn new(socket: &'a std::net::UdpSocket) -> Self {
        let yes: libc::c_int = 1;
        // SAFETY: the value and its size.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_TIMESTAMPNS,
                (&raw const yes).cast(),
                4,
            )
        };
        assert_eq!(set, 0);
        Self(socket)
    }

    /// How long the next one is, and its time in nanoseconds of the guard's clock.
    fn recv(&self, bytes: &mut [u8]) -> Option<(usize, u64)> {
        let mut control = [0_u64; 16];
        let mut part = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        // SAFETY: all zeros is a valid value of this plain C structure.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: what the message points at outlives the call.
        let got = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, 0) };
        let got = usize::try_from(got).ok()?;
        // Of the one message: its length, its kind, seconds and nanoseconds.
        let [_, _, seconds, nanoseconds, ..] = control;
        let stamp = seconds * 1_000_000_000 + nanoseconds;
        Some((got, stamp.checked_sub(ahead())?))
    }
}

/// How much the clock of time stamps is ahead of the guard's.
fn ahead() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(now.unwrap().as_nanos()).unwrap() - BootTime::now().nanoseconds()
}

/// Each datagram says when it was sent, by the guard's clock: none that arrives may say that it
/// was too late, and the server notices at once.
pub(crate) fn deadline() {
    let mut guarded = Guarded::bare();
    let peer = udp("127.0.0.1:9000");
    let mut short = outward();
    let deadline = BootTime::now().after(Duration::from_millis(400));
    short.deadline = Some(deadline);
    let session = guarded.guard.open(&short).unwrap();
    let reader = std::thread::spawn(move || {
        let (mut latest, mut last) = (0, 0);
        let mut clock = [0; 8];
        let stamped = Stamped::new(&peer);
        while let Some((8, passed)) = stamped.recv(&mut clock) {
            latest = u64::from_ne_bytes(clock).max(latest);
            last = passed.max(last);
        }
        (latest, last)
    });
    let sent = guarded.server.attempt(&[UDP4, "clock $ 127.0.0.1:9000"]);
    let (latest, last) = reader.join().unwrap();
    assert!(sent.unwrap() > 0, "{sent:?}");
    assert!(deadline.has_passed(), "not before");
    assert!(latest > 0 && latest <= deadline.nanoseconds());
    // Behind the guard, the kernel has stamped each when it passed.
    const LATE: u64 = 5_000_000;
    assert!(last > 0 && last <= deadline.nanoseconds() + LATE, "{last}");
    assert_eq!(session.ended().unwrap(), Some(NetworkEnd::Deadline));
}

pub(crate) fn nothing_at_all() {
    for change in [
        (|terms: &mut NetworkTerms| terms.caps.packets = Some(0)) as fn(&mut NetworkTerms),
        |terms| terms.caps.bytes_out = Some(0),
        |terms| terms.caps.made = Some(0),
        |terms| terms.deadline = Some(BootTime::now()),
    ] {
        let mut none = terms([connect(Transport::Tcp, "127.0.0.1", 9000..=9000)]);
        change(&mut none);
        let (mut guarded, _session) = Guarded::with(&none);
        let made = guarded.server.attempt(&[TCP4, "connect $ 127.0.0.1:9000"]);
        assert_eq!(made, Err(EPERM), "{none:?}");
    }
}
