//! The attack matrix: each way that hostile code has out of a capture grant, as a small program that
//! tries it.
//!
//! ```text
//! attacks --capwarden PATH [--json] [--only ID]… [--require LAYER]…
//! ```
//! Each row of the table is tried without capwarden first, where it must work: an attack that fails by
//! itself proves nothing. Then it is tried under capwarden, as a user and as user id 0, by each door
//! into the kernel, and the attacker must see what the row says. Exits with 0 if no row failed.
//!
//! | room | does |
//! |---|---|
//! | `row`, `table`, `families` | the rows: what is attempted, what must stop it, and how that looks to its attacker |
//! | `attacker`, `netlink`, `ring`, `race` | what attackers are made of |
//! | `act` | tries rows, each in a process of its own; runs ungoverned, and governed |
//! | `stage` | where attacks happen: namespaces, traffic, a bystander, daemons; starts everything |
//! | `judge`, `report` | what both sides of a row come to |
//! | `sys` | system calls by every door |
//!
//! Harmless by design: packets stay in namespaces of the stage's own, mounts in one mount namespace,
//! and what would damage the host asks for something that cannot be.
#![allow(
    unsafe_code,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "attackers speak to the kernel, and have nothing to lose; the report is the program's answer"
)]

mod act;
mod attacker;
mod errno;
mod families;
mod judge;
mod netlink;
mod race;
mod report;
mod ring;
mod row;
mod stage;
mod sys;
mod table;
mod world;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;

/// What `--help` says behind the options.
const STATUSES: &str = "\
Each row is tried without capwarden and under it, as nobody and as root,
by each door into the kernel:

  ✓ passed    it works without capwarden, and under it its attacker saw
              what it must see
  ✗ failed    it works under capwarden, or was stopped in another way than
              it must be; or it does not work without capwarden, so that it
              proves nothing
  · skipped   this kernel cannot do it without capwarden either
  ! residual  it works under capwarden, as SECURITY.md says: by itself, or
              on hosts that lack a layer that would stop it (with --require
              the lack is a failure)

Rows that failed are printed again at the end.

Exit statuses: 0 nothing failed, 1 something failed or could not be tried,
2 wrong usage.";

/// The attack matrix, without capwarden and under it
#[derive(Debug, Parser)]
#[command(name = "attacks", after_help = STATUSES)]
struct Options {
    /// The capwarden that is attacked
    #[arg(long, value_name = "PATH")]
    capwarden: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Only these rows, or all of a family: A1, B. More of them with commas, or by giving this again
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    only: Vec<String>,
    /// This layer must be here, named as by `capwarden doctor`: "BPF LSM", or bpf-lsm. More of them as above
    #[arg(long, value_name = "LAYER", value_delimiter = ',')]
    require: Vec<String>,
}

fn main() -> ExitCode {
    match run() {
        Ok(status) => status,
        Err(error) => {
            eprintln!("attacks: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let mut words = std::env::args().skip(1);
    // Roles that this program starts itself in.
    match words.next().as_deref() {
        Some("act") => act::act(words)?,
        Some("bystander") => {
            let mut next = || words.next().context("bystander SOCKET NAME USER");
            let (socket, name, user) = (next()?, next()?, next()?);
            stage::bystander::stand(socket.into(), name, user.parse()?)?;
        }
        Some("helper") => families::escape::helper(),
        Some("powers") => families::escape::powers(),
        _ => return all(&Options::parse()),
    }
    Ok(ExitCode::SUCCESS)
}

fn all(options: &Options) -> Result<ExitCode> {
    let rows = table::wanted(&options.only)?;
    let report = stage::run(&options.capwarden, rows, &options.require)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report.to_json())?);
    } else {
        print!("{report}");
    }
    Ok(if report.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
