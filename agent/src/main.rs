//! capwarden, the command. All work is done in the library.

use std::process::ExitCode;

use capwarden::{
    cli::{self, Cli},
    filter,
};
use clap::Parser as _;

fn main() -> ExitCode {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|verb| verb == filter::COMPILE_VERB)
    {
        return filter::compile_child(); // a confined helper: before threads and open files
    }
    let cli = Cli::parse(); // wrong usage ends here, with 2
    let outcome = cli.start_log().and_then(|logging| {
        let outcome = cli.run();
        drop(logging); // what is left of the spans is sent
        outcome
    });
    cli::finish(outcome)
}
