//! A program on every packet at once.
//!
//! Jumps lead forward only, so one pass in order reaches each instruction after all that lead to
//! it. Where paths meet, their states become one: each register is the value of the path that was
//! taken. So the work grows with the program, not with its paths.

use super::{
    super::program::{AluOp, MEMORY_WORDS, Op, Operand, Program, Register, Size, Test},
    bits::Word,
    deadline::Deadline,
    graph::Lit,
    ranges::Ranges,
    space::Space,
    tuples::Tuples,
};

/// What a program does: where it returns, and under which condition. The conditions exclude each
/// other; a packet for which none holds is dropped.
#[derive(Debug)]
pub(super) struct Outcome {
    returns: Vec<(Lit, Word)>,
}

impl Outcome {
    /// The condition under which a packet is accepted.
    pub(super) fn accepts(&self, space: &mut Space) -> Lit {
        let graph = &mut space.graph;
        let accepted: Vec<_> = self
            .returns
            .iter()
            .map(|(reached, value)| {
                let some = value.not_zero(graph);
                graph.and(*reached, some)
            })
            .collect();
        graph.any(accepted)
    }

    /// The number that is returned.
    pub(super) fn value(&self, space: &mut Space) -> Word {
        let graph = &mut space.graph;
        self.returns
            .iter()
            .fold(Word::ZERO, |value, (reached, returned)| {
                Word::mux(graph, *reached, returned, &value)
            })
    }
}

/// The graph grew to its limit, or time ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exhausted;

/// Runs a program on every packet of a space.
pub(super) fn run(
    program: &Program,
    space: &mut Space,
    deadline: Deadline,
) -> Result<Outcome, Exhausted> {
    let live = live_slots(program.ops());
    let mut run = Run {
        space,
        live: &live,
        waiting: program.ops().iter().map(|_| Vec::new()).collect(),
        returns: Vec::new(),
    };
    run.reach(
        0,
        State {
            reached: Lit::TRUE,
            among: None,
            slots: [Word::ZERO; SLOTS],
        },
    );
    for (at, op) in program.ops().iter().enumerate() {
        for state in run.arrived(at, *op) {
            if state.reached != Lit::FALSE {
                run.step(at, *op, state);
            }
        }
        if run.space.graph.exhausted() || (at % 64 == 0 && deadline.passed()) {
            return Err(Exhausted);
        }
    }
    Ok(Outcome {
        returns: run.returns,
    })
}

/// States that differ in A or in memory cells are kept apart, as long as there are no more than
/// this, so that what is compared in the end is still a word of the packet.
const MOST_APART: usize = 16;

/// An IPv6 address is so many.
const MOST_WORDS: usize = 4;

/// A, X and the memory cells.
const SLOTS: usize = 2 + MEMORY_WORDS;
const A: usize = 0;
const X: usize = 1;

const fn slot(register: Register) -> usize {
    match register {
        Register::A => A,
        Register::X => X,
    }
}

fn cell(number: u8) -> usize {
    2 + usize::from(number)
}

#[derive(Clone)]
struct State {
    reached: Lit,
    /// More about how it is reached.
    among: Option<Box<Among>>,
    slots: [Word; SLOTS],
}

/// Words next to each other, and values of which they have some.
#[derive(Clone)]
struct Among {
    words: Vec<Word>,
    values: Tuples,
}

impl State {
    /// Makes all that is known of how it is reached one condition.
    fn settle(&mut self, space: &mut Space) {
        if let Some(among) = self.among.take() {
            let member = space.member(&among.words, &among.values);
            self.reached = space.graph.and(self.reached, member);
        }
    }

    /// Whether A and the memory cells hold the same values, as far as they matter.
    fn same_values(&self, other: &Self, live: u32) -> bool {
        let mut slots = self.slots.iter().zip(&other.slots).enumerate();
        slots.all(|(slot, (one, other))| slot == X || live >> slot & 1 == 0 || one == other)
    }

