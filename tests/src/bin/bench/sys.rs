//! The few system calls that have no safe wrapper.
#![allow(
    unsafe_code,
    reason = "namespaces, classic filters and packet sockets have no safe wrapper"
)]

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    ptr,
};

use capwarden::filter::Insn;

const ALL: u16 = 3; // ETH_P_ALL
const PACKET: u16 = 17; // AF_PACKET

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A network namespace of its own for this thread, and for all that it starts from now on.
pub(crate) fn own_network() -> io::Result<()> {
    // SAFETY: touches no memory.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}

/// `socket(AF_PACKET, SOCK_RAW, 0)`: it hears nothing until it is bound.
pub(crate) fn packet_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: touches no memory.
    let fd = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Listens to everything on an interface; or, deaf, only sends there.
pub(crate) fn bind(socket: impl AsFd, interface: u32, deaf: bool) -> io::Result<()> {
    // SAFETY: all zeros is a valid address of this plain C structure.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = PACKET;
    address.sll_protocol = if deaf { 0 } else { ALL.to_be() };
    address.sll_ifindex = interface.cast_signed();
    let size = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or(0);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the pointer and the length describe `address`, which outlives the call.
    check(unsafe { libc::bind(fd, (&raw const address).cast(), size) }).map(drop)
}

/// `SO_ATTACH_FILTER`.
pub(crate) fn attach_classic(socket: impl AsFd, insns: &[Insn]) -> io::Result<()> {
    let mut filter: Vec<_> = insns
        .iter()
        .map(|&Insn { code, jt, jf, k }| libc::sock_filter { code, jt, jf, k })
        .collect();
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_mut_ptr(),
    };
    let size = libc::socklen_t::try_from(size_of_val(&program)).unwrap_or(0);
    let fd = socket.as_fd().as_raw_fd();
    let program = (&raw const program).cast();
    // SAFETY: the pointer and the length describe `program`, which outlives the call.
    let set =
        unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program, size) };
    check(set).map(drop)
}

/// Sends the same frame again and again, `count` times.
pub(crate) fn flood(socket: impl AsFd, frame: &[u8], count: usize) -> io::Result<()> {
    const BATCH: usize = 64;
    let mut part = libc::iovec {
        iov_base: frame.as_ptr().cast_mut().cast(),
        iov_len: frame.len(),
    };
    let mut message = || libc::mmsghdr {
        msg_hdr: libc::msghdr {
            msg_name: ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: &raw mut part,
            msg_iovlen: 1,
            msg_control: ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        },
        msg_len: 0,
    };
    let mut messages: Vec<libc::mmsghdr> = (0..BATCH).map(|_| message()).collect();
    let fd = socket.as_fd().as_raw_fd();
    let mut left = count;
    while left > 0 {
        let batch = u32::try_from(left.min(BATCH)).unwrap_or(1);
        let messages = messages.as_mut_ptr();
        // SAFETY: `batch` messages are there at least; what they point to lives.
        let sent = check(unsafe { libc::sendmmsg(fd, messages, batch, 0) })?;
        left -= usize::try_from(sent).unwrap_or(0);
    }
    Ok(())
}
