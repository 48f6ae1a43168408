//! Ways to a listener, or to another's datagrams, past the calls that are asked about.

use capwarden::kernel::Transport;
use libc::{EAGAIN, EINVAL, EPERM};

use super::{Guarded, Server, TCP4, UDP4, connect, listen, reaches, tcp, terms, udp};

pub(crate) fn listen_without_bind() {
    let (mut guarded, _session) =
        Guarded::with(&terms([listen(Transport::Tcp, "127.0.0.1", 8080..=8080)]));
    let mut free = Server::start(None);
    let before = guarded.guard.dropped().unwrap();
    for lines in [
        [TCP4, "listen $", "port $"].as_slice(),
        &[TCP4, "bind $ 127.0.0.1:0", "listen $", "port $"],
    ] {
        let port = free.all(lines).unwrap();
        assert!(reaches(port), "without the guard: {lines:?}");
        let port = guarded.server.all(lines).unwrap();
        assert!(!reaches(port), "{lines:?}");
    }
    assert!(guarded.guard.dropped().unwrap() >= before + 2);
}

/// A connection lets a socket send, and a listener needs another role.
pub(crate) fn listen_after_connect() {
    let (mut guarded, _session) =
        Guarded::with(&terms([connect(Transport::Tcp, "127.0.0.1", 9000..=9000)]));
    let _upstream = tcp("127.0.0.1:9000");
    let lines = [
        TCP4,
        "connect $ 127.0.0.1:9000",
        "loosen $",
        "listen $",
        "port $",
    ];
    let port = Server::start(None);
    let mut free = port;
    let port = free.all(&lines).unwrap();
    assert!(reaches(port), "without the guard");
    let port = guarded.server.all(&lines).unwrap();
    assert!(!reaches(port));
}

/// The hook of `bind` is asked before the kernel finds that the socket is bound already.
pub(crate) fn bind_again() {
    let (mut guarded, _session) =
        Guarded::with(&terms([listen(Transport::Tcp, "127.0.0.1", 8080..=8080)]));
    let socket = guarded.server.all(&[TCP4, "bind $ 0.0.0.0:0"]).unwrap();
    assert_eq!(socket, 0);
    let mut free = Server::start(None);
    for (server, heard) in [(&mut free, true), (&mut guarded.server, false)] {
        let socket = server.ask(TCP4).unwrap();
        server.ask(format!("bind {socket} 0.0.0.0:0")).unwrap();
        let again = server.ask(format!("bind {socket} 127.0.0.1:8080"));
        assert_eq!(again, Err(EINVAL));
        server.ask(format!("listen {socket}")).unwrap();
        let port = server.ask(format!("port {socket}")).unwrap();
        assert_eq!(reaches(port), heard);
    }
}

pub(crate) fn datagrams_of_strangers() {
    let (mut guarded, session) =
        Guarded::with(&terms([connect(Transport::Udp, "127.0.0.1", 9000..=9000)]));
    let (resolver, stranger) = (udp("127.0.0.1:9000"), udp("127.0.0.1:9001"));
    let mut free = Server::start(None);
    for (server, heard) in [(&mut free, true), (&mut guarded.server, false)] {
        let socket = server.ask(UDP4).unwrap();
        server
            .ask(format!("sendto {socket} 127.0.0.1:9000 5 0"))
            .unwrap();
        let (_, from) = resolver.recv_from(&mut [0; 16]).unwrap();
        let to = ([127, 0, 0, 1], from.port());
        stranger
            .send_to(&[1; 30], std::net::SocketAddr::from(to))
            .unwrap();
        resolver
            .send_to(&[1; 20], std::net::SocketAddr::from(to))
            .unwrap();
        let received = server.ask(format!("recv {socket}"));
        assert_eq!(received, Ok(if heard { 30 } else { 20 }));
    }
    let counts = session.counts().unwrap();
    assert_eq!((counts.bytes_in, counts.dropped), (20 + 28, 1));
}

pub(crate) fn answers_to_clients() {
    let (mut guarded, _session) =
        Guarded::with(&terms([listen(Transport::Udp, "127.0.0.1", 8053..=8053)]));
    let (client, other) = (udp("127.0.0.1:0"), udp("127.0.0.1:0"));
    let server = &mut guarded.server;
    let socket = server.ask(UDP4).unwrap();
    server.ask(format!("bind {socket} 127.0.0.1:8053")).unwrap();
    client.send_to(&[1; 10], "127.0.0.1:8053").unwrap();
    assert_eq!(server.ask(format!("recv {socket}")), Ok(10));
    let to = |to: &std::net::UdpSocket| to.local_addr().unwrap();
    let answer = |to| format!("sendto {socket} {to} 20 0");
    assert_eq!(server.ask(answer(to(&client))), Ok(20));
    assert_eq!(client.recv(&mut [0; 64]).unwrap(), 20);
    assert_eq!(server.ask(answer(to(&other))), Err(EPERM));
    // Only the listener that was spoken to may answer.
    let second = server.ask(UDP4).unwrap();
    let answer = format!("sendto {second} {} 20 0", to(&client));
    assert_eq!(server.ask(answer), Err(EPERM));
}

/// What a session let a socket do does not go on in the baseline.
pub(crate) fn carry_over() {
    let mut guarded = Guarded::new(&terms([connect(Transport::Udp, "127.0.0.1", 9001..=9001)]));
    let session = terms([connect(Transport::Udp, "127.0.0.1", 9000..=9000)]);
    let session = guarded.guard.open(&session).unwrap();
    let (theirs, api) = (udp("127.0.0.1:9000"), udp("127.0.0.1:9001"));
    let server = &mut guarded.server;
    let socket = server.ask(UDP4).unwrap();
    let mut ask = |line: &str| server.ask(line.replace('$', &socket.to_string()));
    ask("connect $ 127.0.0.1:9000").unwrap();
    assert_eq!(ask("send $ 5"), Ok(5));
    // Allowed by the baseline, to sockets of its own.
    assert_eq!(ask("sendto $ 127.0.0.1:9001 5 0"), Err(EPERM));
    assert_eq!(ask("connect $ 127.0.0.1:9001"), Err(EPERM));
    assert_eq!(ask("send $ 6"), Ok(6));
    session.revoke().unwrap();
    assert_eq!(ask("send $ 7"), Err(EPERM));
    assert_eq!(ask("sendto $ 127.0.0.1:9001 5 0"), Err(EPERM));
    theirs.send_to(&[1; 9], "127.0.0.1:1").unwrap();
    assert_eq!(ask("recv $"), Err(EAGAIN));
    assert_eq!(theirs.recv(&mut [0; 16]).unwrap(), 5);
    assert_eq!(theirs.recv(&mut [0; 16]).unwrap(), 6);
    assert!(theirs.recv(&mut [0; 16]).is_err());
    assert!(api.recv(&mut [0; 16]).is_err());
}
