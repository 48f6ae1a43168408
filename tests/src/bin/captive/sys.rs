//! System calls as they are, with any arguments.
#![allow(
    unsafe_code,
    reason = "what is tried here is what no safe wrapper would do"
)]

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
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

/// `socket(AF_PACKET, …)`, non-blocking.
pub(crate) fn packet_socket(kind: u64, protocol: u64) -> io::Result<OwnedFd> {
    const NONBLOCK: u64 = 0o4_000;
    let fd = call(
        libc::SYS_socket,
        [AF_PACKET, kind | NONBLOCK, protocol, 0, 0],
    )?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
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
