//! A classic BPF program that the kernel would accept, decoded once.

use std::fmt;

/// The longest program: one with two lists of ten thousand addresses fits. The kernel is given it
/// as eBPF, where it takes a million instructions.
pub const MAX_INSTRUCTIONS: usize = 1 << 17;
/// The kernel's `BPF_MAXINSNS`: the longest program that it takes as a classic one.
pub const KERNEL_INSTRUCTIONS: usize = 4096;
/// The kernel's `BPF_MEMWORDS`: cells of the scratch memory.
pub const MEMORY_WORDS: usize = 16;

/// Offsets from here up are the kernel's ancillary loads (`SKF_AD_OFF`, -0x1000).
const ANCILLARY: u32 = 0xffff_f000;

/// One instruction as it is encoded: `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Insn {
    /// The operation.
    pub code: u16,
    /// Instructions to skip when a test holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

impl Insn {
    /// `code jt jf k`.
    pub const fn new(code: u16, jt: u8, jf: u8, k: u32) -> Self {
        Self { code, jt, jf, k }
    }
}

impl fmt::Display for Insn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, jt, jf, k } = self;
        write!(f, "{{ 0x{code:02x}, {jt}, {jf}, 0x{k:08x} }}")
    }
}

/// How many bytes a load reads; more than one are big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Size {
    /// One.
    Byte,
    /// Two.
    Half,
    /// Four.
    Word,
}

impl Size {
    /// The number of bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Byte => 1,
            Self::Half => 2,
            Self::Word => 4,
        }
    }
}

/// A register of the classic machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Register {
    /// The accumulator.
    A,
    /// The index register.
    X,
}

/// The right-hand side of an operation on A.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// The instruction's `k`.
    Constant(u32),
    /// X.
    X,
}

/// `A = A op operand`, in 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AluOp {
    /// Wrapping addition.
    Add,
    /// Wrapping subtraction.
    Sub,
    /// Wrapping multiplication.
    Mul,
    /// Unsigned division; by X = 0 the program returns 0.
    Div,
    /// Unsigned remainder; by X = 0 the program returns 0.
    Mod,
    /// Bitwise and.
    And,
    /// Bitwise or.
    Or,
    /// Bitwise exclusive or.
    Xor,
    /// Shift left by the operand's lowest five bits.
    Shl,
    /// Shift right, filling with zeroes, by the operand's lowest five bits.
    Shr,
}

/// A test of A against an operand, unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Test {
    /// `A == operand`.
    Equal,
    /// `A > operand`.
    Greater,
    /// `A >= operand`.
    GreaterOrEqual,
    /// `A & operand != 0`.
    AnyBit,
}

/// What the kernel knows about a packet beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ancillary {
    /// The EtherType, or the kernel's stand-in for one, in host order.
    Protocol,
    /// To us, broadcast, multicast, to others, outgoing.
    PacketType,
    /// The interface's index; without a device the program returns A as it stands.
    InterfaceIndex,
    /// The interface's `ARPHRD_` type; without a device the program returns A as it stands.
    HardwareType,
    /// `SO_MARK` and friends.
    Mark,
    /// The receive queue.
    Queue,
    /// The flow hash, where one was computed.
    Hash,
    /// The tag control information of a VLAN tag that was taken out of the bytes.
    VlanTag,
    /// 1 when such a tag is there.
    VlanPresent,
    /// Its TPID, in host order.
    VlanProtocol,
}

impl Ancillary {
    /// For people: `the packet's mark`.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Protocol => "the packet's EtherType",
            Self::PacketType => "the packet's direction",
            Self::InterfaceIndex => "the interface's number",
            Self::HardwareType => "the interface's hardware type",
            Self::Mark => "the packet's mark",
            Self::Queue => "the receive queue",
            Self::Hash => "the flow's hash",
            Self::VlanTag => "the VLAN tag",
            Self::VlanPresent => "whether there is a VLAN tag",
            Self::VlanProtocol => "the VLAN tag's EtherType",
        }
    }

    /// The offset from `SKF_AD_OFF`.
    const fn number(self) -> u32 {
        match self {
            Self::Protocol => 0,
            Self::PacketType => 4,
            Self::InterfaceIndex => 8,
            Self::Mark => 20,
            Self::Queue => 24,
            Self::HardwareType => 28,
            Self::Hash => 32,
            Self::VlanTag => 44,
            Self::VlanPresent => 48,
            Self::VlanProtocol => 60,
        }
    }

    /// The `k` of an absolute load that reads it.
    pub const fn k(self) -> u32 {
        ANCILLARY + self.number()
    }

    const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Protocol,
            4 => Self::PacketType,
            8 => Self::InterfaceIndex,
            20 => Self::Mark,
            24 => Self::Queue,
            28 => Self::HardwareType,
            32 => Self::Hash,
            44 => Self::VlanTag,
            48 => Self::VlanPresent,
            60 => Self::VlanProtocol,
            _ => return None,
        })
    }
}

