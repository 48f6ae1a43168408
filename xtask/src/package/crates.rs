//! What is in the program: its crates and, as the kernel programs are embedded in it, theirs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{house, term::Progress};

/// The packages that become what is shipped.
const SHIPPED: [&str; 2] = ["capwarden", "capwarden-ebpf"];

/// A crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Crate {
    pub(super) name: String,
    pub(super) version: String,
    /// Its terms, as an SPDX expression.
    pub(super) terms: String,
    /// Where its sources are.
    pub(super) home: PathBuf,
    /// SHA-256 of what its registry has of it; none for our own.
    pub(super) sha256: Option<String>,
    /// What of the others it uses, by name and version: `libc@0.2.170`.
    pub(super) uses: Vec<String>,
}

impl Crate {
    /// How it is referred to.
    pub(super) fn label(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    /// Whether it is of this very workspace.
    pub(super) fn is_own(&self) -> bool {
        self.sha256.is_none()
    }
}

/// All that is linked into what is shipped, by name and version. What only builds or tests it is not.
pub(super) fn linked() -> Result<Vec<Crate>> {
    let mut cargo = house::cargo(&["metadata", "--format-version=1", "--locked", "--quiet"]);
    cargo.arg("--filter-platform=x86_64-unknown-linux-gnu");
    let lines = Progress::quiet().lines(&mut cargo)?;
    let metadata = lines
        .iter()
        .find(|line| line.starts_with('{'))
        .context("cargo metadata says nothing")?;
    let lock = fs::read_to_string(house::root().join("Cargo.lock"))?;
    read(&serde_json::from_str(metadata)?, &checksums(&lock))
        .context("not what cargo metadata says")
}

fn read(metadata: &Value, checksums: &BTreeMap<(String, String), String>) -> Option<Vec<Crate>> {
    let text = |value: &Value, key: &str| Some(value.get(key)?.as_str()?.to_owned());
    let mut packages = BTreeMap::new();
    let mut found: BTreeSet<String> = BTreeSet::new();
    for package in metadata.get("packages")?.as_array()? {
        let (id, name) = (text(package, "id")?, text(package, "name")?);
        let version = text(package, "version")?;
        let manifest = PathBuf::from(text(package, "manifest_path")?);
        if SHIPPED.contains(&name.as_str()) {
            found.insert(id.clone());
        }
        let key = (name, version);
        let known = Crate {
            terms: text(package, "license").unwrap_or_else(|| "NOASSERTION".to_owned()),
            home: manifest.parent()?.to_path_buf(),
            sha256: checksums.get(&key).cloned(),
            uses: vec![],
            name: key.0,
            version: key.1,
        };
        packages.insert(id, known);
    }
    let mut uses = BTreeMap::new();
    for node in metadata.pointer("/resolve/nodes")?.as_array()? {
        let mut linked = vec![];
        for other in node.get("deps")?.as_array()? {
            let mut kinds = other.get("dep_kinds")?.as_array()?.iter();
            if kinds.any(|kind| kind.get("kind").is_some_and(Value::is_null)) {
                linked.push(text(other, "pkg")?);
            }
        }
        uses.insert(text(node, "id")?, linked);
    }

    let mut waiting: Vec<String> = found.iter().cloned().collect();
    while let Some(id) = waiting.pop() {
        let linked = uses.get(&id)?;
        let labels = linked.iter().map(|id| Some(packages.get(id)?.label()));
        let mut labels: Vec<String> = labels.collect::<Option<_>>()?;
        labels.sort();
        for other in linked {
            if found.insert(other.clone()) {
                waiting.push(other.clone());
            }
        }
        packages.get_mut(&id)?.uses = labels;
    }
    let mut crates: Vec<Crate> = packages
        .into_iter()
        .filter(|(id, _)| found.contains(id))
        .map(|(_, known)| known)
        .collect();
    crates.sort_by(|one, other| (&one.name, &one.version).cmp(&(&other.name, &other.version)));
    Some(crates)
}

/// By name and version, what Cargo.lock says that a registry has of a crate.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let mut sums = BTreeMap::new();
    for package in lock.split("[[package]]") {
        let value = |key: &str| {
            let mut lines = package.lines();
            let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))?;
            Some(value.trim_matches('"').to_owned())
        };
        if let (Some(name), Some(version), Some(sum)) =
            (value("name"), value("version"), value("checksum"))
        {
            sums.insert((name, version), sum);
        }
    }
    sums
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_linked_is_listed() {
        let package = |id: &str, name: &str| json!({ "id": id, "name": name, "version": "1.0.0", "license": "MIT", "manifest_path": format!("/x/{name}/Cargo.toml") });
        let uses = |id: &str, kind: Value| json!({ "pkg": id, "dep_kinds": [{ "kind": kind }] });
        let metadata = json!({
            "packages": [
                package("a", "capwarden"), package("b", "libc"), package("c", "tempfile"),
                package("d", "cc"), package("e", "capwarden-ebpf"), package("f", "aya-ebpf"), package("g", "memchr"),
            ],
            "resolve": { "nodes": [
                { "id": "a", "deps": [uses("b", Value::Null), uses("c", json!("dev")), uses("d", json!("build"))] },
                { "id": "b", "deps": [uses("g", Value::Null)] },
                { "id": "c", "deps": [] }, { "id": "d", "deps": [] }, { "id": "g", "deps": [] },
                { "id": "e", "deps": [uses("f", Value::Null)] }, { "id": "f", "deps": [] },
            ] },
        });
        let lock = "version = 4\n\n[[package]]\nname = \"libc\"\nversion = \"1.0.0\"\nsource = \"registry\"\nchecksum = \"ab12\"\n\
                    dependencies = [\n \"memchr\",\n]\n\n[[package]]\nname = \"capwarden\"\nversion = \"1.0.0\"\n";
        let crates = read(&metadata, &checksums(lock)).unwrap();
        let labels: Vec<String> = crates.iter().map(Crate::label).collect();
        let expected = ["aya-ebpf", "capwarden", "capwarden-ebpf", "libc", "memchr"];
        assert_eq!(labels, expected.map(|name| format!("{name}@1.0.0")));
        let libc = crates.iter().find(|known| known.name == "libc").unwrap();
        assert_eq!(libc.sha256.as_deref(), Some("ab12"));
        assert_eq!(libc.uses, ["memchr@1.0.0"]);
        assert!(
            crates
                .iter()
                .find(|known| known.name == "capwarden")
                .unwrap()
                .is_own()
        );
    }
}
