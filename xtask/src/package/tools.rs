//! cargo-deb, which writes the .deb, at a pinned version.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{house, term::Progress};

/// The crate, which is also the program's name.
const NAME: &str = "cargo-deb";
const VERSION: &str = "3.8.0";

/// Makes sure that it is there. To build it takes a minute on two cores; without its default features it
/// needs no C library.
pub(super) fn ensure(progress: &Progress) -> Result<()> {
    let said = Progress::quiet().lines(Command::new(cargo_deb()).arg("--version"));
    if said.is_ok_and(|lines| lines.iter().any(|line| line.ends_with(VERSION))) {
        return Ok(());
    }
    let mut cargo = house::cargo(&["install", NAME, "--version", VERSION]);
    cargo
        .args(["--locked", "--force", "--no-default-features", "--root"])
        .arg(house::tools());
    progress
        .run(&mut cargo)
        .with_context(|| format!("{NAME} does not build; is crates.io reachable?"))
}

/// Where it is.
pub(super) fn cargo_deb() -> PathBuf {
    house::tools().join("bin").join(NAME)
}
