//! `capwarden policy`: check policies.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::policy::PolicyError;

use super::{
    enforce,
    exit::Exit,
    failure::{Failure, diagnostic},
    term::{self, Paint},
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
/// the first problem of each file, and where it is. The exit status is 1 if there is one.
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
        let mut unsound = false;
        let mut reports = Vec::new();
        for file in &self.files {
            let checked = enforce::load_policy(file);
            match checked {
                Ok(policy) => {
                    let summary = policy.summary();
                    reports.push(json!({
                        "file": file,
                        "ok": true,
                        "sha256": summary.digest,
                        "allowed": summary.allowed,
                        "capturing": summary.capturing,
                        "ending": summary.ending,
                        "denied": summary.denied,
                        "exec": summary.exec,
                    }));
                    if !self.json {
                        term::print(|out| writeln!(out, "{summary}"))?;
                    }
                }
                Err(Failure::Policy(report)) => {
                    unsound = true;
                    reports.push(problem(file, &report));
                    if !self.json {
                        let text = diagnostic(report.as_ref(), Paint::for_stdout());
                        term::print(|out| out.write_all(text.as_bytes()))?;
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
        if self.json {
            term::print_json(&reports)?;
        }
        Ok(if unsound { Exit::Unsound } else { Exit::Ok })
    }
}

fn problem(file: &Path, report: &miette::Report) -> Value {
    let place = report.downcast_ref::<PolicyError>();
    json!({
        "file": file,
        "ok": false,
        "message": place.map_or_else(|| report.to_string(), |error| error.message().to_owned()),
        "line": place.and_then(PolicyError::line),
        "column": place.and_then(PolicyError::column),
        "help": report.help().map(|help| help.to_string()),
    })
}
