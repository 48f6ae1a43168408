//! The path of one packet through a program, as conditions that other packets may fulfil.

use std::rc::Rc;

use super::super::{
    super::{
        Packet, Program, SocketForm,
        program::{AluOp, Ancillary, MEMORY_WORDS, Op, Operand, Register, Size, Test},
    },
    bits::Word,
    example::Example,
    graph::Lit,
    space::Space,
    well_formed::{IPV4, IPV6, TCP, UDP, ether_type, network_offset},
};

/// A number that a program computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Number {
    Constant(u32),
    Load {
        size: Size,
        /// What the place is counted from, if it is not the packet's beginning.
        index: Option<Rc<Self>>,
        offset: i32,
    },
    /// Four times the low half of a byte.
    HeaderLength(i32),
    Length,
    Ancillary(Ancillary),
    Alu(AluOp, Rc<Self>, Rc<Self>),
}

impl Number {
    fn value(&self, packet: &Packet<'_>) -> Option<u32> {
        Some(match self {
            Self::Constant(value) => *value,
            Self::Load {
                size,
                index,
                offset,
            } => {
                let index = match index {
                    Some(index) => index.value(packet)?,
                    None => 0,
                };
                packet.load(*size, index.cast_signed().wrapping_add(*offset))?
            }
            Self::HeaderLength(offset) => (packet.load(Size::Byte, *offset)? & 0xf) << 2,
            Self::Length => packet.wire_len,
            Self::Ancillary(what) => packet.ancillary(*what)?,
            Self::Alu(op, left, right) => op.apply(left.value(packet)?, right.value(packet)?)?,
        })
    }
}

/// An index without the constant that was added to it, and that constant.
fn without_constant(index: &Rc<Number>) -> (Rc<Number>, i32) {
    if let Number::Alu(AluOp::Add, left, right) = &**index {
        match (&**left, &**right) {
            (Number::Constant(more), _) => return (Rc::clone(right), more.cast_signed()),
            (_, Number::Constant(more)) => return (Rc::clone(left), more.cast_signed()),
            _ => {}
        }
    }
    (Rc::clone(index), 0)
}

/// Something that holds for every packet that takes a path.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    /// The same over all packets.
    pub(super) lit: Lit,
    /// Which instruction.
    pub(super) step: usize,
    pub(super) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A load succeeds, or a division.
    Succeeds(Rc<Number>),
    /// A test ends so.
    Test {
        left: Rc<Number>,
        test: Test,
        right: Rc<Number>,
        holds: bool,
    },
}

impl Condition {
    /// How much it says of a packet; more says less.
    pub(super) fn rank(&self) -> u8 {
        match &self.what {
            What::Test {
                test: Test::Equal,
                holds: true,
                ..
            } => 0,
            What::Test { holds: true, .. } => 1,
            What::Succeeds(_) => 2,
            What::Test { holds: false, .. } => 3,
        }
    }

    pub(super) fn holds_for(&self, packet: &Packet<'_>) -> bool {
        match &self.what {
            What::Succeeds(number) => number.value(packet).is_some(),
            What::Test {
                left,
                test,
                right,
                holds,
            } => match (left.value(packet), right.value(packet)) {
                (Some(left), Some(right)) => test.holds(left, right) == *holds,
                _ => false,
            },
        }
    }
}

/// A number, and the same over all packets.
#[derive(Clone)]
struct Both {
    number: Rc<Number>,
    word: Word,
}

impl Both {
    fn constant(value: u32) -> Self {
        Self {
            number: Rc::new(Number::Constant(value)),
            word: Word::constant(value),
        }
    }
}

