//! Filters where the kernel runs them, and which packet it shows them there.
//!
//! | | classic | eBPF | the packet that the filter sees |
//! |---|---|---|---|
//! | socket pair | ✓ | ✓ | any bytes; no device, no link header, all metadata 0 |
//! | `BPF_PROG_TEST_RUN` | – | ✓ | any bytes behind a link header of 14; [`shown`] says the metadata |
//! | packet sockets on loopback | ✓ | ✓ | going out, and coming in with tags taken out; mark, packet type |

use std::os::fd::OwnedFd;

use capwarden::filter::{EbpfInsn, Meta, Packet, Program, TranslateError, interpret, translate};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

pub use super::syscalls::*;

/// Whether this user may load programs. Only EPERM, and never for root, is a reason not to.
pub fn may_load() -> bool {
    match prog_load(&tail()) {
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
fn tail() -> Vec<EbpfInsn> {
    let insn = |code, dst, src, imm| EbpfInsn {
        code,
        dst,
        src,
        off: 0,
        imm,
    };
    vec![
        insn(0x61, 2, 1, 0),
        insn(0xb4, 0, 0, ACCEPTED.cast_signed()),
        insn(0x95, 0, 0, 0),
    ]
}

/// What a translated program returns for a packet that it lets through.
pub const ACCEPTED: u32 = 0xffff;

/// Loads the translations of programs, one behind the other.
pub fn load(parts: &[&Program]) -> OwnedFd {
    let mut code: Vec<_> = parts
        .iter()
        .flat_map(|part| translate(part).unwrap())
        .collect();
    code.extend(tail());
    prog_load(&code).unwrap_or_else(|(error, log)| panic!("{error}\n{log}\n{parts:?}"))
}

/// A pair of connected sockets; a filter on the second sees what is sent on the first.
pub struct Pair(pub OwnedFd, pub OwnedFd);

impl Pair {
    pub fn new() -> Self {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (a, b) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None).unwrap();
        // Room for the longest packet that a proof can end with.
        force_send_buffer(&a, 2 << 20).unwrap();
        Self(a, b)
    }

    /// How much of a packet gets through; None if it is dropped.
    pub fn deliver(&self, packet: &[u8]) -> Option<usize> {
        rustix::net::send(&self.0, packet, SendFlags::empty()).unwrap();
        let mut buffer = [0; 1];
        match rustix::net::recv(&self.1, &mut buffer, RecvFlags::TRUNC) {
            Ok((_, length)) => Some(length),
            Err(error) => {
                assert_eq!(error, rustix::io::Errno::AGAIN);
                None
            }
        }
    }
}

/// One program, ready to be run by the kernel: as it is, and translated.
pub struct Installed<'a> {
    name: &'a str,
    program: &'a Program,
    translated: Option<OwnedFd>,
}

impl<'a> Installed<'a> {
    /// Attaches the program and its translation to the receiving ends of two pairs.
    pub fn new(name: &'a str, program: &'a Program, (classic, translated): &(Pair, Pair)) -> Self {
        attach_classic(&classic.1, program.insns())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        // Only the hardware type has no translation: eBPF socket filters are not shown it.
        let loaded = match translate(program) {
            Err(TranslateError::HardwareType { .. }) => None,
            _ => Some(load(&[program])),
        };
        if let Some(loaded) = &loaded {
            attach_ebpf(&translated.1, loaded).unwrap();
        }
        Self {
            name,
            program,
            translated: loaded,
        }
    }

    /// Whether there is a translation.
    pub const fn is_translated(&self) -> bool {
        self.translated.is_some()
    }

    /// The interpreter, the classic program and its translation on one packet of a socket pair:
    /// the same verdict, and the same length from the two that give one. Whether it is accepted.
    pub fn agree_on_pair(&self, frame: &[u8], (classic, translated): &(Pair, Pair)) -> bool {
        let Self { name, program, .. } = self;
        let ours = interpret(program, &Packet::new(frame, Meta::default()));
        // The kernel trims to the verdict, and never to nothing.
        let length = usize::try_from(ours)
            .unwrap()
            .clamp(1, frame.len().max(1))
            .min(frame.len());
        let expected = (ours != 0).then_some(length);
        let theirs = classic.deliver(frame);
        assert_eq!(
            theirs, expected,
            "{name}: classic on {frame:02x?}\n{program:?}"
        );
        if self.translated.is_some() {
            let theirs = translated.deliver(frame).is_some();
            assert_eq!(
                theirs,
                ours != 0,
                "{name}: eBPF on {frame:02x?}\n{program:?}"
            );
        }
        ours != 0
    }

