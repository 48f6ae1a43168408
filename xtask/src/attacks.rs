//! `cargo xtask attacks`: each way that hostile code has out of a capture grant, tried without
//! capwarden and under it.
//!
//! The trying is done by the program of `tests/attacks`, as root; what is attempted, and what must stop
//! it, is written there.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{again, house, root, tally::Tally, term};

/// How long all of it may take.
const MOST_SECONDS: &str = "300";

/// What the part is called in the tally.
const NAME: &str = "attacks";

/// Options of `cargo xtask attacks`
#[derive(Args)]
pub(crate) struct Options {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Only these rows, or all of a family: A1, B. More of them with commas, or by giving this again
    #[arg(long, value_name = "ID")]
    only: Vec<String>,
    /// This layer must be here, as `capwarden doctor` names it; without it, what it stops is residual
    #[arg(long, value_name = "LAYER")]
    require: Vec<String>,
}

/// The verb.
pub(crate) fn main(options: &Options) -> Result<()> {
    if options.json {
        // Standard output is the report alone.
        build(|cargo| {
            let status = cargo.stdout(Stdio::null()).status()?;
            status.success().then_some(()).context("cargo failed")
        })?;
    } else {
        build(|cargo| term::loud("build (release)", cargo))?;
    }
    let mut command = program()?;
    if options.json {
        command.arg("--json");
    }
    for only in &options.only {
        command.args(["--only", only]);
    }
    for layer in &options.require {
        command.args(["--require", layer]);
    }
    let status = command.status().context("cannot run timeout")?;
    if !status.success() {
        bail!(
            "not every attack is stopped as it must be; one alone: cargo xtask attacks --only ID"
        );
    }
    Ok(())
}

/// The same, as a part of the tests.
pub(crate) fn part(tally: &mut Tally) -> Result<()> {
    build(|cargo| term::loud("build the attacks (release)", cargo))?;
    println!("{} attacks, as root", term::bold("→"));
    let known = tally.failures.len();
    let (passed, failed, skipped) = counted(&[], |row| {
        let failure = format!("{NAME}: {row}");
        // What failed is said once more at the end of a report.
        if !tally.failures.contains(&failure) {
            tally.failures.push(failure);
        }
    })?;
    tally.passed += passed;
    tally.failed += failed;
    let reason = "this kernel cannot do it without capwarden either; its report says which row";
    let skip = (NAME.to_owned(), reason.to_owned());
    tally.skips.extend(std::iter::repeat_n(skip, skipped));
    again::alone(tally, known, |failure| {
        let row = failure
            .strip_prefix(NAME)
            .and_then(|rest| rest.trim_start_matches(": ").split(' ').next())
            .with_context(|| format!("{failure} names no row"))?;
        let (passed, failed, _) = counted(&["--only", row], |_| {})?;
        Ok(passed > 0 && failed == 0)
    })
}

/// Runs attacks, shows what is not as it must be, and counts what passed, failed and was skipped.
fn counted(options: &[&str], mut failed: impl FnMut(&str)) -> Result<(usize, usize, usize)> {
    let mut child = program()?
        .args(options)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run timeout")?;
    let mut counted = None;
    if let Some(report) = child.stdout.take() {
        for line in BufReader::new(report).lines() {
            let line = line?;
            // What is as it must be fills screens, and is in the closing line.
            if !line.starts_with("✓ ") {
                println!("{line}");
            }
            if let Some(row) = line.strip_prefix("✗ ") {
                failed(row);
            }
            counted = closing(&line).or(counted);
        }
    }
    let status = child.wait()?;
    match counted {
        Some((_, 0, _)) if !status.success() => bail!("{NAME}: {status}"),
        Some(counted) => Ok(counted),
        None => bail!("{NAME}: no report came: {status}"),
    }
}

/// Builds both programs.
fn build(cargo: impl Fn(&mut Command) -> Result<()>) -> Result<()> {
    let packages = "build --release --package capwarden --package capwarden-attacks";
    cargo(&mut house::cargo(&packages.split(' ').collect::<Vec<_>>()))
}

/// How the attacks are started.
fn program() -> Result<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // `timeout` runs inside sudo: only root can end what root runs.
    let mut command = root::command(Path::new("timeout"), &[("PATH", path)])?;
    command
        .args(["--kill-after=10", MOST_SECONDS])
        .arg(house::target().join("release").join(NAME))
        .arg("--capwarden")
        .arg(house::capwarden());
    Ok(command)
}

/// The last line of a report: `31 passed, 0 failed, 2 skipped`.
fn closing(line: &str) -> Option<(usize, usize, usize)> {
    let mut parts = line.split(", ");
    let mut next = |word: &str| {
        let (number, found) = parts.next()?.split_once(' ')?;
        (found == word).then(|| number.parse().ok())?
    };
    Some((next("passed")?, next("failed")?, next("skipped")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_line_is_counted_and_no_other() {
        assert_eq!(closing("31 passed, 0 failed, 2 skipped"), Some((31, 0, 2)));
        for other in [
            "",
            "31 passed",
            "1 residual: they work",
            "a passed, 0 failed, 2 skipped",
            "142 skipped: this kernel has no x32 calls: ENOSYS",
        ] {
            assert_eq!(closing(other), None, "{other}");
        }
    }
}
