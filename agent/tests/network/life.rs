//! Sessions that come and go, agents that die, servers that want to get away.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{ExitCode, Stdio},
    time::Duration,
};

use capwarden::kernel::{
    Cgroup, Credentials, LAUNCHER_VERB, Launch, NetworkError, NetworkGuard, NetworkSlot,
    NetworkTerms, Pipes, Transport, Way, launch_by,
};
use libc::{EACCES, EPERM, EPROTONOSUPPORT};

use super::{
    Guarded, SILENCE, Server, TCP4, UDP4, connect, launchers::Launcher, listen, nothing, reaches,
    server, terms, udp,
};

fn port(port: u16) -> NetworkTerms {
    terms([listen(Transport::Tcp, "127.0.0.1", port..=port)])
}

fn echoes(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut [0; 5]).is_ok()
}

fn at(port: u16) -> TcpStream {
    TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap()
}

fn serve(server: &mut Server, port: u16) {
    let bind = format!("bind $ 127.0.0.1:{port}");
    server.all(&[TCP4, &bind, "listen $", "echo $"]).unwrap();
}

pub(crate) fn two_sessions() {
    let mut guarded = Guarded::bare();
    let sessions: [NetworkSlot; 2] = [8080, 8081].map(|at| guarded.guard.open(&port(at)).unwrap());
    serve(&mut guarded.server, 8080);
    serve(&mut guarded.server, 8081);
    let (mut first, mut second) = (at(8080), at(8081));
    assert!(echoes(&mut first) && echoes(&mut second));
    let counts = sessions.each_ref().map(|session| session.counts().unwrap());
    assert_eq!(counts.map(|counts| counts.accepted), [1, 1]);
    let before = counts[0].packets;
    assert!(echoes(&mut second));
    assert_eq!(sessions[0].counts().unwrap().packets, before);

    sessions[0].revoke().unwrap();
    assert!(!echoes(&mut first));
    assert!(!reaches(8080));
    assert!(echoes(&mut second));
    assert!(reaches(8081));
    let again = [TCP4, "bind $ 127.0.0.1:8090"];
    assert_eq!(guarded.server.all(&again), Err(EPERM));
}

/// Whoever waits for a connection of a session that has ended is told so, and nobody else is.
pub(crate) fn resets() {
    let mut both = port(8080);
    both.rules
        .push(connect(Transport::Tcp, "127.0.0.1", 9000..=9000));
    let upstream = super::tcp("127.0.0.1:9000");
    let mut guarded = Guarded::bare();
    let session = guarded.guard.open(&both).unwrap();
    let other = guarded.guard.open(&port(8081)).unwrap();
    serve(&mut guarded.server, 8080);
    serve(&mut guarded.server, 8081);
    let (mut ours, mut theirs) = (at(8080), at(8081));
    assert!(echoes(&mut ours) && echoes(&mut theirs));
    guarded
        .server
        .all(&[TCP4, "connect $ 127.0.0.1:9000"])
        .unwrap();
    let (mut up, _) = upstream.accept().unwrap();
    up.set_read_timeout(Some(SILENCE)).unwrap();
    let lost = |stream: &mut TcpStream| stream.read(&mut [0; 5]).map_err(|error| error.kind());

    session.revoke().unwrap();
    assert_eq!(lost(&mut ours), Err(ErrorKind::WouldBlock), "nothing yet");
    let before = session.counts().unwrap();
    assert_eq!(session.reset_connections().unwrap(), 2);
    assert_eq!(lost(&mut ours), Err(ErrorKind::ConnectionReset));
    assert_eq!(lost(&mut up), Err(ErrorKind::ConnectionReset));
    assert_eq!(session.counts().unwrap().packets, before.packets);
    assert!(echoes(&mut theirs));
    assert_eq!(session.reset_connections().unwrap(), 0);
    drop(other);
}

/// What a process connects to tells for whom, where only one session allows it; where several do, it
/// counts for the oldest that goes on.
pub(crate) fn upstreams() {
    let _servers = ["127.0.0.1:9000", "127.0.0.1:9001", "127.0.0.1:9002"].map(super::tcp);
    let up = |ports| terms([connect(Transport::Tcp, "127.0.0.1", ports)]);
    let mut guarded = Guarded::bare();
    let older = guarded.guard.open(&up(9000..=9001)).unwrap();
    let newer = guarded.guard.open(&up(9001..=9002)).unwrap();
    let made = || [&older, &newer].map(|session| session.counts().unwrap().made);
    let mut to = |port: u16| {
        let connect = format!("connect $ 127.0.0.1:{port}");
        guarded.server.attempt(&[TCP4, &connect])
    };
    for (port, expected) in [(9002, [0, 1]), (9000, [1, 1]), (9001, [2, 1])] {
        assert_eq!(to(port), Ok(0));
        assert_eq!(made(), expected, "{port}");
    }
    older.revoke().unwrap();
    assert_eq!(to(9001), Ok(0));
    assert_eq!(to(9000), Err(EPERM));
    assert_eq!(made(), [2, 2]);
}

pub(crate) fn slots_are_used_again() {
    let mut guarded = Guarded::bare();
    let session = guarded.guard.open(&port(8080)).unwrap();
    serve(&mut guarded.server, 8080);
    let mut stream = at(8080);
    assert!(echoes(&mut stream));
    let mut ids = vec![session.id()];
    drop(session);
    assert!(!echoes(&mut stream));
    // More than there are slots, with the same rules.
    for _ in 0..100 {
        let next = guarded.guard.open(&port(8080)).unwrap();
        assert_eq!(
            next.counts().unwrap(),
            capwarden::kernel::NetworkCounts::default()
        );
        assert_eq!(next.ended().unwrap(), None);
        ids.push(next.id());
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 101);
    let all: Vec<NetworkSlot> = (0..63)
        .map(|_| guarded.guard.open(&port(8080)).unwrap())
        .collect();
    let more = guarded.guard.open(&port(8080));
    assert!(matches!(more.err(), Some(NetworkError::TooManySessions)));
    assert!(!echoes(&mut stream), "nobody's predecessor");
    assert!(!reaches(8080));
    drop(all);
}

