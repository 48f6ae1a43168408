use super::{super::program::Insn, *};

fn listing(insns: &[(u16, u8, u8, u32)]) -> Vec<EbpfInsn> {
    let insns = insns
        .iter()
        .map(|&(code, jt, jf, k)| Insn::new(code, jt, jf, k));
    translate(&Program::new(insns.collect()).unwrap()).unwrap()
}

const fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> EbpfInsn {
    EbpfInsn {
        code,
        dst,
        src,
        off,
        imm,
    }
}

#[test]
fn a_filter_is_translated_one_to_one() {
    let ip = [
        (0x28, 0, 0, 12),
        (0x15, 0, 1, 0x800),
        (0x06, 0, 0, 65535),
        (0x06, 0, 0, 0),
    ];
    let expected = [
        insn(0xbf, 6, 1, 0, 0),
        insn(0xb4, 0, 0, 0, 0),
        insn(0xb4, 7, 0, 0, 0),
        insn(0x28, 0, 0, 0, 12),
        insn(0x56, 0, 0, 1, 0x800), // if w0 != 0x800 goto +1
        insn(0x05, 0, 0, 2, 0),     // accepted
        insn(0xb4, 0, 0, 0, 0),
        insn(0x95, 0, 0, 0, 0),
        insn(0xbf, 1, 6, 0, 0),
    ];
    assert_eq!(listing(&ip), expected);
    let bytes = insn(0x56, 0, 7, -2, 0x800).to_bytes();
    assert_eq!(bytes, [0x56, 0x70, 0xfe, 0xff, 0, 8, 0, 0]);
}

#[test]
fn three_places_are_read_from_the_window() {
    let code = listing(&[
        (0x28, 0, 0, 12),
        (0x15, 0, 5, 0x800),
        (0x20, 0, 0, 26),
        (0x15, 0, 3, 7),
        (0xb1, 0, 0, 14),
        (0x48, 0, 0, 16),
        (0x15, 1, 0, 80),
        (0x06, 0, 0, 0),
        (0x06, 0, 0, 1),
    ]);
    let window = [
        insn(0xbf, 6, 1, 0, 0),
        insn(0xb4, 7, 0, 0, 0),
        insn(0xb4, 2, 0, 0, 0),
        insn(0xbf, 3, 10, 0, 0),
        insn(0x07, 3, 0, 0, -206), // so that 26 is aligned
        insn(0xb4, 4, 0, 0, 38),   // 16 + 20 + 2
        insn(0x85, 0, 0, 0, 26),
        insn(0x55, 0, 0, 18, 0), // too short
        insn(0x69, 0, 10, -194, 0),
        insn(0xdc, 0, 0, 0, 16),
        insn(0x56, 0, 0, 12, 0x800),
        insn(0x61, 0, 10, -180, 0),
        insn(0xdc, 0, 0, 0, 32),
        insn(0x56, 0, 0, 9, 7),
        insn(0x71, 7, 10, -192, 0),
        insn(0x54, 7, 0, 0, 0xf),
        insn(0x64, 7, 0, 0, 2),
        insn(0x56, 7, 0, 3, 20), // if w7 != 20 goto the LD_IND
        insn(0x69, 0, 10, -170, 0),
        insn(0xdc, 0, 0, 0, 16),
        insn(0x05, 0, 0, 1, 0),
        insn(0x48, 0, 7, 0, 16),
        insn(0x16, 0, 0, 2, 80),
        insn(0xb4, 0, 0, 0, 0),
        insn(0x95, 0, 0, 0, 0),
    ];
    assert_eq!(code[..window.len()], window);
    let rest = &code[window.len()..];
    assert_eq!(rest[0].code, JA, "over the copy without a window");
    assert_eq!(usize::from(rest[0].off.unsigned_abs()), rest.len() - 2);
    assert_eq!(
        rest[1..3],
        [insn(0xb4, 0, 0, 0, 0), insn(0x28, 0, 0, 0, 12)]
    );
    assert_eq!(rest.last(), Some(&insn(0xbf, 1, 6, 0, 0)));
}

