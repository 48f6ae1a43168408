//! What the kernel answers when it runs a program on a packet.
//!
//! These are the rules of `bpf_convert_filter` in the kernel's `net/core/filter.c`; libpcap's own
//! interpreter differs on shifts by 32 and more, on offsets that wrap and on negative ones.

use super::program::{AluOp, Ancillary, MEMORY_WORDS, Op, Operand, Program, Register, Size, Test};

/// The kernel's `SKF_NET_OFF` and `SKF_LL_OFF`.
const NETWORK: i32 = -0x10_0000;
const LINK: i32 = -0x20_0000;

/// One packet as a socket filter sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// What lies in front of `bytes` and can be reached from the headers in `meta` only: the link
    /// header, on a cooked socket.
    pub headroom: &'a [u8],
    /// What absolute and indirect loads read.
    pub bytes: &'a [u8],
    /// What `len` reads. The kernel filters whole packets, so there it is `bytes.len()`.
    pub wire_len: u32,
    /// What is known beside the bytes.
    pub meta: Meta,
}

impl<'a> Packet<'a> {
    /// A whole packet, nothing in front of it.
    pub fn new(bytes: &'a [u8], meta: Meta) -> Self {
        Self {
            headroom: &[],
            bytes,
            wire_len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            meta,
        }
    }

    /// A packet of a capture file, which may hold less of it than there was on the wire.
    pub fn captured(bytes: &'a [u8], wire_len: u32) -> Self {
        let meta = Meta {
            interface_index: 1,
            ..Meta::default()
        };
        let whole = Self::new(bytes, meta);
        Self {
            wire_len: whole.wire_len.max(wire_len),
            ..whole
        }
    }

    /// What an ancillary load reads; none if it fails.
    pub(super) fn ancillary(&self, what: Ancillary) -> Option<u32> {
        ancillary(what, &self.meta)
    }

    /// What a load that failed says: the packet is over there, or only what was captured of it.
    fn missing(&self, size: Size, offset: i32) -> Step {
        let end = u64::try_from(size.bytes())
            .ok()
            .and_then(|size| size.checked_add(u64::try_from(offset).ok()?));
        match end {
            Some(end) if end <= u64::from(self.wire_len) => Step::Undecided,
            _ => Step::Return(0),
        }
    }

    /// What a load reads; none if it fails.
    pub(super) fn load(&self, size: Size, offset: i32) -> Option<u32> {
        let header =
            |base: i32, header: Option<i32>| offset.checked_sub(base)?.checked_add(header?);
        let offset = match offset {
            0.. => offset,
            NETWORK.. => header(NETWORK, Some(self.meta.network_header))?,
            LINK.. => header(LINK, self.meta.link_header)?,
            _ => return None,
        };
        let front = i64::try_from(self.headroom.len()).ok()?;
        let mut from = usize::try_from(front.checked_add(i64::from(offset))?).ok()?;
        let mut value = 0;
        for _ in 0..size.bytes() {
            let byte = match from.checked_sub(self.headroom.len()) {
                Some(from) => self.bytes.get(from)?,
                None => self.headroom.get(from)?,
            };
            value = value << 8 | u32::from(*byte);
            from = from.checked_add(1)?;
        }
        Some(value)
    }
}

/// What the kernel knows about a packet beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The EtherType, or the kernel's stand-in for one.
    pub protocol: u16,
    /// `PACKET_HOST`, `PACKET_OUTGOING` and so on.
    pub packet_type: u8,
    /// The interface's index; 0 when the packet has no device.
    pub interface_index: u32,
    /// The interface's `ARPHRD_` type.
    pub hardware_type: u16,
    /// The mark.
    pub mark: u32,
    /// The receive queue.
    pub queue: u16,
    /// The flow hash.
    pub hash: u32,
    /// The VLAN tag that was taken out of the bytes.
    pub vlan: Option<VlanTag>,
    /// Where the network header begins, counted from the first of the packet's bytes.
    pub network_header: i32,
    /// Where the link header begins, counted in the same way (negative on a cooked socket).
    pub link_header: Option<i32>,
}

/// A VLAN tag that the kernel keeps beside the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanTag {
    /// Which kind of tag: 0x8100 or 0x88a8.
    pub protocol: u16,
    /// The tag control information: priority, drop eligibility and VLAN number.
    pub control: u16,
}

/// The number of bytes that the kernel would deliver at most; 0 drops the packet. What was not
/// captured of a packet is taken for not being there.
pub fn interpret(program: &Program, packet: &Packet<'_>) -> u32 {
    run(program, packet).unwrap_or(0)
}

