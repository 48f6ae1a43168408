//! Addresses that rules allow, and those that they do not.

use capwarden::kernel::{NetworkCall, NetworkNews, Transport};
use libc::EPERM;

use super::{
    Guarded, Server, TCP4, TCP6, UDP4, UDP6, connect, listen, nothing, reaches, server::Answer,
    tcp, terms, udp,
};

/// Each is tried by a server that is free, and by one that is guarded.
fn compare(guarded: &mut Guarded, attempts: &[(&[&str], Answer)]) {
    let mut free = Server::start(None);
    for (lines, expected) in attempts {
        let allowed = free.attempt(lines);
        assert!(allowed.is_ok(), "without the guard: {lines:?}: {allowed:?}");
        let result = guarded.server.attempt(lines).map(|_| 0);
        assert_eq!(result, *expected, "{lines:?}");
    }
}

const REFUSED: Answer = Err(EPERM);

pub(crate) fn listening() {
    let terms = terms([listen(Transport::Tcp, "127.0.0.1", 8080..=8080)]);
    let (mut guarded, _session) = Guarded::with(&terms);
    compare(
        &mut guarded,
        &[
            (&[TCP4, "bind $ 127.0.0.1:8080", "listen $"], Ok(0)),
            (&[TCP6, "bind $ [::ffff:127.0.0.1]:8080", "listen $"], Ok(0)),
            (&[TCP4, "bind $ 0.0.0.0:8080"], REFUSED),
            (&[TCP6, "bind $ [::]:8080"], REFUSED),
            (&[TCP6, "bind $ [::ffff:0.0.0.0]:8080"], REFUSED),
            (&[TCP6, "bind $ [::1]:8080"], REFUSED),
            (&[TCP4, "bind $ 127.0.0.2:8080"], REFUSED),
            (&[TCP4, "bind $ 127.0.0.1:8081"], REFUSED),
            (&[UDP4, "bind $ 127.0.0.1:8080"], REFUSED),
        ],
    );
    for listener in [
        [TCP4, "bind $ 127.0.0.1:8080", "listen $"],
        [TCP6, "bind $ [::ffff:127.0.0.1]:8080", "listen $"],
    ] {
        guarded.server.all(&listener).unwrap();
        assert!(reaches(8080), "{listener:?}");
        guarded.server.ask("closeall").unwrap();
    }
}

pub(crate) fn upstream() {
    let terms = terms([
        connect(Transport::Tcp, "127.0.0.0/31", 9000..=9001),
        connect(Transport::Udp, "127.0.0.1", 9000..=9000),
        connect(Transport::Tcp, "::1", 9000..=9000),
    ]);
    let (mut guarded, session) = Guarded::with(&terms);
    let _tcp = ["127.0.0.1:9000", "127.0.0.2:9000", "[::1]:9000"].map(tcp);
    let _udp = ["127.0.0.1:9000", "127.0.0.2:9000"].map(udp);
    compare(
        &mut guarded,
        &[
            (&[TCP4, "connect $ 127.0.0.1:9000"], Ok(0)),
            (&[TCP6, "connect $ [::ffff:127.0.0.1]:9000"], Ok(0)),
            (&[TCP6, "connect $ [::1]:9000"], Ok(0)),
            (
                &[TCP4, "bind $ 0.0.0.0:0", "connect $ 127.0.0.1:9000"],
                Ok(0),
            ),
            (&[TCP4, "sendto $ 127.0.0.1:9000 5 536870912"], Ok(0)), // MSG_FASTOPEN
            (&[UDP4, "sendto $ 127.0.0.1:9000 5 0"], Ok(0)),
            (&[UDP6, "sendto $ [::ffff:127.0.0.1]:9000 5 0"], Ok(0)),
            (&[UDP4, "connect $ 127.0.0.1:9000", "send $ 5"], Ok(0)),
            (&[TCP4, "connect $ 127.0.0.2:9000"], REFUSED),
            (&[TCP6, "connect $ [::ffff:127.0.0.2]:9000"], REFUSED),
            (&[TCP4, "sendto $ 127.0.0.2:9000 5 536870912"], REFUSED),
            (
                &[TCP6, "sendto $ [::ffff:127.0.0.2]:9000 5 536870912"],
                REFUSED,
            ),
            // TCP_FASTOPEN_CONNECT
            (
                &[TCP4, "option $ 6 30 1", "connect $ 127.0.0.2:9000"],
                REFUSED,
            ),
            (&[UDP4, "sendto $ 127.0.0.2:9000 5 0"], REFUSED),
            (&[UDP4, "connect $ 127.0.0.2:9000"], REFUSED),
            (&[UDP6, "sendto $ [::ffff:127.0.0.2]:9000 5 0"], REFUSED),
            (&[UDP6, "connect $ [::ffff:127.0.0.2]:9000"], REFUSED),
            // One that is allowed makes no way for one that is not.
            (
                &[
                    UDP4,
                    "connect $ 127.0.0.1:9000",
                    "sendto $ 127.0.0.2:9000 5 0",
                ],
                REFUSED,
            ),
            (
                &[UDP4, "connect $ 127.0.0.1:9000", "connect $ 127.0.0.2:9000"],
                REFUSED,
            ),
            // The host itself, by no name.
            (&[TCP4, "connect $ 0.0.0.0:9000"], REFUSED),
            (&[TCP6, "connect $ [::]:9000"], REFUSED),
            (&[UDP4, "sendto $ 0.0.0.0:9000 5 0"], REFUSED),
        ],
    );
    assert!(session.counts().unwrap().made >= 5);
}

