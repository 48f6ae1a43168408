//! `capwarden policy import`: another vendor's policy in our language.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::policy::Policy as Loaded;

use super::super::{exit::Exit, failure::Failure, paths, term};

/// Print another vendor's policy in capwarden's own language
///
/// Takes a PolicyLayer policy, or a part of one, and Intercept's YAML and that of its catalogue.
/// What is printed decides every call alike: it is loaded and compared before it is handed out.
/// Comments say what the other language leaves open, and how it is read here. Such policies can
/// also be used as they are; import one to go beyond what its own language can say.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  capwarden policy import policy.json > policy.yaml\n  capwarden policy diff policy.json policy.yaml"
)]
pub(super) struct Import {
    /// The policy to read
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print the policy, and how it is read, as JSON
    #[arg(long)]
    json: bool,
}

impl Import {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        paths::is_there(&self.file)?;
        let imported = Loaded::import(&self.file).map_err(Failure::Policy)?;
        if self.json {
            let readings = imported.readings.iter().map(|reading| {
                json!({
                    "says": reading.says,
                    "line": reading.rule.as_ref().map(|rule| rule.line),
                    "column": reading.rule.as_ref().map(|rule| rule.column),
                    "path": reading.rule.as_ref().map(|rule| &rule.path),
                })
            });
            term::print_json(&json!({
                "file": self.file,
                "dialect": imported.from.dialect().key(),
                "fragment": imported.fragment,
                "readings": readings.collect::<Vec<_>>(),
                "policy": imported.yaml,
            }))?;
        } else {
            term::print(|out| out.write_all(imported.yaml.as_bytes()))?;
        }
        Ok(Exit::Ok)
    }
}
