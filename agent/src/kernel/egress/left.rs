//! What agents that were killed have left on interfaces, and whether it is needed still.

use std::{
    fs,
    os::fd::{AsFd, BorrowedFd},
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use super::{claim, owner, socket_name, take_away};
use crate::kernel::{
    bpf, interfaces,
    packet_sockets::{inode_of, packet_sockets},
    sock_diag,
    socket::INJECTION_MARK,
    sys,
};

/// Takes away the programs of all agents that are dead, unless a marked socket lives: it may be
/// one that they armed. `own` is not looked at.
pub(super) fn sweep(own: u32) {
    let left: Vec<_> = bpf::programs()
        .filter_map(|program| Some((owner(&bpf::program_name(program.as_fd()).ok()?)?, program)))
        .filter(|(id, program)| *id != own && !lives(*id, program.as_fd()))
        .collect();
    if left.is_empty() || armed_sockets_live() {
        return;
    }
    for (id, program) in left {
        // Also those of other network namespaces come up here, where nothing is found of them.
        for index in interfaces::indexes() {
            take_away(index, program.as_fd(), id);
        }
    }
}

/// Whether the agent lives that has put a program there: its name is bound, by the user who loaded the program. Anybody
/// may bind a name that is free, so that somebody has it is not enough: a dead agent's program would stay for as long.
/// True if it cannot be told.
pub(super) fn lives(id: u32, program: BorrowedFd<'_>) -> bool {
    match claim(id) {
        Ok(_) => false,
        Err(Errno::ADDRINUSE) => {
            let maker = sock_diag::maker_of_name(socket_name(id).as_bytes());
            match (maker, bpf::loader(program)) {
                (Ok(Some(maker)), Ok(loader)) => maker == loader,
                _ => true,
            }
        }
        Err(_) => true,
    }
}

/// Whether anybody in this network namespace has a socket with the mark. True if that cannot be told.
pub(super) fn armed_sockets_live() -> bool {
    let Ok(mut unknown) = packet_sockets() else {
        return true;
    };
    if unknown.is_empty() {
        return false;
    }
    let Ok(processes) = fs::read_dir("/proc") else {
        return true;
    };
    let pids = processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for pid in pids {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
        for descriptor in descriptors.into_iter().flatten().flatten() {
            let inode = inode_of(&descriptor.path());
            let Some(inode) = inode.filter(|inode| unknown.contains(inode)) else {
                continue;
            };
            let name = descriptor.file_name();
            let number = name.to_str().and_then(|number| number.parse().ok());
            match number
                .ok_or(Errno::BADF)
                .and_then(|number| mark(pid, number, inode))
            {
                Ok(INJECTION_MARK) => return true,
                Ok(_) => {
                    unknown.remove(&inode);
                }
                Err(_) => {} // it has just been closed, say: somebody else may have it
            }
        }
        if unknown.is_empty() {
            return false;
        }
    }
    // Nobody has one of them who can be seen, and yet it may be there: on its way over a Unix socket, say.
    packet_sockets().map_or(true, |alive| !alive.is_disjoint(&unknown))
}

/// The mark of the socket that a descriptor of a process is. The process may have put another one there since it
/// was looked at: that one says nothing of this.
fn mark(pid: i32, descriptor: i32, inode: u64) -> Result<u32, Errno> {
    let process = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
    let process = pidfd_open(process, PidfdFlags::empty())?;
    let socket = pidfd_getfd(process, descriptor, PidfdGetfdFlags::empty())?;
    if rustix::fs::fstat(&socket)?.st_ino != inode {
        return Err(Errno::BADF);
    }
    sys::socket_mark(socket.as_fd())
}