/// What can be said of a packet that may have been captured in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The program accepts it.
    Inside,
    /// The program drops it.
    Outside,
    /// The program asks for a byte that the packet had and that was not captured.
    Undecidable,
}

/// Whether a program accepts a packet of which less may have been captured than there was.
pub fn judge(program: &Program, packet: &Packet<'_>) -> Judgement {
    match run(program, packet) {
        Some(0) => Judgement::Outside,
        Some(_) => Judgement::Inside,
        None => Judgement::Undecidable,
    }
}

/// None: a byte is needed that was not captured.
fn run(program: &Program, packet: &Packet<'_>) -> Option<u32> {
    let mut machine = Machine::default();
    let mut at = 0;
    // Jumps lead forward only, so this ends. The checks of `Program::new` keep `at` inside.
    while let Some(op) = program.ops().get(at) {
        match machine.step(*op, packet) {
            Step::Next => at += 1,
            Step::To(target) => at = target,
            Step::Return(value) => return Some(value),
            Step::Undecided => return None,
        }
    }
    Some(0)
}

enum Step {
    Next,
    To(usize),
    Return(u32),
    Undecided,
}

#[derive(Default)]
struct Machine {
    a: u32,
    x: u32,
    memory: [u32; MEMORY_WORDS],
}

impl Machine {
    fn step(&mut self, op: Op, packet: &Packet<'_>) -> Step {
        match op {
            Op::LoadAbsolute { size, offset } => match packet.load(size, offset) {
                Some(value) => self.a = value,
                None => return packet.missing(size, offset),
            },
            Op::LoadIndirect { size, offset } => {
                let offset = self.x.cast_signed().wrapping_add(offset);
                match packet.load(size, offset) {
                    Some(value) => self.a = value,
                    None => return packet.missing(size, offset),
                }
            }
            Op::LoadHeaderLength { offset } => match packet.load(Size::Byte, offset) {
                Some(value) => self.x = (value & 0xf) << 2,
                None => return packet.missing(Size::Byte, offset),
            },
            Op::LoadAncillary(what) => match ancillary(what, &packet.meta) {
                Some(value) => self.a = value,
                None => return Step::Return(self.a),
            },
            Op::LoadLength(to) => self.set(to, packet.wire_len),
            Op::LoadConstant(to, value) => self.set(to, value),
            Op::LoadMemory(to, cell) => {
                let value = self.memory.get(usize::from(cell)).copied();
                self.set(to, value.unwrap_or(0));
            }
            Op::Store(from, cell) => {
                let value = self.get(from);
                if let Some(cell) = self.memory.get_mut(usize::from(cell)) {
                    *cell = value;
                }
            }
            Op::Alu(op, operand) => match op.apply(self.a, self.operand(operand)) {
                Some(value) => self.a = value,
                None => return Step::Return(0),
            },
            Op::Negate => self.a = self.a.wrapping_neg(),
            Op::Copy(Register::A) => self.a = self.x,
            Op::Copy(Register::X) => self.x = self.a,
            Op::Jump(to) => return Step::To(to),
            Op::Branch {
                test,
                operand,
                then,
                otherwise,
            } => {
                let right = self.operand(operand);
                let holds = test.holds(self.a, right);
                return Step::To(if holds { then } else { otherwise });
            }
            Op::Return(value) => return Step::Return(value),
            Op::ReturnA => return Step::Return(self.a),
        }
        Step::Next
    }

    const fn get(&self, register: Register) -> u32 {
        match register {
            Register::A => self.a,
            Register::X => self.x,
        }
    }

    const fn set(&mut self, register: Register, value: u32) {
        match register {
            Register::A => self.a = value,
            Register::X => self.x = value,
        }
    }

    const fn operand(&self, operand: Operand) -> u32 {
        match operand {
            Operand::Constant(value) => value,
            Operand::X => self.x,
        }
    }
}

impl Test {
    /// Whether it holds of A and the operand.
    pub(super) const fn holds(self, a: u32, right: u32) -> bool {
        match self {
            Self::Equal => a == right,
            Self::Greater => a > right,
            Self::GreaterOrEqual => a >= right,
            Self::AnyBit => a & right != 0,
        }
    }
}

