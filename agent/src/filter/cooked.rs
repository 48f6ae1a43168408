//! Filters for cooked sockets: `any`, and every other `SOCK_DGRAM` packet socket.
//!
//! There the kernel hands the filter a packet that begins with its network header, while the
//! reader of the capture sees a 20-byte header (SLL2) that libpcap puts in front of it later:
//!
//! ```text
//!          0          4           8        10       20
//!   SLL2   protocol │ ifindex    │ hatype │ pkttype  │ network header …
//!   kernel ancillary loads ──────────────────────────▶ 0 …
//! ```
//!
//! So a program compiled for SLL2 is rewritten, as libpcap does it before it attaches one: loads
//! behind the header move up by 20, and those of a whole field become ancillary loads. `len` is
//! left alone, as libpcap leaves it: in the kernel it does not count the header.
//!
//! libpcap rewrites by offset alone, whatever the width and the mode, so that `ether[0] = 8` turns
//! into a test of the protocol; and what it cannot rewrite it filters in userland, without a word.
//! Here both are errors.

use super::program::{Ancillary, Insn, Op, Program, ProgramError, Size};

/// The length of the SLL2 header.
const HEADER: i32 = 20;

/// Why a filter cannot run on a cooked socket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CookedError {
    /// It reads link-layer bytes, which are not there.
    #[error(
        "the filter cannot be applied to `any`: it reads byte {offset} of a link-layer header, and \
         packets have none there"
    )]
    LinkHeader {
        /// Which instruction.
        at: usize,
        /// The offset into the SLL2 header.
        offset: i32,
    },
    /// The program is not valid any more.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// Turns a program for [`LinkType::LINUX_SLL2`](super::LinkType::LINUX_SLL2) into one that gives
/// the same verdict on a cooked socket.
pub fn rewrite_for_cooked(program: &Program) -> Result<Program, CookedError> {
    let ops = program.ops().iter().zip(program.insns()).enumerate();
    let insns = ops.map(|(at, (op, insn))| rewrite(at, *op, *insn));
    Ok(Program::new(insns.collect::<Result<_, _>>()?)?)
}

fn rewrite(at: usize, op: Op, insn: Insn) -> Result<Insn, CookedError> {
    let k = match op {
        Op::LoadAbsolute { offset, .. }
        // X is added in the kernel. An X that points back into the header makes the sum negative,
        // which the kernel reads as an offset far behind the network header: no match.
        | Op::LoadIndirect { offset, .. }
        | Op::LoadHeaderLength { offset }
            if offset >= HEADER =>
        {
            (offset - HEADER).cast_unsigned()
        }
        Op::LoadAbsolute { size, offset } => match (size, offset) {
            (Size::Half, 0) => Ancillary::Protocol.k(),
            (Size::Word, 4) => Ancillary::InterfaceIndex.k(),
            (Size::Half, 8) => Ancillary::HardwareType.k(),
            (Size::Byte, 10) => Ancillary::PacketType.k(),
            _ => return Err(CookedError::LinkHeader { at, offset }),
        },
        Op::LoadIndirect { offset, .. } | Op::LoadHeaderLength { offset } => {
            return Err(CookedError::LinkHeader { at, offset });
        }
        _ => insn.k,
    };
    Ok(Insn { k, ..insn })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(code: u16, k: u32) -> Result<u32, CookedError> {
        let program = [Insn::new(code, 0, 0, k), Insn::new(0x06, 0, 0, 1)];
        let rewritten = rewrite_for_cooked(&Program::new(program.to_vec()).unwrap())?;
        Ok(rewritten.insns()[0].k)
    }

    #[test]
    fn fields_become_ancillary_loads_and_the_packet_moves_up() {
        for (code, k, expected) in [
            (0x28, 0, Ancillary::Protocol.k()),
            (0x20, 4, Ancillary::InterfaceIndex.k()),
            (0x28, 8, Ancillary::HardwareType.k()),
            (0x30, 10, Ancillary::PacketType.k()),
            (0x30, 29, 9),
            (0x48, 22, 2),
            (0xb1, 20, 0),
            // Not offsets: constants, lengths, ancillary loads that are there already.
            (0x00, 10, 10),
            (0x80, 0, 0),
            (0x20, Ancillary::Mark.k(), Ancillary::Mark.k()),
        ] {
            assert_eq!(one(code, k), Ok(expected), "0x{code:x} {k}");
        }
    }

    #[test]
    fn what_libpcap_would_misread_is_refused() {
        for (code, offset) in [
            (0x30, 0),
            (0x20, 0),
            (0x50, 0),
            (0x28, 2),
            (0x30, 12),
            (0xb1, 14),
        ] {
            let error = CookedError::LinkHeader { at: 0, offset };
            assert_eq!(one(code, offset.cast_unsigned()), Err(error));
        }
    }
}
