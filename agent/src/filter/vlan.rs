//! Filters that see a frame as the capture file shows it: with its outer VLAN tag in its bytes.
//!
//! The kernel takes the outer tag out of a received frame and keeps it beside the bytes; a frame
//! on its way out may have it in either place. A reader of the capture gets it back in the bytes
//! (libpcap puts it there), so a filter that reads the kernel's bytes means one thing on frames
//! that come in, another on frames that go out, and neither is what a look at the file would show.
//!
//! ```text
//!   the kernel   0 ─────── 12 type 14 …          tag: TPID, TCI, beside the bytes
//!   the file     0 ─────── 12 TPID 14 TCI 16 type 18 …
//! ```
//!
//! Compiled without a live interface, libpcap's program reads the lower line. Here it is made to
//! run on the upper one: for frames that have a tag beside their bytes a second copy of it is put
//! in front, whose loads behind byte 12 move down by four and whose loads of the tag read it from
//! where it is. One rule follows, for policies, requests and people alike: **a filter means what it means on
//! the capture file**. `tcp port 22` is about untagged frames, `vlan 5 and tcp port 22` about
//! tagged ones, whichever way they go.
//!
//! Cooked sockets are left out: the files that come from them show no tag, and libpcap knows no
//! `vlan` there.
//!
//! `SKF_AD_VLAN_TPID` needs Linux 3.20:
//! <https://github.com/torvalds/linux/blob/v5.14/include/uapi/linux/filter.h#L62>

use super::{
    assemble::{
        Assembler,
        code::{
            ADD, AND, JEQ, JGE, JGT, LD_BYTE, LD_CONSTANT, LD_LENGTH, LD_MEMORY, LD_WORD,
            LDX_MEMORY, LSH, OR_X, RSH, ST, STX, TAX, TXA,
        },
    },
    program::{Ancillary, Insn, MEMORY_WORDS, Op, Program, ProgramError, Register, Size},
};

/// Where the tag stands in the file.
const TAG: u32 = 12;
/// Where what follows it does.
const BEHIND: u32 = TAG + TAG_LENGTH;
const TAG_LENGTH: u32 = 4;

/// Negative offsets count from the network header, which a tag does not move, down to this one
/// (`SKF_LL_OFF`), from which on they count from the link header.
const FROM_NETWORK_HEADER: i32 = -0x10_0000;

/// Why a program cannot be made to see the tag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VlanError {
    /// It counts from the link header, which no program of libpcap's does.
    #[error("instruction {at}: reads relative to the link header")]
    LinkHeader {
        /// Which instruction.
        at: usize,
    },
    /// It uses every memory cell.
    #[error(
        "the filter uses nearly all of the {MEMORY_WORDS} memory cells ({free} left); two are needed \
         to see VLAN tags"
    )]
    NoFreeCell {
        /// Cells that are left.
        free: usize,
    },
    /// With its second copy it is no program, mostly because it is too long.
    #[error("with VLAN tags: {0}")]
    Program(#[from] ProgramError),
}

/// Makes a program for [Ethernet frames](super::LinkType::EN10MB) with all tags in their bytes give
/// the same verdict on the frame as the kernel has it, with the outer tag in
/// [`Meta::vlan`](super::Meta::vlan).
pub fn see_vlan_tags(program: &Program) -> Result<Program, VlanError> {
    if !program.ops().iter().any(reaches_tag) {
        return Ok(program.clone());
    }
    let cells = Cells::free_in(program)?;
    let mut code = Assembler::default();
    // A is 0 on the untagged path, as a program finds it.
    code.plain(LD_WORD, Ancillary::VlanPresent.k());
    code.branch(
        Insn::new(JEQ, 0, 0, 0),
        Label::Untagged(0),
        Label::TaggedStart,
    );
    code.place(Label::TaggedStart);
    code.plain(LD_CONSTANT, 0);
    for (at, (op, insn)) in program.ops().iter().zip(program.insns()).enumerate() {
        code.place(Label::Tagged(at));
        Tagged {
            code: &mut code,
            cells,
            at,
        }
        .instruction(*op, *insn)?;
    }
    for (at, (op, insn)) in program.ops().iter().zip(program.insns()).enumerate() {
        code.place(Label::Untagged(at));
        code.copy(*op, *insn, Label::Untagged);
    }
    Ok(Program::new(code.finish())?)
}

