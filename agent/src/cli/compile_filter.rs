//! `capwarden __compile-filter`: capwarden's own helper, which compiles a capture filter in a
//! process of its own.

use clap::Args;

use super::{
    exit::Exit,
    failure::{Account, Failure},
};

/// Compile a capture filter; for capwarden's own use
#[derive(Debug, Args)]
#[command(name = "__compile-filter", hide = true)]
pub(super) struct CompileFilter {}

impl CompileFilter {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        // To be joined to the filters.
        Err(Failure::Internal(Account::new(
            "`__compile-filter` is not there yet",
        )))
    }
}
