//! Random programs that the kernel takes.

use capwarden::filter::{Ancillary, Insn, Program, ProgramError};

use super::random::Random;

const INTERESTING: [u32; 13] = [
    0,
    1,
    2,
    4,
    6,
    12,
    14,
    20,
    31,
    0x0800,
    0x7fff_ffff,
    0x8000_0000,
    u32::MAX,
];

/// Any instructions there are, in any order; up to `longest`, and a few more.
pub fn any(random: &mut Random, longest: usize) -> Program {
    const LOADS: [u16; 7] = [0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0xb1];
    const ALU: [u16; 10] = [0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x90, 0xa0];
    const ANCILLARY: [Ancillary; 10] = [
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
    loop {
        let body = 1 + random.below(longest);
        let mut insns: Vec<_> = (0..4).map(|cell| Insn::new(0x02, 0, 0, cell)).collect();
        for at in 0..body {
            let left = body - at;
            let constant = match random.below(3) {
                0 => random.pick(&INTERESTING),
                1 => random.word() & 0xff,
                _ => random.word(),
            };
            let source = random.pick(&[0_u16, 8]);
            insns.push(match random.below(12) {
                0..4 => {
                    let near = u32::try_from(random.below(70)).unwrap();
                    let far = [
                        0xffff_ffff,
                        0xfff0_0000,
                        0xffe0_0000,
                        0x7fff_fff0,
                        0x8000_0000,
                    ];
                    let base: u32 = if random.below(6) == 0 {
                        random.pick(&far)
                    } else {
                        0
                    };
                    Insn::new(random.pick(&LOADS), 0, 0, base.wrapping_add(near))
                }
                4 if random.below(2) == 0 => Insn::new(0x20, 0, 0, random.pick(&ANCILLARY).k()),
                4..6 => {
                    let op = random.pick(&ALU);
                    let k = match op {
                        0x60 | 0x70 => constant % 32,
                        0x30 | 0x90 => constant.max(1),
                        _ => constant,
                    };
                    Insn::new(0x04 | op | source, 0, 0, k)
                }
                6 => random.pick(&[
                    Insn::new(0x84, 0, 0, 0),
                    Insn::new(0x07, 0, 0, 0),
                    Insn::new(0x87, 0, 0, 0),
                    Insn::new(0x80, 0, 0, 0),
                    Insn::new(0x81, 0, 0, 0),
                    Insn::new(0x20, 0, 0, 0xffff_f000 + 40),
                ]),
                7 => Insn::new(random.pick(&[0x00, 0x01]), 0, 0, constant),
                8 => {
                    let cell = u32::try_from(random.below(4)).unwrap();
                    Insn::new(random.pick(&[0x02, 0x03, 0x60, 0x61]), 0, 0, cell)
                }
                9 if random.below(3) == 0 => {
                    let skip = u32::try_from(random.below(left.min(3))).unwrap();
                    Insn::new(0x05, 0, 0, skip)
                }
                9 if random.below(3) == 0 => Insn::new(
                    random.pick(&[0x06, 0x16]),
                    0,
                    0,
                    random.pick(&[0, 1, 20, 65535]),
                ),
                _ => {
                    let code = 0x05 | random.pick(&[0x10, 0x20, 0x30, 0x40]) | source;
                    let mut skip = || u8::try_from(random.below(left.min(5))).unwrap();
                    Insn::new(code, skip(), skip(), constant)
                }
            });
        }
        insns.push(random.pick(&[
            Insn::new(0x06, 0, 0, 0),
            Insn::new(0x06, 0, 0, 40),
            Insn::new(0x06, 0, 0, u32::MAX),
            Insn::new(0x16, 0, 0, 0),
        ]));
        match Program::new(insns) {
            Ok(program) => return program,
            // A load that happened to be an ancillary one.
            Err(ProgramError::UnknownAncillary { .. } | ProgramError::NotOfThePacket { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// The same program with one or two instructions changed a little.
pub fn mutated(program: &Program, random: &mut Random) -> Program {
    loop {
        let mut insns = program.insns().to_vec();
        for _ in 0..1 + random.below(2) {
            let at = random.below(insns.len());
            let insn = &mut insns[at];
            match random.below(4) {
                0 => insn.k ^= 1 << random.below(16),
                1 => insn.k = insn.k.wrapping_add(1),
                2 => std::mem::swap(&mut insn.jt, &mut insn.jf),
                _ => insn.code ^= random.pick(&[0x10, 0x20, 0x30]),
            }
        }
        if let Ok(program) = Program::new(insns) {
            return program;
        }
    }
}

/// Many loads near the beginning, in all sizes and of all kinds.
pub fn of_loads(random: &mut Random) -> Program {
    let body = 4 + random.below(24);
    let mut insns: Vec<_> = (0..2).map(|cell| Insn::new(0x02, 0, 0, cell)).collect();
    for at in 0..body {
        let left = body - at;
        let mut jump = || u8::try_from(random.below(left.min(4))).unwrap();
        let (jt, jf) = (jump(), jump());
        let offset = u32::try_from(random.below(48)).unwrap();
        let value = random.pick(&[0, 1, 5, 20, 0x45, 0xff]);
        insns.push(match random.below(16) {
            0..6 => Insn::new(random.pick(&[0x20, 0x28, 0x30]), 0, 0, offset),
            6..8 => Insn::new(random.pick(&[0x40, 0x48, 0x50]), 0, 0, offset / 2),
            8 => Insn::new(0xb1, 0, 0, offset / 2),
            9 => Insn::new(0x01, 0, 0, random.pick(&[0, 19, 20, 21, u32::MAX])),
            10 => Insn::new(random.pick(&[0x02, 0x03, 0x60, 0x61]), 0, 0, offset & 1),
            11 => Insn::new(random.pick(&[0x07, 0x87]), 0, 0, 0),
            12 => Insn::new(random.pick(&[0x0c, 0x04, 0x54]), 0, 0, value),
            _ => Insn::new(random.pick(&[0x15, 0x25, 0x45]), jt, jf, value),
        });
    }
    insns.push(Insn::new(0x45, 0, 1, random.pick(&[1, 0xff, u32::MAX])));
    insns.push(Insn::new(0x06, 0, 0, random.pick(&[0, 65535])));
    insns.push(Insn::new(random.pick(&[0x06, 0x16]), 0, 0, 65535));
    Program::new(insns).unwrap_or_else(|error| panic!("{error}"))
}

/// Few bytes, few values, many tests: nearly every load was done before on some way to it, and
/// nearly every test is settled on some.
pub fn repetitive(random: &mut Random) -> Program {
    let body = 3 + random.below(40);
    let mut insns: Vec<_> = (0..2).map(|cell| Insn::new(0x02, 0, 0, cell)).collect();
    for at in 0..body {
        let left = body - at;
        let mut jump = || u8::try_from(random.below(left.min(8))).unwrap();
        let (jt, jf) = (jump(), jump());
        let offset = u32::try_from(random.below(4)).unwrap();
        let value = random.pick(&[0, 1, 1, 2]);
        insns.push(match random.below(16) {
            0..6 => Insn::new(random.pick(&[0x30, 0x30, 0x28]), 0, 0, offset),
            6..11 => Insn::new(0x15, jt, jf, value),
            11 => Insn::new(random.pick(&[0x25, 0x35, 0x45]), jt, jf, value),
            12 => Insn::new(0x05, 0, 0, jt.into()),
            13 => Insn::new(random.pick(&[0x02, 0x60]), 0, 0, offset & 1),
            14 => Insn::new(random.pick(&[0x07, 0x87, 0xb1, 0x50, 0x80]), 0, 0, offset),
            _ => Insn::new(random.pick(&[0x04, 0x0c, 0x54, 0x00]), 0, 0, value),
        });
    }
    insns.push(Insn::new(0x15, 0, 1, random.pick(&[0, 1])));
    insns.push(Insn::new(0x06, 0, 0, random.pick(&[0, 65535])));
    insns.push(Insn::new(random.pick(&[0x06, 0x16]), 0, 0, 65535));
    Program::new(insns).unwrap_or_else(|error| panic!("{error}"))
}
