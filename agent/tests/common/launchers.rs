//! A launcher, started as the service manager starts one: by the governed user, with the socket that it listens on.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd as _,
        unix::{fs::PermissionsExt as _, process::CommandExt as _},
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use tempfile::TempDir;

/// The first descriptor that a service manager passes.
const SOCKET: i32 = 3;
/// Where the program is open: the user may not be able to reach it by its path.
const PROGRAM: i32 = 100;

/// A launcher. It ends when this is dropped; what it has started does not.
#[derive(Debug)]
pub(crate) struct Launcher {
    directory: TempDir,
    process: Child,
}

impl Launcher {
    /// Runs a program with these arguments, and this in its environment, as the launcher of this user.
    pub(crate) fn start(
        program: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
        user: u32,
    ) -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let at = directory.path().join(format!("{user}.sock"));
        // Passed on, so not closed on exec.
        let flags = SocketFlags::empty();
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        bind(&socket, &SocketAddrUnix::new(&at)?)?;
        fs::set_permissions(&at, fs::Permissions::from_mode(0o600))?;
        listen(&socket, 16)?;
        let program = File::open(program)?;
        let (listens, opened) = (socket.as_raw_fd(), program.as_raw_fd());
        // The shell knows its own number, and becomes the launcher.
        let mut command = Command::new("sh");
        command
            .args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"])
            .arg(format!("/proc/self/fd/{PROGRAM}"))
            .args(arguments)
            .env("LISTEN_FDS", "1")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .current_dir("/");
        let pass = move || {
            for (from, to) in [(opened, PROGRAM), (listens, SOCKET)] {
                // SAFETY: it takes numbers.
                done(unsafe { libc::dup2(from, to) })?;
            }
            become_user(user)
        };
        // SAFETY: it makes system calls only, and allocates nothing.
        unsafe { command.pre_exec(pass) };
        let process = command.spawn()?;
        Ok(Self { directory, process })
    }

    /// Where its socket is.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its number.
    #[allow(dead_code, reason = "not every test asks")]
    pub(crate) fn process(&self) -> u32 {
        self.process.id()
    }
}

/// Gives up all rights but this user's, as the unit says it.
fn become_user(user: u32) -> io::Result<()> {
    let mut capability = 0;
    // SAFETY: no pointers. It fails past the last capability.
    while unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } == 0 {
        capability += 1;
    }
    // SAFETY: there are no groups to read.
    done(unsafe { libc::setgroups(0, std::ptr::null()) })?;
    // SAFETY: no pointers.
    done(unsafe { libc::setgid(user) })?;
    // SAFETY: no pointers.
    done(unsafe { libc::setuid(user) })
}

fn done(result: i32) -> io::Result<()> {
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
