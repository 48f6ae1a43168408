//! The few system calls that hand a filter to the kernel and a packet to the filter.
#![allow(unsafe_code, reason = "bpf(2) and packet sockets have no safe wrapper")]

use std::{
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use capwarden::filter::{EbpfInsn, Insn, Meta, VlanTag};

fn check(result: impl TryInto<i64>) -> io::Result<i64> {
    match result.try_into() {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

fn own(fd: i64) -> OwnedFd {
    let fd = RawFd::try_from(fd).unwrap();
    // SAFETY: the kernel has just made it, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Loads a `BPF_PROG_TYPE_SOCKET_FILTER`; on failure, the verifier's log comes with the error.
pub fn prog_load(code: &[EbpfInsn]) -> Result<OwnedFd, (io::Error, String)> {
    #[repr(C)]
    struct Attr {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
    }
    const PROG_LOAD: libc::c_int = 5;
    const SOCKET_FILTER: u32 = 1;
    let code: Vec<[u8; 8]> = code.iter().map(|insn| insn.to_bytes()).collect();
    let load = |log: &mut [u8]| {
        let attr = Attr {
            prog_type: SOCKET_FILTER,
            insn_cnt: u32::try_from(code.len()).unwrap(),
            insns: code.as_ptr().addr() as u64,
            license: c"Apache-2.0".as_ptr().addr() as u64,
            log_level: u32::from(!log.is_empty()),
            log_size: u32::try_from(log.len()).unwrap(),
            log_buf: if log.is_empty() {
                0
            } else {
                log.as_mut_ptr().addr() as u64
            },
        };
        let attr = ptr::from_ref(&attr);
        // SAFETY: the attributes and all that they point to live until the call returns.
        let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, attr, size_of::<Attr>()) };
        check(result).map(own)
    };
    load(&mut []).map_err(|error| {
        let mut log = vec![0; 1 << 20];
        let _ = load(&mut log);
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
        let log = String::from_utf8_lossy(&log[..end]);
        let tail = log.len().saturating_sub(2000);
        (error, log[tail..].into())
    })
}

fn setsockopt<T>(
    socket: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).unwrap();
    let value = ptr::from_ref(value).cast();
    // SAFETY: the value is as long as is said.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, length) };
    check(result).map(drop)
}

/// `SO_ATTACH_FILTER`.
pub fn attach_classic(socket: &OwnedFd, insns: &[Insn]) -> io::Result<()> {
    let mut filter: Vec<_> = insns
        .iter()
        .map(|&Insn { code, jt, jf, k }| libc::sock_filter { code, jt, jf, k })
        .collect();
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).unwrap(),
        filter: filter.as_mut_ptr(),
    };
    setsockopt(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// `SO_ATTACH_BPF`.
pub fn attach_ebpf(socket: &OwnedFd, program: &OwnedFd) -> io::Result<()> {
    setsockopt(
        socket,
        libc::SOL_SOCKET,
        libc::SO_ATTACH_BPF,
        &program.as_raw_fd(),
    )
}

/// `SO_DETACH_FILTER`.
pub fn detach(socket: &OwnedFd) -> io::Result<()> {
    setsockopt(socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0)
}

/// `BPF_PROG_TEST_RUN` of a socket filter; what it returns.
pub fn test_run(program: &OwnedFd, data: &[u8], mark: u32) -> io::Result<u32> {
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        prog_fd: u32,
        retval: u32,
        data_size_in: u32,
        data_size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        ctx_size_in: u32,
        ctx_size_out: u32,
        ctx_in: u64,
        ctx_out: u64,
    }
    const PROG_TEST_RUN: libc::c_int = 10;
    // The beginning of `struct __sk_buff`: length, packet type, mark.
    let context = [0, 0, mark];
    let mut attr = Attr {
        prog_fd: u32::try_from(program.as_raw_fd()).unwrap(),
        data_size_in: u32::try_from(data.len()).unwrap(),
        data_in: data.as_ptr().addr() as u64,
        ctx_size_in: u32::try_from(size_of_val(&context)).unwrap(),
        ctx_in: context.as_ptr().addr() as u64,
        ..Attr::default()
    };
    let size = size_of::<Attr>();
    let pointer = ptr::from_mut(&mut attr);
    // SAFETY: the attributes and all that they point to live until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_TEST_RUN, pointer, size) };
    check(result).map(|_| attr.retval)
}

