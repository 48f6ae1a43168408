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
            .current_dir("/")
            .uid(user)
            .gid(user);
        let pass = move || {
            for (from, to) in [(opened, PROGRAM), (listens, SOCKET)] {
                // SAFETY: it takes numbers.
                if unsafe { libc::dup2(from, to) } != to {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: it makes two system calls, and allocates nothing.
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

impl Drop for Launcher {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
