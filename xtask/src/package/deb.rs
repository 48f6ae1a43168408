//! The .deb, written by cargo-deb. What it is told is a manifest that is made here, from the one list of
//! contents.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{VERSION, contents::Stage, scripts, tools};
use crate::{house, term::Progress};

/// Who is named in it.
const MAINTAINER: &str = "the capwarden authors <capwarden@users.noreply.github.com>";

/// What it is, in more words than a line has.
pub(super) const DESCRIPTION: &str = "\
capwarden stands in front of MCP servers that capture packets, listen as proxies or drive browsers. It \
decides each call by a policy, and the kernel holds what the call starts to what was decided: interfaces, \
filter, packets, bytes, time, addresses and processes.";

/// What is needed besides the libraries of the program: what its scripts run, and its unit (`kill`).
const DEPENDS: [&str; 4] = [
    "$auto",
    "procps",
    "systemd | systemd-standalone-sysusers | systemd-sysusers",
    "systemd | systemd-standalone-tmpfiles | systemd-tmpfiles",
];

/// The scripts that dpkg runs.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Makes it from what was staged, and says where it is; `fast` where nobody minds its size, but how long it takes to make and to unpack.
pub(super) fn make(
    progress: &Progress,
    stage: &Stage,
    revision: u32,
    fast: bool,
    home: &Path,
) -> Result<PathBuf> {
    let made = stage.root.with_extension("manifest");
    let own_scripts = made.join("scripts");
    fs::create_dir_all(&own_scripts).with_context(|| format!("cannot make {}", made.display()))?;
    for name in SCRIPTS {
        let script = scripts::read(&format!("agent/packaging/debian/{name}"), stage)?;
        fs::write(own_scripts.join(name), script)?;
    }
    fs::write(made.join("lib.rs"), "")?;
    let manifest = made.join("Cargo.toml");
    fs::write(&manifest, metadata(stage, &own_scripts)?)?;

    let package = home.join(format!("capwarden_{VERSION}-{revision}_amd64.deb"));
    let mut deb = Command::new(tools::cargo_deb());
    house::forget_own(&mut deb);
    deb.args(["--no-build", "--no-strip", "--offline"])
        .args(["--deb-revision", &revision.to_string()])
        .arg("--manifest-path")
        .arg(&manifest)
        .arg("--output")
        .arg(&package)
        .args(
            fast.then_some(["--fast", "--compress-type=gz", "--compress-system"])
                .into_iter()
                .flatten(),
        )
        .env("CARGO_TARGET_DIR", made.join("target"))
        .env("SOURCE_DATE_EPOCH", stage.time.to_string());
    progress.run(&mut deb)?;
    Ok(package)
}

/// The manifest.
fn metadata(stage: &Stage, scripts: &Path) -> Result<String> {
    // A JSON string is one in TOML, too.
    let quoted = |text: &str| serde_json::to_string(text);
    let mut toml = format!(
        "[workspace]\n[package]\nname = \"capwarden\"\nversion = \"{VERSION}\"\nedition = \"2024\"\n\
         license = \"Apache-2.0 OR MIT\"\ndescription = \"governs packet captures that language models start\"\n\
         [lib]\npath = \"lib.rs\"\n[package.metadata.deb]\n"
    );
    let maintainer = quoted(MAINTAINER)?;
    let description = quoted(DESCRIPTION)?;
    let depends = quoted(&DEPENDS.join(", "))?;
    let scripts = quoted(&scripts.to_string_lossy())?;
    write!(
        toml,
        "maintainer = {maintainer}\nextended-description = {description}\nsection = \"net\"\npriority = \"optional\"\n\
         depends = {depends}\nsuggests = \"tcpdump, tshark\"\nmaintainer-scripts = {scripts}\nassets = [\n"
    )?;
    for entry in &stage.entries {
        let from = quoted(&entry.from.to_string_lossy())?;
        let to = quoted(entry.to.trim_start_matches('/'))?;
        writeln!(toml, "  [{from}, {to}, \"{:o}\"],", entry.mode)?;
    }
    toml += "]\n";
    let configuration = stage
        .entries
        .iter()
        .filter(|entry| entry.is_configuration());
    let files: Vec<&str> = configuration.map(|entry| entry.to.as_str()).collect();
    writeln!(toml, "conf-files = {}", serde_json::to_string(&files)?)?;
    Ok(toml)
}

/// What Debian calls a changelog: which version this is, and since when.
pub(super) fn changelog(time: u64) -> Result<String> {
    let mut date = Command::new("date");
    date.env("LC_ALL", "C").args(["--utc", "--rfc-email"]);
    let said = Progress::quiet().lines(date.arg(format!("--date=@{time}")))?;
    let date = said.first().context("date says nothing")?;
    Ok(format!(
        "capwarden ({VERSION}-1) unstable; urgency=medium\n\n  * Version {VERSION}.\n\n -- {MAINTAINER}  {date}\n"
    ))
}
