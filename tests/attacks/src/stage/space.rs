//! Network namespaces and traffic of the stage's own. Nothing that is sent leaves them.

use std::{
    fs::File,
    io,
    net::{TcpListener, UdpSocket},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};

use crate::{
    netlink,
    sys::{self, memory::Memory},
    world::{CW0, CW1, GRANTED_PORT, SECRET_PORT, SPARE, TCP_PORT, UDP_PORT},
};

/// Between two rounds of what is sent.
const PAUSE: Duration = Duration::from_millis(1);

const GRANTED: &[u8] = b"granted BODY of a packet, of which nobody may see more than the headers";
const SECRETS: &[u8] = b"SECRET BODY of a packet that nobody was granted";

/// `here`, where attackers are, with loopback, `cw0`, `cw1` and `spare`; and the rest of the world, which
/// sends.
#[derive(Debug)]
pub(crate) struct Space {
    here: File,
    quiet: Arc<AtomicBool>,
    sender: Option<JoinHandle<()>>,
    // Whoever is sent to must be there, or ICMP answers with a part of what was sent.
    _sinks: Vec<UdpSocket>,
}

impl Space {
    pub(crate) fn new() -> Result<Self> {
        let (here, there) = (namespace()?, namespace()?);
        let peers = there.as_raw_fd();
        let sinks = inside(here.as_fd(), || {
            let mut memory = Memory::new();
            netlink::up(&mut memory, 1).map_err(failed("lo"))?;
            for (name, index, peer, last) in [("cw0", CW0, "peer0", 1), ("cw1", CW1, "peer1", 129)]
            {
                netlink::veth(&mut memory, name, index, peer, peers).map_err(failed(name))?;
                quieten(name);
                let address = [10, 99, 0, last];
                netlink::address(&mut memory, index, address, 25).map_err(failed(name))?;
                netlink::up(&mut memory, index).map_err(failed(name))?;
            }
            netlink::veth(&mut memory, SPARE, CW1 + 1, "spare-peer", peers)
                .map_err(failed(SPARE))?;
            // For ping sockets, which are closed to everybody at first.
            let _ = std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
            let sinks = [GRANTED_PORT, SECRET_PORT].map(|port| UdpSocket::bind(("0.0.0.0", port)));
            Ok(sinks.into_iter().collect::<io::Result<Vec<_>>>()?)
        })?;
        let from_there = inside(there.as_fd(), || {
            let mut memory = Memory::new();
            for (name, last) in [("peer0", 2), ("peer1", 130)] {
                quieten(name);
                let index = index_of(name)?;
                let address = [10, 99, 0, last];
                netlink::address(&mut memory, index, address, 25).map_err(failed(name))?;
                netlink::up(&mut memory, index).map_err(failed(name))?;
            }
            Ok(UdpSocket::bind("0.0.0.0:0")?)
        })?;
        let from_here = inside(here.as_fd(), || {
            answer(TcpListener::bind(("127.0.0.1", TCP_PORT))?);
            if let Ok(listener) = TcpListener::bind(("::1", TCP_PORT)) {
                answer(listener);
            }
            echo(UdpSocket::bind(("127.0.0.1", UDP_PORT))?);
            Ok(UdpSocket::bind("127.0.0.1:0")?)
        })?;
        let quiet = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&quiet);
        let sender = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for (socket, to, port, what) in [
                    (&from_there, "10.99.0.1", GRANTED_PORT, GRANTED),
                    (&from_there, "10.99.0.1", SECRET_PORT, SECRETS),
                    (&from_there, "10.99.0.129", SECRET_PORT, SECRETS),
                    (&from_here, "127.0.0.1", SECRET_PORT, SECRETS),
                ] {
                    // An interface that an attack has taken down comes back for the next.
                    let _ = socket.send_to(what, (to, port));
                }
                thread::sleep(PAUSE);
            }
        });
        Ok(Self {
            here,
            quiet,
            sender: Some(sender),
            _sinks: sinks,
        })
    }

    /// The network namespace that attackers are in.
    pub(crate) fn here(&self) -> BorrowedFd<'_> {
        self.here.as_fd()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.quiet.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            let _ = sender.join();
        }
    }
}

/// A TCP server that greets, on a thread that goes with the program.
fn answer(listener: TcpListener) {
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = io::Write::write_all(&mut stream, b"hello");
        }
    });
}

/// A UDP server that sends back what it was sent.
fn echo(socket: UdpSocket) {
    thread::spawn(move || {
        let mut room = [0; 2048];
        while let Ok((count, from)) = socket.recv_from(&mut room) {
            let _ = socket.send_to(room.get(..count).unwrap_or(&[]), from);
        }
    });
}

/// No neighbour discovery: nothing is to be sent that no attack is about.
fn quieten(interface: &str) {
    let setting = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    let _ = std::fs::write(setting, "1"); // a kernel without IPv6 has nothing to quieten
}

fn failed(what: &str) -> impl Fn(i32) -> anyhow::Error {
    move |errno| anyhow!("{what}: {}", io::Error::from_raw_os_error(errno))
}

fn index_of(name: &str) -> Result<u32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: a string with its final zero.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()).context("if_nametoindex"),
        index => Ok(index),
    }
}

/// A new network namespace.
fn namespace() -> Result<File> {
    on_own_thread(|| {
        let new = libc::CLONE_NEWNET.cast_unsigned();
        sys::native(libc::SYS_unshare, [new.into(), 0, 0, 0, 0, 0]).map_err(failed("unshare"))?;
        Ok(File::open("/proc/thread-self/ns/net")?)
    })
}

/// Does `work` in a network namespace.
pub(crate) fn inside<T: Send>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let namespace = namespace.as_raw_fd();
    on_own_thread(move || {
        enter(namespace).map_err(failed("setns"))?;
        work()
    })
}

/// Moves this thread into a network namespace.
pub(crate) fn enter(namespace: i32) -> sys::Answer {
    let namespace = u64::from(namespace.cast_unsigned());
    let kind = libc::CLONE_NEWNET.cast_unsigned();
    sys::native(libc::SYS_setns, [namespace, kind.into(), 0, 0, 0, 0])
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let worker = scope.spawn(work);
        worker
            .join()
            .map_err(|_| anyhow!("a thread of the stage panicked"))?
    })
}
