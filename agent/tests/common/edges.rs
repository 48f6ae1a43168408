//! The ways out of a program's branches, each as a program of its own that accepts the packets that
//! take it. So the interpreter measures which ways packets take, and the prover finds packets for
//! those that none takes, or proves that none can.

use capwarden::filter::{Insn, Op, Program};

/// One way out of one branch.
#[derive(Clone, Debug)]
pub struct Edge {
    /// The branch's instruction.
    pub at: usize,
    /// Whether it is the way of a test that holds.
    pub holds: bool,
    /// Accepts the packets that take it.
    pub program: Program,
}

/// Both ways out of every branch whose ways differ, but those further behind a branch that leads
/// over them than a branch can lead.
pub fn of(program: &Program) -> Vec<Edge> {
    let ops = program.ops().iter().enumerate();
    let branches = ops.filter(
        |(_, op)| matches!(op, Op::Branch { then, otherwise, .. } if then != otherwise),
    );
    let edges = branches.flat_map(|(at, _)| [true, false].map(|holds| (at, holds)));
    let edges = edges.filter_map(|(at, holds)| {
        let program = taken(program, at, holds)?;
        Some(Edge { at, holds, program })
    });
    edges.collect()
}

/// The program up to a branch, which then accepts on one way and rejects on the other. What jumps
/// over the branch is rejected.
fn taken(program: &Program, at: usize, holds: bool) -> Option<Program> {
    const ACCEPT: Insn = Insn::new(0x06, 0, 0, 1);
    const REJECT: Insn = Insn::new(0x06, 0, 0, 0);
    let insns = program.insns();
    // Behind the branch: its two ways, and one place where all other ways end.
    let end = at + 3;
    let to_end = |from: usize| end - from - 1;
    let mut edge = Vec::with_capacity(end + 1);
    for (from, (insn, op)) in insns.iter().zip(program.ops()).take(at).enumerate() {
        let mut insn = *insn;
        match *op {
            Op::Jump(to) if to > at => insn.k = u32::try_from(to_end(from)).ok()?,
            Op::Branch {
                then, otherwise, ..
            } => {
                let short = u8::try_from(to_end(from));
                if then > at {
                    insn.jt = short.ok()?;
                }
                if otherwise > at {
                    insn.jf = short.ok()?;
                }
            }
            _ => {}
        }
        edge.push(insn);
    }
    let branch = insns.get(at)?;
    edge.push(Insn {
        jt: 0,
        jf: 1,
        ..*branch
    });
    edge.extend(if holds {
        [ACCEPT, REJECT]
    } else {
        [REJECT, ACCEPT]
    });
    edge.push(REJECT);
    Some(Program::new(edge).unwrap_or_else(|error| panic!("{error}: {program:?}")))
}
