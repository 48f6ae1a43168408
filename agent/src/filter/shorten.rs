//! Leaves out what earlier instructions have settled, before a program is translated.
//!
//! libpcap's optimizer stays off (see `compile`), so `host a or host b or …` asks for the protocol
//! and loads the addresses again for every host. That is slow: a load costs a call in eBPF.
//! Here, two things are done that leave the verdict on every packet as it is:
//!
//! - A jump is led past loads that were done before on the way to it, and past tests whose outcome
//!   is known there, as far as A then holds what it would have held or is overwritten next.
//! - A load that was done before on every way to it is taken from the stack instead.
//!
//! Both are sound because a packet does not change while it is looked at: the same load gives the
//! same value, and does not fail if it did not fail before. Only loads at constant offsets within
//! the packet are followed. Jumps lead forward only, so one pass sees every way to an instruction
//! before the instruction itself.

use std::collections::BTreeMap;

use super::program::{Op, Operand, Register, Size, Test};

/// Loads that are followed at once, and slots, at most.
const MOST_LOADS: usize = 24;
/// Values that are known to be ruled out, for one load.
const MOST_RULED_OUT: usize = 8;
/// How far one jump is led on.
const MOST_STEPS: usize = 1024;

/// What becomes of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cached {
    /// It is done.
    No,
    /// It is done, and the value kept in this slot.
    Keep(u8),
    /// The value is in this slot.
    Take(u8),
}

/// A program of the same length, and for each instruction what becomes of its load.
pub(super) fn shorten(ops: &[Op]) -> (Vec<Op>, Vec<Cached>) {
    let mut ops = ops.to_vec();
    let mut again = vec![false; ops.len()];
    let mut arriving: Vec<Option<Facts>> = vec![None; ops.len()];
    arrive(&mut arriving, 0, Facts::default());
    for at in 0..ops.len() {
        let Some(facts) = arriving.get_mut(at).and_then(Option::take) else {
            continue; // nothing leads here any more
        };
        let Some(&op) = ops.get(at) else { continue };
        let shorter = match op {
            Op::Return(_) | Op::ReturnA => op,
            Op::Jump(to) => {
                let to = lead(&ops, to, &facts);
                arrive(&mut arriving, to, facts);
                Op::Jump(to)
            }
            Op::Branch {
                test,
                operand,
                then,
                otherwise,
            } => match facts.outcome(facts.a, test, operand) {
                Some(holds) => {
                    let to = lead(&ops, if holds { then } else { otherwise }, &facts);
                    arrive(&mut arriving, to, facts);
                    Op::Jump(to)
                }
                None => {
                    let mut side = |to, holds| {
                        let mut facts = facts.clone();
                        facts.learn(test, operand, holds);
                        let to = lead(&ops, to, &facts);
                        arrive(&mut arriving, to, facts);
                        to
                    };
                    Op::Branch {
                        test,
                        operand,
                        then: side(then, true),
                        otherwise: side(otherwise, false),
                    }
                }
            },
            _ => {
                let done = Load::of(op).is_some_and(|load| facts.loaded.contains_key(&load));
                if let Some(again) = again.get_mut(at) {
                    *again = done;
                }
                arrive(&mut arriving, at + 1, facts.after(op));
                op
            }
        };
        if let Some(op) = ops.get_mut(at) {
            *op = shorter;
        }
    }
    let cached = slots(&ops, &again);
    (ops, cached)
}

/// A slot for each load that is taken again anywhere.
fn slots(ops: &[Op], again: &[bool]) -> Vec<Cached> {
    let mut slots = BTreeMap::new();
    for (op, again) in ops.iter().zip(again) {
        if let (Some(load), true) = (Load::of(*op), again)
            && slots.len() < MOST_LOADS
        {
            let next = u8::try_from(slots.len()).unwrap_or(u8::MAX);
            slots.entry(load).or_insert(next);
        }
    }
    let cached = |(op, again): (&Op, &bool)| {
        let slot = Load::of(*op).and_then(|load| slots.get(&load));
        match (slot, again) {
            (Some(slot), true) => Cached::Take(*slot),
            (Some(slot), false) => Cached::Keep(*slot),
            (None, _) => Cached::No,
        }
    };
    ops.iter().zip(again).map(cached).collect()
}

fn arrive(arriving: &mut [Option<Facts>], at: usize, facts: Facts) {
    if let Some(before) = arriving.get_mut(at) {
        *before = Some(match before.take() {
            Some(before) => before.and(&facts),
            None => facts,
        });
    }
}

