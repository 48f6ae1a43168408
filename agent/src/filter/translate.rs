//! Classic BPF to eBPF, for `BPF_PROG_TYPE_SOCKET_FILTER`.
//!
//! A translated filter is a part that stands in front of other code, not a program:
//!
//! ```text
//!            r1 = ctx                    ┌──────────── one eBPF program ────────────┐
//!               │                        │                                          │
//!   ┌───────────▼───────────┐  rejected  │  filter 1 ─▶ filter 2 ─▶ … ─▶ the guard  │
//!   │ r6 = r1  w0 = 0  w7 = 0 │           │     │           │               │        │
//!   │ instruction by         ├──▶ r0 = 0 │     ▼           ▼               ▼        │
//!   │ instruction            │    exit    │   drop        drop         verdict       │
//!   │ r1 = r6                │           └──────────────────────────────────────────┘
//!   └───────────┬───────────┘
//!               │ accepted
//!            r1 = ctx: the next part begins
//!
//!   r0     A, and what a rejection returns; upper half always zero
//!   r1     scratch; the ctx at both ends
//!   r6     the ctx: LD_ABS and LD_IND want it there, unmodified
//!   r7     X; upper half always zero
//!   r2-r5  clobbered by LD_ABS and LD_IND (as r1); r2-r4 the arguments of the one call
//!   r8 r9  unused
//!   stack  fp-4, fp-8 … fp-64: M[0], M[1] … M[15], those in use only. Written before read on each
//!          path, which `Program::new` has checked; the next part may use the same bytes.
//!          fp-68 … fp-160: values that are loaded once and needed again (see `shorten`).
//!          fp-164 … fp-208: the window (see below).
//! ```
//!
//! # The window
//! The kernel turns each LD_ABS and LD_IND of an eBPF program into a call, where its classic
//! filters read the packet inline. So a part that looks at several places near the packet's
//! beginning copies that beginning to the stack, with one call, and reads it there. Classic
//! programs reject a packet when they load what lies behind its end, and no sooner; so what is
//! shorter than the window goes through a second copy of the filter, which has no window:
//!
//! ```text
//!   r6 = r1  w7 = 0
//!   skb_load_bytes(0, window) ──▶ r0 = 0 ──▶ filter, from the window ──┐ accepted
//!               └──────▶ too short: w0 = 0 ──▶ filter, by LD_ABS ──────┴──▶ r1 = r6
//! ```
//!
//! In the copy with the window, too, LD_ABS and LD_IND do what the window does not hold. The
//! verifier wants stack accesses aligned, so the window begins where most loads are. Behind an
//! IPv4 header without options X is 20: an LD_IND whose place is in the window then is done for
//! that X from there.
//!
//! # Concatenation is conjunction
//! A rejected packet leaves before the guard's own checks (interface, deadline, budget) have run.
//! That cannot be observed: filters and guard rules are conditions on the packet without side
//! effects, dropped packets count against no budget, and the guard changes its counters only for
//! a packet that has passed everything. So the order decides nothing but the cost.
//!
//! A classic program returns how many bytes to deliver. For a filter of the grant that is reduced to
//! none or some, and the snap length is the guard's. [`translate_own`] is for the filter that a
//! process attaches itself, whose length counts: it is left in `cb[0]` of the ctx, where the guard
//! finds it, and finds 0 if no such filter has run (the kernel clears `cb` before each packet).
//!
//! # What the kernel must offer
//! - `SO_ATTACH_BPF`, and with it LD_ABS and LD_IND in eBPF: 3.19. A load that fails ends the
//!   program with 0.
//! - `bpf_skb_load_bytes` in socket filters, for the window: 4.5.
//! - Comparisons in 32 bits (the `JMP32` class): 5.1.
//! - No function calls inside the program: before 5.10 the verifier refuses LD_ABS beside them, so
//!   the guard has to be compiled to one function.
//! - Shifts use the lowest five bits of the amount, by definition of the instruction set
//!   (RFC 9669, 4.1). Division by zero does not end an eBPF program, so the check is emitted.
//!
//! The verifier refuses instructions that no path leads to, so those are left out.

use std::collections::BTreeSet;

use super::{
    program::{AluOp, Ancillary, Op, Operand, Program, Register, Size, Test},
    shorten::{Cached, shorten},
};

