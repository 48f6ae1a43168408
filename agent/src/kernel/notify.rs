//! The seccomp listener: receives the system calls that governed processes wait in.
//!
//! The structures and ioctls: <https://github.com/torvalds/linux/blob/v5.14/include/uapi/linux/seccomp.h>

use std::{
    mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use rustix::io::Errno;

use super::socket::ArmedSocket;

const RECEIVE: libc::c_ulong = 0xc050_2100;
const SEND: libc::c_ulong = 0xc018_2101;
const ID_VALID: libc::c_ulong = 0x4008_2102;
const ADD_FD: libc::c_ulong = 0x4018_2103;
const SET_FLAGS: libc::c_ulong = 0x4008_2104;

const ADD_FD_SEND: u32 = 2;
const SYNC_WAKE_UP: u64 = 1;

/// The agent's end of a seccomp filter. When the last copy of it goes, every call that the filter
/// would report fails with ENOSYS.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// A system call that is waiting for its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Notification {
    /// Names the call to the kernel; reused never. One more than that of the call before it.
    pub(super) id: u64,
    /// The **thread** that waits.
    pub(super) thread: u32,
    /// The system call's number.
    pub(super) number: i32,
    /// Its arguments. The kernel looks at 32 bits of each that is not a pointer.
    pub(super) arguments: [u64; 5],
}

impl Listener {
    /// Whether a descriptor of this process is one.
    pub(super) fn is_at(descriptor: RawFd) -> bool {
        let link = std::fs::read_link(format!("/proc/self/fd/{descriptor}"));
        link.is_ok_and(|kind| kind.as_os_str() == "anon_inode:seccomp notify")
    }

    pub(super) fn new(fd: OwnedFd) -> Self {
        let listener = Self(fd);
        // Linux 6.6: the waiting thread is woken on this CPU. Only faster; older kernels say EINVAL.
        // SAFETY: the argument is a plain number.
        let _ = unsafe { libc::ioctl(listener.0.as_raw_fd(), SET_FLAGS, SYNC_WAKE_UP) };
        listener
    }

    /// Takes the next call. `ENOENT` means that its thread died meanwhile: try again.
    pub(super) fn receive(&self) -> Result<Notification, Errno> {
        // SAFETY: all zeros is a valid value of this plain C structure, and what the kernel wants.
        let mut call: libc::seccomp_notif = unsafe { mem::zeroed() };
        self.ioctl(RECEIVE, (&raw mut call).cast())?;
        let [arguments @ .., _] = call.data.args;
        Ok(Notification {
            id: call.id,
            thread: call.pid,
            number: call.data.nr,
            arguments,
        })
    }

    /// Whether the call still waits: what was read about its thread before this was read about
    /// the right one.
    pub(super) fn is_waiting(&self, call: &Notification) -> bool {
        let mut id = call.id;
        self.ioctl(ID_VALID, (&raw mut id).cast()).is_ok()
    }

    /// The call fails with `errno` in the governed process.
    pub(super) fn fail(&self, call: &Notification, errno: Errno) -> Result<(), Errno> {
        self.answer(call, -errno.raw_os_error())
    }

    /// The call returns 0: the agent has done what it asks for.
    pub(super) fn succeed(&self, call: &Notification) -> Result<(), Errno> {
        self.answer(call, 0)
    }

    /// Fails the calls that another holder of this listener received before `call`, and died without an
    /// answer to. Nobody can receive them again, but the kernel numbers calls one by one, and says of each number
    /// whether it was received and waits. Returns how many there were.
    pub(super) fn fail_abandoned(&self, call: &Notification, errno: Errno) -> usize {
        /// Calls that the other may have answered since the oldest that it has not: one whose filter is
        /// with the verifier can be old.
        const FAR: u64 = 1 << 16;
        let before = (1..=FAR).map(|back| Notification {
            id: call.id.wrapping_sub(back),
            ..*call
        });
        let failed = |call: &Notification| self.is_waiting(call) && self.fail(call, errno).is_ok();
        before.filter(failed).count()
    }

    fn answer(&self, call: &Notification, error: i32) -> Result<(), Errno> {
        // SAFETY: as in `receive`.
        let mut response: libc::seccomp_notif_resp = unsafe { mem::zeroed() };
        response.id = call.id;
        response.error = error;
        self.ioctl(SEND, (&raw mut response).cast())
    }

    /// The call goes on as if nobody had looked (Linux 5.5). Only for calls whose outcome no
    /// promise rests on: the caller may have changed what its pointers point at.
    pub(super) fn go_on(&self, call: &Notification) -> Result<(), Errno> {
        const CONTINUE: u32 = 1;
        // SAFETY: as in `receive`.
        let mut response: libc::seccomp_notif_resp = unsafe { mem::zeroed() };
        response.id = call.id;
        response.flags = CONTINUE;
        self.ioctl(SEND, (&raw mut response).cast())
    }

    /// The call returns the socket, in one step with its installation (Linux 5.14).
    ///
    /// Not to be interrupted: the kernel takes the call for answered before it has given anything, and if a signal
    /// comes in between, the call returns 0, which is no socket of anybody's. So the broker's thread blocks signals;
    /// an agent that is killed can still leave such a call
    /// (<https://github.com/torvalds/linux/blob/v5.14/kernel/seccomp.c>, `seccomp_notify_addfd`).
    pub(super) fn hand_over(
        &self,
        call: &Notification,
        socket: &ArmedSocket,
        close_on_exec: bool,
    ) -> Result<(), Errno> {
        // SAFETY: as in `receive`.
        let mut add: libc::seccomp_notif_addfd = unsafe { mem::zeroed() };
        add.id = call.id;
        add.flags = ADD_FD_SEND;
        add.srcfd = socket.as_fd().as_raw_fd().cast_unsigned();
        add.newfd_flags = if close_on_exec {
            libc::O_CLOEXEC.cast_unsigned()
        } else {
            0
        };
        self.ioctl(ADD_FD, (&raw mut add).cast())
    }

    fn ioctl(&self, request: libc::c_ulong, argument: *mut libc::c_void) -> Result<(), Errno> {
        loop {
            // SAFETY: every caller passes the structure that belongs to the request, which
            // outlives the call.
            let result = unsafe { libc::ioctl(self.0.as_raw_fd(), request, argument) };
            if result >= 0 {
                return Ok(());
            }
            match super::sys::last_error() {
                Errno::INTR => {}
                errno => return Err(errno),
            }
        }
    }
}

impl Notification {
    /// The argument as the kernel uses a number of 32 bits: what stands above is junk.
    pub(super) fn number_argument(&self, index: usize) -> u32 {
        let argument = self.arguments.get(index).copied().unwrap_or(0);
        u32::try_from(argument & u64::from(u32::MAX)).unwrap_or(0)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
