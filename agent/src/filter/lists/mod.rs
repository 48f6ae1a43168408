//! Long lists in expressions, as a search where libpcap makes a chain.
//!
//! libpcap compiles `host a or host b or …` to some thirty instructions a host, in a time that
//! grows with the square of their number. Here, libpcap never sees the list:
//!
//! ```text
//!   tcp and (host a or host b or … )          what is asked for
//!        │ plan
//!        ▼
//!   tcp and (host F or host S)                what libpcap compiles: F stands for a, S for b …
//!        │ patch
//!        ▼
//!   the same code; where it compares a loaded value with F or S, that value is looked for among
//!   the members, by halving
//! ```
//!
//! So which packets a primitive looks at, and where in them, is libpcap's own, whatever the link
//! type and whatever stands in front (`vlan`, `mpls`, …).
//!
//! # Why this is what libpcap's chain means
//! A primitive P(x) is a choice between places, each a loaded value that is compared with x: where
//! one is x, the primitive holds, and nothing else in it hangs on x. [`patch`](patch()) looks at
//! the code to see that it is so. Then P(a) or P(b) or … holds exactly where the value of some
//! place is a or b or …, as far as nothing is loaded from behind the packet's end, which ends the
//! program in the midst of the chain. This is why the first member is tested by itself, before all
//! others: behind it, each load that the others make has been made, and has not failed.
//!
//! One difference remains. An IPv6 address is compared word by word, and its last words are loaded
//! only if the first are those of a member. So in a packet that ends within its destination
//! address, it is the order of the members that decides in the chain. Here, such a packet is
//! always dropped.
//!
//! None of this is taken on trust either: for each expression, the same is done with three members
//! of each list, and the [prover](super::prove()) compares that with what libpcap itself makes of
//! those three.

mod member;
mod patch;
mod search;
mod skeleton;
mod tokens;

pub(super) use patch::patch;
pub(super) use skeleton::{Plan, plan};

use super::program::{Insn, Program};
use member::{Kind, Range};

/// Lists in one expression. Enough numbers for so many stand-ins have been set aside.
const MOST_LISTS: usize = 64;

/// The members of one kind in a list, as libpcap compares them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct List {
    kind: Kind,
    number: usize,
    first: Range,
    /// The others, in ascending order, none next to another.
    rest: Vec<Range>,
}

impl List {
    /// The words of the value that stands for the first member.
    fn first_stand_in(&self) -> Vec<u32> {
        self.words(0)
    }

    /// The words of the value that stands for all others.
    fn stand_in(&self) -> Vec<u32> {
        self.words(1)
    }

    /// Whether a program that does not have the stand-ins has one of their words all the same: then
    /// the list is left to libpcap.
    pub(super) fn stands_in(&self, sample: &Program) -> bool {
        let words = [self.first_stand_in(), self.stand_in()].concat();
        let compares = |insn: &Insn| words.contains(&insn.k);
        sample.insns().iter().any(compares)
    }

    /// Values that hardly any program compares anything with otherwise; each is in one list only.
    fn words(&self, which: u32) -> Vec<u32> {
        let number = u32::try_from(self.number).unwrap_or(u32::MAX) % 64;
        let small = 2 * number + which;
        match self.kind {
            Kind::V4 => vec![0x5bd1_e000 | number << 2 | which],
            Kind::V6 => (0..4).map(|word| 0x3bd1_0000 | small << 2 | word).collect(),
            Kind::Port => vec![0xe1a0 + small],
            Kind::Ether => vec![0x6bd1_0000 | small, 0x5e00 | small],
        }
    }
}