/// One eBPF instruction, `struct bpf_insn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EbpfInsn {
    /// The operation.
    pub code: u8,
    /// The destination register, 0 to 10.
    pub dst: u8,
    /// The source register, 0 to 10.
    pub src: u8,
    /// A jump's distance or a memory offset.
    pub off: i16,
    /// The constant.
    pub imm: i32,
}

impl EbpfInsn {
    /// The eight bytes that a little-endian kernel loads.
    pub const fn to_bytes(self) -> [u8; 8] {
        let [off0, off1] = self.off.to_le_bytes();
        let [imm0, imm1, imm2, imm3] = self.imm.to_le_bytes();
        let registers = self.src << 4 | self.dst & 0xf;
        [self.code, registers, off0, off1, imm0, imm1, imm2, imm3]
    }
}

impl From<EbpfInsn> for [u8; 8] {
    fn from(insn: EbpfInsn) -> Self {
        insn.to_bytes()
    }
}

/// Why a program cannot be translated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TranslateError {
    /// eBPF socket filters are not shown the interface's hardware type.
    #[error("instruction {at}: the hardware type cannot be read in the kernel")]
    HardwareType {
        /// Which instruction.
        at: usize,
    },
    /// A jump longer than an eBPF instruction can hold.
    #[error("the filter is too large: a jump over {distance} instructions does not fit")]
    JumpTooFar {
        /// How far.
        distance: usize,
    },
}

/// Translates a program into a part that lets accepted packets fall through and ends the whole
/// program with 0 for all others.
pub fn translate(program: &Program) -> Result<Vec<EbpfInsn>, TranslateError> {
    part(program, Length::Ignored)
}

/// The same for a filter that a process attaches itself: its length is kept for the guard, which
/// delivers no more than that. Only one such part may stand in a program, before all others.
pub fn translate_own(program: &Program) -> Result<Vec<EbpfInsn>, TranslateError> {
    part(program, Length::Kept)
}

/// What becomes of the number of bytes that a filter returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Length {
    /// Some are some.
    #[default]
    Ignored,
    /// The guard is told.
    Kept,
}

fn part(program: &Program, length: Length) -> Result<Vec<EbpfInsn>, TranslateError> {
    let (ops, cached) = shorten(program.ops());
    let ops: Vec<_> = ops
        .iter()
        .copied()
        .zip(cached)
        .enumerate()
        .zip(reachable(&ops))
        .filter_map(|(op, reachable)| reachable.then_some(op))
        .collect();
    if let Some(window) = Window::of(&ops)
        && let Ok(code) = twice(&ops, window, length)
        && code.len() <= MOST_WITH_WINDOW
    {
        return Ok(code);
    }
    let mut code = Assembler {
        length,
        ..Assembler::default()
    };
    code.copy64(CTX, SCRATCH);
    code.set(A, 0);
    code.set(X, 0);
    code.filter(&ops, Label::Accepted)?;
    code.finish()
}

/// An instruction that some path leads to, with its place.
type Live = (usize, (Op, Cached));

/// A filter with the window, and without for packets that do not fill it.
fn twice(ops: &[Live], window: Window, length: Length) -> Result<Vec<EbpfInsn>, TranslateError> {
    let end = ops.last().map_or(0, |&(at, _)| at + 1);
    let mut code = Assembler {
        window: Some(window),
        length,
        ..Assembler::default()
    };
    code.copy64(CTX, SCRATCH);
    code.set(X, 0);
    code.fill(window, Label::At(end));
    code.filter(ops, Label::At(end))?;
    code.window = None;
    code.place(end);
    code.first = end + 1;
    code.set(A, 0);
    code.filter(ops, Label::Accepted)?;
    code.finish()
}

/// Which instructions some path leads to. Jumps lead forward only, so one pass suffices.
fn reachable(ops: &[Op]) -> Vec<bool> {
    let mut reachable = vec![false; ops.len()];
    let mark = |reachable: &mut Vec<bool>, at: usize| {
        if let Some(seen) = reachable.get_mut(at) {
            *seen = true;
        }
    };
    mark(&mut reachable, 0);
    for (at, op) in ops.iter().enumerate() {
        if reachable.get(at) != Some(&true) {
            continue;
        }
        match *op {
            Op::Return(_) | Op::ReturnA => {}
            Op::Jump(to) => mark(&mut reachable, to),
            Op::Branch {
                then, otherwise, ..
            } => {
                mark(&mut reachable, then);
                mark(&mut reachable, otherwise);
            }
            _ => mark(&mut reachable, at + 1),
        }
    }
    reachable
}

