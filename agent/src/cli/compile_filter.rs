//! `capwarden __compile-filter`: capwarden's own helper, which compiles a capture filter in a
//! process of its own.

use clap::Args;

use crate::filter::{COMPILE_VERB, compile_child};

use super::exit::Exit;

/// Compile a capture filter; for capwarden's own use
#[derive(Debug, Args)]
#[command(name = COMPILE_VERB, hide = true)]
pub(super) struct CompileFilter {}

impl CompileFilter {
    pub(super) fn run(self) -> Exit {
        Exit::Helper(compile_child())
    }
}