    /// Takes in another one that is reached alike, but for the values of some words.
    fn absorb(&mut self, other: &Self, live: u32) -> bool {
        let mut slots = self.slots.iter().zip(&other.slots).enumerate();
        if self.reached != other.reached
            || !slots.all(|(slot, (one, other))| live >> slot & 1 == 0 || one == other)
        {
            return false;
        }
        match (&mut self.among, &other.among) {
            (Some(mine), Some(theirs)) if mine.words == theirs.words => {
                mine.values.join(&theirs.values);
                if mine.values.is_all(&mine.words) {
                    self.among = None;
                }
                true
            }
            (Some(_), Some(_)) => false,
            // One of the two is reached whatever the values.
            _ => {
                self.among = None;
                true
            }
        }
    }

    fn get(&self, slot: usize) -> Word {
        self.slots.get(slot).copied().unwrap_or(Word::ZERO)
    }

    fn set(&mut self, slot: usize, value: Word) {
        if let Some(slot) = self.slots.get_mut(slot) {
            *slot = value;
        }
    }

    fn operand(&self, operand: Operand) -> Word {
        match operand {
            Operand::Constant(value) => Word::constant(value),
            Operand::X => self.get(X),
        }
    }
}

/// Makes two states one: each slot is what it is in the state that is reached.
fn merge(space: &mut Space, live: u32, other: &mut State, mut state: State) {
    other.settle(space);
    state.settle(space);
    let graph = &mut space.graph;
    let slots = other.slots.iter_mut().zip(state.slots).enumerate();
    for (slot, (merged, value)) in slots {
        if live >> slot & 1 == 0 {
            *merged = Word::ZERO;
        } else if *merged != value {
            *merged = Word::mux(graph, state.reached, &value, merged);
        }
    }
    other.reached = graph.or(other.reached, state.reached);
}

struct Run<'a> {
    space: &'a mut Space,
    /// For each instruction, the slots that it or a later one may read.
    live: &'a [u32],
    /// Those that reach an instruction.
    waiting: Vec<Vec<State>>,
    returns: Vec<(Lit, Word)>,
}