/// Where a jump leads, before addresses are known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Label {
    /// The translation of this classic instruction.
    At(usize),
    /// The end of the part.
    Accepted,
}

/// The beginning of the packet, on the stack.
#[derive(Clone, Copy, Debug)]
struct Window {
    /// Where it begins, from the frame pointer.
    base: i16,
    bytes: i16,
}

impl Window {
    /// The lowest place.
    const BOTTOM: i16 = -208;
    /// As short as a UDP datagram in an Ethernet frame can be.
    const MOST_BYTES: i16 = 42;
    /// It costs about as much as two loads.
    const LEAST_LOADS: usize = 3;
    /// What X holds behind an IPv4 header without options.
    const USUAL_X: u8 = 20;

    /// The window of a filter that is better off with one.
    fn of(ops: &[Live]) -> Option<Self> {
        let places = |(_, (op, _)): &Live| match *op {
            Op::LoadAbsolute { size, offset } => Some((size, offset)),
            Op::LoadHeaderLength { offset } => Some((Size::Byte, offset)),
            Op::LoadIndirect { size, offset } => Some((size, usual(offset)?)),
            _ => None,
        };
        let loads: Vec<_> = ops.iter().filter_map(places).collect();
        let held = |base| {
            let bytes = Self::MOST_BYTES;
            let window = Self { base, bytes };
            let ends = loads.iter().filter_map(move |&(size, offset)| {
                let at = window.at(size, offset)?;
                Some((at - base, width(size), end(size, offset)?))
            });
            ends.collect::<Vec<_>>()
        };
        // The first of the best: `max_by_key` would give the last.
        let base = (Self::BOTTOM..Self::BOTTOM + 4).rev();
        let base = base.max_by_key(|&base| held(base).len())?;
        let held = held(base);
        let bytes = held.iter().map(|&(.., end)| end).max()?;
        let distinct: BTreeSet<_> = held.into_iter().collect();
        (distinct.len() >= Self::LEAST_LOADS).then_some(Self { base, bytes })
    }

    /// Where a value lies, from the frame pointer, if it can be read there.
    fn at(self, size: Size, offset: i32) -> Option<i16> {
        let at = self.base + i16::try_from(offset).ok().filter(|&offset| offset >= 0)?;
        let aligned = at.rem_euclid(i16::try_from(Size::bytes(size)).ok()?) == 0;
        (end(size, offset)? <= self.bytes && aligned).then_some(at)
    }
}

/// Where in the packet a value ends, if that is near its beginning.
fn end(size: Size, offset: i32) -> Option<i16> {
    let bytes = i32::try_from(Size::bytes(size)).ok()?;
    let end = u8::try_from(offset)
        .ok()?
        .checked_add(u8::try_from(bytes).ok()?)?;
    Some(end.into())
}

/// The place of an indirect load, for the usual X.
fn usual(offset: i32) -> Option<i32> {
    (offset >= 0)
        .then(|| offset.checked_add(Window::USUAL_X.into()))
        .flatten()
}

/// Larger parts do without a window, which doubles them.
const MOST_WITH_WINDOW: usize = 8192;

const A: u8 = 0;
const SCRATCH: u8 = 1;
/// The arguments of a call, after the ctx.
const ARGUMENTS: [u8; 3] = [2, 3, 4];
const CTX: u8 = 6;
const X: u8 = 7;
const FRAME: u8 = 10;

const ALU32: u8 = 0x04;
const FROM_X: u8 = 0x08;
const MOV32: u8 = 0xb4;
const MOV64_X: u8 = 0xbf;
const NEG32: u8 = 0x84;
const TO_BE: u8 = 0xdc;
const LDX: u8 = 0x61;
const LDX_W: u8 = LDX;
const STX_W: u8 = 0x63;
const LD_ABS: u8 = 0x20;
const LD_IND: u8 = 0x40;
const JA: u8 = 0x05;
const JMP: u8 = 0x05;
const CALL: u8 = 0x85;
const SKB_LOAD_BYTES: i32 = 26;
const ADD64: u8 = 0x07;
const EXIT: u8 = 0x95;
const AND: u8 = 0x50;
const SHL: u8 = 0x60;

