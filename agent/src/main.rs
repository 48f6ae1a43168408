//! capwarden, the command. All work is done in the library.

use std::process::ExitCode;

use capwarden::cli::{self, Cli};
use clap::Parser as _;

fn main() -> ExitCode {
    let cli = Cli::parse(); // wrong usage ends here, with 2
    let outcome = cli.start_log().and_then(|()| cli.run());
    cli::finish(outcome)
}
