//! Classic instructions with labels for jump targets, put in order and resolved.
//!
//! A test's targets are at most 255 instructions away; where they are further, the test is followed
//! by two jumps that lead there.

use std::{collections::HashMap, hash::Hash};

use super::program::{Insn, Op};

/// Codes of the instructions that are written here and there by hand.
pub(super) mod code {
    pub(in super::super) const LD_CONSTANT: u16 = 0x00;
    pub(in super::super) const LDX_CONSTANT: u16 = 0x01;
    pub(in super::super) const LD_MEMORY: u16 = 0x60;
    pub(in super::super) const LDX_MEMORY: u16 = 0x61;
    pub(in super::super) const LD_LENGTH: u16 = 0x80;
    pub(in super::super) const LD_BYTE: u16 = 0x30;
    pub(in super::super) const LD_WORD: u16 = 0x20;
    pub(in super::super) const ST: u16 = 0x02;
    pub(in super::super) const STX: u16 = 0x03;
    pub(in super::super) const ADD: u16 = 0x04;
    pub(in super::super) const AND: u16 = 0x54;
    pub(in super::super) const OR_X: u16 = 0x4c;
    pub(in super::super) const LSH: u16 = 0x64;
    pub(in super::super) const RSH: u16 = 0x74;
    pub(in super::super) const JA: u16 = 0x05;
    pub(in super::super) const JEQ: u16 = 0x15;
    pub(in super::super) const JGT: u16 = 0x25;
    pub(in super::super) const JGE: u16 = 0x35;
    pub(in super::super) const JGT_X: u16 = 0x2d;
    pub(in super::super) const TAX: u16 = 0x07;
    pub(in super::super) const TXA: u16 = 0x87;
    pub(in super::super) const RET: u16 = 0x06;
    pub(in super::super) const RET_A: u16 = 0x16;
}

enum Item<L> {
    Plain(Insn),
    Jump(L),
    /// A test; `far` when its targets are out of reach and jumps have to lead there.
    Branch {
        insn: Insn,
        then: L,
        otherwise: L,
        far: bool,
    },
}

impl<L> Item<L> {
    const fn len(&self) -> usize {
        match self {
            Self::Branch { far: true, .. } => 3,
            _ => 1,
        }
    }
}

/// Collects instructions; `L` names places.
pub(super) struct Assembler<L> {
    items: Vec<Item<L>>,
    /// Which item a label stands in front of.
    labels: HashMap<L, usize>,
}

impl<L> Default for Assembler<L> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            labels: HashMap::new(),
        }
    }
}

impl<L: Copy + Eq + Hash> Assembler<L> {
    /// An instruction that goes on with the next one, or returns.
    pub(super) fn push(&mut self, insn: Insn) {
        self.items.push(Item::Plain(insn));
    }

    /// The same, of a code and a constant.
    pub(super) fn plain(&mut self, code: u16, k: u32) {
        self.push(Insn::new(code, 0, 0, k));
    }

    pub(super) fn jump(&mut self, to: L) {
        self.items.push(Item::Jump(to));
    }

    /// A test; the jumps that `insn` has are replaced.
    pub(super) fn branch(&mut self, insn: Insn, then: L, otherwise: L) {
        self.items.push(Item::Branch {
            insn,
            then,
            otherwise,
            far: false,
        });
    }

    /// The label stands in front of what comes next.
    pub(super) fn place(&mut self, label: L) {
        self.labels.insert(label, self.items.len());
    }

    /// An instruction of another program, whose places have labels here.
    pub(super) fn copy(&mut self, op: Op, insn: Insn, label: impl Fn(usize) -> L) {
        match op {
            Op::Jump(to) => self.jump(label(to)),
            Op::Branch {
                then, otherwise, ..
            } => self.branch(insn, label(then), label(otherwise)),
            _ => self.push(insn),
        }
    }

    /// All instructions, every jump resolved. A label that was never placed, or stands in front of
    /// a jump to it, makes that jump lead nowhere, which [`Program::new`](super::Program::new)
    /// refuses.
    pub(super) fn finish(mut self) -> Vec<Insn> {
        // A test that becomes longer can put another one out of reach, but none ever gets shorter.
        loop {
            let starts = self.starts();
            let mut changed = false;
            for (at, item) in self.items.iter_mut().enumerate() {
                if let Item::Branch {
                    then,
                    otherwise,
                    far: far @ false,
                    ..
                } = item
                {
                    let near = |label| {
                        let distance = distance(&starts, &self.labels, at, 1, label);
                        u8::try_from(distance).is_ok()
                    };
                    if !near(*then) || !near(*otherwise) {
                        *far = true;
                        changed = true;
                    }
                }
            }
            if !changed {
                return self.code(&starts);
            }
        }
    }

    fn starts(&self) -> Vec<usize> {
        let mut start = 0;
        let mut starts = Vec::with_capacity(self.items.len());
        for item in &self.items {
            starts.push(start);
            start += item.len();
        }
        starts
    }

    fn code(&self, starts: &[usize]) -> Vec<Insn> {
        let jump = |at, offset, to| {
            let distance = distance(starts, &self.labels, at, offset, to);
            Insn::new(code::JA, 0, 0, u32::try_from(distance).unwrap_or(u32::MAX))
        };
        let mut code = Vec::new();
        for (at, item) in self.items.iter().enumerate() {
            match item {
                Item::Plain(insn) => code.push(*insn),
                Item::Jump(to) => code.push(jump(at, 1, *to)),
                Item::Branch {
                    insn,
                    then,
                    otherwise,
                    far: true,
                } => {
                    code.push(Insn {
                        jt: 0,
                        jf: 1,
                        ..*insn
                    });
                    code.push(jump(at, 2, *then));
                    code.push(jump(at, 3, *otherwise));
                }
                Item::Branch {
                    insn,
                    then,
                    otherwise,
                    far: false,
                } => {
                    let near = |label| {
                        let distance = distance(starts, &self.labels, at, 1, label);
                        // `finish` has made the others far.
                        u8::try_from(distance).unwrap_or(u8::MAX)
                    };
                    code.push(Insn {
                        jt: near(*then),
                        jf: near(*otherwise),
                        ..*insn
                    });
                }
            }
        }
        code
    }
}

/// Instructions to skip from a place behind an item to a label.
fn distance<L: Copy + Eq + Hash>(
    starts: &[usize],
    labels: &HashMap<L, usize>,
    from: usize,
    offset: usize,
    to: L,
) -> usize {
    let start = |item: usize| starts.get(item).copied();
    let to = labels.get(&to).and_then(|item| start(*item));
    match (start(from), to) {
        (Some(from), Some(to)) => to.checked_sub(from + offset).unwrap_or(usize::MAX),
        _ => usize::MAX,
    }
}
