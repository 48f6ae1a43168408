//! Ways that packets take: between namespaces, with headers of their own, in the first packet of a
//! connection, to a port that others share.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpStream, UdpSocket},
    process::Command,
};

use capwarden::kernel::{NetworkInterfaces, Transport};
use libc::{EADDRINUSE, EAGAIN, EINPROGRESS, EPERM};

use super::{Guarded, SILENCE, Server, TCP4, UDP4, UDP6, connect, listen, reaches, terms};

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).status();
    assert!(done.unwrap().success(), "ip {arguments}");
}

/// A server in a namespace of its own, with a cable to this one: `near` here, `far` there.
struct Neighbour {
    server: Server,
    near: u32,
}

impl Neighbour {
    fn new() -> Self {
        let server = Server::elsewhere();
        let there = server.id();
        ip("link add near type veth peer name far");
        ip(&format!("link set far netns {there}"));
        ip("addr add 10.77.0.1/24 dev near");
        ip("link set near up");
        let there = format!("--target={there}");
        for arguments in [
            "addr add 10.77.0.2/24 dev far",
            "link set far up",
            "link set lo up",
        ] {
            let mut nsenter = Command::new("nsenter");
            nsenter
                .args([&there, "--net", "ip"])
                .args(arguments.split(' '));
            assert!(nsenter.status().unwrap().success(), "{arguments}");
        }
        let index = fs::read_to_string("/sys/class/net/near/ifindex");
        // Not where the namespace of this test is not the one that /sys was mounted in.
        let index = index.ok().and_then(|index| index.trim().parse().ok());
        let near = index.unwrap_or_else(|| {
            // SAFETY: a string with its end.
            unsafe { libc::if_nametoindex(c"near".as_ptr()) }
        });
        Self { server, near }
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", "near"]).status();
    }
}

const LOOPBACK: u32 = 1;

/// A session's packets go over its interfaces only, out and in, TCP and UDP.
pub(crate) fn neighbours() {
    let mut there = Neighbour::new();
    there
        .server
        .all(&[TCP4, "bind $ 10.77.0.2:9000", "listen $", "echo $"])
        .unwrap();
    let mut cable = terms([
        connect(Transport::Tcp, "10.77.0.2", 9000..=9000),
        connect(Transport::Udp, "10.77.0.2", 9001..=9001),
        listen(Transport::Tcp, "10.77.0.1", 8080..=8080),
    ]);
    cable.interfaces = NetworkInterfaces::Only(vec![there.near]);
    let (mut guarded, session) = Guarded::with(&cable);
    let up = [TCP4, "connect $ 10.77.0.2:9000"];
    let datagram = [UDP4, "sendto $ 10.77.0.2:9001 5 0"];
    let down = [TCP4, "connect $ 10.77.0.1:8080"];
    assert_eq!(guarded.server.attempt(&up), Ok(0));
    assert_eq!(guarded.server.attempt(&datagram), Ok(5));
    guarded
        .server
        .all(&[TCP4, "bind $ 10.77.0.1:8080", "listen $", "echo $"])
        .unwrap();
    assert_eq!(there.server.attempt(&down), Ok(0));
    let elsewhere = [TCP4, "connect $ 10.77.0.2:9001"];
    assert_eq!(guarded.server.all(&elsewhere), Err(EPERM));
    assert_eq!(session.counts().unwrap().accepted, 1);

    session
        .set_interfaces(&NetworkInterfaces::Only(vec![LOOPBACK]))
        .unwrap();
    let before = session.counts().unwrap();
    let stuck = there.server.attempt(&down);
    assert!(matches!(stuck, Err(EINPROGRESS | EAGAIN)), "{stuck:?}");
    let stuck = guarded.server.all(&up);
    assert!(matches!(stuck, Err(EINPROGRESS | EPERM)), "{stuck:?}");
    assert_eq!(guarded.server.all(&datagram), Err(EPERM));
    let after = session.counts().unwrap();
    assert_eq!((after.packets, after.accepted), (before.packets, 1));
    assert!(after.dropped >= before.dropped + 3);
}

