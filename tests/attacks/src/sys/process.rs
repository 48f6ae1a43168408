//! Processes: forked ones that say one thing, and what happens to them.

use std::{
    fs::File,
    io::Read,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use super::{Answer, native};

/// No attack takes longer; one that does hangs.
const PATIENCE: Duration = Duration::from_secs(25);

/// How a forked process ended.
#[derive(Debug)]
pub(crate) enum End {
    /// It said this.
    Said(Vec<u8>),
    /// A signal killed it, and it had said nothing.
    Killed(i32),
    /// It said nothing.
    Silent,
}

/// A pipe: where to read, and where to write.
pub(crate) fn pipe() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    let [read, write] = ends;
    Ok((own(read), own(write)))
}

/// A descriptor that the kernel has just made.
pub(crate) fn own(fd: i32) -> OwnedFd {
    // SAFETY: nobody else knows it yet.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Does `work` in a forked process, and tells what it said. Not for programs with threads.
pub(crate) fn in_child(work: impl FnOnce() -> Vec<u8>) -> std::io::Result<End> {
    let (read, write) = pipe()?;
    let child = fork()?;
    if child == 0 {
        drop(read);
        let said = work();
        let mut done = 0;
        while let Some(left) = said.get(done..).filter(|left| !left.is_empty()) {
            // SAFETY: the bytes and their number.
            let wrote = unsafe { libc::write(write.as_raw_fd(), left.as_ptr().cast(), left.len()) };
            match usize::try_from(wrote) {
                Ok(wrote) if wrote > 0 => done += wrote,
                _ => break,
            }
        }
        exit(0);
    }
    drop(write);
    let said = hear_out(read, child);
    if said.is_none() {
        let _ = kill(child, libc::SIGKILL);
    }
    let status = wait(child);
    Ok(match (said, status) {
        (Some(said), _) if !said.is_empty() => End::Said(said),
        (Some(_), status) if libc::WIFSIGNALED(status) => End::Killed(libc::WTERMSIG(status)),
        _ => End::Silent,
    })
}

/// Everything that a child says until it ends, though children of its own may go on; none if that
/// takes too long.
fn hear_out(from: OwnedFd, child: i32) -> Option<Vec<u8>> {
    let pid = u64::from(child.cast_unsigned());
    let process = native(libc::SYS_pidfd_open, [pid, 0, 0, 0, 0, 0]).ok()?;
    let process = own(i32::try_from(process).ok()?);
    let (start, mut said) = (Instant::now(), Vec::new());
    let mut from = File::from(from);
    let mut part = [0; 4096];
    loop {
        let left = PATIENCE.checked_sub(start.elapsed())?;
        match readable([from.as_raw_fd(), process.as_raw_fd()], left) {
            [true, _] => match from.read(&mut part).ok()? {
                0 => return Some(said),
                count => said.extend(part.get(..count)?),
            },
            [false, true] => return Some(said),
            [false, false] => {}
        }
    }
}

/// Which of two descriptors has something to read, or the end of it, within so long.
fn readable(fds: [i32; 2], limit: Duration) -> [bool; 2] {
    let mut wanted = fds.map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: two structures.
    unsafe { libc::poll(wanted.as_mut_ptr(), 2, limit) };
    wanted.map(|fd| fd.revents != 0)
}

/// As `fork`; the child has only this thread.
pub(crate) fn fork() -> std::io::Result<i32> {
    // SAFETY: whoever calls this has no other threads, so no lock is held in the child.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()),
        pid => Ok(pid),
    }
}

/// Does `work` in a forked process, which then ends.
pub(crate) fn spawn(work: impl FnOnce()) -> Result<i32, i32> {
    let child = fork().map_err(|error| error.raw_os_error().unwrap_or(libc::EAGAIN))?;
    if child == 0 {
        work();
        exit(0);
    }
    Ok(child)
}

/// Ends this process at once.
pub(crate) fn exit(status: i32) -> ! {
    // SAFETY: runs nothing.
    unsafe { libc::_exit(status) }
}

/// Waits for a child, and returns its status as the kernel gives it.
pub(crate) fn wait(child: i32) -> i32 {
    let mut status = 0;
    loop {
        // SAFETY: room for the status.
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
        if waited == child || std::io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return status;
        }
    }
}

pub(crate) fn kill(pid: i32, signal: i32) -> Answer {
    let pid = u64::from(pid.cast_unsigned());
    native(
        libc::SYS_kill,
        [pid, signal.cast_unsigned().into(), 0, 0, 0, 0],
    )
}