/// Where a jump with these facts may as well lead.
fn lead(ops: &[Op], to: usize, facts: &Facts) -> usize {
    let mut a = facts.a;
    let mut at = to;
    let mut best = to;
    for _ in 0..MOST_STEPS {
        let Some(&op) = ops.get(at) else { break };
        at = match op {
            Op::Jump(to) => to,
            Op::Branch {
                test,
                operand,
                then,
                otherwise,
            } => match facts.outcome(a, test, operand) {
                Some(true) => then,
                Some(false) => otherwise,
                None => break,
            },
            _ => match Load::of(op) {
                Some(load) if facts.loaded.contains_key(&load) => {
                    a = Some(load);
                    at + 1
                }
                _ => break,
            },
        };
        if a == facts.a || ops.get(at).is_some_and(|op| overwrites_a(*op)) {
            best = at;
        }
    }
    best
}

/// Whether an instruction makes no use of what A holds, and nothing after it can.
fn overwrites_a(op: Op) -> bool {
    matches!(
        op,
        Op::LoadAbsolute { .. }
            | Op::LoadIndirect { .. }
            | Op::LoadLength(Register::A)
            | Op::LoadConstant(Register::A, _)
            | Op::LoadMemory(Register::A, _)
            | Op::Copy(Register::A)
            | Op::Return(_)
    )
}

/// A load from a constant place in the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    offset: u32,
    bytes: usize,
}

impl Load {
    /// The load that an instruction is, if it is followed.
    fn of(op: Op) -> Option<Self> {
        match op {
            Op::LoadAbsolute { size, offset } => Some(Self {
                offset: u32::try_from(offset).ok()?,
                bytes: Size::bytes(size),
            }),
            _ => None,
        }
    }
}

/// What is known of a loaded value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Is(u32),
    IsNot(Vec<u32>),
}

/// What holds on every way to an instruction.
#[derive(Clone, Debug, Default)]
struct Facts {
    /// What A holds, if it is a loaded value.
    a: Option<Load>,
    /// The loads that were done.
    loaded: BTreeMap<Load, Value>,
}

impl Facts {
    fn after(mut self, op: Op) -> Self {
        match op {
            Op::LoadAbsolute { .. } => {
                self.a = Load::of(op);
                if let Some(load) = self.a
                    && self.loaded.len() < MOST_LOADS
                {
                    let unknown = Value::IsNot(Vec::new());
                    self.loaded.entry(load).or_insert(unknown);
                }
            }
            Op::LoadIndirect { .. }
            | Op::LoadAncillary(_)
            | Op::LoadLength(Register::A)
            | Op::LoadConstant(Register::A, _)
            | Op::LoadMemory(Register::A, _)
            | Op::Copy(Register::A)
            | Op::Alu(..)
            | Op::Negate => self.a = None,
            _ => {}
        }
        self
    }

    /// How a test ends, if that is known.
    fn outcome(&self, a: Option<Load>, test: Test, operand: Operand) -> Option<bool> {
        let Operand::Constant(k) = operand else {
            return None;
        };
        match (self.loaded.get(&a?)?, test) {
            (Value::Is(value), Test::Equal) => Some(*value == k),
            (Value::Is(value), Test::Greater) => Some(*value > k),
            (Value::Is(value), Test::GreaterOrEqual) => Some(*value >= k),
            (Value::Is(value), Test::AnyBit) => Some(*value & k != 0),
            (Value::IsNot(values), Test::Equal) => values.contains(&k).then_some(false),
            (Value::IsNot(_), _) => None,
        }
    }

    /// Takes note of how a test of A has ended.
    fn learn(&mut self, test: Test, operand: Operand, holds: bool) {
        let (Test::Equal, Operand::Constant(k), Some(load)) = (test, operand, self.a) else {
            return;
        };
        match self.loaded.get_mut(&load) {
            Some(value) if holds => *value = Value::Is(k),
            Some(Value::IsNot(values)) if values.len() < MOST_RULED_OUT => values.push(k),
            _ => {}
        }
    }

    /// What holds here and there.
    fn and(mut self, other: &Self) -> Self {
        if self.a != other.a {
            self.a = None;
        }
        self.loaded
            .retain(|load, value| match other.loaded.get(load) {
                Some(theirs) => {
                    *value = value.or(theirs);
                    true
                }
                None => false,
            });
        self
    }
}

