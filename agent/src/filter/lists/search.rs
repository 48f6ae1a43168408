//! A search for a value among ranges of values, as code.

use std::collections::VecDeque;

use super::{
    super::{
        assemble::{
            Assembler,
            code::{JEQ, JGE, JGT},
        },
        program::Insn,
    },
    member::{Kind, Range},
};

/// So many pieces are tested one after the other.
const PIECES: usize = 4;

/// Places in the code that is made of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Label {
    /// What was the program's instruction of this number.
    At(usize),
    /// Where a list's values are looked for together.
    Together(usize),
    /// Somewhere within a search.
    Within(usize),
}

/// What becomes of a value of one word.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    Found,
    /// The next word decides.
    Word(Vec<Range>),
}

/// Values of one word from one to another that all lead to the same place.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    low: u32,
    high: u32,
    next: Next,
}

/// Appends searches to code.
pub(super) struct Searcher<'a> {
    pub(super) code: &'a mut Assembler<Label>,
    /// Labels that were used.
    used: usize,
}

impl<'a> Searcher<'a> {
    pub(super) const fn new(code: &'a mut Assembler<Label>) -> Self {
        Self { code, used: 0 }
    }

    pub(super) fn label(&mut self) -> Label {
        self.used += 1;
        Label::Within(self.used)
    }

    /// A search for a value whose first word is in A. `loads` load the others. Behind it nothing
    /// falls through.
    pub(super) fn search(
        &mut self,
        kind: Kind,
        ranges: &[Range],
        loads: &[Insn],
        found: Label,
        not: Label,
    ) {
        let mut waiting = VecDeque::from([(0_usize, None, ranges.to_vec())]);
        while let Some((word, label, ranges)) = waiting.pop_front() {
            if let Some(label) = label {
                self.code.place(label);
                if let Some(load) = word.checked_sub(1).and_then(|word| loads.get(word)) {
                    self.code.push(*load);
                }
            }
            let pieces = pieces(&ranges, kind.words().get(word..).unwrap_or_default());
            let leads = pieces.into_iter().map(|piece| {
                let to = match piece.next {
                    Next::Found => found,
                    Next::Word(ranges) => {
                        let label = self.label();
                        waiting.push_back((word + 1, Some(label), ranges));
                        label
                    }
                };
                (piece.low, piece.high, to)
            });
            let leads: Vec<_> = leads.collect();
            let bits = kind.words().get(word).copied().unwrap_or(32);
            let highest = u32::MAX.checked_shr(32 - bits).unwrap_or(0);
            self.halve(&leads, (0, highest), not);
        }
    }

    /// `bounds` is what A is known to be within.
    fn halve(&mut self, leads: &[(u32, u32, Label)], (least, most): (u32, u32), not: Label) {
        if leads.len() > PIECES
            && let Some((left, right)) = leads.split_at_checked(leads.len() / 2)
            && let Some(&(border, ..)) = right.first()
        {
            let (below, above) = (self.label(), self.label());
            self.code.branch(Insn::new(JGE, 0, 0, border), above, below);
            self.code.place(below);
            self.halve(left, (least, border.saturating_sub(1)), not);
            self.code.place(above);
            return self.halve(right, (border, most), not);
        }
        for &(low, high, to) in leads {
            let next = self.label();
            if low == high {
                self.code.branch(Insn::new(JEQ, 0, 0, low), to, next);
            } else {
                // Pieces ascend: what is below this one is in none that follows.
                if low > least {
                    let within = self.label();
                    self.code.branch(Insn::new(JGE, 0, 0, low), within, not);
                    self.code.place(within);
                }
                if high < most {
                    self.code.branch(Insn::new(JGT, 0, 0, high), next, to);
                } else {
                    self.code.jump(to);
                }
            }
            self.code.place(next);
        }
        self.code.jump(not);
    }
}

