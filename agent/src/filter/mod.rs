//! filter: what a capture filter means, and how the kernel is made to run it.
//!
//! ```text
//!  expression ──compile──▶ Program (cBPF) ──translate──▶ eBPF, put in front of the guard
//!    (long lists apart)        │  (cooked, vlan: as the socket shows packets; shorten: less code)
//!   (libpcap, in a child)      │
//!                              ├──prove──▶ is what it accepts within what a policy accepts?
//!                              ├──explain▶ what does it accept, in words and examples?
//!                              ├──lint───▶ which refused packets get through when they hide?
//!                              └──interpret──▶ the verdict on one packet, as the kernel gives it
//! ```
//!
//! A filter means what it means on the capture file: on the frame with all its VLAN tags in it (see
//! [`see_vlan_tags`]).
//!
//! Every type here stands for what runs: libpcap is only a compiler, and a [`Program`] is the
//! exact code that the kernel executes, never an expression that somebody reads differently.
#![forbid(unsafe_code)]

mod assemble;
mod compile;
mod cooked;
mod interpret;
mod link;
mod lint;
mod lists;
mod program;
mod prove;
mod shorten;
mod translate;
mod vlan;

pub use compile::{
    COMPILE_VERB, CompileError, Compiler, Origin, SocketForm, answer_request, compile_child,
    compile_with,
};
pub use cooked::{CookedError, rewrite_for_cooked};
pub use interpret::{Judgement, Meta, Packet, VlanTag, interpret, judge};
pub use link::LinkType;
pub use lint::{
    Finding, Keeps, Lint, LintBudget, Matches, NOT_LOOKED_THROUGH, Rewrite, hiding_name,
    hiding_why, lint,
};
pub use program::{
    AluOp, Ancillary, Insn, KERNEL_INSTRUCTIONS, MAX_INSTRUCTIONS, MEMORY_WORDS, Op, Operand,
    Program, ProgramError, Register, Size, Test,
};
pub use prove::{
    Budget, ComposeError, Containment, Cost, Difference, Disguise, Emptiness, Equivalence, Example,
    Explanation, Hiding, Mark, NearMiss, Pair, Unknown, Way, Wording, compose, difference,
    disguises, dropped, equivalent, explain, hides, in_words, is_conjunction, is_empty, prove,
    prove_measured, reads_addresses, well_formed,
};
pub use translate::{EbpfInsn, TranslateError, translate, translate_own};
pub use vlan::{VlanError, see_vlan_tags};