/// Everyday packets, the most common first.
pub(super) fn everyday(space: &mut Space, form: SocketForm) -> Vec<Lit> {
    let Some(network) = network_offset(form) else {
        return Vec::new();
    };
    let network = u32::from(network);
    let kind = ether_type(space, form).unwrap_or(space.meta.protocol);
    let protocol = Word::from_bits(&space.byte(network + 9));
    let next = Word::from_bits(&space.byte(network + 6));
    let graph = &mut space.graph;
    let is = |graph: &mut _, word: &Word, value: u32| word.equals(graph, &Word::constant(value));
    let (four, six) = (is(graph, &kind, IPV4.into()), is(graph, &kind, IPV6.into()));
    let mut all = Vec::new();
    for (version, number) in [(four, &protocol), (six, &next)] {
        for transport in [TCP, UDP] {
            let transport = is(graph, number, transport.into());
            all.push(graph.and(version, transport));
        }
        all.push(version);
    }
    all
}

/// The conditions on the path that a packet takes to be accepted. None: it is not accepted.
pub(super) fn conditions(
    program: &Program,
    packet: &Example,
    space: &mut Space,
) -> Option<Vec<Condition>> {
    let mut walk = Walk {
        packet: packet.packet(),
        space,
        a: Both::constant(0),
        x: Both::constant(0),
        memory: vec![Both::constant(0); MEMORY_WORDS],
        conditions: Vec::new(),
        at: 0,
    };
    while let Some(op) = program.ops().get(walk.at) {
        let accepted = match *op {
            Op::Return(value) => value != 0,
            Op::ReturnA => {
                let a = walk.a.clone();
                walk.test(Test::Equal, &a, &Both::constant(0))?;
                a.number.value(&walk.packet)? != 0
            }
            op => {
                walk.step(op)?;
                continue;
            }
        };
        return accepted.then_some(walk.conditions);
    }
    None
}

struct Walk<'a> {
    packet: Packet<'a>,
    space: &'a mut Space,
    a: Both,
    x: Both,
    memory: Vec<Both>,
    conditions: Vec<Condition>,
    at: usize,
}

