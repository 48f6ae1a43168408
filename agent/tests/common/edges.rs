//! The ways out of a program's branches, as programs that accept the packets that take them. So
//! the interpreter measures which ways packets take, and the prover finds packets for those that
//! none takes, or proves that none can.

use std::collections::HashSet;

use capwarden::filter::{Ancillary, Insn, Op, Program};

/// One way out of one branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Edge {
    /// The branch's instruction.
    pub at: usize,
    /// Whether it is the way of a test that holds.
    pub holds: bool,
}

/// Both ways out of every branch whose ways differ.
pub fn of(program: &Program) -> HashSet<Edge> {
    let ops = program.ops().iter().enumerate();
    let branches =
        ops.filter(|(_, op)| matches!(op, Op::Branch { then, otherwise, .. } if then != otherwise));
    branches
        .flat_map(|(at, _)| [true, false].map(|holds| Edge { at, holds }))
        .collect()
}

impl Edge {
    /// The first of the ways that a packet takes, out of what [`taking_any`] returns for it.
    pub fn of_verdict(verdict: u32) -> Option<Self> {
        let number = usize::try_from(verdict.checked_sub(1)?).unwrap();
        Some(Self {
            at: number / 2,
            holds: number % 2 == 1,
        })
    }

    fn verdict(self) -> u32 {
        u32::try_from(1 + self.at * 2 + usize::from(self.holds)).unwrap()
    }
}

/// A program that accepts the packets with which a program takes one of these ways, and says by its
/// verdict which was the first.
pub fn taking_any(program: &Program, edges: &HashSet<Edge>) -> Program {
    const REJECT: Insn = Insn::new(0x06, 0, 0, 0);
    // A branch becomes three instructions: itself, and one for each of its ways, which may lead
    // further than a branch can. What ends a program with A is given a zero to end it with.
    let size = |op: &Op| match op {
        Op::Branch { .. } => 3,
        _ if returns_a_without_device(op) => 2,
        _ => 1,
    };
    let mut places = Vec::new();
    let mut length = 0;
    for op in program.ops() {
        places.push(length);
        length += size(op);
    }
    let jump = |from: usize, to: usize| {
        let distance = places[to] - from - 1;
        Insn::new(0x05, 0, 0, u32::try_from(distance).unwrap())
    };
    let mut insns = Vec::with_capacity(length);
    for (at, (insn, op)) in program.insns().iter().zip(program.ops()).enumerate() {
        match *op {
            Op::Jump(to) => insns.push(jump(insns.len(), to)),
            Op::Branch {
                then, otherwise, ..
            } => {
                insns.push(Insn {
                    jt: 0,
                    jf: 1,
                    ..*insn
                });
                for (holds, to) in [(true, then), (false, otherwise)] {
                    let edge = Edge { at, holds };
                    insns.push(if edges.contains(&edge) {
                        Insn::new(0x06, 0, 0, edge.verdict())
                    } else {
                        jump(insns.len(), to)
                    });
                }
            }
            Op::Return(_) | Op::ReturnA => insns.push(REJECT),
            _ if returns_a_without_device(op) => insns.extend([Insn::new(0x00, 0, 0, 0), *insn]),
            _ => insns.push(*insn),
        }
    }
    Program::new(insns).unwrap_or_else(|error| panic!("{error}: {program:?}"))
}

/// Whether the instruction ends the program with what is in A when the packet has no device.
const fn returns_a_without_device(op: &Op) -> bool {
    matches!(
        op,
        Op::LoadAncillary(Ancillary::InterfaceIndex | Ancillary::HardwareType)
    )
}
