//! A process of the attacker's user that is none of its business: an intrusion detector, say, with a
//! secret in memory, a packet socket, and children.

use std::{
    fs::{self, Permissions},
    io::{BufRead, BufReader, Read, Write},
    net::UdpSocket,
    os::{
        fd::{AsRawFd, FromRawFd},
        linux::net::SocketAddrExt,
        unix::{
            fs::PermissionsExt,
            net::{SocketAddr, UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin},
    thread,
};

use anyhow::{Context, Result, anyhow};

use super::{actors::Actor, space::Space};
use crate::{
    families,
    sys::{native, process},
    world::{Bystander, CW0, FANOUT_GROUP, SHARED_PORT},
};

/// In its memory.
pub(crate) static MEMORY: &[u8; 24] = b"a bystander's own secret";

/// How many children it has.
const VICTIMS: usize = 40;

/// A bystander that runs; it ends with its input.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) known: Bystander,
    child: Child,
    input: Option<ChildStdin>,
}

impl Running {
    /// Starts one for a user in a space.
    pub(crate) fn start(space: &Space, user: u32, place: &Path, name: &str) -> Result<Self> {
        let socket = place.join(format!("{name}.sock"));
        let mut child = Actor::new("bystander", space, user)
            .keeping_powers()
            .command()
            .args([socket.as_os_str(), name.as_ref()])
            .arg(user.to_string())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .context("cannot start a bystander")?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let mut line = String::new();
        BufReader::new(output.context("no output")?).read_line(&mut line)?;
        let known = serde_json::from_str(&line).context("the bystander did not start")?;
        Ok(Self {
            known,
            child,
            input,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

/// The bystander's side: `bystander SOCKET NAME USER`.
#[allow(clippy::print_stdout, reason = "it answers on its output")]
pub(crate) fn stand(socket: PathBuf, name: String, user: u32) -> Result<()> {
    let packets = packet_socket().context("packet socket")?;
    let doors = [
        UnixListener::bind(&socket)?,
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?,
    ];
    fs::set_permissions(&socket, Permissions::from_mode(0o777))?;
    become_user(user)?;
    let _shared = shared_port().context("shared port")?;
    // Nobody waits for them, so they vanish.
    // SAFETY: ignoring a signal runs nothing.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let victims = (0..VICTIMS).map(|_| victim()).collect::<Result<_>>()?;
    for listener in doors {
        let packets = packets.as_raw_fd();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = hand_out(&stream, packets);
            }
        });
    }
    let known = Bystander {
        pid: std::process::id(),
        secret: MEMORY.as_ptr().addr() as u64,
        packet_socket: packets.as_raw_fd().cast_unsigned(),
        socket,
        name,
        victims,
    };
    println!("{}", serde_json::to_string(&known)?);
    std::io::stdout().flush()?;
    // Until whoever wants it has gone.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    for victim in known.victims {
        let _ = process::kill(victim.cast_signed(), libc::SIGKILL);
    }
    Ok(())
}

/// One that shares its packets with others of its group, as an intrusion detector's threads do.
fn packet_socket() -> Result<std::os::fd::OwnedFd> {
    let errno = |errno| anyhow!(std::io::Error::from_raw_os_error(errno));
    let fd = native(libc::SYS_socket, [17, 3 | 0o2_004_000, 0x0300, 0, 0, 0]).map_err(errno)?;
    let mut memory = crate::sys::memory::Memory::new();
    let mut address = [0_u8; 20];
    address[0] = 17;
    address[3] = 3;
    address[4..8].copy_from_slice(&CW0.to_ne_bytes());
    let address = memory.put(&address);
    native(libc::SYS_bind, [fd, address, 20, 0, 0, 0]).map_err(errno)?;
    let group = memory.put(&FANOUT_GROUP.to_ne_bytes());
    native(libc::SYS_setsockopt, [fd, 263, 18, group, 4, 0]).map_err(errno)?;
    Ok(process::own(i32::try_from(fd)?))
}

fn shared_port() -> Result<UdpSocket> {
    let errno = |errno| anyhow!(std::io::Error::from_raw_os_error(errno));
    let fd = native(libc::SYS_socket, [2, 2 | 0o2_000_000, 0, 0, 0, 0]).map_err(errno)?;
    let mut memory = crate::sys::memory::Memory::new();
    let one = memory.put(&1_u32.to_ne_bytes());
    native(libc::SYS_setsockopt, [fd, 1, 15, one, 4, 0]).map_err(errno)?;
    let address = memory.put(&families::internet(SHARED_PORT));
    native(libc::SYS_bind, [fd, address, 16, 0, 0, 0]).map_err(errno)?;
    // SAFETY: it was just made.
    Ok(unsafe { UdpSocket::from_raw_fd(i32::try_from(fd)?) })
}

/// Gives up what root has, but stays a process that its user may look into.
fn become_user(user: u32) -> Result<()> {
    let errno = |errno| anyhow!(std::io::Error::from_raw_os_error(errno));
    if user != 0 {
        let user = u64::from(user);
        native(libc::SYS_setgroups, [0, 0, 0, 0, 0, 0]).map_err(errno)?;
        native(libc::SYS_setresgid, [user, user, user, 0, 0, 0]).map_err(errno)?;
        native(libc::SYS_setresuid, [user, user, user, 0, 0, 0]).map_err(errno)?;
        let dumpable = libc::PR_SET_DUMPABLE.cast_unsigned();
        native(libc::SYS_prctl, [dumpable.into(), 1, 0, 0, 0, 0]).map_err(errno)?;
    }
    Ok(())
}

fn victim() -> Result<u32> {
    match process::fork()? {
        0 => loop {
            // SAFETY: waits for a signal.
            unsafe { libc::pause() };
        },
        pid => Ok(pid.cast_unsigned()),
    }
}

/// Sends a descriptor to whoever is at the other end.
fn hand_out(stream: &UnixStream, fd: i32) -> Result<()> {
    let byte = [b'x'];
    let mut control = [0_u64; 3];
    // struct cmsghdr { len: usize, level: int, type: int }, then the descriptor.
    control[0] = 20;
    control[1] = u64::from(libc::SCM_RIGHTS.cast_unsigned()) << 32 | 1;
    control[2] = u64::from(fd.cast_unsigned());
    let mut piece = libc::iovec {
        iov_base: byte.as_ptr().cast_mut().cast(),
        iov_len: 1,
    };
    // SAFETY: all zeros is a valid value of this plain C structure.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: everything that the message points at outlives the call.
    let sent = unsafe { libc::sendmsg(stream.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    (sent == 1).then_some(()).context("sendmsg")
}