/// `SO_SNDBUFFORCE`.
pub fn force_send_buffer(socket: &OwnedFd, bytes: libc::c_int) -> io::Result<()> {
    setsockopt(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes)
}

/// Moves this thread into a network namespace of its own, with nothing but a loopback device.
pub fn enter_empty_network() -> io::Result<()> {
    // SAFETY: touches no memory.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    // SAFETY: touches no memory.
    let socket = own(check(unsafe {
        libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)
    })?);
    // SAFETY: plain data, for which zero is valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    request.ifr_name[..2]
        .copy_from_slice(&[i8::try_from(b'l').unwrap(), i8::try_from(b'o').unwrap()]);
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP).unwrap();
    let request = ptr::from_ref(&request);
    // SAFETY: the request is what this ioctl reads.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, request) }).map(drop)
}

pub const LOOPBACK: u32 = 1;

/// A packet socket on all devices: `SOCK_RAW` or `SOCK_DGRAM`.
pub fn packet_socket(kind: libc::c_int) -> io::Result<OwnedFd> {
    let all = libc::c_int::from(u16::try_from(libc::ETH_P_ALL).unwrap().to_be());
    let kind = kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: touches no memory.
    let socket = own(check(unsafe { libc::socket(libc::AF_PACKET, kind, all) })?);
    setsockopt(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &(4 << 20))?;
    setsockopt(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, &1)?;
    Ok(socket)
}

/// Sends a whole frame on a device.
pub fn send_frame(socket: &OwnedFd, frame: &[u8], device: u32) -> io::Result<()> {
    // SAFETY: plain data, for which zero is valid.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
    address.sll_ifindex = device.cast_signed();
    let length = libc::socklen_t::try_from(size_of_val(&address)).unwrap();
    let (fd, address) = (socket.as_raw_fd(), ptr::from_ref(&address).cast());
    // SAFETY: frame and address are as long as is said.
    let sent = unsafe { libc::sendto(fd, frame.as_ptr().cast(), frame.len(), 0, address, length) };
    check(i64::try_from(sent).unwrap()).map(drop)
}

/// `SO_MARK` on what the socket sends.
pub fn set_mark(socket: &OwnedFd, mark: u32) -> io::Result<()> {
    setsockopt(socket, libc::SOL_SOCKET, libc::SO_MARK, &mark)
}

/// One packet from a packet socket, with what the kernel says about it; None when there is none.
pub fn receive_packet(socket: &OwnedFd) -> io::Result<Option<(Vec<u8>, Meta)>> {
    let mut buffer = vec![0; 1 << 16];
    let mut control = [0_u64; 16];
    // SAFETY: plain data, for which zero is valid.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: plain data, for which zero is valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_name = ptr::from_mut(&mut address).cast();
    message.msg_namelen = libc::socklen_t::try_from(size_of_val(&address)).unwrap();
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: all that the message points to is alive, and as long as it says.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    let length = match check(i64::try_from(received).unwrap()) {
        Ok(length) => usize::try_from(length).unwrap(),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        Err(error) => return Err(error),
    };
    buffer.truncate(length);
    // SAFETY: the kernel has filled the message.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    assert!(!header.is_null(), "no PACKET_AUXDATA");
    // SAFETY: the header is one of the message's.
    let data = unsafe { libc::CMSG_DATA(header) }.cast::<libc::tpacket_auxdata>();
    // SAFETY: the only control message that was asked for is this structure.
    let auxiliary = unsafe { data.read_unaligned() };
    let tagged = auxiliary.tp_status & libc::TP_STATUS_VLAN_VALID != 0;
    let meta = Meta {
        protocol: u16::from_be(address.sll_protocol),
        packet_type: address.sll_pkttype,
        interface_index: u32::try_from(address.sll_ifindex).unwrap(),
        hardware_type: address.sll_hatype,
        vlan: tagged.then_some(VlanTag {
            protocol: auxiliary.tp_vlan_tpid,
            control: auxiliary.tp_vlan_tci,
        }),
        ..Meta::default()
    };
    Ok(Some((buffer, meta)))
}
