//! Classic instructions with labels, turned into code whose jumps reach as far as they have to.
//!
//! A test can skip 255 instructions at most. Where its target is further away, it leads to a jump
//! that stands right behind it.

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

#[derive(Clone, Copy, Debug)]
enum Item<L> {
    Plain(Insn),
    Jump(L),
    Branch {
        insn: Insn,
        then: Side<L>,
        otherwise: Side<L>,
    },
}

/// Where a test leads; `far` when that is out of its reach.
#[derive(Clone, Copy, Debug)]
struct Side<L> {
    to: L,
    far: bool,
}

impl<L> Item<L> {
    fn len(&self) -> usize {
        match self {
            Self::Branch {
                then, otherwise, ..
            } => 1 + usize::from(then.far) + usize::from(otherwise.far),
            _ => 1,
        }
    }
}

/// Code in the making. Every label has to be placed, behind all that leads to it.
#[derive(Debug)]
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
    /// Appends an instruction as it is.
    pub(super) fn push(&mut self, insn: Insn) {
        self.items.push(Item::Plain(insn));
    }

    /// Appends an instruction of a code and a constant.
    pub(super) fn plain(&mut self, code: u16, k: u32) {
        self.push(Insn::new(code, 0, 0, k));
    }

    /// Appends a jump.
    pub(super) fn jump(&mut self, to: L) {
        self.items.push(Item::Jump(to));
    }

    /// Appends a test; the instruction's own distances do not count.
    pub(super) fn branch(&mut self, insn: Insn, then: L, otherwise: L) {
        let side = |to| Side { to, far: false };
        self.items.push(Item::Branch {
            insn,
            then: side(then),
            otherwise: side(otherwise),
        });
    }

    /// Puts a label in front of what comes next.
    pub(super) fn place(&mut self, label: L) {
        self.labels.insert(label, self.items.len());
    }

    /// Appends an instruction of a program whose places have these labels.
    pub(super) fn copy(&mut self, op: Op, insn: Insn, label: impl Fn(usize) -> L) {
        match op {
            Op::Jump(to) => self.jump(label(to)),
            Op::Branch {
                then, otherwise, ..
            } => self.branch(insn, label(then), label(otherwise)),
            _ => self.push(insn),
        }
    }

    /// The instructions. A label that was never placed leads out of the program, which
    /// [`Program::new`](super::Program::new) finds.
    pub(super) fn finish(mut self) -> Vec<Insn> {
        // A test that becomes longer can put another one out of reach, but none ever gets shorter.
        loop {
            let starts = self.starts();
            let mut changed = false;
            let labels = &self.labels;
            for (at, item) in self.items.iter_mut().enumerate() {
                if let Item::Branch {
                    then, otherwise, ..
                } = item
                {
                    for side in [then, otherwise] {
                        let far = u8::try_from(distance(&starts, labels, at, 1, &side.to)).is_err();
                        changed |= far && !side.far;
                        side.far |= far;
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
            let distance = distance(starts, &self.labels, at, offset, &to);
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
                } => {
                    let near = |label| {
                        let distance = distance(starts, &self.labels, at, 1, &label);
                        // `finish` has made the others far.
                        u8::try_from(distance).unwrap_or(u8::MAX)
                    };
                    code.push(Insn {
                        jt: if then.far { 0 } else { near(then.to) },
                        jf: match (then.far, otherwise.far) {
                            (_, false) => near(otherwise.to),
                            (false, true) => 0,
                            (true, true) => 1,
                        },
                        ..*insn
                    });
                    let far = [then, otherwise].into_iter().filter(|side| side.far);
                    for (number, side) in far.enumerate() {
                        code.push(jump(at, 2 + number, side.to));
                    }
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
    to: &L,
) -> usize {
    let start = |item: usize| starts.get(item).copied();
    let to = labels.get(to).and_then(|item| start(*item));
    match (start(from), to) {
        (Some(from), Some(to)) => to.checked_sub(from + offset).unwrap_or(usize::MAX),
        _ => usize::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_reaches_as_far_as_it_has_to() {
        let test = Insn::new(0x15, 0, 0, 7);
        let code = |near: &'static str, far: &'static str| {
            let mut code = Assembler::default();
            code.branch(test, near, far);
            code.push(Insn::new(0x87, 0, 0, 0));
            code.place("near");
            for _ in 0..300 {
                code.push(Insn::new(0x87, 0, 0, 0));
            }
            code.place("far");
            code.push(Insn::new(0x06, 0, 0, 0));
            code.finish()
        };
        let ja = |distance| Insn::new(0x05, 0, 0, distance);
        assert_eq!(code("near", "near")[0], Insn::new(0x15, 1, 1, 7));
        let there = |near, far| code(near, far)[..3].to_vec();
        let other = Insn::new(0x87, 0, 0, 0);
        assert_eq!(
            there("near", "far"),
            [Insn::new(0x15, 2, 0, 7), ja(301), other]
        );
        assert_eq!(
            there("far", "near"),
            [Insn::new(0x15, 0, 2, 7), ja(301), other]
        );
        assert_eq!(
            there("far", "far"),
            [Insn::new(0x15, 0, 1, 7), ja(302), ja(301)]
        );
    }
}