/// Attaches a guard, starts a server with its own input and output, says where, and waits for
/// its end.
pub(crate) fn agent() -> ExitCode {
    let cgroup = Cgroup::create().unwrap();
    let user = Credentials::choose(Some("nobody")).unwrap();
    let (guard, _baseline) = NetworkGuard::attach(&cgroup, &user, &nothing()).unwrap();
    let mut few = terms([connect(Transport::Udp, "127.0.0.1", 9000..=9000)]);
    few.caps.packets = Some(5);
    let _session = guard.open(&few).unwrap();
    println!("{}", cgroup.path().display());
    let mut server = server::command(Some(cgroup.path())).spawn().unwrap();
    server.wait().unwrap();
    ExitCode::SUCCESS
}

pub(crate) fn agent_is_killed() {
    let mut agent = std::process::Command::new(std::env::current_exe().unwrap());
    agent
        .arg("agent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut agent = agent.spawn().unwrap();
    let mut output = agent.stdout.take().unwrap();
    let mut path = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" {
        output.read_exact(&mut byte).unwrap();
        path.extend(byte);
    }
    let cgroup = PathBuf::from(String::from_utf8(path).unwrap().trim());
    let mut server = Server::over(agent.stdin.take().unwrap(), output);
    let peer = udp("127.0.0.1:9000");
    let send = [UDP4, "sendto $ 127.0.0.1:9000 5 0"];
    assert_eq!(server.attempt(&send), Ok(5));
    agent.kill().unwrap();
    agent.wait().unwrap();
    // Time for the kernel to close what the agent had.
    std::thread::sleep(Duration::from_millis(100));

    assert_eq!(server.attempt(&[TCP4, "bind $ 127.0.0.1:8080"]), Err(EPERM));
    let elsewhere = [UDP4, "sendto $ 127.0.0.2:9000 5 0"];
    assert_eq!(server.attempt(&elsewhere), Err(EPERM));
    for _ in 0..4 {
        assert_eq!(server.attempt(&send), Ok(5));
    }
    assert_eq!(server.attempt(&send), Err(EPERM), "the cap");
    for _ in 0..5 {
        assert_eq!(peer.recv(&mut [0; 16]).unwrap(), 5);
    }
    assert!(peer.recv(&mut [0; 16]).is_err());
    drop(server); // closes its input
    fs::write(cgroup.join("cgroup.kill"), "1").unwrap();
    while fs::remove_dir(&cgroup).is_err() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// As it is in earnest: another user, without capabilities, under the seccomp filter.
pub(crate) fn nobody_leaves() {
    leaves(&Way::Fork);
    // Machines have this program, and no other of ours.
    let program = std::env::current_exe().unwrap();
    let launcher = Launcher::start(&program, &[LAUNCHER_VERB], &[], 65_534).unwrap();
    leaves(&Way::Launchers(launcher.directory().to_owned()));
}

fn leaves(way: &Way) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.unwrap();
    let _inside = runtime.enter();
    let cgroup = Cgroup::create().unwrap();
    let user = Credentials::choose(Some("nobody")).unwrap();
    let allowed = port(8080);
    let (_guard, _baseline) = NetworkGuard::attach(&cgroup, &user, &allowed).unwrap();
    // The test program may lie where others cannot execute it.
    let own = std::env::current_exe().unwrap();
    let place = tempfile::tempdir().unwrap();
    let program = place.path().join("server");
    fs::copy(own, &program).unwrap();
    let open = |path: &std::path::Path| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    open(place.path());
    open(&program);
    let command = [program.into(), "server".into()];
    let plan = Launch {
        command: &command,
        credentials: &user,
        cgroup: Some(&cgroup),
        piped: true,
    };
    let (mut governed, _listener) = launch_by(way, &plan, |_, listener| Ok(listener)).unwrap();
    let Pipes { input, output } = governed.take_pipes().unwrap();
    let mut server = Server::over(fs::File::from(input), fs::File::from(output));

    let refused = [TCP4, "bind $ 0.0.0.0:8080"];
    assert_eq!(server.attempt(&refused), Err(EPERM));
    for group in cgroup.path().ancestors() {
        let procs = group.join("cgroup.procs");
        if procs.exists() {
            let left = server.ask(format!("leave {}", procs.display()));
            assert_eq!(left, Err(EACCES), "{}", procs.display());
        }
    }
    let mut by_a_child = |lines: &[&str]| server.ask(format!("child {}", lines.join(";")));
    assert_eq!(by_a_child(&refused), Err(EPERM));
    let allowed = [TCP4, "bind $ 127.0.0.1:8080", "listen $"];
    assert!(by_a_child(&allowed).is_ok());
    // Programs fall back from these.
    for line in ["socket 2 1 262", "socket 10 1 132", "socket 2 2 136"] {
        assert_eq!(server.ask(line), Err(EPROTONOSUPPORT), "{line}");
    }
    for user in ["root", "0"] {
        let root = Credentials::choose(Some(user)).unwrap();
        let refused = NetworkGuard::attach(&cgroup, &root, &nothing()).err();
        assert!(matches!(refused, Some(NetworkError::Leaves { .. })));
    }
}
