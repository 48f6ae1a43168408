//! What the filter tests share: the harness, the filters, the packets, the way into the kernel.
//!
//! ```text
//!   harness      runs tests by name; or is the filter compiler's child
//!   expressions  what people write, each of libpcap's primitives, what is refused
//!   grammar      random expressions
//!   programs     random programs
//!   frames       Ethernet frames, whole and damaged
//!   edges        a program for each way out of each branch of a program
//!   kernel       filters on socket pairs, packet sockets and BPF_PROG_TEST_RUN
//! ```
#![allow(dead_code, reason = "each of the tests uses its part")]

pub mod edges;
pub mod expressions;
pub mod frames;
pub mod grammar;
pub mod harness;
pub mod kernel;
pub mod programs;
pub mod random;
pub mod syscalls;

use std::env;

use capwarden::filter::{CompileError, Compiler, LinkType, Origin, Program, SocketForm};

pub const ETHERNET: SocketForm = SocketForm::Raw(LinkType::EN10MB);
pub const RAW: SocketForm = SocketForm::Raw(LinkType::RAW);

/// A compiler whose child is this test.
pub fn compiler() -> Compiler {
    Compiler::new(env::current_exe().unwrap())
}

/// Compiles what is not empty.
pub fn compile_for(
    expression: &str,
    form: SocketForm,
    origin: Origin,
) -> Result<Program, CompileError> {
    let program = compiler().compile_for(expression, form, origin)?;
    Ok(program.expect("the expression is not empty"))
}
