use std::time::Duration;

use super::{
    super::{
        super::{Insn, Packet, interpret::interpret},
        space::tests::{Random, values},
    },
    *,
};

/// Every kind of instruction, with a good part of the loads near or across a border.
fn random_program(random: &mut Random) -> Option<Program> {
    let length = 2 + random.below(14);
    let mut insns: Vec<_> = (0..3).map(|cell| Insn::new(0x02, 0, 0, cell)).collect();
    for at in 0..length {
        let left = length - at;
        let near = random.below(40);
        let base = random.pick(&[
            0,
            0,
            0,
            0,
            0xffff_fff0,
            0xfff0_0000,
            0xffef_fff8,
            0xffe0_0000,
            0x7fff_fff0,
        ]);
        let address = near.wrapping_add(base);
        let source = random.pick(&[0_u16, 8]);
        let word = random.word();
        let constant = random.pick(&[0, 1, 3, 8, 0x800, 0x8000_0000, u32::MAX, word]);
        insns.push(match random.below(10) {
            0..4 => Insn::new(
                random.pick(&[0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0xb1]),
                0,
                0,
                address,
            ),
            4 => Insn::new(
                0x20,
                0,
                0,
                0xffff_f000 + random.pick(&[0, 4, 8, 20, 24, 28, 32, 40, 44, 48, 60]),
            ),
            5 | 6 => {
                let op = random.pick(&[0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x90, 0xa0]);
                let k = if matches!(op, 0x60 | 0x70) {
                    constant % 32
                } else {
                    constant.max(1)
                };
                Insn::new(0x04 | op | source, 0, 0, k)
            }
            7 => Insn::new(random.pick(&[0x84, 0x07, 0x87, 0x80, 0x81]), 0, 0, 0),
            8 => Insn::new(
                random.pick(&[0x00, 0x01, 0x02, 0x03, 0x60, 0x61]),
                0,
                0,
                near % 3,
            ),
            _ => {
                let mut skip = || random.below(left.min(4)).to_le_bytes()[0];
                let (jt, jf) = (skip(), skip());
                Insn::new(
                    random.pick(&[0x15, 0x25, 0x35, 0x45]) | source,
                    jt,
                    jf,
                    constant,
                )
            }
        });
    }
    insns.push(random.pick(&[Insn::new(0x16, 0, 0, 0), Insn::new(0x06, 0, 0, 9)]));
    Program::new(insns).ok()
}

#[test]
fn every_packet_comes_out_as_the_interpreter_has_it() {
    let mut random = Random(11);
    let (mut runs, mut accepted) = (0, 0);
    for _ in 0..500 {
        let Some(program) = random_program(&mut random) else {
            continue;
        };
        let mut space = Space::new(1 << 20);
        let deadline = Deadline::after(Duration::from_secs(60));
        let outcome = run(&program, &mut space, deadline).unwrap();
        let value = outcome.value(&mut space);
        let accepts = outcome.accepts(&mut space);
        let conditions = space.settle().to_vec();
        assert!(!space.graph.exhausted());
        for _ in 0..12 {
            let length = random.below(60);
            let (bytes, front) = (random.bytes(length), random.below(3) * 4);
            let headroom = random.bytes(front);
            let mut packet = Packet::new(&bytes, random.meta());
            packet.headroom = &headroom;
            let expected = interpret(&program, &packet);
            let bit = values(&space, &packet);
            assert_eq!(value.evaluate(&bit), expected, "{program:?} on {packet:?}");
            assert_eq!(bit(accepts), expected != 0);
            assert!(
                conditions.iter().all(|condition| bit(*condition)),
                "{program:?} on {packet:?}"
            );
            runs += 1;
            accepted += u32::from(expected != 0);
        }
    }
    assert!(runs > 4_000 && accepted > runs / 10, "{accepted} of {runs}");
}
