//! What packages run on a host when they come and go: scripts of the checkout, with the names of units, users
//! and groups put in.

use std::fs;

use anyhow::{Context, Result, bail};

use super::contents::{Stage, Unit};
use crate::house;

/// Names that stand in scripts for lists of others.
const MARKS: [&str; 5] = ["@FILES@", "@UNITS@", "@RESTART@", "@USERS@", "@GROUPS@"];

/// What stands in a script for a piece that several have, and where that is.
const HAND_OVER: (&str, &str) = ("# @HAND_OVER@\n", "agent/packaging/hand-over.sh");

/// A script of the checkout, for what is in this package.
pub(super) fn read(path: &str, stage: &Stage) -> Result<String> {
    let text = whole(path)?;
    let units = stage.enabled_units()?;
    let (users, groups) = stage.accounts()?;
    fill(&text, &units, &users, &groups).with_context(|| path.to_owned())
}

/// The text of a script, with the piece that others have, too.
fn whole(path: &str) -> Result<String> {
    let (mark, piece) = HAND_OVER;
    Ok(file(path)?.replace(mark, &file(piece)?))
}

fn file(path: &str) -> Result<String> {
    let file = house::root().join(path);
    fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
}

fn fill(text: &str, units: &[Unit], users: &[String], groups: &[String]) -> Result<String> {
    // Sockets stay over an upgrade: clients wait there meanwhile.
    let services = units.iter().filter(|unit| unit.name.ends_with(".service"));
    let restart: Vec<String> = services.map(|unit| unit.name.clone()).collect();
    if restart.is_empty() {
        bail!("no service is enabled");
    }
    let files: Vec<String> = units.iter().map(|unit| unit.file.clone()).collect();
    let names: Vec<String> = units.iter().map(|unit| unit.name.clone()).collect();
    let mut text = text.to_owned();
    for (mark, names) in MARKS.iter().zip([&files, &names, &restart, users, groups]) {
        for name in names {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
            if !name.chars().all(plain) {
                bail!("{name} is no name for a script");
            }
        }
        text = text.replace(mark, &names.join(" "));
    }
    Ok(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_packages_hand_over() {
        for path in [
            "agent/packaging/debian/postinst",
            "agent/packaging/rpm/post.sh",
        ] {
            let text = whole(path).unwrap();
            assert_eq!(text.matches("hand_over() {").count(), 1, "{path}");
            assert!(!text.contains("@HAND_OVER@"), "{path}");
        }
    }

    #[test]
    fn marks_are_replaced_and_only_services_restart() {
        let list = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        let unit = |file: &str, name: &str| Unit {
            file: file.to_owned(),
            name: name.to_owned(),
        };
        let service = || unit("capwarden.service", "capwarden.service");
        let units = [service(), unit("a@.socket", "a@b.socket")];
        let text = "enable @FILES@; stop @UNITS@; restart @RESTART@; for u in @USERS@; do :; done; groupdel @GROUPS@";
        let filled = fill(text, &units, &[], &list(&["capwarden"])).unwrap();
        assert_eq!(
            filled,
            "enable capwarden.service a@.socket; stop capwarden.service a@b.socket; restart capwarden.service; \
             for u in ; do :; done; groupdel capwarden"
        );
        assert!(fill(text, &[service(), unit("a.socket", "a b.socket")], &[], &[]).is_err());
        assert!(fill(text, &[unit("a.socket", "a.socket")], &[], &[]).is_err());
        assert!(fill(text, &[service()], &list(&["$(reboot)"]), &[]).is_err());
    }
}