const JMP32: u8 = 0x06;
const JEQ: u8 = 0x10;
const JGT: u8 = 0x20;
const JGE: u8 = 0x30;
const JSET: u8 = 0x40;
const JNE: u8 = 0x50;
const JLT: u8 = 0xa0;
const JLE: u8 = 0xb0;

/// Offsets into `struct __sk_buff`; all fields are 32 bits wide.
mod sk_buff {
    pub(super) const LEN: i16 = 0;
    pub(super) const PKT_TYPE: i16 = 4;
    pub(super) const MARK: i16 = 8;
    pub(super) const QUEUE_MAPPING: i16 = 12;
    pub(super) const PROTOCOL: i16 = 16;
    pub(super) const VLAN_PRESENT: i16 = 20;
    pub(super) const VLAN_TCI: i16 = 24;
    pub(super) const VLAN_PROTO: i16 = 28;
    pub(super) const IFINDEX: i16 = 40;
    pub(super) const CB: i16 = 48;
    pub(super) const HASH: i16 = 68;
}

#[derive(Default)]
struct Assembler {
    code: Vec<EbpfInsn>,
    /// Where each classic instruction begins; ascending.
    starts: Vec<(usize, usize)>,
    /// Jumps whose distance is still to be filled in.
    jumps: Vec<(usize, Label)>,
    /// The last instruction that was emitted does not go on to the next one.
    closed: bool,
    /// What is being emitted may read the packet there.
    window: Option<Window>,
    /// What stands for the filter's first instruction in `starts` and `jumps`.
    first: usize,
    length: Length,
    /// Instructions since the last bridge, as many as the kernel makes of them at most.
    since_bridge: usize,
}

/// A jump reaches over 32,767 instructions. After so many, what leads further is led on.
const BRIDGE: usize = 30_000;
/// What the kernel makes of an LD_ABS or LD_IND before it looks at distances again, and of a load
/// from the ctx: a bound that leaves some room.
const OF_PACKET_LOAD: usize = 20;
const OF_FIELD_LOAD: usize = 8;

impl Assembler {
    fn push(&mut self, code: u8, dst: u8, src: u8, off: i16, imm: i32) {
        let insn = EbpfInsn {
            code,
            dst,
            src,
            off,
            imm,
        };
        self.code.push(insn);
        self.since_bridge += match code & 0xe7 {
            LD_ABS | LD_IND => OF_PACKET_LOAD,
            LDX if src == CTX => OF_FIELD_LOAD,
            _ => 1,
        };
        self.closed = false;
    }

    fn copy64(&mut self, dst: u8, src: u8) {
        self.push(MOV64_X, dst, src, 0, 0);
    }

    fn copy(&mut self, dst: u8, src: u8) {
        self.push(MOV32 | FROM_X, dst, src, 0, 0);
    }

    fn set(&mut self, dst: u8, value: u32) {
        self.push(MOV32, dst, 0, 0, value.cast_signed());
    }

    fn alu(&mut self, op: u8, dst: u8, value: u32) {
        self.push(ALU32 | op, dst, 0, 0, value.cast_signed());
    }

    fn field(&mut self, dst: u8, off: i16) {
        self.push(LDX_W, dst, CTX, off, 0);
    }

    fn jump(&mut self, to: Label) {
        self.comes_from_here(to);
        self.push(JA, 0, 0, 0, 0);
        self.closed = true;
    }

    fn comes_from_here(&mut self, to: Label) {
        let to = match to {
            Label::At(at) => Label::At(self.first + at),
            Label::Accepted => to,
        };
        self.jumps.push((self.code.len(), to));
    }

    fn jump_if(&mut self, test: u8, dst: u8, operand: Operand, to: Label) {
        self.comes_from_here(to);
        self.skip_if(test, dst, operand, 0);
    }

