//! Whose the socket at the other end of a connection within this host is.
//!
//! Over a Unix socket the kernel says it of the moment in which it was connected, groups included. Over TCP the kernel is asked for that one socket, over netlink: its table of all TCP sockets is read only
//! where it cannot be asked, since with thousands of clients that takes longer than a call.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send,
        socket_with, sockopt::socket_peercred,
    },
};

use super::{
    process::{Process, status_field},
    sys,
};

/// Who is at the other end of a Unix socket.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The user.
    pub user: u32,
    /// The group, and the supplementary groups.
    pub groups: Vec<u32>,
    /// The process, by the number that it had then.
    pub process: u32,
    held: Held,
}

/// Whether a peer's process is still the one of its number.
#[derive(Clone, Debug)]
enum Held {
    /// It can be asked (Linux 6.5).
    Pinned(Arc<Process>),
    /// It has gone.
    Gone,
    /// The kernel does not tell.
    Unknown,
}

impl Held {
    fn of(socket: BorrowedFd<'_>, process: u32) -> Self {
        match sys::peer_process(socket) {
            Ok(handle) => Self::Pinned(Arc::new(Process::pinned(process, handle))),
            Err(Errno::NOPROTOOPT) => Self::Unknown,
            Err(_) => Self::Gone,
        }
    }
}

impl Peer {
    /// The peer of this socket, as the kernel knows it.
    ///
    /// # Errors
    ///
    /// It is no connected Unix socket.
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let credentials = socket_peercred(socket)?;
        let mut groups = sys::peer_groups(socket)?;
        groups.push(credentials.gid.as_raw());
        let process = credentials.pid.as_raw_nonzero().get().unsigned_abs();
        Ok(Self {
            user: credentials.uid.as_raw(),
            groups,
            process,
            held: Held::of(socket, process),
        })
    }

    /// Whether the process that connected may be governed. True if it has gone: who has its socket now is not known, and
    /// its number may be another's. Where the kernel does not tell that (before Linux 6.5), whoever has the number now is
    /// looked at.
    #[must_use]
    pub fn may_be_governed(&self) -> bool {
        let looked = may_be_governed(self.process);
        match &self.held {
            // Else it was another that was looked at.
            Held::Pinned(process) => looked || !process.is_alive(),
            Held::Gone => true,
            Held::Unknown => looked,
        }
    }

    /// Whether they are in the group.
    #[must_use]
    pub fn is_in(&self, group: u32) -> bool {
        self.groups.contains(&group)
    }
}

/// Whether a process may be governed: as its cgroup is called, or as it is confined, which no process takes off. True if there
/// is none of that number.
fn may_be_governed(process: u32) -> bool {
    let of = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}"));
    match (of("cgroup"), of("status")) {
        (Ok(groups), Ok(status)) => groups.contains("/capwarden-") || is_confined(&status),
        _ => true,
    }
}

/// Whether a process has what governed ones have: a filter, no way to privileges, and of these none that it could have.
fn is_confined(status: &str) -> bool {
    let field = |name: &str| status_field(status, name);
    let nothing = |set: &str| set.bytes().all(|digit| digit == b'0');
    field("NoNewPrivs") == Some("1")
        && field("Seccomp") == Some("2")
        && field("CapBnd").is_some_and(nothing)
        && field("Uid").is_some_and(|ids| ids.split_whitespace().any(|id| id == "0"))
}

/// The kernel has told us of a socket before: if it says that there is none, there is none.
static ANSWERS: AtomicBool = AtomicBool::new(false);

/// The user whose socket is at `theirs`, connected to `ours`, as the kernel says. None if there is no
/// such socket in this network namespace, or nobody holds it any more: the kernel would call that
/// root's.
pub fn tcp_owner(theirs: SocketAddr, ours: SocketAddr) -> Option<u32> {
    match ask(theirs, ours) {
        Ok(Some(found)) => {
            ANSWERS.store(true, Ordering::Relaxed);
            found.holder(theirs, ours)
        }
        // Without the module for it, the kernel says the same.
        Ok(None) | Err(Errno::NOENT) if ANSWERS.load(Ordering::Relaxed) => None,
        Ok(None) | Err(_) => {
            let table = match theirs {
                SocketAddr::V4(_) => "/proc/net/tcp",
                SocketAddr::V6(_) => "/proc/net/tcp6",
            };
            find(&fs::read_to_string(table).ok()?, theirs, ours)
        }
    }
}