impl Run<'_> {
    fn reach(&mut self, at: usize, state: State) {
        let Some(waiting) = self.waiting.get_mut(at) else {
            return;
        };
        let live = self.live.get(at).copied().unwrap_or(u32::MAX);
        if waiting.iter_mut().any(|other| other.absorb(&state, live)) {
            return;
        }
        // What waits may take in more values of its word yet.
        if waiting.len() < MOST_APART {
            waiting.push(state);
        } else if let Some(other) = waiting.last_mut() {
            merge(self.space, live, other, state);
        }
    }

    /// The states that wait at an instruction, as few as they can be.
    fn arrived(&mut self, at: usize, op: Op) -> Vec<State> {
        let live = self.live.get(at).copied().unwrap_or(u32::MAX);
        let waiting = self.waiting.get_mut(at).map(std::mem::take);
        if let Op::Jump(_) = op {
            // Where it leads, there may be more of their kind.
            return waiting.unwrap_or_default();
        }
        let mut arrived: Vec<State> = Vec::new();
        for state in waiting.into_iter().flatten() {
            let mut others = arrived.iter_mut();
            match others.find(|other| other.same_values(&state, live)) {
                Some(other) => merge(self.space, live, other, state),
                None => arrived.push(state),
            }
        }
        arrived
    }

    /// Goes on in two ways, as a word compares to a constant.
    fn compare(&mut self, mut state: State, a: &Word, passing: &Ranges, then: usize, not: usize) {
        let mut among = match state.among.take() {
            Some(among) => *among,
            None => Among {
                words: Vec::new(),
                values: Tuples::All,
            },
        };
        let known = among.words.iter().position(|word| word == a);
        let at = known.unwrap_or_else(|| {
            // A search goes on to an address's next word with one value of the one before.
            let follows = match among.words.last() {
                Some(last) => self.space.adjacent(last, a) && among.values.is_single(),
                None => true,
            };
            if !follows || among.words.len() >= MOST_WORDS {
                state.among = Some(Box::new(std::mem::replace(
                    &mut among,
                    Among {
                        words: Vec::new(),
                        values: Tuples::All,
                    },
                )));
                state.settle(self.space);
            }
            among.words.push(*a);
            among.words.len() - 1
        });
        let all = Ranges::of(a);
        for (to, ranges) in [(then, all.and(passing)), (not, all.and(&passing.not()))] {
            if ranges.is_empty() || state.reached == Lit::FALSE {
                continue;
            }
            let mut among = among.clone();
            if ranges != all {
                among.values = among.values.restricted(at, &ranges);
            } else if known.is_none() {
                among.words.pop();
            }
            if !among.values.is_empty() {
                let mut state = state.clone();
                state.among = (among.values != Tuples::All).then(|| Box::new(among));
                self.reach(to, state);
            }
        }
    }

    fn step(&mut self, at: usize, op: Op, mut state: State) {
        let graph = &mut self.space.graph;
        match op {
            Op::LoadAbsolute { size, offset } => {
                let loaded = self.space.load(size, offset);
                self.load(&mut state, A, loaded);
            }
            Op::LoadIndirect { size, offset } => {
                let loaded = self.space.load_indexed(size, &state.get(X), offset);
                self.load(&mut state, A, loaded);
            }
            Op::LoadHeaderLength { offset } => {
                let (byte, inside) = self.space.load(Size::Byte, offset);
                let nibble = byte.bits().first_chunk::<4>();
                let words = nibble.map_or(Word::ZERO, |nibble| Word::from_bits(nibble));
                self.load(&mut state, X, (words.shifted_left(2), inside));
            }
            Op::LoadAncillary(what) => {
                state.settle(self.space);
                let (value, device) = self.space.ancillary(what);
                let graph = &mut self.space.graph;
                let without = graph.and(state.reached, !device);
                if without != Lit::FALSE {
                    self.returns.push((without, state.get(A)));
                }
                self.load(&mut state, A, (value, device));
            }
            Op::LoadLength(to) => state.set(slot(to), self.space.stated_length()),
            Op::LoadConstant(to, value) => state.set(slot(to), Word::constant(value)),
            Op::LoadMemory(to, from) => state.set(slot(to), state.get(cell(from))),
            Op::Store(from, to) => state.set(cell(to), state.get(slot(from))),
            Op::Alu(op, operand) => {
                let right = state.operand(operand);
                self.arithmetic(&mut state, op, &right);
            }
            Op::Negate => state.set(A, Word::ZERO.sub(graph, &state.get(A))),
            Op::Copy(to) => {
                let from = match to {
                    Register::A => X,
                    Register::X => A,
                };
                state.set(slot(to), state.get(from));
            }
            Op::Jump(to) => return self.reach(to, state),
            Op::Branch {
                test,
                operand,
                then,
                otherwise,
            } => {
                let (a, right) = (state.get(A), state.operand(operand));
                if let (Operand::Constant(k), None) = (operand, a.as_constant())
                    && let Some(passing) = Ranges::passing(test, k)
                    && then != otherwise
                {
                    return self.compare(state, &a, &passing, then, otherwise);
                }
                state.settle(self.space);
                let graph = &mut self.space.graph;
                let holds = match test {
                    Test::Equal => a.equals(graph, &right),
                    Test::Greater => !right.at_least(graph, &a),
                    Test::GreaterOrEqual => a.at_least(graph, &right),
                    Test::AnyBit => a.and(graph, &right).not_zero(graph),
                };
                if then == otherwise {
                    return self.reach(then, state);
                }
                let reached = state.reached;
                let reached_then = graph.and(reached, holds);
                let reached_otherwise = graph.and(reached, !holds);
                state.reached = reached_otherwise;
                if reached_then != Lit::FALSE {
                    let mut state = state.clone();
                    state.reached = reached_then;
                    self.reach(then, state);
                }
                if reached_otherwise != Lit::FALSE {
                    self.reach(otherwise, state);
                }
                return;
            }
            Op::Return(value) => {
                state.settle(self.space);
                return self.returns.push((state.reached, Word::constant(value)));
            }
            Op::ReturnA => {
                state.settle(self.space);
                return self.returns.push((state.reached, state.get(A)));
            }
        }
        self.reach(at + 1, state);
    }

    /// Goes on with what was loaded, where that succeeded.
    fn load(&mut self, state: &mut State, to: usize, (value, succeeds): (Word, Lit)) {
        state.set(to, value);
        state.reached = self.space.graph.and(state.reached, succeeds);
    }

    fn arithmetic(&mut self, state: &mut State, op: AluOp, right: &Word) {
        let graph = &mut self.space.graph;
        let a = state.get(A);
        let value = match op {
            AluOp::Add => a.add(graph, right),
            AluOp::Sub => a.sub(graph, right),
            AluOp::Mul => a.mul(graph, right),
            AluOp::Div | AluOp::Mod => {
                let some = right.not_zero(graph);
                state.reached = graph.and(state.reached, some);
                let (quotient, remainder) = a.div_rem(graph, right);
                if op == AluOp::Div {
                    quotient
                } else {
                    remainder
                }
            }
            AluOp::And => a.and(graph, right),
            AluOp::Or => a.or(graph, right),
            AluOp::Xor => a.xor(graph, right),
            AluOp::Shl => a.shift(graph, right, Word::shifted_left),
            AluOp::Shr => a.shift(graph, right, Word::shifted_right),
        };
        state.set(A, value);
    }
}

