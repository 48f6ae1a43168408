//! What is run in the machines.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::host;
use crate::{
    house,
    term::{self, Progress},
    test,
};

/// The agent's unit tests, of which the rooms run that speak to the kernel.
const UNIT_TESTS: &str = "lib";
const ROOMS: &str = "kernel:: session::";

/// Unit tests of those rooms that do not run in machines, by how their names begin, and why.
const LEFT_OUT: [(&str, &str); 3] = [
    (
        "session::compare::",
        "a proof is given half a second, and asks nothing of the kernel",
    ),
    (
        "session::proxy::network::",
        "floods take long, and ask nothing of the kernel",
    ),
    (
        "session::sampling::",
        "floods take long, and ask nothing of the kernel",
    ),
];

/// The attack table.
const ATTACKS: &str = "attacks";

/// Test programs of the agent that speak to the kernel, where the checkout has them.
const AGENT: [&str; 2] = [NETWORK, "lsm"];

/// The network guard's. To load it takes a verifier the longest of all by far.
const NETWORK: &str = "network";

/// A program, and how it is run in a machine.
pub(super) struct Program {
    /// What it is called.
    pub(super) name: &'static str,
    /// Where it is on the host.
    pub(super) file: PathBuf,
    /// What it is told.
    pub(super) arguments: String,
    /// After so many seconds of the machine's time it is ended.
    pub(super) most_seconds: u32,
    /// Whether one machine of each kernel is enough: security modules make no difference to it.
    pub(super) once: bool,
    /// A program of ours that it starts, and its name in a machine's `/usr/bin`.
    pub(super) beside: Option<(&'static str, PathBuf)>,
}

/// What is run, and what cannot be, with the reason.
#[derive(Default)]
pub(super) struct Programs {
    pub(super) runs: Vec<Program>,
    pub(super) skips: Vec<(String, String)>,
}

impl Programs {
    /// How many run on a machine.
    pub(super) fn count_on(&self, lsm: bool) -> usize {
        let runs = self.runs.iter();
        runs.filter(|program| lsm || !program.once).count()
    }
}

/// Builds what is run: the programs whose name contains `only`, and in them the tests whose name
/// contains `filter`; not those that take long if it is to be `brief`. What is put into machines is made
/// smaller, in `home`.
pub(super) fn build(
    only: &str,
    filter: Option<&str>,
    brief: bool,
    home: &Path,
) -> Result<Programs> {
    let mut programs = Programs {
        runs: vec![],
        skips: vec![],
    };
    let wanted = |name: &str| name.contains(only);

    let mut selection = vec!["--package=capwarden".to_owned()];
    selection.extend(wanted(UNIT_TESTS).then(|| "--lib".to_owned()));
    for name in AGENT {
        let there = house::root().join("agent/tests").join(name);
        let there = there.exists() || there.with_extension("rs").exists();
        selection.extend((there && wanted(name)).then(|| format!("--test={name}")));
    }
    if selection.len() > 1 {
        for file in test::build_tests(&selection)? {
            let built = test::program_name(&file);
            let name = AGENT.into_iter().find(|name| *name == built);
            let name = name.unwrap_or(UNIT_TESTS);
            let mut arguments = match (filter, name) {
                (Some(filter), _) => filter.to_owned(),
                (None, UNIT_TESTS) => ROOMS.to_owned(),
                (None, _) => String::new(),
            };
            if name == UNIT_TESTS {
                for (test, reason) in LEFT_OUT {
                    arguments += &format!(" --skip {test}");
                    programs.skips.push((test.to_owned(), reason.to_owned()));
                }
            }
            programs.runs.push(Program {
                name,
                file: small(&file, home)?,
                arguments: format!("--color=never --test-threads=1 {arguments}"),
                most_seconds: 300,
                once: name == NETWORK,
                beside: None,
            });
        }
    }

    programs.runs.sort_by_key(|program| program.name);

    if wanted(ATTACKS) {
        let skip = if brief {
            Some("in an emulated machine it takes minutes: cargo xtask vm --only attacks")
        } else if filter.is_some() && only != ATTACKS {
            Some("the filter is a test's name, and its rows have numbers")
        } else {
            None
        };
        match skip {
            Some(reason) => programs.skips.push((ATTACKS.to_owned(), reason.to_owned())),
            None => programs.runs.push(attacks(filter, home)?),
        }
    }
    if programs.runs.is_empty() && programs.skips.is_empty() {
        let names = [&[UNIT_TESTS, ATTACKS, host::NAME], &AGENT[..]]
            .concat()
            .join(", ");
        bail!("--only {only}: there are {names}");
    }
    Ok(programs)
}

/// The attack table, with the capwarden that it attacks.
fn attacks(filter: Option<&str>, home: &Path) -> Result<Program> {
    test::build_capwarden()?;
    term::loud(
        "build the attack table",
        &mut house::cargo(&["build", "--release", "--package", "capwarden-attacks"]),
    )?;
    let only = filter.map(|filter| format!(" --only {filter}"));
    Ok(Program {
        name: ATTACKS,
        file: small(&house::target().join("release").join(ATTACKS), home)?,
        arguments: format!("--capwarden /usr/bin/capwarden{}", only.unwrap_or_default()),
        most_seconds: 600,
        once: false,
        beside: Some(("capwarden", small(&house::capwarden(), home)?)),
    })
}

/// A copy of a program without what debuggers want of it, or the program where `strip` is not here.
fn small(file: &Path, home: &Path) -> Result<PathBuf> {
    let to = home.join(file.file_name().context("no name")?);
    let mut strip = Command::new("strip");
    strip.args(["--strip-debug", "-o"]).arg(&to).arg(file);
    match Progress::quiet().run(&mut strip) {
        Ok(()) => Ok(to),
        Err(_) => Ok(file.to_path_buf()),
    }
}