/// `SOCK_DIAG_BY_FAMILY`, request and answer.
const BY_FAMILY: u16 = 20;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// The kernel's numbers of the states in which somebody holds a socket that is connected.
const ESTABLISHED: u8 = 1;
const CLOSE_WAIT: u8 = 8;

/// Asks for one socket (`struct inet_diag_req_v2`).
fn ask(theirs: SocketAddr, ours: SocketAddr) -> Result<Option<Found>, Errno> {
    let (family, socket_id) = (family(theirs), socket_id(theirs, ours));
    let mut request = Vec::with_capacity(72);
    request.extend(72_u32.to_ne_bytes());
    request.extend(BY_FAMILY.to_ne_bytes());
    request.extend(REQUEST.to_ne_bytes());
    request.extend([0; 8]); // sequence and port: there is one answer
    request.extend([family, IPPROTO_TCP, 0, 0]);
    request.extend(u32::MAX.to_ne_bytes()); // in any state
    request.extend(socket_id);
    request.extend([0; 4]); // on any interface
    request.extend([0xff; 8]); // INET_DIAG_NOCOOKIE

    let netlink = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    send(&netlink, &request, SendFlags::empty())?;
    let mut answer = [0; 1024];
    // It was put there while the request was sent.
    let (length, _) = recv(&netlink, &mut answer, RecvFlags::DONTWAIT)?;
    let answer = answer.get(..length).unwrap_or_default();
    match number(answer, 4).map(u16::from_ne_bytes) {
        Some(BY_FAMILY) => Ok(Found::read(answer)),
        Some(ERROR) => {
            let code = number(answer, HEADER).map_or(0, i32::from_ne_bytes);
            Err(Errno::from_raw_os_error(code.saturating_neg()))
        }
        _ => Err(Errno::INVAL),
    }
}

const IPPROTO_TCP: u8 = 6;

fn family(address: SocketAddr) -> u8 {
    match address {
        SocketAddr::V4(_) => 2,
        SocketAddr::V6(_) => 10,
    }
}

/// The beginning of `struct inet_diag_sockid`: ports and addresses, in the network's order.
fn socket_id(theirs: SocketAddr, ours: SocketAddr) -> [u8; 36] {
    let mut id = [0; 36];
    let ports = [theirs.port().to_be_bytes(), ours.port().to_be_bytes()].concat();
    let address = |address: SocketAddr| {
        let mut octets = match address.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        octets.resize(16, 0);
        octets
    };
    let whole = [ports, address(theirs), address(ours)].concat();
    for (into, byte) in id.iter_mut().zip(whole) {
        *into = byte;
    }
    id
}

/// The bytes of a number at a place.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// What the kernel says of a socket (`struct inet_diag_msg`).
#[derive(Debug, PartialEq, Eq)]
struct Found {
    family: u8,
    state: u8,
    id: [u8; 36],
    user: u32,
}

impl Found {
    fn read(answer: &[u8]) -> Option<Self> {
        Some(Self {
            family: *answer.get(HEADER)?,
            state: *answer.get(HEADER + 1)?,
            id: number(answer, HEADER + 4)?,
            user: number(answer, HEADER + 64).map(u32::from_ne_bytes)?,
        })
    }

    /// Whose it is, if it is the one that was asked for and somebody holds it: where there is none,
    /// the kernel may tell of one that listens at the same address.
    fn holder(&self, theirs: SocketAddr, ours: SocketAddr) -> Option<u32> {
        let same = self.family == family(theirs) && self.id == socket_id(theirs, ours);
        let held = matches!(self.state, ESTABLISHED | CLOSE_WAIT);
        (same && held).then_some(self.user)
    }
}

fn find(table: &str, theirs: SocketAddr, ours: SocketAddr) -> Option<u32> {
    const ESTABLISHED: &str = "01";
    const CLOSE_WAIT: &str = "08";
    let (theirs, ours) = (written(theirs), written(ours));
    table.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let found = fields.next()? == theirs && fields.next()? == ours;
        let held = found && matches!(fields.next()?, ESTABLISHED | CLOSE_WAIT);
        // Queues, timer, retransmissions; then the user.
        held.then(|| fields.nth(3)?.parse().ok()).flatten()
    })
}