/// The registers whose values matter at an instruction.
pub(in super::super) fn live_registers(program: &Program, at: usize) -> Vec<Register> {
    let live = live_slots(program.ops()).get(at).copied().unwrap_or(0);
    let mut registers = vec![Register::A, Register::X];
    registers.retain(|register| live >> slot(*register) & 1 == 1);
    registers
}

/// For each instruction, the slots whose values matter there, as bits.
fn live_slots(ops: &[Op]) -> Vec<u32> {
    let mut live = vec![0_u32; ops.len() + 1];
    for (at, op) in ops.iter().enumerate().rev() {
        let after = |at: usize| live.get(at).copied().unwrap_or(0);
        let next = after(at + 1);
        let of = |operand| match operand {
            Operand::X => 1 << X,
            Operand::Constant(_) => 0,
        };
        let here = match *op {
            Op::LoadAbsolute { .. } => next & !(1 << A),
            Op::LoadIndirect { .. } => next & !(1 << A) | 1 << X,
            Op::LoadHeaderLength { .. } => next & !(1 << X),
            // Without a device A is returned.
            Op::LoadAncillary(_) => next | 1 << A,
            Op::LoadLength(to) | Op::LoadConstant(to, _) => next & !(1 << slot(to)),
            Op::LoadMemory(to, from) => next & !(1 << slot(to)) | 1 << cell(from),
            Op::Store(from, to) => next & !(1 << cell(to)) | 1 << slot(from),
            Op::Alu(_, operand) => next | 1 << A | of(operand),
            Op::Negate => next | 1 << A,
            Op::Copy(Register::A) => next & !(1 << A) | 1 << X,
            Op::Copy(Register::X) => next & !(1 << X) | 1 << A,
            Op::Jump(to) => after(to),
            Op::Branch {
                operand,
                then,
                otherwise,
                ..
            } => after(then) | after(otherwise) | 1 << A | of(operand),
            Op::Return(_) => 0,
            Op::ReturnA => 1 << A,
        };
        if let Some(slot) = live.get_mut(at) {
            *slot = here;
        }
    }
    live
}

#[cfg(test)]
mod tests;