    /// The interpreter and the translation under `BPF_PROG_TEST_RUN`. None: there is no translation.
    pub fn agree_on_test_run(&self, run: &TestRun) -> Option<bool> {
        let Self { name, program, .. } = self;
        let theirs = run.run(self.translated.as_ref()?);
        let ours = interpret(program, &run.packet());
        assert_eq!(
            theirs,
            if ours == 0 { 0 } else { ACCEPTED },
            "{name}: test run of {run:02x?}\n{program:?}"
        );
        Some(ours != 0)
    }
}

/// What `BPF_PROG_TEST_RUN` is given: the kernel takes the first 14 bytes for a link header, strips
/// them, and makes of them the protocol and the packet type. Loopback is the device.
#[derive(Clone, Debug)]
pub struct TestRun {
    data: Vec<u8>,
    mark: u32,
}

const LINK_HEADER: usize = 14;
/// An EtherType that means nothing.
const EXPERIMENTAL: u16 = 0x88b5;

impl TestRun {
    /// A filter that sees these bytes, behind this link header. The kernel refuses IP packets
    /// without a whole header, so those get another type there; their bytes stay what they are.
    pub fn new(link_header: &[u8; LINK_HEADER], bytes: &[u8], mark: u32) -> Self {
        let mut data = [link_header, bytes].concat();
        let least = match data[12..LINK_HEADER] {
            [0x08, 0x00] => 20,
            [0x86, 0xdd] => 40,
            _ => 0,
        };
        if bytes.len() < least {
            data[12..LINK_HEADER].copy_from_slice(&EXPERIMENTAL.to_be_bytes());
        }
        Self { data, mark }
    }

    /// The packet that the filter sees.
    pub fn packet(&self) -> Packet<'_> {
        let (header, bytes) = self.data.split_at(LINK_HEADER);
        let mut packet = Packet::new(bytes, shown(header, bytes));
        packet.headroom = header;
        packet.meta.mark = self.mark;
        packet
    }

    /// What a program returns.
    pub fn run(&self, program: &OwnedFd) -> u32 {
        test_run(program, &self.data, self.mark).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// The kernel's `eth_type_trans` on loopback, whose address is zero and which has no broadcast.
fn shown(header: &[u8], bytes: &[u8]) -> Meta {
    const HOST: u8 = 0;
    const MULTICAST: u8 = 2;
    const OTHER_HOST: u8 = 3;
    const LENGTHS: u16 = 0x600;
    const IPX_IN_802_3: u16 = 1;
    const LLC: u16 = 4;
    let packet_type = match header {
        [0, 0, 0, 0, 0, 0, ..] => HOST,
        [first, ..] if first & 1 == 1 => MULTICAST,
        _ => OTHER_HOST,
    };
    let protocol = match u16::from_be_bytes([header[12], header[13]]) {
        LENGTHS.. => u16::from_be_bytes([header[12], header[13]]),
        _ if bytes.starts_with(&[0xff, 0xff]) => IPX_IN_802_3,
        _ => LLC,
    };
    Meta {
        protocol,
        packet_type,
        interface_index: 1,
        hardware_type: 772,
        network_header: 0,
        link_header: Some(-14),
        ..Meta::default()
    }
}

/// A link header that makes the kernel say of a packet what the metadata say, as far as it goes.
pub fn link_header(meta: &Meta) -> [u8; 14] {
    const MULTICAST: [u8; 2] = [1, 2];
    let mut header = [2; 14];
    match meta.packet_type {
        0 => header[..6].fill(0),
        kind if MULTICAST.contains(&kind) => header[..6].fill(0xff),
        _ => {}
    }
    header[12..].copy_from_slice(&meta.protocol.to_be_bytes());
    header
}