/// An address as the table has it: words of 32 bits, in the host's byte order.
fn written(address: SocketAddr) -> String {
    let octets = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = octets.chunks_exact(4).map(|word| {
        let word = <[u8; 4]>::try_from(word).map_or(0, u32::from_ne_bytes);
        format!("{word:08X}")
    });
    format!("{}:{:04X}", words.collect::<String>(), address.port())
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::fd::AsFd as _,
    };

    use super::*;

    #[test]
    fn peers_are_governed_by_what_they_cannot_take_off_or_unknown() {
        assert!(!may_be_governed(std::process::id()));
        assert!(may_be_governed(u32::MAX), "nobody is known to be there");
        let status = "Uid:\t0\t0\t0\t0\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n";
        assert!(is_confined(status));
        for (as_it_is, otherwise) in [
            ("Uid:\t0\t0\t0\t0", "Uid:\t1000\t1000\t1000\t1000"),
            ("CapBnd:\t0", "CapBnd:\t1"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            ("Seccomp:\t2", "Seccomp:\t0"),
        ] {
            assert!(
                !is_confined(&status.replace(as_it_is, otherwise)),
                "{otherwise}"
            );
        }
    }

    #[test]
    fn own_connection_is_ones_own() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                assert!(address.starts_with('['), "IPv4 is everywhere");
                continue;
            };
            let here = listener.local_addr().unwrap();
            let stream = TcpStream::connect(here).unwrap();
            let (_accepted, peer) = listener.accept().unwrap();
            let own = rustix::process::getuid().as_raw();
            assert_eq!(tcp_owner(peer, here), Some(own));
            // The one that is asked, and the one that is read instead, say the same.
            let found = ask(peer, here).unwrap().unwrap();
            assert_eq!(found.holder(peer, here), Some(own));
            assert_eq!(found.holder(here, peer), None, "another one");
            let table = match peer {
                SocketAddr::V4(_) => "/proc/net/tcp",
                SocketAddr::V6(_) => "/proc/net/tcp6",
            };
            let table = fs::read_to_string(table).unwrap();
            assert_eq!(find(&table, peer, here), Some(own));
            // Ours is in no accepted connection from there.
            let listening = ask(here, peer).ok().flatten();
            assert!(listening.is_none_or(|found| found.holder(peer, here).is_none()));
            drop(stream);
            assert_eq!(tcp_owner(peer, here), None, "nobody holds it any more");
        }
    }

    #[test]
    fn peer_of_a_unix_socket_is_known_with_its_groups() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = Peer::of(ours.as_fd()).unwrap();
        assert_eq!(peer.user, rustix::process::geteuid().as_raw());
        assert_eq!(peer.process, std::process::id());
        assert!(peer.is_in(rustix::process::getegid().as_raw()));
        for group in rustix::process::getgroups().unwrap() {
            assert!(peer.is_in(group.as_raw()));
        }
        assert!(!peer.is_in(4_242_424));
        assert!(!peer.may_be_governed());
    }

    #[test]
    fn a_peer_that_has_gone_is_not_taken_for_whoever_has_its_number() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let connect = format!(
            "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect({:?})\nsys.stdin.read()",
            path.display().to_string()
        );
        let mut client = std::process::Command::new("/usr/bin/python3")
            .args(["-c", &connect])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let (stream, _) = listener.accept().unwrap();
        let peer = Peer::of(stream.as_fd()).unwrap();
        assert_eq!(peer.process, client.id());
        assert!(!peer.may_be_governed());
        drop(client.stdin.take());
        client.wait().unwrap();
        assert!(peer.may_be_governed(), "it has gone");
        // As if its number were this process's by now.
        let reused = Peer {
            process: std::process::id(),
            ..peer
        };
        if matches!(reused.held, Held::Pinned(_)) {
            assert!(reused.may_be_governed());
        }
    }

    #[test]
    fn table_is_read_by_its_columns() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   0: 0100007F:8F3A 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 46811 1\n   1: 0100007F:8F3B 0100007F:1F90 04 00000000:00000000 00:00000000 00000000     0        0 0 1\n";
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let expected = cfg!(target_endian = "little").then_some(1000);
        assert_eq!(find(table, at(0x8f3a), at(8080)), expected);
        assert_eq!(find(table, at(0x8f3b), at(8080)), None);
        assert_eq!(find(table, at(0x8f3a), at(8081)), None);
        assert_eq!(find("rubbish\n 0: 1\n", at(1), at(2)), None);
    }
}