impl Value {
    /// What is true of a value of which one of the two is.
    fn or(&self, other: &Self) -> Self {
        let without = |values: &[u32], value| {
            let kept = values
                .iter()
                .copied()
                .filter(|&ruled_out| ruled_out != value);
            Self::IsNot(kept.collect())
        };
        match (self, other) {
            (Self::Is(one), Self::Is(two)) if one == two => Self::Is(*one),
            (Self::Is(_), Self::Is(_)) => Self::IsNot(Vec::new()),
            (Self::Is(value), Self::IsNot(values)) | (Self::IsNot(values), Self::Is(value)) => {
                without(values, *value)
            }
            (Self::IsNot(one), Self::IsNot(two)) => {
                let both = one.iter().copied().filter(|value| two.contains(value));
                Self::IsNot(both.collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Insn, Meta, Packet, Program, interpret},
        *,
    };

    /// `host` asks of each address what `tcpdump -O` asks.
    fn hosts(count: u32) -> Program {
        let mut insns = Vec::new();
        let accept = count * 8;
        for host in 0..count {
            for field in [26, 30] {
                let at = u32::try_from(insns.len()).unwrap();
                insns.push(Insn::new(0x28, 0, 0, 12));
                insns.push(Insn::new(0x15, 0, 2, 0x800));
                insns.push(Insn::new(0x20, 0, 0, field));
                let to_accept = u8::try_from(accept - at - 4).unwrap();
                insns.push(Insn::new(0x15, to_accept, 0, host));
            }
        }
        insns.push(Insn::new(0x06, 0, 0, 262_144));
        insns.push(Insn::new(0x06, 0, 0, 0));
        // What rejects stands last: the last test of each host leads on, of the last one here.
        let last = insns.len() - 3;
        insns[last].jf = 1;
        insns[last - 2].jf = 3;
        Program::new(insns).unwrap()
    }

    /// The loads that are done on the way that a packet takes, and whether it is accepted.
    fn walk(ops: &[Op], cached: &[Cached], value: impl Fn(Load) -> u32) -> (usize, bool) {
        let (mut at, mut a, mut loads) = (0, 0, 0);
        loop {
            at = match ops[at] {
                Op::Return(verdict) => return (loads, verdict != 0),
                Op::Jump(to) => to,
                Op::Branch {
                    operand: Operand::Constant(k),
                    then,
                    otherwise,
                    ..
                } => {
                    if a == k {
                        then
                    } else {
                        otherwise
                    }
                }
                op => {
                    a = value(Load::of(op).unwrap());
                    loads += usize::from(!matches!(cached[at], Cached::Take(_)));
                    at + 1
                }
            };
        }
    }

    #[test]
    fn twenty_hosts_load_each_field_once() {
        let program = hosts(20);
        let (ops, cached) = shorten(program.ops());
        for (protocol, source, target) in [
            (0x800, 99, 98),
            (0x800, 99, 19),
            (0x800, 7, 99),
            (0x86dd, 3, 3),
        ] {
            let (loads, accepted) = walk(&ops, &cached, |load| match load.offset {
                12 => protocol,
                26 => source,
                _ => target,
            });
            let mut frame = vec![0; 34];
            frame[12..14].copy_from_slice(&u16::try_from(protocol).unwrap().to_be_bytes());
            frame[26..30].copy_from_slice(&source.to_be_bytes());
            frame[30..34].copy_from_slice(&target.to_be_bytes());
            let expected = interpret(&program, &Packet::new(&frame, Meta::default())) != 0;
            assert_eq!(accepted, expected);
            assert!(loads <= 3, "{loads} loads");
        }
    }

    #[test]
    fn a_value_that_is_used_is_not_passed_over() {
        // One way to the second load of byte 9 comes with another byte in A, the other does not.
        let program = Program::new(vec![
            Insn::new(0x30, 0, 0, 9),
            Insn::new(0x15, 0, 1, 6),
            Insn::new(0x30, 0, 0, 20),
            Insn::new(0x30, 0, 0, 9), // 3
            Insn::new(0x02, 0, 0, 0),
            Insn::new(0x16, 0, 0, 0),
        ]);
        let (ops, cached) = shorten(program.unwrap().ops());
        let Op::Branch { otherwise, .. } = ops[1] else {
            panic!("{ops:?}");
        };
        assert_eq!(otherwise, 4, "A holds it already");
        assert_eq!((cached[0], cached[3]), (Cached::Keep(0), Cached::Take(0)));
        assert_eq!(cached[2], Cached::No);
    }

    #[test]
    fn values_meet_as_what_is_true_of_both() {
        let is_not = |values: &[u32]| Value::IsNot(values.to_vec());
        assert_eq!(Value::Is(1).or(&Value::Is(2)), is_not(&[]));
        assert_eq!(Value::Is(1).or(&is_not(&[1, 2])), is_not(&[2]));
        assert_eq!(is_not(&[1, 3]).or(&is_not(&[3, 4])), is_not(&[3]));
    }
}
