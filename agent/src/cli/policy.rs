//! `capwarden policy`: what a policy is worth, before it decides anything.

mod check;
mod diff;
mod explain;
mod import;
mod schema;
mod summary;
mod test;

use std::{collections::BTreeMap, fs::File, io::Read as _, path::Path, sync::Arc};

use clap::{Args, Subcommand};

use crate::policy::Definition;

use super::{
    exit::Exit,
    failure::{Account, Failure},
    paths,
};

/// Bytes of a recorded list of tools at most.
const MAX_LIST: u64 = 8 << 20;

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

/// What a server answered to tools/list, by the tools' names; of one that is there twice, the last.
fn recorded(path: &Path) -> Result<Arc<BTreeMap<String, Arc<Definition>>>, Failure> {
    paths::is_there(path)?;
    let mut text = String::new();
    let read = File::open(path)
        .and_then(|file| file.take(MAX_LIST + 1).read_to_string(&mut text))
        .map_err(|error| error.to_string());
    let read = read.and_then(|length| {
        if u64::try_from(length).unwrap_or(u64::MAX) > MAX_LIST {
            return Err("it is longer than 8 MiB".to_owned());
        }
        Definition::recorded(&text)
    });
    let tools = read.map_err(|why| {
        Failure::Usage(
            Account::new("cannot use the list of tools")
                .on(path.display())
                .because(why)
                .hint("write down what the server answers to tools/list, {\"tools\": […]}, or take `capwarden tools list SERVER --json`"),
        )
    })?;
    let tools = tools.into_iter();
    let tools = tools.map(|tool| (tool.name().to_owned(), Arc::new(tool)));
    Ok(Arc::new(tools.collect()))
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