pub(crate) fn kinds_of_sockets() {
    let any = terms([
        connect(Transport::Tcp, "0.0.0.0/0", 0..=u16::MAX),
        connect(Transport::Udp, "0.0.0.0/0", 0..=u16::MAX),
    ]);
    let (mut guarded, _session) = Guarded::with(&any);
    compare(
        &mut guarded,
        &[
            (&[TCP4], Ok(0)),
            (&[UDP6], Ok(0)),
            (&["socket 1 1 0"], Ok(0)),     // AF_UNIX
            (&["socket 16 3 0"], Ok(0)),    // AF_NETLINK
            (&["socket 2 3 1"], REFUSED),   // raw ICMP
            (&["socket 2 3 255"], REFUSED), // raw, with a header of one's own
            (&["socket 10 3 17"], REFUSED), // raw UDP
            (&["socket 2 1 262"], REFUSED), // MPTCP
            (&["socket 10 1 262"], REFUSED),
        ],
    );
    // Not every kernel has these; none may have them here.
    for (kind, protocol) in [
        (1, 132),
        (5, 132),
        (6, 33),
        (2, 136),
        (1, 256),
        (2, 1),
        (2, 58),
    ] {
        for family in [2, 10] {
            let line = format!("socket {family} {kind} {protocol}");
            assert!(guarded.server.ask(&line).is_err(), "{line}");
        }
    }
}

pub(crate) fn options() {
    let mut some = terms([connect(Transport::Udp, "127.0.0.1", 9000..=9000)]);
    some.interfaces = capwarden::kernel::NetworkInterfaces::Only(vec![1]);
    let (mut guarded, _session) = Guarded::with(&some);
    let _to = udp("127.0.0.1:9000");
    let tagged = "connect $ 127.0.0.1:9000";
    compare(
        &mut guarded,
        &[
            (&[UDP4, "option $ 0 19 1"], REFUSED),  // IP_TRANSPARENT
            (&[UDP6, "option $ 41 75 1"], REFUSED), // IPV6_TRANSPARENT
            (&[UDP4, "option $ 0 4 0"], REFUSED),   // IP_OPTIONS
            (&[UDP4, "option $ 1 2 1"], Ok(0)),     // SO_REUSEADDR
            (&[UDP4, tagged, "option $ 1 25 lo"], REFUSED),
            (&[UDP4, tagged, "option $ 1 62 1"], Ok(0)), // SO_BINDTOIFINDEX
            (&[TCP4, "option $ 6 19 1"], REFUSED),       // TCP_REPAIR
        ],
    );
    // Longer than what the guard is shown of it.
    let long = format!("option $ 1 25 {}", "x".repeat(5000));
    assert_eq!(guarded.server.attempt(&[UDP4, tagged, &long]), Err(EPERM));
    let long = format!("option $ 0 48 {}", "x".repeat(5000)); // MCAST_MSFILTER: not a sensible one
    let mut free = Server::start(None);
    let (free, held) = (
        free.attempt(&[UDP4, &long]),
        guarded.server.attempt(&[UDP4, &long]),
    );
    assert_eq!(free, held, "what the guard lets through is the kernel's");
}

pub(crate) fn baseline_stays() {
    let baseline = terms([connect(Transport::Udp, "127.0.0.1", 9000..=9000)]);
    let mut guarded = Guarded::new(&baseline);
    let api = udp("127.0.0.1:9000");
    let own = [UDP4, "sendto $ 127.0.0.1:9000 5 0"];
    let other = [UDP4, "sendto $ 127.0.0.1:9001 5 0"];
    assert_eq!(guarded.server.attempt(&other), REFUSED);
    let more = terms([connect(Transport::Udp, "127.0.0.1", 9000..=9001)]);
    let session = guarded.guard.open(&more).unwrap();
    assert_eq!(guarded.server.attempt(&other), Ok(5));
    assert_eq!(guarded.server.attempt(&own), Ok(5));
    drop(session);
    assert_eq!(guarded.server.attempt(&other), REFUSED);
    assert_eq!(guarded.server.attempt(&own), Ok(5));
    let counts = guarded.baseline().counts().unwrap();
    assert_eq!((counts.packets, counts.bytes_out), (2, 2 * (20 + 8 + 5)));
    let mut bytes = [0; 16];
    assert_eq!(api.recv(&mut bytes).unwrap(), 5);
}

