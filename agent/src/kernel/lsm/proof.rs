//! Has a governed process try what must be refused: an attached program says nothing about whether it is run.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::process::CommandExt,
    },
    process::Command,
};

use rustix::{
    io::Errno,
    process::{PidfdFlags, getpid, pidfd_open},
};

use super::{Ward, attach::BackstopError, value};
use crate::kernel::{
    bpf,
    socket::{SocketCall, SocketKind},
    sys,
};

/// No tree's number.
const NOBODY: u32 = u32::MAX;

/// What the process answers with: beyond every errno.
const REFUSED: i32 = 10_000;
const NOT_REFUSED: i32 = 20_000;

/// What is tried, as the bits of [`NOT_REFUSED`] name it.
const TRIED: [(i32, &str); 3] = [
    (1, "socket(AF_PACKET)"),
    (2, "bpf"),
    (4, "unshare(CLONE_NEWUSER)"),
];

/// What the programs refuse to whom they govern.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernel) enum What {
    /// Packet sockets.
    Sockets,
    /// Also programs, and namespaces where the kernel has a hook for them.
    Governed { namespaces: bool },
}

/// Whether the programs are run. `tasks` is the storage that makes a process governed.
pub(in crate::kernel) fn refuses(tasks: BorrowedFd<'_>, what: What) -> Result<(), BackstopError> {
    let untried = |why: &dyn std::fmt::Display| BackstopError::Untried(why.to_string());
    let tasks = tasks
        .try_clone_to_owned()
        .map_err(|error| untried(&error))?;
    let mut never_executed = Command::new("/proc/self/exe");
    // SAFETY: the closure makes system calls only.
    unsafe {
        never_executed.pre_exec(move || {
            let code = attempt(tasks.as_fd(), what);
            Err(io::Error::from_raw_os_error(code))
        })
    };
    match never_executed.spawn() {
        Ok(_) => Err(untried(&"the process was executed")),
        Err(error) => match error.raw_os_error() {
            Some(REFUSED) => Ok(()),
            Some(code) if code > NOT_REFUSED => {
                let passed = TRIED
                    .iter()
                    .find(|(bit, _)| (code - NOT_REFUSED) & bit != 0);
                Err(BackstopError::Silent(passed.map_or("", |(_, name)| name)))
            }
            _ => Err(untried(&error)),
        },
    }
}

/// The process's side. What is tried must be possible before.
fn attempt(tasks: BorrowedFd<'_>, what: What) -> i32 {
    let call = SocketCall::of(SocketKind::Raw);
    let governed = pidfd_open(getpid(), PidfdFlags::empty())
        .and_then(|itself| sys::packet_socket(call).map(|_| itself))
        .and_then(|itself| {
            bpf::store(
                tasks,
                itself.as_fd(),
                &value(Ward {
                    number: NOBODY,
                    reach: 0,
                }),
            )
        });
    if let Err(errno) = governed {
        return errno.raw_os_error();
    }
    let more = matches!(what, What::Governed { .. });
    let namespaces = matches!(what, What::Governed { namespaces: true });
    let tried = [
        sys::packet_socket(call).err(),
        untried_unless(more, || bpf::program_array().map(drop)),
        untried_unless(namespaces, sys::new_user_namespace),
    ];
    let passed: i32 = tried
        .into_iter()
        .zip(TRIED)
        .filter(|(errno, _)| *errno != Some(Errno::PERM))
        .map(|(_, (bit, _))| bit)
        .sum();
    match passed {
        0 => REFUSED,
        some => NOT_REFUSED + some,
    }
}

fn untried_unless(wanted: bool, attempt: impl FnOnce() -> Result<(), Errno>) -> Option<Errno> {
    if wanted {
        attempt().err()
    } else {
        Some(Errno::PERM)
    }
}
