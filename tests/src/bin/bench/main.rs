//! What `cargo xtask bench` runs as root. Each measurement, or what kept it from being made, goes
//! to standard output as a line of JSON; nothing here judges.
//!
//! Everything happens in a network namespace of its own. The release binary is found in
//! `CAPWARDEN_BIN`, the Python environment in `CAPWARDEN_VENV`, other gateways, where they are
//! installed, in `CAPWARDEN_PEERS`; arguments name the parts to run, none
//! means all.
#![allow(clippy::print_stdout, reason = "the lines are this program's answer")]

mod arming;
mod calm;
mod capture;
mod clients;
mod cores;
mod fixture;
mod gate;
mod guard;
mod limits;
mod load;
mod measure;
mod net;
mod peers;
mod prove;
mod proxies;
mod sys;
mod telemetry;
mod web;

use std::{
    env,
    path::PathBuf,
    process::{Child, Command},
};

use anyhow::{Context, Result, ensure};
use capwarden::filter::Compiler;
use measure::Measurement;
use serde_json::json;
use tempfile::TempDir;

/// What the parts share.
struct Bench {
    capwarden: PathBuf,
    directory: TempDir,
}

impl Bench {
    fn compiler(&self) -> Compiler {
        Compiler::new(&self.capwarden)
    }

    /// A file of the bench's own.
    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `capwarden VERB`, with its audit log on a file of the bench's own.
    fn capwarden(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.capwarden);
        command.args([verb, "--log", "error", "--audit"]);
        command.arg(self.file("audit.jsonl"));
        if verb == "run" {
            command.arg("--state").arg(self.file("state"));
        }
        command
    }
}

/// A process that is killed, by its id, if it is still there when it is dropped.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_os_string();
        let child = command.spawn();
        child
            .map(Self)
            .with_context(|| format!("cannot run {}", name.display()))
    }

    /// Waits for its end.
    fn wait(mut self) -> Result<()> {
        let status = self.0.wait()?;
        ensure!(status.success(), "a process ended with {status}");
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

type Part = (&'static str, fn(&Bench) -> Result<Vec<Measurement>>);

const PARTS: &[Part] = &[
    ("load", load::measure), // first: a process's first guard is special
    ("guard", guard::measure),
    ("capture", capture::measure),
    ("arming", arming::measure),
    ("gate", gate::measure),
    ("gate", web::measure),
    ("clients", clients::measure),
    ("proxies", proxies::measure),
    ("limits", limits::measure),
    ("telemetry", telemetry::measure),
    ("prove", prove::measure),
];

fn main() -> Result<()> {
    if let Some(fixture::ROLE) = env::args().nth(1).as_deref() {
        return fixture::serve(&env::args().nth(2).context("which port?")?);
    }
    if let Some(proxies::ROLE) = env::args().nth(1).as_deref() {
        return proxies::serve(env::args().nth(2).as_deref());
    }
    let capwarden = env::var_os("CAPWARDEN_BIN").context("CAPWARDEN_BIN is not set")?;
    let bench = Bench {
        capwarden: capwarden.into(),
        directory: tempfile::tempdir()?,
    };
    let wanted: Vec<String> = env::args().skip(1).collect();
    net::enter()?;
    for (name, measure) in PARTS {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == name) {
            continue;
        }
        match measure(&bench) {
            Ok(measurements) => {
                for measurement in measurements {
                    println!("{}", measurement.to_json());
                }
            }
            Err(error) => println!(
                "{}",
                json!({ "what": name, "failed": format!("{error:#}") })
            ),
        }
    }
    Ok(())
}