#[test]
fn the_window_stays_clear_of_what_is_kept() {
    let lowest_slot = cache_slot(23);
    assert!(Window::BOTTOM + 3 + Window::MOST_BYTES <= lowest_slot);
    let window = Window {
        base: -206,
        bytes: 38,
    };
    assert_eq!(window.at(Size::Word, 34), Some(-172));
    assert_eq!(window.at(Size::Word, 28), None, "not aligned");
    assert_eq!(window.at(Size::Half, 38), None, "behind the end");
    assert_eq!(window.at(Size::Byte, -4096), None);
    assert_eq!(window.at(Size::Byte, i32::MAX), None);
}

#[test]
fn what_no_path_leads_to_is_left_out() {
    let code = listing(&[
        (0x05, 0, 0, 1),
        (0x20, 0, 0, 7),
        (0x06, 0, 0, 1),
        (0x06, 0, 0, 0),
    ]);
    assert!(
        code.iter()
            .all(|insn| insn.code != 0x20 && insn.code != EXIT)
    );
    assert_eq!(code.len(), 4, "prologue and the way out");
}

#[test]
fn an_acceptance_behind_a_rejection_needs_no_jump() {
    let code = listing(&[
        (0x28, 0, 0, 12),
        (0x15, 1, 0, 6),
        (0x06, 0, 0, 0),
        (0x06, 0, 0, 1),
    ]);
    let tail = [
        insn(0x16, 0, 0, 2, 6), // if w0 == 6 goto +2
        insn(0xb4, 0, 0, 0, 0),
        insn(0x95, 0, 0, 0, 0),
        insn(0xbf, 1, 6, 0, 0),
    ];
    assert_eq!(code[4..], tail);
}

#[test]
fn a_filter_that_accepts_nothing_still_leads_to_the_guard() {
    let code = listing(&[(0x20, 0, 0, 0), (0x06, 0, 0, 0)]);
    let expected = [
        insn(0xb4, 0, 0, 0, 0),
        insn(0x56, 0, 0, 1, 0),
        insn(0x95, 0, 0, 0, 0),
    ];
    assert_eq!(code, expected);
}

#[test]
fn no_jump_is_too_long_for_what_the_kernel_makes_of_it() {
    // One of each seven instructions is a packet load, and this jumps over nearly all.
    let mut insns = vec![Insn::new(0x15, 0, 1, 0), Insn::new(0x05, 0, 0, 4093)];
    insns.extend([Insn::new(0xb1, 0, 0, 0); 4093]);
    insns.push(Insn::new(0x06, 0, 0, 1));
    let code = translate(&Program::new(insns).unwrap()).unwrap();
    let longest = code.iter().map(|insn| insn.off).max().unwrap();
    assert!((6_000..=8_500).contains(&longest), "{longest}");
}

#[test]
fn larger_programs_have_bridges() {
    // A test at the very beginning and many on the way lead to the end.
    let mut insns = vec![Insn::new(0x15, 0, 1, 0), Insn::new(0x05, 0, 0, 119_999)];
    for at in 0..60_000_u32 {
        insns.push(Insn::new(0x15, 1, 0, at));
        insns.push(match at % 7 {
            0 => Insn::new(0x05, 0, 0, 119_999 - 2 * at),
            _ => Insn::new(0x04, 0, 0, 1),
        });
    }
    insns.extend([Insn::new(0x06, 0, 0, 0), Insn::new(0x06, 0, 0, 1)]);
    let code = translate(&Program::new(insns).unwrap()).unwrap();
    let mut reached = vec![false; code.len() + 1];
    reached[0] = true;
    for (at, insn) in code.iter().enumerate() {
        assert!(reached[at], "{at} of {} is not reached", code.len());
        let jumps = matches!(insn.code & 7, 5 | 6) && insn.code != EXIT;
        if jumps {
            assert!(insn.off >= 0);
            reached[at + 1 + usize::try_from(insn.off).unwrap()] = true;
        }
        if insn.code != EXIT && insn.code != JA {
            reached[at + 1] = true;
        }
    }
    assert!(code.len() > 60_000);
}

#[test]
fn the_hardware_type_is_refused() {
    let k = Ancillary::HardwareType.k();
    let insns = vec![Insn::new(0x20, 0, 0, k), Insn::new(0x16, 0, 0, 0)];
    let error = translate(&Program::new(insns).unwrap());
    assert_eq!(error, Err(TranslateError::HardwareType { at: 0 }));
}