/// Headers between IPv6's own and UDP's can lead a packet elsewhere, or hide whose it is.
pub(crate) fn headers_of_packets() {
    const DESTINATION: &str = "59";
    let (mut guarded, session) =
        Guarded::with(&terms([connect(Transport::Udp, "::1", 9000..=9000)]));
    let peer = UdpSocket::bind("[::1]:9000").unwrap();
    peer.set_read_timeout(Some(SILENCE)).unwrap();
    let mut free = Server::start(None);
    let lines = |kind: &str| format!("headers $ {kind} [::1]:9000");
    let with = lines(DESTINATION);
    assert_eq!(free.attempt(&[UDP6, &with]), Ok(5), "without the guard");
    assert_eq!(peer.recv(&mut [0; 16]).unwrap(), 5);
    assert_eq!(guarded.server.attempt(&[UDP6, &with]), Err(EPERM));
    assert!(peer.recv(&mut [0; 16]).is_err());
    assert_eq!(session.counts().unwrap().dropped, 1);
    // A routing header: the kernel has none that it makes for everybody, but must not be asked.
    let routed = [UDP6, "option $ 41 57 x"];
    assert_eq!(guarded.server.attempt(&routed), Err(EPERM));

    // And on the way in, to a socket that hears whom it has spoken to.
    drop(peer);
    let peer = free.ask(UDP6).unwrap();
    free.ask(format!("bind {peer} [::1]:9000")).unwrap();
    let mut others = Server::start(None);
    for (server, heard) in [(&mut others, Ok(5)), (&mut guarded.server, Err(EAGAIN))] {
        let socket = server.ask(UDP6).unwrap();
        let hello = format!("sendto {socket} [::1]:9000 5 0");
        server.ask(hello).unwrap();
        let port = server.ask(format!("port {socket}")).unwrap();
        let hidden = format!("headers {peer} {DESTINATION} [::1]:{port}");
        assert_eq!(free.ask(hidden), Ok(5));
        assert_eq!(server.ask(format!("recv {socket}")), heard);
        let open = format!("sendto {peer} [::1]:{port} 6 0");
        assert_eq!(free.ask(open), Ok(6));
        assert_eq!(server.ask(format!("recv {socket}")), Ok(6));
    }
}

/// What comes with the first packet of a connection is counted, and not heard beyond the cap.
pub(crate) fn data_in_the_first_packet() {
    // Client and server, without a cookie on either side.
    fs::write("/proc/sys/net/ipv4/tcp_fastopen", "519").unwrap();
    let mut one = terms([listen(Transport::Tcp, "127.0.0.1", 8080..=8080)]);
    one.caps.accepted = Some(1);
    let (mut guarded, session) = Guarded::with(&one);
    let lines = [
        TCP4,
        "bind $ 127.0.0.1:8080",
        "option $ 6 23 16", // TCP_FASTOPEN
        "listen $",
        "echo $",
    ];
    guarded.server.all(&lines).unwrap();
    let mut client = Server::start(None);
    let mut first = |bytes: u32| {
        let socket = client.ask(TCP4).unwrap();
        let sent = client.ask(format!("sendto {socket} 127.0.0.1:8080 {bytes} 536870912"));
        let echoed = client.ask(format!("recv {socket}"));
        (sent, echoed)
    };
    assert_eq!(first(5), (Ok(5), Ok(5)));
    let counts = session.counts().unwrap();
    assert_eq!(counts.accepted, 1);
    let (_, echoed) = first(6);
    assert!(echoed.is_err(), "{echoed:?}");
    let after = session.counts().unwrap();
    assert_eq!(after.accepted, 1);
    assert!(after.refused > 0);
    // Not a byte of the second was let in.
    assert!(
        after.bytes_in < counts.bytes_in + 200,
        "{counts:?} {after:?}"
    );
    fs::write("/proc/sys/net/ipv4/tcp_fastopen", "1").unwrap();
}

/// Who shares a port has the rule itself and is counted and ended with it, or does not get it.
pub(crate) fn shared_ports() {
    const SHARE: &str = "option $ 1 15 1"; // SO_REUSEPORT
    let (mut guarded, session) =
        Guarded::with(&terms([listen(Transport::Tcp, "127.0.0.1", 8080..=8080)]));
    let ours = [TCP4, SHARE, "bind $ 127.0.0.1:8080", "listen $", "echo $"];
    guarded.server.all(&ours).unwrap();
    // Another user's, whom the kernel keeps away.
    let mut stranger = Server::of_user(65_534);
    assert_eq!(stranger.attempt(&ours[..4]), Err(EADDRINUSE));
    // Its own process.
    let mut second = guarded.another();
    second.all(&ours).unwrap();
    let mut kept = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect("127.0.0.1:8080").unwrap();
        stream.set_read_timeout(Some(SILENCE)).unwrap();
        stream.write_all(b"hello").unwrap();
        stream.read_exact(&mut [0; 5]).unwrap();
        kept.push(stream);
    }
    assert_eq!(session.counts().unwrap().accepted, 8);
    session.revoke().unwrap();
    for stream in &mut kept {
        stream.set_read_timeout(Some(SILENCE / 4)).unwrap();
        let _ = stream.write_all(b"hello");
        assert!(stream.read_exact(&mut [0; 5]).is_err());
    }
    for _ in 0..2 {
        assert!(!reaches(8080));
    }

    // And a port that is somebody else's is not taken.
    let mut other = Server::start(None);
    let theirs = [TCP4, SHARE, "bind $ 127.0.0.1:8090", "listen $", "echo $"];
    other.all(&theirs).unwrap();
    assert_eq!(guarded.server.attempt(&theirs[..3]), Err(EPERM));
}
