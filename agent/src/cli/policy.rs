//! `capwarden policy`: what a policy is worth, before it decides anything.

mod check;
mod diff;
mod explain;
mod import;
mod schema;
mod summary;
mod test;

use clap::{Args, Subcommand};

use super::{exit::Exit, failure::Failure};

/// Check, explain, test, compare and import policies
#[derive(Debug, Args)]
pub(super) struct Policy {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Check(check::Check),
    Explain(explain::Explain),
    Test(test::Test),
    Diff(diff::Diff),
    Import(import::Import),
    Schema(schema::Schema),
}

impl Policy {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        match self.verb {
            Verb::Check(check) => check.run(),
            Verb::Explain(explain) => explain.run(),
            Verb::Test(test) => test.run(),
            Verb::Diff(diff) => diff.run(),
            Verb::Import(import) => import.run(),
            Verb::Schema(schema) => schema.run(),
        }
    }
}
