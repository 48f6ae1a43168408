//! Processes that hold capture sockets: finding them, and ending them so that their files are
//! whole.

use std::{
    collections::HashSet,
    fs,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal},
    time::Timespec,
};

use super::packet_sockets::inode_of;

/// A process, pinned: its id cannot be reused behind our back. Its descriptor becomes readable when
/// it has ended.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    handle: OwnedFd,
}

impl AsRawFd for Process {
    fn as_raw_fd(&self) -> RawFd {
        self.handle.as_raw_fd()
    }
}

/// A process that holds capture sockets.
#[derive(Debug)]
pub struct Holder {
    /// The process.
    pub process: Process,
    /// One descriptor for each socket.
    descriptors: Vec<i32>,
}

impl Process {
    /// None if there is no such process (any more).
    pub fn open(pid: u32) -> Option<Self> {
        let raw = Pid::from_raw(pid.cast_signed())?;
        let handle = rustix::process::pidfd_open(raw, PidfdFlags::empty()).ok()?;
        Some(Self { pid, handle })
    }

    /// The process of this number that a descriptor pins.
    pub(super) fn pinned(pid: u32, handle: OwnedFd) -> Self {
        Self { pid, handle }
    }

    /// Its id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it has not ended.
    pub fn is_alive(&self) -> bool {
        !readable(&self.handle)
    }

    /// Asks it to end by the signal that it has a handler for: tcpdump, dumpcap and tshark close
    /// their file on SIGTERM, Python programs on SIGINT only.
    pub fn ask_to_end(&self) {
        const SIGINT: u64 = 1 << 1;
        const SIGTERM: u64 = 1 << 14;
        let caught = fs::read_to_string(format!("/proc/{}/status", self.pid))
            .ok()
            .and_then(|status| u64::from_str_radix(status_field(&status, "SigCgt")?, 16).ok())
            .unwrap_or(0);
        let signal = if caught & SIGTERM == 0 && caught & SIGINT != 0 {
            Signal::INT
        } else {
            Signal::TERM
        };
        let _ = rustix::process::pidfd_send_signal(&self.handle, signal);
    }

    /// Ends it.
    pub fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.handle, Signal::KILL);
    }
}

impl Holder {
    /// Whether packets wait in a socket, or in its ring. A TPACKET v3 block counts only when its
    /// time is up.
    pub fn has_unread(&self) -> bool {
        self.descriptors.iter().any(|descriptor| {
            let flags = PidfdGetfdFlags::empty();
            rustix::process::pidfd_getfd(&self.process.handle, *descriptor, flags)
                .is_ok_and(|socket| readable(&socket))
        })
    }
}

/// Which of these processes hold one of these sockets, by `/proc/<pid>/fd`. However often a process
/// has duplicated them, it costs us one descriptor.
pub fn holders(processes: &[u32], inodes: &[u64]) -> Vec<Holder> {
    let sockets: HashSet<u64> = inodes.iter().copied().collect();
    let held = |pid: &u32| {
        let mut left = sockets.clone();
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        let descriptors: Vec<i32> = entries
            .flatten()
            .filter(|entry| inode_of(&entry.path()).is_some_and(|inode| left.remove(&inode)))
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        if descriptors.is_empty() {
            return None;
        }
        Some(Holder {
            process: Process::open(*pid)?,
            descriptors,
        })
    };
    processes.iter().filter_map(held).collect()
}

/// Ends a process by number: for what a cgroup lists on kernels without `cgroup.kill`.
pub(super) fn kill(pid: u32) {
    if let Some(process) = Process::open(pid) {
        process.kill();
    }
}

fn readable(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}
/// A field of what `/proc/PID/status` says, without the blanks around it.
pub(super) fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    lines.find_map(|(key, value)| (key == name).then_some(value.trim()))
}