/// Whether a tag in the bytes makes a difference to an instruction.
fn reaches_tag(op: &Op) -> bool {
    match *op {
        Op::LoadAbsolute { size, offset } => last_byte(offset, size) >= i64::from(TAG),
        Op::LoadHeaderLength { offset } => last_byte(offset, Size::Byte) >= i64::from(TAG),
        Op::LoadAncillary(
            Ancillary::VlanPresent | Ancillary::VlanTag | Ancillary::VlanProtocol,
        )
        | Op::LoadIndirect { .. }
        | Op::LoadLength(_) => true,
        _ => false,
    }
}

fn last_byte(offset: i32, size: Size) -> i64 {
    i64::from(offset) + i64::from(width(size)) - 1
}

const fn width(size: Size) -> u32 {
    match size {
        Size::Byte => 1,
        Size::Half => 2,
        Size::Word => 4,
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Label {
    TaggedStart,
    Tagged(usize),
    Untagged(usize),
    /// Places inside the stand-in for one instruction.
    Inside(usize, Place),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Else(u32),
    Shifted,
    InTag,
    Plain,
    Done,
}

/// Memory cells that the program leaves alone.
#[derive(Clone, Copy)]
struct Cells {
    value: u32,
    index: u32,
}

impl Cells {
    fn free_in(program: &Program) -> Result<Self, VlanError> {
        let used = program.ops().iter().fold(0_u32, |used, op| match *op {
            Op::Store(_, cell) | Op::LoadMemory(_, cell) => used | 1 << cell,
            _ => used,
        });
        let cells = 0..u32::try_from(MEMORY_WORDS).unwrap_or(0);
        let mut free = cells.filter(|cell| used & 1 << cell == 0);
        match (free.next(), free.next()) {
            (Some(value), Some(index)) => Ok(Self { value, index }),
            (first, _) => Err(VlanError::NoFreeCell {
                free: first.iter().count(),
            }),
        }
    }
}

/// Writes the stand-in for one instruction, for a frame with a tag beside its bytes.
struct Tagged<'a> {
    code: &'a mut Assembler<Label>,
    cells: Cells,
    at: usize,
}

impl Tagged<'_> {
    fn instruction(mut self, op: Op, insn: Insn) -> Result<(), VlanError> {
        match op {
            Op::LoadAbsolute { offset, .. }
            | Op::LoadIndirect { offset, .. }
            | Op::LoadHeaderLength { offset }
                if offset < FROM_NETWORK_HEADER =>
            {
                return Err(VlanError::LinkHeader { at: self.at });
            }
            Op::LoadAbsolute { size, offset } => match u32::try_from(offset) {
                Ok(from) => self.load(size, from, insn),
                Err(_) => self.code.push(insn),
            },
            Op::LoadIndirect { size, .. } => self.load_indirect(size, insn),
            Op::LoadHeaderLength { offset } => match u32::try_from(offset) {
                Ok(from @ TAG..BEHIND) => {
                    self.code.plain(ST, self.cells.value);
                    self.tag_byte(from);
                    self.code.plain(AND, 0xf);
                    self.code.plain(LSH, 2);
                    self.code.plain(TAX, 0);
                    self.code.plain(LD_MEMORY, self.cells.value);
                }
                Ok(from @ BEHIND..) => self.moved(insn, from),
                _ => self.code.push(insn),
            },
            Op::LoadLength(register) => {
                if register == Register::X {
                    self.code.plain(ST, self.cells.value);
                }
                self.code.plain(LD_LENGTH, 0);
                self.code.plain(ADD, TAG_LENGTH);
                if register == Register::X {
                    self.code.plain(TAX, 0);
                    self.code.plain(LD_MEMORY, self.cells.value);
                }
            }
            // It is in the bytes: none is beside them.
            Op::LoadAncillary(
                Ancillary::VlanPresent | Ancillary::VlanTag | Ancillary::VlanProtocol,
            ) => self.code.plain(LD_CONSTANT, 0),
            _ => self.code.copy(op, insn, Label::Tagged),
        }
        Ok(())
    }

    /// An absolute load. `from` counts as in the file.
    fn load(&mut self, size: Size, from: u32, insn: Insn) {
        let width = width(size);
        if from >= BEHIND {
            self.moved(insn, from);
        } else if from + width <= TAG {
            self.code.push(insn);
        } else if width == 1 {
            self.tag_byte(from);
        } else if (size, from) == (Size::Half, TAG) {
            self.code.plain(LD_WORD, Ancillary::VlanProtocol.k());
        } else if (size, from) == (Size::Half, TAG + 2) {
            self.code.plain(LD_WORD, Ancillary::VlanTag.k());
        } else {
            self.collect(from, width);
        }
    }

    /// A load of bytes from both sides of the tag's border, byte by byte. X survives.
    fn collect(&mut self, from: u32, width: u32) {
        let Cells { value, index } = self.cells;
        self.code.plain(STX, index);
        for nth in 0..width {
            self.byte(from + nth);
            let shift = 8 * (width - 1 - nth);
            if shift != 0 {
                self.code.plain(LSH, shift);
            }
            if nth != 0 {
                self.code.plain(LDX_MEMORY, value);
                self.code.plain(OR_X, 0);
            }
            self.code.plain(ST, value);
        }
        self.code.plain(LDX_MEMORY, index);
    }

    fn byte(&mut self, from: u32) {
        match from {
            0..TAG => self.code.plain(LD_BYTE, from),
            TAG..BEHIND => self.tag_byte(from),
            BEHIND.. => self.code.plain(LD_BYTE, from - TAG_LENGTH),
        }
    }

    /// One byte of the tag, to A.
    fn tag_byte(&mut self, from: u32) {
        let half = if from < TAG + 2 {
            Ancillary::VlanProtocol
        } else {
            Ancillary::VlanTag
        };
        self.code.plain(LD_WORD, half.k());
        if from.is_multiple_of(2) {
            self.code.plain(RSH, 8);
        } else {
            self.code.plain(AND, 0xff);
        }
    }

    /// A load from behind the tag.
    fn moved(&mut self, insn: Insn, from: u32) {
        let k = from - TAG_LENGTH;
        self.code.push(Insn { k, ..insn });
    }

    /// A load from where X says. A is free: the load overwrites it.
    fn load_indirect(&mut self, size: Size, insn: Insn) {
        const NEGATIVE: u32 = 1 << 31;
        let at = self.at;
        let inside = |place| Label::Inside(at, place);
        let (shifted, in_tag) = (inside(Place::Shifted), inside(Place::InTag));
        let (plain, done) = (inside(Place::Plain), inside(Place::Done));
        let other = |nth| inside(Place::Else(nth));
        let first_in_tag = TAG + 1 - width(size);

        self.code.plain(TXA, 0);
        self.code.plain(ADD, insn.k);
        self.code
            .branch(Insn::new(JGE, 0, 0, NEGATIVE), plain, other(0));
        self.code.place(other(0));
        self.code
            .branch(Insn::new(JGE, 0, 0, BEHIND), shifted, other(1));
        self.code.place(other(1));
        let test = Insn::new(JGT, 0, 0, first_in_tag - 1);
        self.code.branch(test, in_tag, plain);

        self.code.place(in_tag);
        for from in first_in_tag..BEHIND {
            let (here, next) = (other(2 * from), other(2 * from + 1));
            // What is none of the others is the last.
            if from + 1 < BEHIND {
                self.code.branch(Insn::new(JEQ, 0, 0, from), here, next);
                self.code.place(here);
            }
            let absolute = Insn::new(insn.code & !0x60 | 0x20, 0, 0, from);
            self.load(size, from, absolute);
            self.code.jump(done);
            self.code.place(next);
        }

        self.code.place(shifted);
        self.code.push(Insn {
            k: insn.k.wrapping_sub(TAG_LENGTH),
            ..insn
        });
        self.code.jump(done);
        self.code.place(plain);
        self.code.push(insn);
        self.code.place(done);
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            interpret::{Meta, Packet, VlanTag, interpret},
            program::MAX_INSTRUCTIONS,
        },
        *,
    };

    /// A tag, and eighteen bytes of a frame that differ from each other.
    const CONTROL: u16 = 0xa1b2;
    const PROTOCOL: u16 = 0x88a8;
    const LENGTH: usize = 18;

    fn verdicts(insns: &[(u16, u32)]) -> (u32, u32) {
        let insns = insns.iter().map(|&(code, k)| Insn::new(code, 0, 0, k));
        let program = Program::new(insns.collect()).unwrap();
        let beside: Vec<u8> = (1..).take(LENGTH).collect();
        let mut inside = beside.clone();
        let tag = [PROTOCOL.to_be_bytes(), CONTROL.to_be_bytes()].concat();
        inside.splice(12..12, tag);
        let plain = Meta {
            network_header: 14,
            ..Meta::default()
        };
        let tagged = Meta {
            vlan: Some(VlanTag {
                protocol: PROTOCOL,
                control: CONTROL,
            }),
            ..plain
        };
        // The network header lies behind the tag.
        let in_file = Meta {
            network_header: 18,
            ..plain
        };
        let seeing = see_vlan_tags(&program).unwrap();
        let untagged = Packet::new(&beside, plain);
        assert_eq!(
            interpret(&program, &untagged),
            interpret(&seeing, &untagged)
        );
        let file = interpret(&program, &Packet::new(&inside, in_file));
        (file, interpret(&seeing, &Packet::new(&beside, tagged)))
    }

    /// Load, then give back A and X, each in a program of its own: neither may be disturbed.
    fn compare(load: (u16, u32), x: u32) -> u32 {
        let prepared = [(LD_CONSTANT, 0x77), (0x01, x), load];
        let (file, kernel) = verdicts(&[&prepared[..], &[(0x16, 0)]].concat());
        assert_eq!(file, kernel, "A after {load:x?} with X {x:x}");
        let (file, kernel) = verdicts(&[&prepared[..], &[(TXA, 0), (0x16, 0)]].concat());
        assert_eq!(file, kernel, "X after {load:x?} with X {x:x}");
        file
    }

    #[test]
    fn each_load_of_each_size_from_each_place_reads_what_the_file_has() {
        let mut read = 0;
        for offset in (0..30).chain([u32::MAX, 0xfff0_0000, 0xfff0_0003, 0x7fff_ffff]) {
            for absolute in [0x20, 0x28, 0x30, 0xb1] {
                if offset != u32::MAX || absolute == 0xb1 {
                    read += u32::from(compare((absolute, offset), 0x9999) != 0);
                }
            }
            for indirect in [0x40, 0x48, 0x50] {
                for x in (0..30).chain([u32::MAX, u32::MAX - 3, 1 << 31, 0xfff0_0000]) {
                    read += u32::from(compare((indirect, offset), x) != 0);
                }
            }
        }
        assert!(read > 800, "{read}");
    }

    #[test]
    fn the_length_has_the_tag_and_nothing_is_left_beside() {
        assert_eq!(compare((LD_LENGTH, 0), 5), 5);
        assert_eq!(verdicts(&[(LD_LENGTH, 0), (0x16, 0)]), (22, 22));
        assert_eq!(compare((0x81, 0), 5), 22);
        for ancillary in [
            Ancillary::VlanPresent,
            Ancillary::VlanTag,
            Ancillary::VlanProtocol,
        ] {
            assert_eq!(verdicts(&[(LD_WORD, ancillary.k()), (0x16, 0)]), (0, 0));
        }
        // Registers are as clear as the kernel has them.
        assert_eq!(verdicts(&[(LD_BYTE, 13), (0x16, 0)]), (0xa8, 0xa8));
        assert_eq!(
            verdicts(&[(ST, 3), (LD_LENGTH, 0), (LD_MEMORY, 3), (0x16, 0)]),
            (0, 0)
        );
    }

    #[test]
    fn what_does_not_reach_the_tag_is_left_alone() {
        let program = [(LD_WORD, 8), (0x16, 0)].map(|(code, k)| Insn::new(code, 0, 0, k));
        let program = Program::new(program.to_vec()).unwrap();
        assert_eq!(see_vlan_tags(&program), Ok(program));
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        let refused = |insns: Vec<Insn>| see_vlan_tags(&Program::new(insns).unwrap());
        let ret = Insn::new(0x16, 0, 0, 0);
        let link = Insn::new(LD_BYTE, 0, 0, 0xffe0_0000);
        let length = Insn::new(LD_LENGTH, 0, 0, 0);
        assert_eq!(
            refused(vec![length, link, ret]),
            Err(VlanError::LinkHeader { at: 1 })
        );
        let stores = (0..15).map(|cell| Insn::new(ST, 0, 0, cell));
        let full = stores.chain([length, ret]).collect();
        assert_eq!(refused(full), Err(VlanError::NoFreeCell { free: 1 }));
        let long = vec![length; MAX_INSTRUCTIONS / 2].into_iter().chain([ret]);
        assert!(matches!(
            refused(long.collect()),
            Err(VlanError::Program(ProgramError::TooLong(_)))
        ));
    }
}