pub(crate) fn names_are_looked_up_again() {
    let (mut guarded, session) =
        Guarded::with(&terms([connect(Transport::Udp, "127.0.0.1", 9000..=9000)]));
    let (first, second) = (
        [UDP4, "connect $ 127.0.0.1:9000"],
        [UDP4, "connect $ 127.0.0.2:9000"],
    );
    assert!(guarded.server.attempt(&first).is_ok());
    assert_eq!(guarded.server.attempt(&second), REFUSED);
    session
        .set_rules(&[connect(Transport::Udp, "127.0.0.2", 9000..=9000)])
        .unwrap();
    assert_eq!(guarded.server.attempt(&first), REFUSED);
    assert!(guarded.server.attempt(&second).is_ok());
}

pub(crate) fn refusals_are_told() {
    let mut few = terms([connect(Transport::Tcp, "127.0.0.1", 9000..=9000)]);
    few.caps.packets = Some(1);
    let mut guarded = Guarded::new(&nothing());
    let session = guarded.guard.open(&few).unwrap();
    let events = guarded.guard.take_events().unwrap();
    assert!(guarded.guard.take_events().is_none());
    let _ = guarded.server.attempt(&[TCP6, "bind $ [::]:8080"]);
    let _ = guarded
        .server
        .attempt(&[TCP6, "connect $ [::ffff:127.0.0.2]:443"]);
    let _ = guarded.server.attempt(&[UDP4, "sendto $ 127.0.0.3:53 5 0"]);
    let fast = "sendto $ 127.0.0.4:443 5 536870912"; // MSG_FASTOPEN
    let later = [TCP4, "option $ 6 30 1", "connect $ 127.0.0.5:443"]; // TCP_FASTOPEN_CONNECT
    assert_eq!(guarded.server.attempt(&[TCP4, fast]), REFUSED);
    assert_eq!(guarded.server.attempt(&later), REFUSED);
    let mapped = "sendto $ [::ffff:127.0.0.6]:53 5 0";
    assert_eq!(guarded.server.attempt(&[UDP6, mapped]), REFUSED);
    assert_eq!(guarded.server.attempt(&["socket 2 3 255"]), REFUSED); // raw
    let _ = guarded.server.attempt(&["socket 2 1 262"]);
    let _ = guarded.server.attempt(&[TCP4, "option $ 0 19 1"]);
    let _ = guarded.server.attempt(&[TCP4, "connect $ 127.0.0.1:9000"]);
    let mut told = Vec::new();
    while let Some(event) = events.next_event() {
        assert!(event.time > 0);
        told.push((event.slot, event.what));
    }
    let address = |call, to: &str, protocol| NetworkNews::Address {
        call,
        to: to.parse().unwrap(),
        protocol: Some(protocol),
    };
    let expected = [
        (
            None,
            address(NetworkCall::Bind, "[::]:8080", Transport::Tcp),
        ),
        (
            None,
            address(NetworkCall::Connect, "127.0.0.2:443", Transport::Tcp),
        ),
        (
            None,
            address(NetworkCall::Send, "127.0.0.3:53", Transport::Udp),
        ),
        (
            None,
            address(NetworkCall::Connect, "127.0.0.4:443", Transport::Tcp),
        ),
        (
            None,
            address(NetworkCall::Connect, "127.0.0.5:443", Transport::Tcp),
        ),
        (
            None,
            address(NetworkCall::Send, "127.0.0.6:53", Transport::Udp),
        ),
        (None, NetworkNews::Socket(255)),
        (None, NetworkNews::Socket(262)),
        (
            None,
            NetworkNews::Option {
                level: 0,
                option: 19,
            },
        ),
        (
            Some(session.id()),
            NetworkNews::Ended(capwarden::kernel::NetworkEnd::Packets),
        ),
    ];
    assert_eq!(told, expected);
    assert_eq!(guarded.guard.lost_events().unwrap(), 0);
    // More than the ring holds, and nobody who takes them.
    for _ in 0..2_000 {
        let _ = guarded.server.attempt(&[UDP4, "sendto $ 127.0.0.3:53 5 0"]);
    }
    assert!(guarded.guard.lost_events().unwrap() > 0);
}
