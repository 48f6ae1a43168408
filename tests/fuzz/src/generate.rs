//! Instructions, programs and packets out of an input, so that most of them mean something.
//!
//! An instruction is four bytes of the input: what it is, and three that its fields are made of.

use capwarden::filter::{Ancillary, Insn, Meta, Program, ProgramError, VlanTag};

use crate::source::Source;

/// Every operation that there is.
const CODES: [u16; 52] = [
    0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0xb1, 0x80, 0x81, 0x00, 0x01, 0x60, 0x61, 0x02, 0x03, 0x04,
    0x0c, 0x14, 0x1c, 0x24, 0x2c, 0x34, 0x3c, 0x44, 0x4c, 0x54, 0x5c, 0x64, 0x6c, 0x74, 0x7c, 0x84,
    0x94, 0x9c, 0xa4, 0xac, 0x05, 0x15, 0x1d, 0x25, 0x2d, 0x35, 0x3d, 0x45, 0x4d, 0x06, 0x16, 0x07,
    0x87, // The commonest once more.
    0x30, 0x28, 0x15,
];

const ANCILLARY: u32 = 0xffff_f000;
const NETWORK: u32 = 0xfff0_0000;
const LINK: u32 = 0xffe0_0000;

const CONSTANTS: [u32; 32] = [
    0,
    1,
    2,
    4,
    5,
    6,
    8,
    12,
    14,
    16,
    17,
    20,
    22,
    31,
    32,
    33,
    53,
    80,
    0x45,
    0xff,
    0x0600,
    0x0800,
    0x0806,
    0x1fff,
    0x86dd,
    0xffff,
    0x0a00_0005,
    0x7fff_fff0,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fff0,
    u32::MAX,
];

/// Ancillaries that programs of ours may have.
const OURS: [Ancillary; 10] = [
    Ancillary::Protocol,
    Ancillary::PacketType,
    Ancillary::InterfaceIndex,
    Ancillary::HardwareType,
    Ancillary::Mark,
    Ancillary::Queue,
    Ancillary::Hash,
    Ancillary::VlanTag,
    Ancillary::VlanPresent,
    Ancillary::VlanProtocol,
];

/// Where ancillaries may be told from each other: those of ours, and an exclusive or.
fn ancillary(which: u8) -> u32 {
    let which = usize::from(which) % (OURS.len() + 1);
    OURS.get(which).map_or(ANCILLARY + 40, |what| what.k())
}

/// An instruction that may be anything.
pub(crate) fn any_insn(source: &mut Source<'_>) -> Insn {
    let code = match source.byte() {
        255 => source.half(),
        250..255 => source.byte().into(),
        code => CODES[usize::from(code) % CODES.len()],
    };
    let [a, b, c] = [source.byte(), source.byte(), source.byte()];
    let k = match c >> 5 {
        0..3 => b.into(),
        3 => CONSTANTS[usize::from(b) % CONSTANTS.len()],
        4 => ANCILLARY + u32::from(b),
        5 => NETWORK + u32::from(b),
        6 => LINK + u32::from(b),
        _ => u32::from_be_bytes([a, b, c, b]),
    };
    let jump = code & 7 == 5 && code != 5;
    let (jt, jf) = if jump { (a & 0x1f, b & 0x1f) } else { (0, 0) };
    Insn { code, jt, jf, k }
}

/// A program that the kernel takes, of at most so many instructions and those that set up its
/// memory.
pub(crate) fn program(source: &mut Source<'_>, most: usize) -> Program {
    let count = 1 + source.below(most);
    let mut insns: Vec<Insn> = Vec::new();
    for left in (1..count).rev() {
        if source.is_empty() {
            break;
        }
        insns.push(valid_insn(source, left));
    }
    insns.push(source.pick(&[
        Insn::new(0x06, 0, 0, 65535),
        Insn::new(0x16, 0, 0, 0),
        Insn::new(0x06, 0, 0, 0),
        Insn::new(0x06, 0, 0, 40),
    ]));
    // No path may read memory that it has not written.
    let read = insns.iter().filter(|insn| insn.code & !1 == 0x60);
    let mut cells: Vec<_> = read.map(|insn| insn.k).collect();
    cells.sort_unstable();
    cells.dedup();
    let stores = cells.into_iter().map(|cell| Insn::new(0x02, 0, 0, cell));
    let mut all: Vec<_> = stores.chain(insns).collect();
    clip(&mut all);
    Program::new(all.clone()).unwrap_or_else(|error| panic!("{error}: {all:?}"))
}

/// An instruction in front of so many others.
fn valid_insn(source: &mut Source<'_>, left: usize) -> Insn {
    let Insn {
        code,
        mut jt,
        mut jf,
        mut k,
    } = any_insn(source);
    let code = if CODES.contains(&code) { code } else { 0x15 };
    let reach = u8::try_from(left.min(256) - 1).unwrap();
    match code {
        0x20 | 0x28 | 0x30 if k >= ANCILLARY => k = ancillary(k.to_le_bytes()[0]),
        0x60 | 0x61 | 0x02 | 0x03 => k %= 16,
        0x64 | 0x74 => k %= 32,
        0x34 | 0x94 => k = k.max(1),
        0x05 => k = u32::from(k.to_le_bytes()[0] & 0xf).min(reach.into()),
        _ if code & 7 == 5 => (jt, jf) = ((jt & 0xf).min(reach), (jf & 0xf).min(reach)),
        _ => {}
    }
    Insn { code, jt, jf, k }
}

