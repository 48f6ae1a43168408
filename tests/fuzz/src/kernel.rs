//! The kernel as an oracle: its check of classic programs, its verifier, and both its machines.
#![allow(unsafe_code, reason = "bpf(2) has no safe wrapper")]

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    ptr,
};

use capwarden::filter::{EbpfInsn, Insn, Meta};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared with a test that needs more of it"
)]
#[path = "../../../agent/tests/common/syscalls.rs"]
mod syscalls;

pub(crate) use syscalls::attach_ebpf;
use syscalls::{attach_classic, prog_load};

/// Loads a program; on failure, the verifier's log comes with the error. A signal, such as
/// libFuzzer's clock, makes the verifier give up, and it has to be asked again.
pub(crate) fn load(code: &[EbpfInsn]) -> Result<OwnedFd, (io::Error, String)> {
    let interrupted = |error: &io::Error| error.raw_os_error() == Some(libc::EAGAIN);
    let mut attempts = 0;
    loop {
        attempts += 1;
        match prog_load(code) {
            Err((error, _)) if interrupted(&error) && attempts < 10 => {}
            done => return done,
        }
    }
}

/// Whether this user may load programs. Only EPERM, and never for root, is a reason not to.
pub fn may_load() -> bool {
    match load(&verdict()) {
        Ok(_) => true,
        Err((error, log)) => {
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}\n{log}");
            assert!(
                !rustix::process::geteuid().is_root(),
                "root may not load programs"
            );
            false
        }
    }
}

/// What stands behind the filters in the guard's place: it reads the length, which the verifier
/// allows only if r1 holds the ctx, and delivers the packet.
pub(crate) fn verdict() -> [EbpfInsn; 3] {
    let insn = |code, dst, src, imm| EbpfInsn {
        code,
        dst,
        src,
        off: 0,
        imm,
    };
    [
        insn(0x61, 2, 1, 0),
        insn(0xb4, 0, 0, 0xffff),
        insn(0x95, 0, 0, 0),
    ]
}

/// A pair of connected sockets; a filter on the second sees what is sent on the first.
pub(crate) struct Pair(OwnedFd, pub(crate) OwnedFd);

impl Pair {
    pub(crate) fn new() -> Self {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (a, b) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None).unwrap();
        Self(a, b)
    }

    /// How much of a packet gets through; None if it is dropped.
    pub(crate) fn deliver(&self, packet: &[u8]) -> Option<usize> {
        rustix::net::send(&self.0, packet, SendFlags::empty()).unwrap();
        let mut buffer = [0; 4096];
        match rustix::net::recv(&self.1, &mut buffer, RecvFlags::empty()) {
            Ok((length, _)) => Some(length),
            Err(error) => {
                assert_eq!(error, rustix::io::Errno::AGAIN);
                None
            }
        }
    }
}

/// The kernel's own, for what its compiler to machine code gives up on: long chains of jumps.
const ENOTSUPP: i32 = 524;

/// Whether the kernel takes instructions for a classic program. None: they are one, but too large
/// for the socket's memory or for the kernel's compiler.
pub(crate) fn takes(pair: &Pair, insns: &[Insn]) -> Option<bool> {
    match attach_classic(&pair.1, insns) {
        Ok(()) => Some(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Some(false),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOMEM | ENOTSUPP)) => None,
        Err(error) => panic!("{error}: {insns:?}"),
    }
}

const ETHERNET: usize = 14;

/// What a program returns for an Ethernet frame of at least 15 bytes that arrives on loopback, by
/// `BPF_PROG_TEST_RUN`. The program sees what lies behind the Ethernet header. None: the kernel runs
/// no program here on a frame that announces an IP header and ends within it.
pub(crate) fn test_run(program: &OwnedFd, frame: &[u8], mark: u32) -> Option<u32> {
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
        flags: u32,
        cpu: u32,
        batch_size: u32,
        padding: u32,
    }
    const TEST_RUN: libc::c_int = 10;
    /// `struct __sk_buff`, of which no more than the mark can be given here.
    const SK_BUFF: usize = 192;
    const MARK: usize = 2;
    let mut ctx = [0_u32; SK_BUFF / 4];
    ctx[MARK] = mark;
    let mut attr = Attr {
        prog_fd: u32::try_from(program.as_raw_fd()).unwrap(),
        data_size_in: u32::try_from(frame.len()).unwrap(),
        data_in: frame.as_ptr().addr() as u64,
        ctx_size_in: u32::try_from(SK_BUFF).unwrap(),
        ctx_in: ctx.as_ptr().addr() as u64,
        ..Attr::default()
    };
    let attr_ptr = ptr::from_mut(&mut attr);
    // SAFETY: the attributes and all that they point to live until the call returns.
    let done = unsafe { libc::syscall(libc::SYS_bpf, TEST_RUN, attr_ptr, size_of::<Attr>()) };
    if done == 0 {
        return Some(attr.retval);
    }
    let error = io::Error::last_os_error();
    let short = match frame[12..14] {
        [0x08, 0x00] => frame.len() < ETHERNET + 20,
        [0x86, 0xdd] => frame.len() < ETHERNET + 40,
        _ => false,
    };
    assert!(
        short && error.raw_os_error() == Some(libc::EINVAL),
        "{error}: {frame:02x?}"
    );
    None
}

/// What the kernel knows about a frame that [`test_run`] shows to a program.
pub(crate) fn test_meta(frame: &[u8], mark: u32) -> Meta {
    let (header, packet) = frame.split_at(ETHERNET);
    let ether_type = u16::from_be_bytes([header[12], header[13]]);
    let destination = &header[..6];
    Meta {
        // Small values are lengths: the kernel's stand-ins for Novell's frames and for 802.2.
        protocol: match ether_type {
            0x600.. => ether_type,
            _ if packet.starts_with(&[0xff, 0xff]) => 1,
            _ => 4,
        },
        packet_type: match destination {
            [0, 0, 0, 0, 0, 0] => 0,
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => 1,
            [first, ..] if first & 1 != 0 => 2,
            _ => 3,
        },
        interface_index: 1,
        hardware_type: 772,
        mark,
        network_header: 0,
        link_header: Some(-14),
        ..Meta::default()
    }
}