    fn skip_if(&mut self, test: u8, dst: u8, operand: Operand, distance: i16) {
        match operand {
            Operand::Constant(k) => self.push(JMP32 | test, dst, 0, distance, k.cast_signed()),
            Operand::X => self.push(JMP32 | test | FROM_X, dst, X, distance, 0),
        }
    }

    fn reject(&mut self) {
        self.set(A, 0);
        self.exit();
    }

    /// Only where r0 is 0.
    fn exit(&mut self) {
        self.push(EXIT, 0, 0, 0, 0);
        self.closed = true;
    }

    fn place(&mut self, at: usize) {
        self.starts.push((self.first + at, self.code.len()));
        self.closed = false;
    }

    /// Copies the packet's beginning to the stack; elsewhere if it is too short. A is 0 then.
    fn fill(&mut self, window: Window, too_short: Label) {
        let [from, to, bytes] = ARGUMENTS;
        self.set(from, 0);
        self.copy64(to, FRAME);
        self.push(ADD64, to, 0, 0, window.base.into());
        self.push(MOV32, bytes, 0, 0, window.bytes.into());
        self.push(CALL, 0, 0, 0, SKB_LOAD_BYTES);
        self.comes_from_here(too_short);
        self.push(JMP | JNE, A, 0, 0, 0);
    }

    /// The whole filter; `behind` is what stands behind it.
    fn filter(&mut self, ops: &[Live], behind: Label) -> Result<(), TranslateError> {
        let mut live = ops.iter().peekable();
        while let Some(&(at, (op, cached))) = live.next() {
            let following = live.peek().map_or(behind, |&&(at, _)| Label::At(at));
            if self.since_bridge > BRIDGE {
                self.bridge();
            }
            self.place(at);
            if self.read_window(op) {
                continue;
            }
            match cached {
                Cached::No => self.emit(at, op, following)?,
                Cached::Keep(slot) => {
                    self.emit(at, op, following)?;
                    self.push(STX_W, FRAME, A, cache_slot(slot), 0);
                }
                Cached::Take(slot) => self.push(LDX_W, A, FRAME, cache_slot(slot), 0),
            }
        }
        Ok(())
    }

    /// Gives jumps whose targets are still to come a jump of their own here, one for each target.
    fn bridge(&mut self) {
        let placed = |to: Label| match to {
            Label::At(at) => {
                let found = self.starts.binary_search_by_key(&at, |&(at, _)| at);
                found.is_ok()
            }
            Label::Accepted => false,
        };
        let (done, open): (Vec<_>, Vec<_>) =
            self.jumps.iter().copied().partition(|&(_, to)| placed(to));
        let mut targets: Vec<Label> = Vec::new();
        for &(_, to) in &open {
            if !targets.contains(&to) {
                targets.push(to);
            }
        }
        let open_end = !self.closed;
        if open_end {
            // What comes from above goes around.
            self.push(
                JA,
                0,
                0,
                i16::try_from(targets.len()).unwrap_or(i16::MAX),
                0,
            );
        }
        let first = self.code.len();
        self.jumps = done;
        for (from, to) in open {
            let stub = targets.iter().position(|target| *target == to);
            let distance = first + stub.unwrap_or(0) - from - 1;
            // What does not fit is refused in the end.
            if let (Some(insn), Ok(off)) = (self.code.get_mut(from), i16::try_from(distance)) {
                insn.off = off;
            } else {
                self.jumps.push((from, to));
            }
        }
        for to in targets {
            self.jumps.push((self.code.len(), to));
            self.push(JA, 0, 0, 0, 0);
        }
        self.closed = !open_end;
        self.since_bridge = 0;
    }

    /// Emits a load for which the packet need not be asked, or not for the usual X.
    fn read_window(&mut self, op: Op) -> bool {
        let place = |size, offset| Some((size, self.window?.at(size, offset)?));
        let found = match op {
            Op::LoadAbsolute { size, offset } => place(size, offset),
            Op::LoadHeaderLength { offset } => place(Size::Byte, offset),
            Op::LoadIndirect { size, offset } => {
                usual(offset).and_then(|offset| place(size, offset))
            }
            _ => None,
        };
        let Some((size, at)) = found else {
            return false;
        };
        match op {
            Op::LoadHeaderLength { .. } => {
                self.read(X, size, at);
                self.alu(AND, X, 0xf);
                self.alu(SHL, X, 2);
            }
            Op::LoadIndirect { offset, .. } => {
                let past = if size == Size::Byte { 2 } else { 3 };
                self.skip_if(JNE, X, Operand::Constant(Window::USUAL_X.into()), past);
                self.read(A, size, at);
                self.push(JA, 0, 0, 1, 0);
                self.push(LD_IND | width(size), 0, X, 0, offset);
            }
            _ => self.read(A, size, at),
        }
        true
    }

