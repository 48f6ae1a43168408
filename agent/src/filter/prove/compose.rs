//! Two programs as one that delivers what both accept, and no more of it than either.
//!
//! ```text
//!   policy   … ret #k  ─────▶ ja ──┐         … ret #0 stays
//!            … ret a   ─────▶ ja ──┼─▶ A = 0? ret #0
//!                                  ▼
//!            (verdict of the policy is kept in a memory cell if it is not always the same)
//!            ld #0; ldx #0
//!   request  … ret #n  ─────▶ ret #min(n, k)
//! ```
//!
//! Both parts start from cleared registers, as the kernel starts a program. They may use the same
//! memory cells: [`Program::new`] has checked that neither reads what it has not written.
//!
//! Loading the interface's index or type ends a program with A when the packet has no device. Here
//! A is cleared before, so such a packet is dropped: a packet socket has none.

use super::super::{
    assemble::{
        Assembler,
        code::{JEQ, JGT, JGT_X, LD_CONSTANT, LDX_CONSTANT, LDX_MEMORY, RET, RET_A, ST, TXA},
    },
    program::{Ancillary, Insn, MEMORY_WORDS, Op, Program, ProgramError},
};

/// Why two programs cannot be joined.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ComposeError {
    /// Together they are no program, mostly because they are too long.
    #[error("the policy and the filter together: {0}")]
    Program(#[from] ProgramError),
    /// The policy returns different lengths and the request uses every memory cell.
    #[error("the filter uses all {MEMORY_WORDS} memory cells; one is needed")]
    NoFreeCell,
}

/// Joins two programs: the result accepts what both accept, and delivers the lesser length.
pub fn compose(requested: &Program, policy: &Program) -> Result<Program, ComposeError> {
    let limit = limit(requested, policy)?;
    let mut code = Assembler::default();
    let request = Label::Request;
    if let Limit::Kept(cell) = limit {
        // For the kernel's check, which follows a path through a `ret` to what stands behind it.
        code.push(Insn::new(ST, 0, 0, cell));
    }
    for (at, (op, insn)) in policy.ops().iter().zip(policy.insns()).enumerate() {
        code.place(Label::Policy(at));
        match *op {
            Op::Return(0) => code.push(*insn),
            Op::Return(length) => {
                if let Limit::Kept(cell) = limit {
                    code.push(Insn::new(LD_CONSTANT, 0, 0, length));
                    code.push(Insn::new(ST, 0, 0, cell));
                }
                code.jump(request);
            }
            Op::ReturnA => {
                code.push(Insn::new(JEQ, 0, 1, 0));
                code.push(Insn::new(RET, 0, 0, 0));
                if let Limit::Kept(cell) = limit {
                    code.push(Insn::new(ST, 0, 0, cell));
                }
                code.jump(request);
            }
            _ => copy(&mut code, *op, *insn, Label::Policy),
        }
    }
    code.place(request);
    code.push(Insn::new(LD_CONSTANT, 0, 0, 0));
    code.push(Insn::new(LDX_CONSTANT, 0, 0, 0));
    for (at, (op, insn)) in requested.ops().iter().zip(requested.insns()).enumerate() {
        code.place(Label::Requested(at));
        match (*op, limit) {
            (Op::Return(0), _) => code.push(*insn),
            (Op::Return(length), Limit::Constant(limit)) => {
                code.push(Insn::new(RET, 0, 0, length.min(limit)));
            }
            (Op::Return(length), Limit::Kept(cell)) => {
                code.push(Insn::new(LD_CONSTANT, 0, 0, length));
                return_lesser(&mut code, cell);
            }
            (Op::ReturnA, Limit::Constant(limit)) => {
                code.push(Insn::new(JGT, 0, 1, limit));
                code.push(Insn::new(RET, 0, 0, limit));
                code.push(Insn::new(RET_A, 0, 0, 0));
            }
            (Op::ReturnA, Limit::Kept(cell)) => return_lesser(&mut code, cell),
            _ => copy(&mut code, *op, *insn, Label::Requested),
        }
    }
    Ok(Program::new(code.finish())?)
}

/// What the policy lets through of a packet.
#[derive(Clone, Copy, Debug)]
enum Limit {
    Constant(u32),
    /// It depends on the path: a memory cell that the request does not use.
    Kept(u32),
}

