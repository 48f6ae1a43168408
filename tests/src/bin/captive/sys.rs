//! System calls as they are, with any arguments.
#![allow(
    unsafe_code,
    reason = "what is tried here is what no safe wrapper would do"
)]

use std::{
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

pub(crate) const AF_PACKET: u64 = 17;
pub(crate) const SOCK_RAW: u64 = 3;
pub(crate) const SOCK_DGRAM: u64 = 2;
/// `htons(ETH_P_ALL)`
pub(crate) const ALL: u64 = 0x0300;
pub(crate) const SO_ATTACH_FILTER: i32 = 26;
pub(crate) const SO_DETACH_FILTER: i32 = 27;
pub(crate) const SO_LOCK_FILTER: i32 = 44;
pub(crate) const SO_ATTACH_BPF: i32 = 50;

/// Any system call that only reads what its arguments point at: junk is the kernel's to refuse.
pub(crate) fn call(number: libc::c_long, arguments: [u64; 5]) -> io::Result<i64> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: the kernel checks the pointers; only calls are made that write nothing through them.
    let result = unsafe { libc::syscall(number, a, b, c, d, e) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// `socket(AF_PACKET, …)`, non-blocking. The kernel may say 0 where the agent was killed while it handed a socket
/// over (`kernel/notify.rs`): that is whatever has this number, and no capture socket.
pub(crate) fn packet_socket(kind: u64, protocol: u64) -> io::Result<OwnedFd> {
    const NONBLOCK: u64 = 0o4_000;
    let arguments = [AF_PACKET, kind | NONBLOCK, protocol, 0, 0];
    let fd = call(libc::SYS_socket, arguments)?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    if !is_packet_socket(fd) {
        return Err(io::Error::other("no socket"));
    }
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn is_packet_socket(fd: RawFd) -> bool {
    let (mut domain, mut size) = (0_i32, 4);
    let (domain_at, size_at) = ((&raw mut domain).cast(), &raw mut size);
    // SAFETY: both pointers are to what outlives the call, and the size is that of the number.
    let got =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_DOMAIN, domain_at, size_at) };
    got == 0 && domain == libc::AF_PACKET
}

/// `setsockopt(SOL_SOCKET, option, number)`.
pub(crate) fn set(socket: &impl AsRawFd, option: i32, value: i32) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    let (fd, value) = (socket.as_raw_fd(), (&raw const value).cast());
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    check(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, value, size) })
}

/// `setsockopt(SO_ATTACH_FILTER)` of a filter that accepts everything.
pub(crate) fn attach(socket: &impl AsRawFd) -> io::Result<()> {
    let mut accept = libc::sock_filter {
        code: 6, // ret #k
        jt: 0,
        jf: 0,
        k: u32::MAX,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: &raw mut accept,
    };
    let size = libc::socklen_t::try_from(size_of_val(&program)).map_err(io::Error::other)?;
    let (fd, program) = (socket.as_raw_fd(), (&raw const program).cast());
    // SAFETY: the pointer and the length describe `program`, which outlives the call.
    check(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, SO_ATTACH_FILTER, program, size) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A signal that interrupts this process every quarter of a millisecond, wherever it is.
pub(crate) fn interrupt_often() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: all zeros is a valid value of this plain C structure: no flags, so that calls are not begun again.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
    // SAFETY: the handler does nothing.
    check(unsafe { libc::sigaction(libc::SIGALRM, &raw const action, ptr::null_mut()) })?;
    every(250)
}

/// No more of it.
pub(crate) fn interrupt_no_more() -> io::Result<()> {
    every(0)
}

fn every(microseconds: libc::suseconds_t) -> io::Result<()> {
    let time = libc::timeval {
        tv_sec: 0,
        tv_usec: microseconds,
    };
    let timer = libc::itimerval {
        it_interval: time,
        it_value: time,
    };
    // SAFETY: the pointer is to `timer`, which outlives the call; the old one is not asked for.
    check(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) })
}

/// How many capture sockets this process has, and how many of them were not locked.
pub(crate) fn packet_sockets() -> (usize, usize) {
    let (mut all, mut loose) = (0, 0);
    for fd in 0..1_024 {
        if is_packet_socket(fd) {
            all += 1;
            let locked = set(&fd, SO_LOCK_FILTER, 0);
            let locked = locked.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM));
            loose += usize::from(!locked);
        }
    }
    (all, loose)
}

/// The name of an error that is looked for here, or its number.
pub(crate) fn name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => "EPERM".to_owned(),
        Some(libc::ENOSYS) => "ENOSYS".to_owned(),
        Some(libc::EMFILE) => "EMFILE".to_owned(),
        Some(number) => format!("errno {number}"),
        None => error.to_string(),
    }
}