impl AluOp {
    /// What A becomes; none if it is divided by zero.
    pub(super) fn apply(self, a: u32, right: u32) -> Option<u32> {
        Some(match self {
            Self::Add => a.wrapping_add(right),
            Self::Sub => a.wrapping_sub(right),
            Self::Mul => a.wrapping_mul(right),
            Self::Div => return a.checked_div(right),
            Self::Mod => return a.checked_rem(right),
            Self::And => a & right,
            Self::Or => a | right,
            Self::Xor => a ^ right,
            Self::Shl => a.wrapping_shl(right),
            Self::Shr => a.wrapping_shr(right),
        })
    }
}

/// None: the packet has no device to ask.
fn ancillary(what: Ancillary, meta: &Meta) -> Option<u32> {
    let device = |value: u32| (meta.interface_index != 0).then_some(value);
    Some(match what {
        Ancillary::Protocol => meta.protocol.into(),
        Ancillary::PacketType => meta.packet_type.into(),
        Ancillary::InterfaceIndex => device(meta.interface_index)?,
        Ancillary::HardwareType => device(meta.hardware_type.into())?,
        Ancillary::Mark => meta.mark,
        Ancillary::Queue => meta.queue.into(),
        Ancillary::Hash => meta.hash,
        Ancillary::VlanTag => meta.vlan.map_or(0, |tag| tag.control.into()),
        Ancillary::VlanPresent => meta.vlan.is_some().into(),
        Ancillary::VlanProtocol => meta.vlan.map_or(0, |tag| tag.protocol.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::program::Insn, *};

    fn run(insns: &[(u16, u32)], packet: &Packet<'_>) -> u32 {
        let insns = insns.iter().map(|&(code, k)| Insn::new(code, 0, 0, k));
        interpret(&Program::new(insns.collect()).unwrap(), packet)
    }

    #[test]
    fn loads_read_the_headers_from_where_they_are() {
        let meta = Meta {
            network_header: 2,
            link_header: Some(-2),
            ..Meta::default()
        };
        let mut packet = Packet::new(&[0x10, 0x11, 0x12, 0x13], meta);
        packet.headroom = &[0x0e, 0x0f];
        let load = |code: u16, k: i32| run(&[(code, k.cast_unsigned()), (0x16, 0)], &packet);
        assert_eq!(load(0x20, 0), 0x1011_1213);
        assert_eq!(load(0x20, 1), 0, "past the end");
        assert_eq!(load(0x28, NETWORK), 0x1213);
        assert_eq!(load(0x28, LINK), 0x0e0f);
        assert_eq!(load(0x28, LINK + 1), 0x0f10, "across the border");
        assert_eq!(load(0x30, LINK - 1), 0);
        assert_eq!(load(0x30, NETWORK - 1), 0, "far behind the link header");
    }

    #[test]
    fn what_was_not_captured_decides_nothing() {
        let asks = |k: u32| [(0x30, k), (0x06, 9)].map(|(code, k)| Insn::new(code, 0, 0, k));
        let judged = |k, packet: &Packet<'_>| {
            let program = Program::new(asks(k).to_vec()).unwrap();
            (judge(&program, packet), interpret(&program, packet))
        };
        let part = Packet::captured(&[1, 2], 4);
        assert_eq!(judged(1, &part), (Judgement::Inside, 9));
        assert_eq!(judged(2, &part), (Judgement::Undecidable, 0));
        assert_eq!(judged(4, &part), (Judgement::Outside, 0), "past the end");
        assert_eq!(judged(NETWORK.cast_unsigned() + 9, &part).1, 0);
        let longer = Packet::captured(&[1, 2], 1);
        assert_eq!(longer.wire_len, 2, "a file that says less than it has");
    }

    #[test]
    fn arithmetic_is_the_kernels() {
        let packet = Packet::new(&[1], Meta::default());
        // ld #8; ldx #33; lsh x; ret a: 33 counts as 1.
        assert_eq!(
            run(&[(0x00, 8), (0x01, 33), (0x6c, 0), (0x16, 0)], &packet),
            16
        );
        // ld #8; div x (0): the program ends with 0.
        assert_eq!(run(&[(0x00, 8), (0x3c, 0), (0x06, 7)], &packet), 0);
        // ldx #-1; ldb [x + 1]: wraps to 0.
        let wrap = [(0x01, u32::MAX), (0x50, 1), (0x16, 0)];
        assert_eq!(run(&wrap, &packet), 1);
        // ld #8; ld #ifindex without a device: the program ends with A.
        let index = Ancillary::InterfaceIndex.k();
        assert_eq!(run(&[(0x00, 8), (0x20, index), (0x06, 0)], &packet), 8);
    }
}
