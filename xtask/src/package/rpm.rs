//! The .rpm, written by rpmbuild, which Debian has, too. Its spec is made here, from the one list of contents.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{VERSION, contents::Stage, deb, scripts};
use crate::term::Progress;

/// The scripts that rpm runs.
const SCRIPTS: [&str; 3] = ["post", "preun", "postun"];

/// What rpmbuild would do otherwise: change files, name this host and this moment, link to build ids.
const SETTINGS: [(&str, &str); 8] = [
    ("__os_install_post", "%{nil}"),
    ("debug_package", "%{nil}"),
    ("_build_id_links", "none"),
    ("_buildhost", "localhost"),
    ("use_source_date_epoch_as_buildtime", "1"),
    ("clamp_mtime_to_source_date_epoch", "1"),
    ("_binary_payload", "w9.zstdio"),
    // Debian's rpm puts it elsewhere.
    ("_defaultdocdir", "/usr/share/doc"),
];

/// Makes it from what was staged, and says where it is.
pub(super) fn make(
    progress: &Progress,
    stage: &Stage,
    release: u32,
    home: &Path,
) -> Result<PathBuf> {
    let made = stage.root.with_extension("rpmbuild");
    fs::create_dir_all(&made).with_context(|| format!("cannot make {}", made.display()))?;
    let file = made.join("capwarden.spec");
    fs::write(&file, spec(stage, release)?)?;
    let mut rpm = Command::new("rpmbuild");
    rpm.args(["-bb", "--target", "x86_64-linux"])
        .arg("--define")
        .arg(format!("_topdir {}", made.display()))
        .env("SOURCE_DATE_EPOCH", stage.time.to_string())
        .env("LC_ALL", "C");
    for (name, value) in SETTINGS {
        rpm.arg("--define").arg(format!("{name} {value}"));
    }
    progress.run(rpm.arg(&file))?;
    let name = format!("capwarden-{VERSION}-{release}.x86_64.rpm");
    let package = home.join(&name);
    fs::copy(made.join("RPMS/x86_64").join(&name), &package)
        .with_context(|| format!("rpmbuild made no {name}"))?;
    Ok(package)
}

/// What rpmbuild is told.
fn spec(stage: &Stage, release: u32) -> Result<String> {
    let description = deb::DESCRIPTION;
    let root = stage.root.display();
    let mut spec = format!(
        "Name: capwarden\nVersion: {VERSION}\nRelease: {release}\nSummary: Governs packet captures that language models start\n\
         License: Apache-2.0 OR MIT\nRequires: systemd, /usr/bin/kill\n\n%description\n{description}\n\n\
         %install\ncp --archive '{root}/.' '%{{buildroot}}'\n"
    );
    for name in SCRIPTS {
        let script = scripts::read(&format!("agent/packaging/rpm/{name}.sh"), stage)?;
        // A percent sign begins a macro.
        write!(spec, "\n%{name}\n{}", script.replace('%', "%%"))?;
    }
    spec += "\n%files\n";
    let mut own = BTreeSet::new();
    for entry in &stage.entries {
        own.extend(own_directories(&entry.to));
        let kind = match (entry.is_configuration(), entry.is_document()) {
            (true, _) => "%config(noreplace) ",
            (_, true) => "%doc ",
            _ => "",
        };
        writeln!(
            spec,
            "%attr({:o},root,root) {kind}\"{}\"",
            entry.mode, entry.to
        )?;
    }
    for directory in own {
        writeln!(
            spec,
            "%dir %attr(755,root,root) \"{}\"",
            directory.display()
        )?;
    }
    Ok(spec)
}

/// Directories of shells, which belong to everybody who puts something there: some distributions have them
/// from the beginning, and others not before their shell is installed.
const SHARED: [&str; 4] = [
    "/usr/share/fish",
    "/usr/share/fish/vendor_completions.d",
    "/usr/share/zsh",
    "/usr/share/zsh/site-functions",
];

/// The directories above a file that are nobody else's, or everybody's: they go when the last goes that is in them.
fn own_directories(file: &str) -> impl Iterator<Item = &Path> {
    let above = Path::new(file).ancestors().skip(1);
    above.take_while(|place| {
        place.iter().any(|name| name == "capwarden")
            || SHARED.iter().any(|shared| *place == Path::new(shared))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_below_ours_are_ours() {
        let own = |file| {
            let own = own_directories(file).map(|place| place.to_str().unwrap());
            own.collect::<Vec<_>>()
        };
        assert_eq!(
            own("/usr/share/doc/capwarden/manual/pictures/demo.svg"),
            [
                "/usr/share/doc/capwarden/manual/pictures",
                "/usr/share/doc/capwarden/manual",
                "/usr/share/doc/capwarden",
            ]
        );
        assert_eq!(own("/etc/capwarden/agent.yaml"), ["/etc/capwarden"]);
        assert_eq!(
            own("/usr/share/zsh/site-functions/_capwarden"),
            ["/usr/share/zsh/site-functions", "/usr/share/zsh"]
        );
        assert!(own("/usr/bin/capwarden").is_empty());
    }
}
