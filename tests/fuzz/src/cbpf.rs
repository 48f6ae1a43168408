//! Instructions out of nowhere: what is a program here is one to the kernel, and the other way
//! round.

use capwarden::filter::{
    Ancillary, Insn, MAX_INSTRUCTIONS, Meta, Packet, Program, ProgramError, interpret,
    rewrite_for_cooked,
};

use crate::{
    generate,
    kernel::{Pair, takes},
    source::Source,
};

/// The kernel copies no more; a socket's memory is often less.
const MOST: usize = 700;

thread_local! {
    static PAIR: Pair = Pair::new();
}

/// Whether instructions are a program, asked here and of the kernel.
pub fn cbpf(input: &[u8]) {
    let mut source = Source::new(input);
    let kind = source.byte();
    let mut insns = Vec::new();
    match kind & 3 {
        // As they are encoded.
        0 => {
            while !source.is_empty() && insns.len() < MOST {
                let (code, jt, jf) = (source.half(), source.byte(), source.byte());
                insns.push(Insn::new(code, jt, jf, source.word()));
            }
        }
        // Real operations in any order.
        1 => {
            while !source.is_empty() && insns.len() < MOST {
                insns.push(generate::any_insn(&mut source));
            }
            if kind & 4 == 0 {
                insns.push(Insn::new(0x06, 0, 0, 1));
            }
        }
        // A program with one or two instructions replaced, at times drawn out.
        _ => {
            let program = generate::program(&mut source, 48);
            insns.extend_from_slice(program.insns());
            for _ in 0..=(kind >> 2 & 1) {
                let at = source.below(insns.len());
                insns[at] = generate::any_insn(&mut source);
            }
            if kind & 8 != 0 {
                let at = source.below(insns.len());
                let times = usize::from(source.byte()) * 2;
                let insn = insns[at];
                insns.splice(at..at, std::iter::repeat_n(insn, times));
            }
        }
    }
    check(&insns);
}

fn check(insns: &[Insn]) {
    let theirs = PAIR.with(|pair| takes(pair, insns));
    match (ours(insns.to_vec()), theirs) {
        (Ok(program), Some(true) | None) => {
            assert!(program.insns().len() <= MAX_INSTRUCTIONS);
            assert_eq!(program.insns().len(), program.ops().len());
            runs(&program);
        }
        (Err(error), Some(false)) => assert!(!error.to_string().is_empty()),
        (Ok(_), Some(false)) => panic!("the kernel refuses {insns:?}"),
        (Err(error), Some(true) | None) => panic!("the kernel takes it: {error}: {insns:?}"),
    }
}

/// Our opinion, but for what is refused here and not in the kernel: loads of what is no function
/// of the packet. To the kernel's check they are loads like others.
fn ours(mut insns: Vec<Insn>) -> Result<Program, ProgramError> {
    loop {
        match Program::new(insns.clone()) {
            Err(ProgramError::NotOfThePacket { at, .. }) => {
                assert_ne!(insns[at].k, Ancillary::Protocol.k());
                insns[at].k = Ancillary::Protocol.k();
            }
            decided => return decided,
        }
    }
}

fn runs(program: &Program) {
    for length in [0, 1, 14, 60] {
        let bytes = vec![0x45; length];
        let _ = interpret(program, &Packet::new(&bytes, Meta::default()));
    }
    if let Ok(rewritten) = rewrite_for_cooked(program) {
        assert_eq!(rewritten.ops().len(), program.ops().len());
    }
}