impl Walk<'_> {
    fn condition(&mut self, lit: Lit, what: What) {
        let step = self.at;
        self.conditions.push(Condition { lit, step, what });
    }

    fn set(&mut self, register: Register, value: Both) {
        match register {
            Register::A => self.a = value,
            Register::X => self.x = value,
        }
    }

    fn get(&self, register: Register) -> Both {
        match register {
            Register::A => self.a.clone(),
            Register::X => self.x.clone(),
        }
    }

    fn operand(&self, operand: Operand) -> Both {
        match operand {
            Operand::Constant(value) => Both::constant(value),
            Operand::X => self.x.clone(),
        }
    }

    /// A number that there has to be.
    fn there(&mut self, number: Number, (word, succeeds): (Word, Lit)) -> Option<Both> {
        number.value(&self.packet)?;
        let number = Rc::new(number);
        self.condition(succeeds, What::Succeeds(Rc::clone(&number)));
        Some(Both { number, word })
    }

    fn test(&mut self, test: Test, left: &Both, right: &Both) -> Option<bool> {
        let values = (
            left.number.value(&self.packet)?,
            right.number.value(&self.packet)?,
        );
        let holds = test.holds(values.0, values.1);
        let graph = &mut self.space.graph;
        let lit = match test {
            Test::Equal => left.word.equals(graph, &right.word),
            Test::Greater => !right.word.at_least(graph, &left.word),
            Test::GreaterOrEqual => left.word.at_least(graph, &right.word),
            Test::AnyBit => left.word.and(graph, &right.word).not_zero(graph),
        };
        let what = What::Test {
            left: Rc::clone(&left.number),
            test,
            right: Rc::clone(&right.number),
            holds,
        };
        self.condition(if holds { lit } else { !lit }, what);
        Some(holds)
    }

    /// None: the program ends here, and the packet is dropped.
    fn step(&mut self, op: Op) -> Option<()> {
        match op {
            Op::LoadAbsolute { size, offset } => {
                let loaded = self.space.load(size, offset);
                let number = Number::Load {
                    size,
                    index: None,
                    offset,
                };
                self.a = self.there(number, loaded)?;
            }
            Op::LoadIndirect { size, offset } => {
                let loaded = self.space.load_indexed(size, &self.x.word, offset);
                let (index, more) = without_constant(&self.x.number);
                let (index, more) = match *index {
                    Number::Constant(index) => (None, more.wrapping_add(index.cast_signed())),
                    _ => (Some(index), more),
                };
                let offset = offset.wrapping_add(more);
                let number = Number::Load {
                    size,
                    index,
                    offset,
                };
                self.a = self.there(number, loaded)?;
            }
            Op::LoadHeaderLength { offset } => {
                let (byte, inside) = self.space.load(Size::Byte, offset);
                let nibble = byte.bits().first_chunk::<4>();
                let words = nibble.map_or(Word::ZERO, |nibble| Word::from_bits(nibble));
                let loaded = (words.shifted_left(2), inside);
                self.x = self.there(Number::HeaderLength(offset), loaded)?;
            }
            Op::LoadAncillary(what) => {
                let loaded = self.space.ancillary(what);
                self.a = self.there(Number::Ancillary(what), loaded)?;
            }
            Op::LoadLength(to) => {
                let value = Both {
                    number: Rc::new(Number::Length),
                    word: self.space.length,
                };
                self.set(to, value);
            }
            Op::LoadConstant(to, value) => self.set(to, Both::constant(value)),
            Op::LoadMemory(to, cell) => {
                let value = self.memory.get(usize::from(cell))?.clone();
                self.set(to, value);
            }
            Op::Store(from, cell) => {
                let value = self.get(from);
                *self.memory.get_mut(usize::from(cell))? = value;
            }
            Op::Alu(op, operand) => {
                let right = self.operand(operand);
                self.arithmetic(op, &right)?;
            }
            Op::Negate => {
                let a = std::mem::replace(&mut self.a, Both::constant(0));
                self.arithmetic(AluOp::Sub, &a)?;
            }
            Op::Copy(to) => {
                let value = match to {
                    Register::A => self.x.clone(),
                    Register::X => self.a.clone(),
                };
                self.set(to, value);
            }
            Op::Jump(to) => {
                self.at = to;
                return Some(());
            }
            Op::Branch {
                test,
                operand,
                then,
                otherwise,
            } => {
                let (left, right) = (self.a.clone(), self.operand(operand));
                let holds = self.test(test, &left, &right)?;
                self.at = if holds { then } else { otherwise };
                return Some(());
            }
            Op::Return(_) | Op::ReturnA => return None,
        }
        self.at += 1;
        Some(())
    }

    fn arithmetic(&mut self, op: AluOp, right: &Both) -> Option<()> {
        let graph = &mut self.space.graph;
        let a = &self.a.word;
        let word = match op {
            AluOp::Add => a.add(graph, &right.word),
            AluOp::Sub => a.sub(graph, &right.word),
            AluOp::Mul => a.mul(graph, &right.word),
            AluOp::Div => a.div_rem(graph, &right.word).0,
            AluOp::Mod => a.div_rem(graph, &right.word).1,
            AluOp::And => a.and(graph, &right.word),
            AluOp::Or => a.or(graph, &right.word),
            AluOp::Xor => a.xor(graph, &right.word),
            AluOp::Shl => a.shift(graph, &right.word, Word::shifted_left),
            AluOp::Shr => a.shift(graph, &right.word, Word::shifted_right),
        };
        let number = Number::Alu(op, Rc::clone(&self.a.number), Rc::clone(&right.number));
        let number = match (&*self.a.number, &*right.number) {
            (Number::Constant(_), Number::Constant(_)) => {
                Number::Constant(number.value(&self.packet)?)
            }
            (left, Number::Constant(0)) if matches!(op, AluOp::Add | AluOp::Sub | AluOp::Or) => {
                left.clone()
            }
            _ => number,
        };
        self.a = if matches!(op, AluOp::Div | AluOp::Mod) {
            let some = right.word.not_zero(graph);
            self.there(number, (word, some))?
        } else {
            let number = Rc::new(number);
            Both { number, word }
        };
        Some(())
    }
}
