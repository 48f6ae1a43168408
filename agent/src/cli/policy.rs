//! `capwarden policy`: write policies.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{
    exit::Exit,
    failure::{Account, Failure},
};

/// Check policies
#[derive(Debug, Args)]
pub(super) struct Policy {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Check(Check),
}

/// Check policy files, and point at what is wrong
///
/// Reads each file as `run` would: syntax, names, values, patterns and capture filters. Prints
/// every problem with the lines it stands on. The exit status is 1 if there is one.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// The policy files
    #[arg(required = true, value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
    /// Print the problems as JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl Policy {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        match self.verb {
            Verb::Check(check) => check.run(),
        }
    }
}

impl Check {
    fn run(self) -> Result<Exit, Failure> {
        // To be joined to the policies.
        Err(Failure::Internal(Account::new(
            "`policy check` is not there yet",
        )))
    }
}
