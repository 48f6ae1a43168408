//! The repository's shell scripts, which shellcheck reads as clippy reads Rust.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{house, term};

/// What is no part of the checkout.
const OTHERS: [&str; 2] = [".git", "target"];

/// Has shellcheck read all of them.
pub(crate) fn check() -> Result<()> {
    let scripts = scripts_below(house::root())?;
    let mut shellcheck = Command::new("shellcheck");
    shellcheck
        .current_dir(house::root())
        // A script's parts are beside it.
        .args(["--external-sources", "--source-path=SCRIPTDIR"])
        .args(scripts);
    term::loud("shellcheck", &mut shellcheck)
}

/// Those files whose first lines say that they are for a shell, in the order of their names.
fn scripts_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let cannot = || format!("cannot read {}", directory.display());
    let mut scripts = vec![];
    for entry in fs::read_dir(directory).with_context(cannot)? {
        let entry = entry?;
        let path = entry.path();
        let kind = entry.file_type()?;
        if kind.is_dir() && !OTHERS.iter().any(|other| entry.file_name() == *other) {
            scripts.extend(scripts_below(&path)?);
        } else if kind.is_file() {
            let mut start = vec![];
            let file =
                File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
            file.take(200).read_to_end(&mut start)?;
            scripts.extend(is_for_a_shell(&start).then_some(path));
        }
    }
    scripts.sort();
    Ok(scripts)
}

/// Whether a file that begins so is a script, or a part of one, which says what shell it is for.
fn is_for_a_shell(start: &[u8]) -> bool {
    let start = String::from_utf8_lossy(start);
    let first = start.lines().next().unwrap_or_default();
    let interpreter = first.strip_prefix("#!").unwrap_or_default();
    let program = |word: &str| word.rsplit('/').next().map(str::to_owned);
    let mut programs = interpreter.split_whitespace().filter_map(program);
    programs.any(|name| ["sh", "bash", "dash"].contains(&name.as_str()))
        || start
            .lines()
            .any(|line| line.starts_with("# shellcheck shell="))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_known_by_their_first_lines() {
        for script in [
            "#!/bin/sh\n",
            "#!/usr/bin/env bash\n# What",
            "#!/bin/busybox sh\n",
            "# Part of another.\n# shellcheck shell=bash\n",
        ] {
            assert!(is_for_a_shell(script.as_bytes()), "{script}");
        }
        for other in [
            "#!/usr/bin/perl\n",
            "",
            "sh\n",
            "#!/usr/bin/python3\n# sh\n",
            "\u{7f}ELF",
        ] {
            assert!(!is_for_a_shell(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn scripts_of_this_repository_are_found() {
        let found = scripts_below(house::root()).unwrap();
        for script in [
            ".ci/run",
            "agent/packaging/debian/postinst",
            "agent/packaging/rpm/post.sh",
        ] {
            assert!(found.contains(&house::root().join(script)), "{script}");
        }
    }
}
