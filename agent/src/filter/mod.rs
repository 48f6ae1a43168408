//! filter: what a capture filter means, and how the kernel is made to run it.
//!
//! ```text
//!  expression ──compile──▶ Program (cBPF) ──translate──▶ eBPF, put in front of the guard
//!   (libpcap, in a child)      │
//!                              ├──prove──▶ is what it accepts within what a policy accepts?
//!                              └──interpret──▶ the verdict on one packet, as the kernel gives it
//! ```
//!
//! Every type here stands for what runs: libpcap is only a compiler, and a [`Program`] is the
//! exact code that the kernel executes, never an expression that somebody reads differently.
#![forbid(unsafe_code)]

mod assemble;
mod compile;
mod cooked;
mod interpret;
mod link;
mod lists;
mod program;
mod prove;
mod shorten;
mod translate;

pub use compile::{
    COMPILE_VERB, CompileError, Compiler, Origin, SocketForm, ambiguous_word, compile_child,
};
pub use cooked::{CookedError, rewrite_for_cooked};
pub use interpret::{Meta, Packet, VlanTag, interpret};
pub use link::LinkType;
pub use program::{
    AluOp, Ancillary, Insn, KERNEL_INSTRUCTIONS, MAX_INSTRUCTIONS, MEMORY_WORDS, Op, Operand,
    Program, ProgramError, Register, Size, Test,
};
pub use prove::{
    Budget, ComposeError, Containment, Cost, Difference, Emptiness, Equivalence, Example, Unknown,
    compose, difference, equivalent, is_conjunction, is_empty, prove, prove_measured, well_formed,
};
pub use translate::{EbpfInsn, TranslateError, translate};