/// Shortens jumps that lead out of a program.
fn clip(insns: &mut [Insn]) {
    let len = insns.len();
    for (at, insn) in insns.iter_mut().enumerate() {
        let reach = len.saturating_sub(at + 2);
        match insn.code {
            0x05 => insn.k = insn.k.min(u32::try_from(reach).unwrap()),
            code if code & 7 == 5 => {
                let reach = u8::try_from(reach.min(255)).unwrap();
                (insn.jt, insn.jf) = (insn.jt.min(reach), insn.jf.min(reach));
            }
            _ => {}
        }
    }
}

/// A program that differs from another in a few fields, or not at all.
pub(crate) fn changed(program: &Program, source: &mut Source<'_>) -> Program {
    let mut insns = program.insns().to_vec();
    for _ in 0..source.below(4) {
        let at = source.below(insns.len().min(256));
        let change = source.byte();
        let insn = &mut insns[at];
        match change % 4 {
            0 => insn.k ^= 1 << (change >> 2 & 0xf),
            1 => insn.k = insn.k.wrapping_add(1),
            2 => std::mem::swap(&mut insn.jt, &mut insn.jf),
            _ => insn.code ^= 0x10 << (change >> 6),
        }
    }
    match Program::new(insns) {
        Ok(changed) => changed,
        Err(error) => {
            assert_ne!(error, ProgramError::Empty);
            program.clone()
        }
    }
}

const TCP: &[u8] = &[
    0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 5,
    10, 0, 0, 9, 0xc7, 0x38, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0,
];
const UDP: &[u8] = &[
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 2, 8, 0, 0x46, 0, 0, 32, 0, 1, 0, 0, 64, 17,
    0, 0, 10, 0, 0, 5, 8, 8, 8, 8, 0, 0, 0, 0, 0x20, 0, 0, 53, 0, 8, 0, 0,
];
const UDP6: &[u8] = &[
    0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64, 0x20, 1,
    0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 2, 0x20, 0, 0, 53, 0, 8, 0, 0,
];
const ARP: &[u8] = &[
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 2, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0,
    0, 2, 10, 0, 0, 5, 0, 0, 0, 0, 0, 0, 10, 0, 0, 9,
];
const TAGGED: &[u8] = &[
    2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0, 100, 8, 0, 0x45, 0, 0, 28, 0, 1, 0, 5, 64, 17,
    0, 0, 10, 0, 0, 5, 10, 0, 0, 9, 0x20, 0, 0, 22, 0, 8, 0, 0,
];

/// A frame that is well-formed, or was before something in it was changed or cut off.
pub(crate) fn frame(source: &mut Source<'_>) -> Vec<u8> {
    let kind = source.byte();
    let mut frame = match kind % 8 {
        0 => TCP.to_vec(),
        1 => UDP.to_vec(),
        2 => UDP6.to_vec(),
        3 => ARP.to_vec(),
        4 => TAGGED.to_vec(),
        _ => {
            let length = source.below(96);
            source.bytes(length)
        }
    };
    for _ in 0..(kind >> 3 & 3) {
        let (at, value) = (source.byte(), source.byte());
        if let Some(byte) = frame.get_mut(usize::from(at)) {
            *byte = value;
        }
    }
    if kind & 0x20 != 0 {
        frame.truncate(source.byte().into());
    }
    if kind & 0x40 != 0 {
        frame.drain(..frame.len().min(14));
    }
    frame
}

/// What a kernel may know about a packet.
pub(crate) fn meta(source: &mut Source<'_>) -> Meta {
    let usual = Meta {
        protocol: 0x0800,
        interface_index: 1,
        hardware_type: 1,
        network_header: 14,
        link_header: Some(0),
        ..Meta::default()
    };
    let kind = source.byte();
    if kind & 3 == 0 {
        return usual;
    }
    Meta {
        protocol: source.pick(&[0x0800, 0x86dd, 0x0806, 1, 4, 0]),
        packet_type: source.byte() & 7,
        interface_index: if kind & 4 == 0 { 1 } else { source.word() },
        hardware_type: if kind & 8 == 0 { 1 } else { source.half() },
        mark: source.byte().into(),
        queue: source.byte().into(),
        hash: if kind & 16 == 0 { 0 } else { source.word() },
        vlan: (kind & 32 != 0).then(|| VlanTag {
            protocol: source.pick(&[0x8100, 0x88a8, 0]),
            control: source.half(),
        }),
        network_header: source.half().cast_signed().into(),
        link_header: (kind & 64 != 0).then(|| source.half().cast_signed().into()),
    }
}