/// One instruction, decoded. Jump targets are indexes into the program.
///
/// The offset of a load is signed, as in the kernel: from `-0x100000` up it counts from the
/// network header, from `-0x200000` up from the link header, and below that it always fails. A
/// load that fails ends the program with 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// `A = packet[offset]`.
    LoadAbsolute {
        /// Bytes to read.
        size: Size,
        /// Where.
        offset: i32,
    },
    /// `A = packet[X + offset]`; the sum wraps to a signed 32-bit number.
    LoadIndirect {
        /// Bytes to read.
        size: Size,
        /// Where, from X.
        offset: i32,
    },
    /// `X = 4 * (packet[offset] & 0xf)`: the length of an IPv4 header.
    LoadHeaderLength {
        /// Where.
        offset: i32,
    },
    /// `A =` what the kernel knows beside the bytes.
    LoadAncillary(Ancillary),
    /// The register = the packet's length on the wire.
    LoadLength(Register),
    /// The register = a constant.
    LoadConstant(Register, u32),
    /// The register = a memory cell.
    LoadMemory(Register, u8),
    /// A memory cell = the register.
    Store(Register, u8),
    /// `A = A op operand`.
    Alu(AluOp, Operand),
    /// `A = -A`.
    Negate,
    /// The register = the other one.
    Copy(Register),
    /// Go on elsewhere, always forward.
    Jump(usize),
    /// Go on at one of two places, always forward.
    Branch {
        /// What is tested.
        test: Test,
        /// Against what.
        operand: Operand,
        /// Where to go if it holds.
        then: usize,
        /// Where to go if not.
        otherwise: usize,
    },
    /// Deliver so many bytes of the packet; 0 drops it.
    Return(u32),
    /// Deliver A bytes of the packet; 0 drops it.
    ReturnA,
}

/// Why instructions are no program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// No instruction at all.
    #[error("the program is empty")]
    Empty,
    /// Too long.
    #[error("the program has {0} instructions; {MAX_INSTRUCTIONS} are allowed")]
    TooLong(usize),
    /// No such operation.
    #[error("instruction {at}: unknown operation 0x{code:x}")]
    UnknownOperation {
        /// Which instruction.
        at: usize,
        /// Its code.
        code: u16,
    },
    /// A jump leads out of the program.
    #[error("instruction {at}: jumps out of the program")]
    JumpOutOfRange {
        /// Which instruction.
        at: usize,
    },
    /// A memory cell that does not exist.
    #[error("instruction {at}: memory cell {cell} does not exist")]
    NoSuchCell {
        /// Which instruction.
        at: usize,
        /// The cell.
        cell: u32,
    },
    /// A memory cell is read on a path that never wrote it.
    #[error("instruction {at}: memory cell {cell} is read before it is written")]
    ReadBeforeWritten {
        /// Which instruction.
        at: usize,
        /// The cell.
        cell: u8,
    },
    /// Division by the constant zero.
    #[error("instruction {at}: divides by zero")]
    DividesByZero {
        /// Which instruction.
        at: usize,
    },
    /// A shift by a constant that empties the register.
    #[error("instruction {at}: shifts by {by} bits")]
    ShiftsTooFar {
        /// Which instruction.
        at: usize,
        /// Bits.
        by: u32,
    },
    /// The kernel has no such ancillary load.
    #[error("instruction {at}: unknown ancillary load {number}")]
    UnknownAncillary {
        /// Which instruction.
        at: usize,
        /// The offset from `SKF_AD_OFF`.
        number: u32,
    },
    /// An ancillary load that the packet does not determine, so that nothing could be said about
    /// the program before it runs.
    #[error("instruction {at}: `{what}` is not a function of the packet")]
    NotOfThePacket {
        /// Which instruction.
        at: usize,
        /// The kernel's name for it.
        what: &'static str,
    },
    /// The last instruction does not return.
    #[error("the last instruction does not return")]
    RunsOffTheEnd,
}