    /// Reads a value from the stack that is in network order.
    fn read(&mut self, dst: u8, size: Size, at: i16) {
        self.push(LDX | width(size), dst, FRAME, at, 0);
        match size {
            Size::Word => self.push(TO_BE, dst, 0, 0, 32),
            Size::Half => self.push(TO_BE, dst, 0, 0, 16),
            Size::Byte => {}
        }
    }

    fn emit(&mut self, at: usize, op: Op, following: Label) -> Result<(), TranslateError> {
        match op {
            Op::LoadAbsolute { size, offset } => self.push(LD_ABS | width(size), 0, 0, 0, offset),
            Op::LoadIndirect { size, offset } => self.push(LD_IND | width(size), 0, X, 0, offset),
            Op::LoadHeaderLength { offset } => {
                // A is kept in X, which is about to be replaced.
                self.copy(X, A);
                self.push(LD_ABS | width(Size::Byte), 0, 0, 0, offset);
                self.alu(AND, A, 0xf);
                self.alu(SHL, A, 2);
                self.copy(SCRATCH, X);
                self.copy(X, A);
                self.copy(A, SCRATCH);
            }
            Op::LoadAncillary(what) => self.ancillary(at, what)?,
            Op::LoadLength(dst) => self.field(register(dst), sk_buff::LEN),
            Op::LoadConstant(dst, value) => self.set(register(dst), value),
            Op::LoadMemory(dst, cell) => {
                self.push(LDX_W, register(dst), FRAME, slot(cell), 0);
            }
            Op::Store(src, cell) => self.push(STX_W, FRAME, register(src), slot(cell), 0),
            Op::Alu(op, operand) => self.arithmetic(op, operand),
            Op::Negate => self.push(NEG32, A, 0, 0, 0),
            Op::Copy(Register::A) => self.copy(A, X),
            Op::Copy(Register::X) => self.copy(X, A),
            Op::Jump(to) => self.go(Label::At(to), following),
            Op::Branch {
                test,
                operand,
                then,
                otherwise,
            } => self.branch(test, operand, then, otherwise, following),
            Op::Return(0) => self.reject(),
            Op::Return(length) => {
                if self.length == Length::Kept {
                    self.set(SCRATCH, length);
                    self.push(STX_W, CTX, SCRATCH, sk_buff::CB, 0);
                }
                self.go(Label::Accepted, following);
            }
            Op::ReturnA => self.return_a(),
        }
        Ok(())
    }

    /// Goes on at a place; for nothing if that is where the next instruction stands.
    fn go(&mut self, to: Label, following: Label) {
        if to != following {
            self.jump(to);
        }
    }

    fn branch(
        &mut self,
        test: Test,
        operand: Operand,
        then: usize,
        otherwise: usize,
        following: Label,
    ) {
        let (jump, opposite) = match test {
            Test::Equal => (JEQ, Some(JNE)),
            Test::Greater => (JGT, Some(JLE)),
            Test::GreaterOrEqual => (JGE, Some(JLT)),
            Test::AnyBit => (JSET, None),
        };
        let (then, otherwise) = (Label::At(then), Label::At(otherwise));
        match opposite {
            _ if then == otherwise => self.go(then, following),
            Some(opposite) if then == following => self.jump_if(opposite, A, operand, otherwise),
            _ => {
                self.jump_if(jump, A, operand, then);
                self.go(otherwise, following);
            }
        }
    }

    fn return_a(&mut self) {
        if self.length == Length::Kept {
            self.push(STX_W, CTX, A, sk_buff::CB, 0);
        }
        self.jump_if(JNE, A, Operand::Constant(0), Label::Accepted);
        self.exit();
    }

