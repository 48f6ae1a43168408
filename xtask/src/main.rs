//! capwarden's developer commands: `cargo xtask <verb>`.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    reason = "a developer's command talks to its terminal"
)]

mod again;
mod apt;
mod attacks;
mod bench;
mod demo;
mod fuzz;
mod house;
mod package;
mod pictures;
mod root;
mod run;
mod setup;
mod shell;
mod tally;
mod term;
mod test;
mod vm;

use std::process::ExitCode;

use clap::Parser;

/// capwarden's developer commands
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Verb {
    /// Install or build what is missing: Debian packages, the nightly, bpf-linker, Python servers
    Setup,
    /// Lint, unit tests, then the end-to-end tests as root
    Test(test::Options),
    /// A demo: a real MCP server behind capwarden, real packets, each promise checked
    Run(run::Options),
    /// The pictures that the documents show, made from the real program with real captures
    Pictures(pictures::Options),
    /// Each way out of a capture grant, tried without capwarden and under it
    Attacks(attacks::Options),
    /// What capwarden costs, against the same work without it
    Bench(bench::Options),
    /// Fuzz the filter room with cargo-fuzz, target after target
    Fuzz(fuzz::Options),
    /// What is installed on hosts: a .deb, an .rpm, a tarball, a list of what is in them, and checksums
    Package(package::Options),
    /// The tests that speak to the kernel, on Debian's kernels 6.1 and 6.12 in emulated machines
    Vm(vm::Options),
}

fn main() -> ExitCode {
    let done = match Verb::parse() {
        Verb::Setup => setup::main(),
        Verb::Test(options) => test::main(&options),
        Verb::Run(options) => run::main(&options),
        Verb::Pictures(options) => pictures::main(&options),
        Verb::Attacks(options) => attacks::main(&options),
        Verb::Bench(options) => bench::main(&options),
        Verb::Fuzz(options) => fuzz::main(&options),
        Verb::Package(options) => package::main(&options),
        Verb::Vm(options) => vm::main(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            term::failure(&error);
            ExitCode::FAILURE
        }
    }
}