/// A classic BPF program that passed the kernel's own checks (`bpf_check_classic`) but for the
/// length, and one more: its verdict is a function of the packet and of the metadata in
/// [`Ancillary`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Program {
    insns: Vec<Insn>,
    ops: Vec<Op>,
}

impl Program {
    /// Checks and decodes instructions.
    pub fn new(insns: Vec<Insn>) -> Result<Self, ProgramError> {
        if insns.is_empty() {
            return Err(ProgramError::Empty);
        }
        if insns.len() > MAX_INSTRUCTIONS {
            return Err(ProgramError::TooLong(insns.len()));
        }
        let ops = insns
            .iter()
            .enumerate()
            .map(|(at, insn)| decode(at, *insn, insns.len()))
            .collect::<Result<Vec<_>, _>>()?;
        if !matches!(ops.last(), Some(Op::Return(_) | Op::ReturnA)) {
            return Err(ProgramError::RunsOffTheEnd);
        }
        check_memory(&ops)?;
        Ok(Self { insns, ops })
    }

    /// Whether no instruction of it accepts anything, whatever the packet. (False where an accepting
    /// one is there and cannot be reached.)
    pub fn accepts_nothing(&self) -> bool {
        let accepts = |op: &Op| matches!(op, Op::ReturnA | Op::Return(1..));
        !self.ops.iter().any(accepts)
    }

    /// The program that accepts every packet, whole.
    pub fn everything() -> Self {
        Self {
            insns: vec![Insn::new(0x06, 0, 0, u32::MAX)],
            ops: vec![Op::Return(u32::MAX)],
        }
    }

    /// The instructions as they are encoded.
    pub fn insns(&self) -> &[Insn] {
        &self.insns
    }

    /// The instructions, decoded; as many as there are [`insns`](Self::insns).
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }
}

const CLASS: u16 = 0x07;
const LD: u16 = 0x00;
const LDX: u16 = 0x01;
const ST: u16 = 0x02;
const STX: u16 = 0x03;
const ALU: u16 = 0x04;
const JMP: u16 = 0x05;
const RET: u16 = 0x06;
const MISC: u16 = 0x07;
const FROM_X: u16 = 0x08;

fn decode(at: usize, insn: Insn, len: usize) -> Result<Op, ProgramError> {
    let Insn { code, jt, jf, k } = insn;
    let unknown = ProgramError::UnknownOperation { at, code };
    Ok(match code & CLASS {
        LD | LDX => decode_load(at, insn)?,
        ST if code == ST => Op::Store(Register::A, cell(at, k)?),
        STX if code == STX => Op::Store(Register::X, cell(at, k)?),
        ALU => decode_alu(at, insn)?,
        JMP if code == JMP => {
            let skip = usize::try_from(k).unwrap_or(usize::MAX);
            Op::Jump(target(at, skip, len)?)
        }
        JMP => {
            let test = match code & !(CLASS | FROM_X) {
                0x10 => Test::Equal,
                0x20 => Test::Greater,
                0x30 => Test::GreaterOrEqual,
                0x40 => Test::AnyBit,
                _ => return Err(unknown),
            };
            Op::Branch {
                test,
                operand: operand(insn),
                then: target(at, jt.into(), len)?,
                otherwise: target(at, jf.into(), len)?,
            }
        }
        RET => match code {
            0x06 => Op::Return(k),
            0x16 => Op::ReturnA,
            _ => return Err(unknown),
        },
        MISC => match code {
            0x07 => Op::Copy(Register::X),
            0x87 => Op::Copy(Register::A),
            _ => return Err(unknown),
        },
        _ => return Err(unknown),
    })
}

fn decode_load(at: usize, insn: Insn) -> Result<Op, ProgramError> {
    let Insn { code, k, .. } = insn;
    let offset = k.cast_signed();
    let size = match code & 0x18 {
        0x00 => Size::Word,
        0x08 => Size::Half,
        _ => Size::Byte,
    };
    Ok(match code {
        0x20 | 0x28 | 0x30 if k >= ANCILLARY => ancillary(at, k - ANCILLARY)?,
        0x20 | 0x28 | 0x30 => Op::LoadAbsolute { size, offset },
        0x40 | 0x48 | 0x50 => Op::LoadIndirect { size, offset },
        0x80 => Op::LoadLength(Register::A),
        0x81 => Op::LoadLength(Register::X),
        0x00 => Op::LoadConstant(Register::A, k),
        0x01 => Op::LoadConstant(Register::X, k),
        0x60 => Op::LoadMemory(Register::A, cell(at, k)?),
        0x61 => Op::LoadMemory(Register::X, cell(at, k)?),
        0xb1 => Op::LoadHeaderLength { offset },
        _ => return Err(ProgramError::UnknownOperation { at, code }),
    })
}

