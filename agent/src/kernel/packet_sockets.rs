//! The packet sockets of a network namespace, as the kernel's table has them, and sockets as `/proc` names them.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::fd::OwnedFd,
    path::Path,
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use super::notify::Notification;

/// The inodes of all packet sockets in the agent's network namespace, whoever has them. One that is
/// not there any more has neither ring nor memberships.
///
/// The kernel hands the table out in pieces, and goes on by counting: when a socket in front is closed between two
/// of them, one that lives is left out. So it is read until nothing has gone from one time to the next.
///
/// # Errors
/// The table cannot be read, or sockets come and go faster than that.
pub fn packet_sockets() -> io::Result<HashSet<u64>> {
    const ATTEMPTS: usize = 16;
    let table = || -> io::Result<HashSet<u64>> { Ok(table("thread-self")?.into_keys().collect()) };
    let mut before = table()?;
    for _ in 0..ATTEMPTS {
        let after = table()?;
        if before.is_subset(&after) {
            return Ok(after);
        }
        before = after;
    }
    Err(io::Error::other(
        "packet sockets are closed while they are listed, again and again",
    ))
}

/// The packet sockets of a process's network namespace: the inode of each, and the index of the interface that it is
/// bound to, 0 for all.
pub(super) fn table(process: &str) -> io::Result<HashMap<u64, u32>> {
    let table = fs::read_to_string(format!("/proc/{process}/net/packet"))?;
    Ok(table.lines().skip(1).filter_map(socket).collect())
}

/// A line of it: sk, references, type, protocol, interface, running, memory, user, inode.
fn socket(line: &str) -> Option<(u64, u32)> {
    let mut columns = line.split_whitespace();
    let interface = columns.nth(4)?.parse().ok()?;
    let inode = columns.nth(3)?.parse().ok()?;
    Some((inode, interface))
}

/// The inode of the socket that a descriptor is, by its link in `/proc/<pid>/fd`. None if it is something else, or
/// has gone.
pub(super) fn inode_of(descriptor: &Path) -> Option<u64> {
    let link = fs::read_link(descriptor).ok()?;
    let inode = link.to_str()?.strip_prefix("socket:[")?;
    inode.strip_suffix(']')?.parse().ok()
}

/// The inode of the socket that a call's first argument means to the thread that waits in it.
pub(super) fn inode_of_call(call: &Notification) -> Option<u64> {
    // By the thread: it may have a descriptor table of its own.
    let descriptor = call.number_argument(0).cast_signed();
    let link = format!("/proc/{}/fd/{descriptor}", call.thread);
    inode_of(Path::new(&link))
}

/// The socket that a number means to the thread that waits, and its inode.
///
/// # Errors
/// `EBADF` or `ENOTSOCK`, as the kernel would say.
pub(super) fn of_call(call: &Notification, process: u32) -> Result<(OwnedFd, u64), Errno> {
    let number = call.number_argument(0).cast_signed();
    let Some(inode) = inode_of_call(call) else {
        let link = format!("/proc/{}/fd/{number}", call.thread);
        return Err(match fs::read_link(link) {
            Ok(_) => Errno::NOTSOCK,
            Err(_) => Errno::BADF,
        });
    };
    // A thread may have a descriptor table of its own; it can be opened since Linux 6.9.
    let of_thread = PidfdFlags::from_bits_retain(libc::O_EXCL.cast_unsigned());
    for (id, flags) in [(process, PidfdFlags::empty()), (call.thread, of_thread)] {
        let taken = Pid::from_raw(id.cast_signed())
            .ok_or(Errno::SRCH)
            .and_then(|id| pidfd_open(id, flags))
            .and_then(|owner| pidfd_getfd(owner, number, PidfdGetfdFlags::empty()));
        if let Ok(socket) = taken
            && rustix::fs::fstat(&socket)?.st_ino == inode
        {
            return Ok((socket, inode));
        }
    }
    Err(Errno::BADF)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::{
        super::{SocketCall, SocketKind, sys},
        *,
    };

    #[test]
    fn lines_of_the_kernels_table_are_read_and_others_left_out() {
        let line = "0000000000000000 3      3    0003   2     1 0        0      37416";
        assert_eq!(socket(line), Some((37416, 2)));
        for line in [
            "",
            "sk RefCnt Type Proto  Iface R Rmem   User   Inode",
            "1 2 3",
        ] {
            assert_eq!(socket(line), None, "{line}");
        }
    }

    #[test]
    fn packet_sockets_are_listed_while_they_live() {
        let Ok(socket) = sys::packet_socket(SocketCall::of(SocketKind::Raw)) else {
            assert!(!rustix::process::geteuid().is_root());
            return;
        };
        let inode = rustix::fs::fstat(&socket).unwrap().st_ino;
        let link = format!("/proc/self/fd/{}", socket.as_raw_fd());
        assert_eq!(inode_of(Path::new(&link)), Some(inode));
        assert!(packet_sockets().unwrap().contains(&inode));
        drop(socket);
        assert!(!packet_sockets().unwrap().contains(&inode));
        assert_eq!(inode_of(Path::new("/proc/self/exe")), None);
    }
}
