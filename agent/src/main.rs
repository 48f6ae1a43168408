//! capwarden, the command. All work is done in the library.

use std::process::ExitCode;

use capwarden::{
    cli::{self, Cli},
    filter, kernel,
};
use clap::Parser as _;

fn main() -> ExitCode {
    // Helpers, which are no verbs for people: before threads and open files.
    match std::env::args_os().nth(1) {
        Some(verb) if verb == filter::COMPILE_VERB => return filter::compile_child(),
        Some(verb) if verb == kernel::LAUNCHER_VERB => return kernel::launcher(),
        Some(verb) if verb == cli::NAMES_VERB => return cli::names(),
        _ => {}
    }
    let cli = Cli::parse(); // wrong usage ends here, with 2
    let outcome = cli.start_log().and_then(|logging| {
        let outcome = cli.run();
        drop(logging); // what is left of the spans is sent
        outcome
    });
    cli::finish(outcome)
}