fn limit(requested: &Program, policy: &Program) -> Result<Limit, ComposeError> {
    let mut lengths = policy.ops().iter().filter_map(|op| match op {
        Op::Return(0) => None,
        Op::Return(length) => Some(Some(*length)),
        Op::ReturnA => Some(None),
        _ => None,
    });
    let first = lengths.next();
    match first {
        // It accepts nothing.
        None => return Ok(Limit::Constant(0)),
        Some(Some(length)) if lengths.all(|other| other == Some(length)) => {
            return Ok(Limit::Constant(length));
        }
        _ => {}
    }
    let used = |cell: u8| {
        requested.ops().iter().any(
            |op| matches!(op, Op::Store(_, other) | Op::LoadMemory(_, other) if *other == cell),
        )
    };
    let cells = 0..u8::try_from(MEMORY_WORDS).unwrap_or(0);
    let free = cells.into_iter().find(|cell| !used(*cell));
    free.map(|cell| Limit::Kept(cell.into()))
        .ok_or(ComposeError::NoFreeCell)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Label {
    Policy(usize),
    Request,
    Requested(usize),
}

/// An instruction of one of the two, which takes A for granted only where the kernel does.
fn copy(code: &mut Assembler<Label>, op: Op, insn: Insn, label: fn(usize) -> Label) {
    if let Op::LoadAncillary(Ancillary::InterfaceIndex | Ancillary::HardwareType) = op {
        code.plain(LD_CONSTANT, 0);
    }
    code.copy(op, insn, label);
}

/// Returns A or what a cell holds, whichever is less.
fn return_lesser(code: &mut Assembler<Label>, cell: u32) {
    code.plain(LDX_MEMORY, cell);
    code.push(Insn::new(JGT_X, 0, 1, 0));
    code.plain(TXA, 0);
    code.plain(RET_A, 0);
}

#[cfg(test)]
mod tests {
    use super::{
        super::{super::program::MAX_INSTRUCTIONS, Budget, is_conjunction},
        *,
    };

    fn program(insns: Vec<Insn>) -> Program {
        Program::new(insns).unwrap()
    }

    fn joined(requested: &Program, policy: &Program) -> Program {
        let joined = compose(requested, policy).unwrap();
        let budget = Budget {
            time: std::time::Duration::from_secs(60),
            ..Budget::default()
        };
        let proof = is_conjunction(&joined, requested, policy, budget);
        assert_eq!(proof, Ok(true), "{:?}", joined.insns());
        joined
    }

    /// `ret` of one of two lengths, as a byte decides.
    fn two_lengths(at: u32, one: u32, other: u32) -> Program {
        program(vec![
            Insn::new(0x30, 0, 0, at),
            Insn::new(JEQ, 0, 1, 7),
            Insn::new(RET, 0, 0, one),
            Insn::new(RET, 0, 0, other),
        ])
    }

    #[test]
    fn the_lesser_length_is_delivered() {
        joined(&two_lengths(0, 100, 0), &two_lengths(1, 64, 64));
        joined(&two_lengths(0, 100, 50), &two_lengths(1, 64, 0));
        joined(&two_lengths(0, 100, 50), &two_lengths(1, 64, 96));
        joined(&two_lengths(0, 100, 50), &two_lengths(1, 0, 0));
        let length = program(vec![Insn::new(0x80, 0, 0, 0), Insn::new(RET_A, 0, 0, 0)]);
        joined(&length, &two_lengths(1, 64, 96));
        joined(&two_lengths(1, 64, 96), &length);
        let short = joined(&length, &two_lengths(1, 64, 64));
        assert_eq!(short.insns().len(), 4 + 2 + 1 + 3);
    }

    #[test]
    fn registers_and_memory_do_not_leak() {
        // The policy leaves everything full, the request returns what it finds.
        let policy = program(vec![
            Insn::new(LD_CONSTANT, 0, 0, 9),
            Insn::new(0x07, 0, 0, 0),
            Insn::new(RET, 0, 0, 70),
        ]);
        for code in [RET_A, TXA] {
            let mut insns = vec![Insn::new(code, 0, 0, 0), Insn::new(RET_A, 0, 0, 0)];
            insns.truncate(if code == RET_A { 1 } else { 2 });
            joined(&program(insns), &policy);
        }
    }

    #[test]
    fn tests_reach_further_than_they_can_say() {
        // Each of these loads becomes two instructions, so the first test needs jumps.
        let index = Ancillary::InterfaceIndex.k();
        let mut insns = vec![Insn::new(0x30, 0, 0, 0), Insn::new(JEQ, 255, 0, 7)];
        insns.extend([Insn::new(0x20, 0, 0, index); 254]);
        insns.extend([Insn::new(RET, 0, 0, 0), Insn::new(RET, 0, 0, 40)]);
        let far = program(insns);
        joined(&far, &two_lengths(1, 64, 96));
        joined(&two_lengths(1, 64, 0), &far);
    }

    #[test]
    fn what_cannot_be_joined_is_refused() {
        let mut insns: Vec<_> = (0..16).map(|cell| Insn::new(ST, 0, 0, cell)).collect();
        insns.push(Insn::new(RET, 0, 0, 1));
        let error = compose(&program(insns), &two_lengths(0, 1, 2));
        assert_eq!(error, Err(ComposeError::NoFreeCell));
        let mut insns = vec![Insn::new(0x80, 0, 0, 0); MAX_INSTRUCTIONS / 2];
        insns.push(Insn::new(RET, 0, 0, 1));
        let long = program(insns);
        // `assert_eq!` would print them.
        let error = compose(&long, &long).err();
        let too_long = ProgramError::TooLong(MAX_INSTRUCTIONS + 4);
        assert_eq!(error, Some(ComposeError::Program(too_long)));
    }
}
