//! The terms of everything that is linked into the program, with their texts as their authors ship them.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};

use super::{crates::Crate, libpcap};

/// How the names of files begin that have terms in them.
const NAMES: [&str; 6] = [
    "COPYING",
    "COPYRIGHT",
    "LICENCE",
    "LICENSE",
    "NOTICE",
    "UNLICENSE",
];

/// All texts, each once, under the names of all crates that come under it.
pub(super) fn write(crates: &[Crate]) -> Result<String> {
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut silent = vec![];
    for known in crates.iter().filter(|known| !known.is_own()) {
        let label = format!("{} {} ({})", known.name, known.version, known.terms);
        let found = texts_in(&known.home)?;
        if found.is_empty() {
            silent.push(label.clone());
        }
        for text in found {
            texts.entry(text).or_default().push(label.clone());
        }
    }
    let libpcap = format!("libpcap {} (BSD-3-Clause)", libpcap::VERSION);
    texts
        .entry(libpcap::LICENCE.trim().to_owned())
        .or_default()
        .push(libpcap);

    let mut all: Vec<(Vec<String>, String)> = texts
        .into_iter()
        .map(|(text, whose)| (whose, text))
        .collect();
    all.sort();
    let mut out =
        "What is linked into capwarden, under whose terms. Rust's standard library comes under \
                   MIT or Apache-2.0.\n"
            .to_owned();
    if !silent.is_empty() {
        out += "\nThese come without a text of their terms:\n";
        for label in silent {
            out += &format!("  {label}\n");
        }
    }
    for (whose, text) in all {
        out += &format!("\n{}\n", "=".repeat(80));
        for label in whose {
            out += &format!("{label}\n");
        }
        out += &format!("{}\n\n{text}\n", "-".repeat(80));
    }
    Ok(out)
}

/// The texts in a crate's directory, without spaces around them and at the ends of lines.
fn texts_in(home: &Path) -> Result<Vec<String>> {
    let mut paths = vec![];
    for entry in fs::read_dir(home).with_context(|| format!("cannot read {}", home.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_uppercase();
        if entry.file_type()?.is_file() && NAMES.iter().any(|known| name.starts_with(known)) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    let mut texts: Vec<String> = vec![];
    for path in paths {
        let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        let lines: Vec<&str> = text.trim().lines().map(str::trim_end).collect();
        texts.push(lines.join("\n"));
    }
    texts.dedup();
    Ok(texts)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{env, path::PathBuf};

    use super::*;

    #[test]
    fn a_text_is_told_once_and_a_crate_without_one_is_named() {
        let home = env::temp_dir().join(format!("xtask-licences-{}", std::process::id()));
        let known = |name: &str, text: Option<(&str, &str)>| {
            let home: PathBuf = home.join(name);
            fs::create_dir_all(&home).unwrap();
            if let Some((file, text)) = text {
                fs::write(home.join(file), text).unwrap();
            }
            Crate {
                name: name.to_owned(),
                version: "1.0.0".to_owned(),
                terms: "MIT".to_owned(),
                home,
                sha256: Some("ab".to_owned()),
                uses: vec![],
            }
        };
        let crates = [
            known("one", Some(("LICENSE-MIT", "Do what you like.  \n"))),
            known("other", Some(("license.txt", "\nDo what you like."))),
            known("silent", Some(("README.md", "No terms."))),
        ];
        let all = write(&crates).unwrap();
        fs::remove_dir_all(&home).unwrap();
        assert_eq!(all.matches("Do what you like.").count(), 1, "{all}");
        assert!(
            all.contains("one 1.0.0 (MIT)\nother 1.0.0 (MIT)\n---"),
            "{all}"
        );
        assert!(
            all.contains("without a text of their terms:\n  silent 1.0.0 (MIT)\n"),
            "{all}"
        );
        assert!(all.contains("libpcap"), "{all}");
    }
}