fn ancillary(at: usize, number: u32) -> Result<Op, ProgramError> {
    if let Some(known) = Ancillary::from_number(number) {
        return Ok(Op::LoadAncillary(known));
    }
    let what = match number {
        12 => "nlattr",
        16 => "nlattr nest",
        36 => "cpu",
        // Not a load at all: the kernel's older spelling of an exclusive or.
        40 => return Ok(Op::Alu(AluOp::Xor, Operand::X)),
        52 => "payload offset",
        56 => "random",
        _ => return Err(ProgramError::UnknownAncillary { at, number }),
    };
    Err(ProgramError::NotOfThePacket { at, what })
}

fn decode_alu(at: usize, insn: Insn) -> Result<Op, ProgramError> {
    let op = match insn.code & !(CLASS | FROM_X) {
        0x00 => AluOp::Add,
        0x10 => AluOp::Sub,
        0x20 => AluOp::Mul,
        0x30 => AluOp::Div,
        0x40 => AluOp::Or,
        0x50 => AluOp::And,
        0x60 => AluOp::Shl,
        0x70 => AluOp::Shr,
        0x80 if insn.code & FROM_X == 0 => return Ok(Op::Negate),
        0x90 => AluOp::Mod,
        0xa0 => AluOp::Xor,
        _ => {
            let code = insn.code;
            return Err(ProgramError::UnknownOperation { at, code });
        }
    };
    match (op, operand(insn)) {
        (AluOp::Div | AluOp::Mod, Operand::Constant(0)) => Err(ProgramError::DividesByZero { at }),
        (AluOp::Shl | AluOp::Shr, Operand::Constant(by @ 32..)) => {
            Err(ProgramError::ShiftsTooFar { at, by })
        }
        (op, operand) => Ok(Op::Alu(op, operand)),
    }
}

const fn operand(insn: Insn) -> Operand {
    if insn.code & FROM_X == 0 {
        Operand::Constant(insn.k)
    } else {
        Operand::X
    }
}

fn target(at: usize, skip: usize, len: usize) -> Result<usize, ProgramError> {
    match at.saturating_add(1).saturating_add(skip) {
        target if target < len => Ok(target),
        _ => Err(ProgramError::JumpOutOfRange { at }),
    }
}

fn cell(at: usize, k: u32) -> Result<u8, ProgramError> {
    match u8::try_from(k) {
        Ok(cell) if usize::from(cell) < MEMORY_WORDS => Ok(cell),
        _ => Err(ProgramError::NoSuchCell { at, cell: k }),
    }
}

/// No path reads a memory cell that it has not written: the kernel does not clear them either.
fn check_memory(ops: &[Op]) -> Result<(), ProgramError> {
    // Per instruction, one bit for each cell that was written on every path to it. Jumps lead
    // forward only, so one pass suffices; an instruction that nothing leads to keeps all bits.
    let mut written = vec![u16::MAX; ops.len()];
    if let Some(first) = written.first_mut() {
        *first = 0;
    }
    for (at, op) in ops.iter().enumerate() {
        let cells = written.get(at).copied().unwrap_or(0);
        let mut leads_to = |to: usize, cells: u16| {
            if let Some(known) = written.get_mut(to) {
                *known &= cells;
            }
        };
        match *op {
            Op::Store(_, cell) => leads_to(at + 1, cells | 1 << cell),
            Op::LoadMemory(_, cell) if cells & 1 << cell == 0 => {
                return Err(ProgramError::ReadBeforeWritten { at, cell });
            }
            Op::Jump(to) => leads_to(to, cells),
            Op::Branch {
                then, otherwise, ..
            } => {
                leads_to(then, cells);
                leads_to(otherwise, cells);
            }
            // The kernel lets a return lead on, too. That refuses more than is needed; what it
            // refuses is refused here.
            _ => leads_to(at + 1, cells),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
