//! Programs on packets: the interpreter, the kernel's classic machine and the translation agree.

use capwarden::filter::{
    Ancillary, EbpfInsn, Meta, Op, Packet, Program, TranslateError, VlanError, VlanTag, interpret,
    see_vlan_tags, translate,
};

use crate::{
    generate,
    kernel::{Pair, attach_ebpf, load, takes, test_meta, test_run, verdict},
    source::Source,
};

const MOST_INSTRUCTIONS: usize = 64;
const MOST_FRAMES: usize = 6;

struct Pairs {
    classic: Pair,
    translated: Pair,
}

thread_local! {
    static PAIRS: Pairs = Pairs { classic: Pair::new(), translated: Pair::new() };
}

/// One program or two, one behind the other, on a few packets.
pub fn translation(input: &[u8]) {
    let mut source = Source::new(input);
    let kind = source.byte();
    let mut programs = vec![generate::program(&mut source, MOST_INSTRUCTIONS)];
    if kind & 3 == 3 {
        programs.push(generate::program(&mut source, MOST_INSTRUCTIONS / 4));
    }
    let mut code = Vec::new();
    for program in &programs {
        match translate(program) {
            Ok(part) => {
                assert!(part.len() <= 32 + 24 * program.ops().len());
                code.extend(part);
            }
            Err(error) => return assert_refused(program, &error),
        }
    }
    code.extend(verdict());
    let mut frames = Vec::new();
    while !source.is_empty() && frames.len() < MOST_FRAMES {
        let frame = generate::frame(&mut source);
        frames.push((frame, u32::from(source.byte())));
    }
    for (frame, _) in &frames {
        programs.iter().for_each(|program| see_tag(program, frame));
    }
    PAIRS.with(|pairs| agree(pairs, &programs, &code, &frames));
}

/// A frame with its tag beside its bytes is to be seen as the same frame with the tag in them.
fn see_tag(program: &Program, frame: &[u8]) {
    let seeing = match see_vlan_tags(program) {
        Ok(seeing) => seeing,
        Err(VlanError::LinkHeader { .. } | VlanError::NoFreeCell { .. }) => return,
        Err(error @ VlanError::Program(_)) => panic!("{error}: {program:?}"),
    };
    let (Some(addresses), Some([p0, p1, c0, c1]), Some(rest)) =
        (frame.get(..12), frame.get(12..16), frame.get(16..))
    else {
        return;
    };
    let meta = Meta {
        interface_index: 1,
        network_header: 18,
        ..Meta::default()
    };
    let tagged = Meta {
        vlan: Some(VlanTag {
            protocol: u16::from_be_bytes([*p0, *p1]),
            control: u16::from_be_bytes([*c0, *c1]),
        }),
        network_header: 14,
        ..meta
    };
    let beside = [addresses, rest].concat();
    assert_eq!(
        interpret(&seeing, &Packet::new(&beside, tagged)),
        interpret(program, &Packet::new(frame, meta)),
        "{frame:02x?}\n{program:?}\n{seeing:?}"
    );
    assert_eq!(
        interpret(&seeing, &Packet::new(frame, meta)),
        interpret(program, &Packet::new(frame, meta)),
    );
}

fn assert_refused(program: &Program, error: &TranslateError) {
    let TranslateError::HardwareType { at } = error else {
        panic!("{error}: {program:?}");
    };
    let hardware_type = Op::LoadAncillary(Ancillary::HardwareType);
    assert_eq!(program.ops().get(*at), Some(&hardware_type));
}

fn agree(pairs: &Pairs, programs: &[Program], code: &[EbpfInsn], frames: &[(Vec<u8>, u32)]) {
    let loaded =
        load(code).unwrap_or_else(|(error, log)| panic!("{error}\n{log}\n{programs:?}\n{code:?}"));
    attach_ebpf(&pairs.translated.1, &loaded).unwrap();
    // Two classic programs on one socket there are not.
    let classic = match programs {
        [program] => {
            assert_eq!(takes(&pairs.classic, program.insns()), Some(true));
            Some(program)
        }
        _ => None,
    };
    for (frame, mark) in frames {
        let accepts = |packet: &Packet<'_>| programs.iter().all(|one| interpret(one, packet) != 0);
        // A socket pair's packets have no device and no link header.
        let packet = Packet::new(frame, Meta::default());
        let delivered = pairs.translated.deliver(frame);
        assert_eq!(
            delivered.is_some(),
            accepts(&packet),
            "eBPF on {frame:02x?}\n{programs:?}\n{code:?}"
        );
        if let Some(program) = classic {
            let ours = interpret(program, &packet);
            // The kernel trims to the verdict, and never to nothing.
            let length = usize::try_from(ours).unwrap().max(1).min(frame.len());
            let expected = (ours != 0).then_some(length);
            let theirs = pairs.classic.deliver(frame);
            assert_eq!(theirs, expected, "classic on {frame:02x?}\n{program:?}");
        }
        if frame.len() > 14
            && let Some(returned) = test_run(&loaded, frame, *mark)
        {
            let mut packet = Packet::new(&frame[14..], test_meta(frame, *mark));
            packet.headroom = &frame[..14];
            assert_eq!(
                returned != 0,
                accepts(&packet),
                "eBPF returned {returned} for {packet:02x?}\n{programs:?}\n{code:?}"
            );
        }
    }
}