    fn arithmetic(&mut self, op: AluOp, operand: Operand) {
        let code = ALU32
            | match op {
                AluOp::Add => 0x00,
                AluOp::Sub => 0x10,
                AluOp::Mul => 0x20,
                AluOp::Div => 0x30,
                AluOp::Or => 0x40,
                AluOp::And => AND,
                AluOp::Shl => SHL,
                AluOp::Shr => 0x70,
                AluOp::Mod => 0x90,
                AluOp::Xor => 0xa0,
            };
        match operand {
            Operand::Constant(k) => self.push(code, A, 0, 0, k.cast_signed()),
            Operand::X => {
                if matches!(op, AluOp::Div | AluOp::Mod) {
                    self.skip_if(JNE, X, Operand::Constant(0), 2);
                    self.reject();
                }
                self.push(code | FROM_X, A, X, 0, 0);
            }
        }
    }

    fn ancillary(&mut self, at: usize, what: Ancillary) -> Result<(), TranslateError> {
        match what {
            Ancillary::Protocol => self.network_order(sk_buff::PROTOCOL),
            Ancillary::VlanProtocol => self.network_order(sk_buff::VLAN_PROTO),
            Ancillary::PacketType => self.field(A, sk_buff::PKT_TYPE),
            Ancillary::Mark => self.field(A, sk_buff::MARK),
            Ancillary::Queue => self.field(A, sk_buff::QUEUE_MAPPING),
            Ancillary::Hash => self.field(A, sk_buff::HASH),
            Ancillary::VlanTag => self.field(A, sk_buff::VLAN_TCI),
            Ancillary::VlanPresent => self.field(A, sk_buff::VLAN_PRESENT),
            Ancillary::InterfaceIndex => {
                // 0 without a device, where the classic program returns A as it stands.
                self.field(SCRATCH, sk_buff::IFINDEX);
                let past = if self.length == Length::Kept { 3 } else { 2 };
                self.skip_if(JNE, SCRATCH, Operand::Constant(0), past);
                self.return_a();
                self.copy(A, SCRATCH);
            }
            Ancillary::HardwareType => return Err(TranslateError::HardwareType { at }),
        }
        Ok(())
    }

    /// `__sk_buff` shows these two as they are on the wire, in 16 bits.
    fn network_order(&mut self, off: i16) {
        self.field(A, off);
        self.push(TO_BE, A, 0, 0, 16);
    }

    fn finish(mut self) -> Result<Vec<EbpfInsn>, TranslateError> {
        let accepts = !self.closed || self.jumps.iter().any(|&(_, to)| to == Label::Accepted);
        if !accepts {
            // Nothing leads to the end, so all that follows would be unreachable. The verifier
            // looks for that in the graph of jumps alone, so a jump that is never taken will do.
            let mut code = Self::default();
            code.set(A, 0);
            code.skip_if(JNE, A, Operand::Constant(0), 1);
            code.exit();
            return Ok(code.code);
        }
        let end = self.code.len();
        self.copy64(SCRATCH, CTX);
        for &(from, to) in &self.jumps {
            let to = match to {
                Label::Accepted => end,
                Label::At(at) => {
                    let found = self.starts.binary_search_by_key(&at, |&(at, _)| at);
                    let start = found.ok().and_then(|index| self.starts.get(index));
                    start.map_or(end, |&(_, start)| start)
                }
            };
            let distance = to.saturating_sub(from + 1);
            let off = i16::try_from(distance);
            if let Some(insn) = self.code.get_mut(from) {
                insn.off = off.map_err(|_| TranslateError::JumpTooFar { distance })?;
            }
        }
        Ok(self.code)
    }
}

const fn register(register: Register) -> u8 {
    match register {
        Register::A => A,
        Register::X => X,
    }
}

const fn width(size: Size) -> u8 {
    match size {
        Size::Word => 0x00,
        Size::Half => 0x08,
        Size::Byte => 0x10,
    }
}

/// Where a memory cell lies, from the frame pointer.
fn slot(cell: u8) -> i16 {
    -4 - 4 * i16::from(cell)
}

/// Where a loaded value is kept: behind the memory cells.
fn cache_slot(slot: u8) -> i16 {
    -68 - 4 * i16::from(slot)
}

#[cfg(test)]
mod tests;
