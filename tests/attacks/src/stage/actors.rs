//! Starting this program in another role, as another user, in a network namespace.

use std::{
    io,
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::Path,
    process::Command,
};

use super::space::{self, Space};
use crate::{
    sys::{native, process},
    world::LEAKED,
};

/// Where a copy of this program is that every user may execute, in the stage's own `/run`.
pub(crate) const PLACE: &str = "/run/attacks";
pub(crate) const PROGRAM: &str = "/run/attacks/attacks";

/// Somebody to be started.
#[derive(Debug)]
pub(crate) struct Actor {
    program: Command,
    namespace: i32,
    user: u32,
}

impl Actor {
    /// This program in a role.
    pub(crate) fn new(role: &str, space: &Space, user: u32) -> Self {
        let mut program = Command::new(PROGRAM);
        program.arg(role);
        Self {
            program,
            namespace: space.here().as_raw_fd(),
            user,
        }
    }

    /// Another program, as root.
    pub(crate) fn of(program: &Path, space: &Space) -> Self {
        Self {
            program: Command::new(program),
            namespace: space.here().as_raw_fd(),
            user: 0,
        }
    }

    /// It stays root for now.
    pub(crate) fn keeping_powers(mut self) -> Self {
        self.user = 0;
        self
    }

    /// What can be started.
    pub(crate) fn command(self) -> Command {
        let Self {
            mut program,
            namespace,
            user,
        } = self;
        // SAFETY: the closure makes system calls, and allocates nothing.
        unsafe { program.pre_exec(move || prepare(namespace, user)) };
        program
    }
}

/// Between fork and exec.
fn prepare(namespace: i32, user: u32) -> io::Result<()> {
    let errno = io::Error::from_raw_os_error;
    space::enter(namespace).map_err(errno)?;
    // What is killed on purpose is not to be written down.
    let none = [0_u64; 2];
    let none = none.as_ptr().addr() as u64;
    native(
        libc::SYS_prlimit64,
        [0, libc::RLIMIT_CORE.into(), none, 0, 0, 0],
    )
    .map_err(errno)?;
    // Whoever starts all this is careless: it leaves a packet socket open.
    let leaked = native(libc::SYS_socket, [17, 3 | 0o4000, 0x0300, 0, 0, 0]).map_err(errno)?;
    let number = u64::from(LEAKED.cast_unsigned());
    native(libc::SYS_dup3, [leaked, number, 0, 0, 0, 0]).map_err(errno)?;
    native(libc::SYS_close, [leaked, 0, 0, 0, 0, 0]).map_err(errno)?;
    if user != 0 {
        let user = u64::from(user);
        native(libc::SYS_setgroups, [0; 6]).map_err(errno)?;
        native(libc::SYS_setresgid, [user, user, user, 0, 0, 0]).map_err(errno)?;
        native(libc::SYS_setresuid, [user, user, user, 0, 0, 0]).map_err(errno)?;
    }
    Ok(())
}

/// Ends a process that was started here.
pub(crate) fn end(pid: u32) {
    let _ = process::kill(pid.cast_signed(), libc::SIGKILL);
}
