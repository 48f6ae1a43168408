//! Whether a package has in it what was staged for it, as the tools say that install it.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use super::contents::{Kind, Stage};
use crate::term::Progress;

/// Compares the files of a package, and their permissions, with what was staged.
pub(super) fn check(kind: Kind, package: &Path, stage: &Stage) -> Result<()> {
    let mut tool = match kind {
        Kind::Deb => {
            let mut tool = Command::new("dpkg-deb");
            tool.arg("--contents");
            tool
        }
        Kind::Rpm => {
            let mut tool = Command::new("rpm");
            tool.args(["--query", "--queryformat"])
                .args(["[%{FILEMODES:perms} %{FILENAMES}\\n]", "--package"]);
            tool
        }
        Kind::Tarball => {
            let mut tool = Command::new("tar");
            tool.args(["--list", "--verbose", "--file"]);
            tool
        }
    };
    let lines = Progress::quiet().lines(tool.arg(package).env("LC_ALL", "C"))?;
    let staged = stage
        .entries
        .iter()
        .map(|entry| (entry.to.as_str(), entry.mode));
    let wrong = differences(&staged.collect(), &listed(kind, &lines));
    if !wrong.is_empty() {
        let name = package.file_name().context("no name")?.display();
        bail!("{name} has not in it what it should: {}", wrong.join(", "));
    }
    Ok(())
}

/// The files of a listing, with their permissions: `-rw-r--r-- … ./usr/bin/capwarden`.
fn listed(kind: Kind, lines: &[String]) -> BTreeMap<String, u32> {
    let files = lines.iter().filter(|line| line.starts_with('-'));
    files
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let permissions = words.next()?.get(1..10)?;
            let bits = permissions
                .chars()
                .fold(0, |bits, one| bits << 1 | u32::from(one != '-'));
            let path = words.next_back()?;
            // A tarball has everything below a directory of its own.
            let path = match kind {
                Kind::Tarball => path.split_once('/')?.1,
                Kind::Deb | Kind::Rpm => path.trim_start_matches(['.', '/']),
            };
            Some((format!("/{path}"), bits))
        })
        .collect()
}

/// What is missing, too much, or has other permissions.
fn differences(staged: &BTreeMap<&str, u32>, listed: &BTreeMap<String, u32>) -> Vec<String> {
    let mut wrong = vec![];
    for (path, mode) in staged {
        match listed.get(*path) {
            None => wrong.push(format!("no {path}")),
            Some(other) if other != mode => wrong.push(format!("{path} with mode {other:o}")),
            Some(_) => {}
        }
    }
    let more = listed
        .keys()
        .filter(|path| !staged.contains_key(path.as_str()));
    wrong.extend(more.map(|path| format!("also {path}")));
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_of_three_tools_are_read_alike() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        for (kind, text) in [
            (
                Kind::Deb,
                "drwxr-xr-x 0/0 0 2026-11-22 03:58 ./usr/\n-rwxr-xr-x 0/0 9 2026-11-22 03:58 ./usr/bin/a\n\
                 -rw-r--r-- 0/0 9 2026-11-22 03:58 ./etc/b",
            ),
            (
                Kind::Rpm,
                "-rwxr-xr-x /usr/bin/a\ndrwxr-xr-x /etc\n-rw-r--r-- /etc/b",
            ),
            (
                Kind::Tarball,
                "-rwxr-xr-x 0/0 9 2026-11-22 03:58 a-1/usr/bin/a\n-rw-r--r-- 0/0 9 2026-11-22 03:58 a-1/etc/b",
            ),
        ] {
            let found = listed(kind, &lines(text));
            let expected = [
                ("/usr/bin/a".to_owned(), 0o755),
                ("/etc/b".to_owned(), 0o644),
            ];
            assert_eq!(found, BTreeMap::from(expected));
            let staged = BTreeMap::from([("/usr/bin/a", 0o755), ("/etc/b", 0o644)]);
            assert!(differences(&staged, &found).is_empty());
            let staged = BTreeMap::from([("/usr/bin/a", 0o644), ("/etc/c", 0o644)]);
            let wrong = ["no /etc/c", "/usr/bin/a with mode 755", "also /etc/b"];
            assert_eq!(differences(&staged, &found), wrong);
        }
    }
}