/// Cuts ranges into pieces by their first word; `widths` are the bits of the words.
fn pieces(ranges: &[Range], widths: &[u32]) -> Vec<Piece> {
    let rest = widths.iter().skip(1).sum::<u32>();
    let rest_mask = u128::MAX.checked_shr(128 - rest).unwrap_or(0);
    let mask = widths.first().map_or(0, |bits| u32::MAX >> (32 - bits));
    let word = |value: u128| {
        let value = u32::try_from(value >> rest & u128::from(u32::MAX));
        value.unwrap_or(u32::MAX) & mask
    };
    let mut pieces: Vec<Piece> = Vec::new();
    let mut add = |low: u32, high: u32, inner: Range| {
        let whole = inner == (0, rest_mask);
        match pieces.last_mut() {
            Some(Piece {
                high: before,
                next: Next::Found,
                ..
            }) if whole && before.checked_add(1) == Some(low) => *before = high,
            Some(Piece {
                low: same,
                next: Next::Word(ranges),
                ..
            }) if !whole && *same == low => ranges.push(inner),
            _ => pieces.push(Piece {
                low,
                high,
                next: if whole {
                    Next::Found
                } else {
                    Next::Word(vec![inner])
                },
            }),
        }
    };
    for &(from, to) in ranges {
        let (mut low, mut high) = (word(from), word(to));
        let (first, last) = (from & rest_mask, to & rest_mask);
        if low == high {
            add(low, high, (first, last));
            continue;
        }
        if first > 0 {
            add(low, low, (first, rest_mask));
            low += 1;
        }
        let cut = last < rest_mask;
        if cut {
            high -= 1;
        }
        if low <= high {
            add(low, high, (0, rest_mask));
        }
        if cut {
            add(high + 1, high + 1, (0, last));
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            super::{Meta, Packet, Program, interpret},
            member::joined,
        },
        *,
    };

    /// A program that accepts a packet that begins with a member.
    fn program(kind: Kind, ranges: &[Range]) -> Program {
        let mut code = Assembler::default();
        let mut at = 0;
        let loads = kind.words().iter().map(|bits| {
            let load = Insn::new(if *bits == 32 { 0x20 } else { 0x28 }, 0, 0, at);
            at += bits / 8;
            load
        });
        let loads: Vec<_> = loads.collect();
        code.push(loads[0]);
        Searcher::new(&mut code).search(kind, ranges, &loads[1..], Label::At(0), Label::At(1));
        code.place(Label::At(0));
        code.push(Insn::new(0x06, 0, 0, 1));
        code.place(Label::At(1));
        code.push(Insn::new(0x06, 0, 0, 0));
        Program::new(code.finish()).unwrap()
    }

    #[test]
    fn exactly_the_members_are_found() {
        let mut state = 7_u64;
        let mut random = move || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(99);
            u128::from(state >> 33) << 97 ^ u128::from(state >> 30) << 66 ^ u128::from(state >> 20)
        };
        for kind in Kind::ALL {
            let bits = kind.words().iter().sum::<u32>();
            for count in [1, 2, 5, 40, 700] {
                let ranges = (0..count).map(|number| {
                    let low = random() >> (128 - bits);
                    // Single values, neighbours, and ranges across words.
                    let length = [0, 0, 1, random() >> 60, random() >> 20][number % 5];
                    (low, (low + length).min(u128::MAX >> (128 - bits)))
                });
                let ranges = joined(ranges.collect());
                let program = program(kind, &ranges);
                let probes = ranges.iter().flat_map(|&(low, high)| {
                    let middle = low + (high - low) / 2;
                    [
                        low,
                        high,
                        middle,
                        low.wrapping_sub(1),
                        high.wrapping_add(1),
                        low ^ 1 << 16,
                    ]
                });
                let ends = [0, u128::MAX];
                for value in probes.chain(ends).collect::<Vec<_>>() {
                    let value = value & u128::MAX >> (128 - bits);
                    let bytes = (value << (128 - bits)).to_be_bytes();
                    let expected = ranges
                        .iter()
                        .any(|&(low, high)| (low..=high).contains(&value));
                    let got = interpret(&program, &Packet::new(&bytes, Meta::default())) != 0;
                    assert_eq!(got, expected, "{kind:?} {value:x} in {ranges:x?}");
                }
            }
        }
    }
}
