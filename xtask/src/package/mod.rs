//! `cargo xtask package`: what is installed on hosts. A .deb, an .rpm and a tarball with the same files in
//! them, a list of everything that is linked in, and checksums.
//!
//! Two runs on the same commit make the same bytes: times are the commit's, the order of files is that of
//! their names, and the program has no path of the host in it.

mod binary;
mod check;
mod contents;
mod crates;
mod deb;
mod documents;
mod libpcap;
mod licences;
mod rpm;
mod sbom;
mod scripts;
mod tarball;
mod tools;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use self::{
    binary::{Binary, Linked},
    contents::{Kind, Stage},
    crates::Crate,
};
use crate::{
    house, setup,
    term::{self, Progress},
};

/// The version of what is built: all crates of the workspace have the same.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Options of `cargo xtask package`
#[derive(Args)]
pub(crate) struct Options {
    /// Only the .deb, or only what else is named
    #[arg(long)]
    deb: bool,
    /// Only the .rpm
    #[arg(long)]
    rpm: bool,
    /// Only the tarball
    #[arg(long)]
    tarball: bool,
    /// With this capwarden, which is built already, instead of one that is built for each package
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Make everything twice, and fail if a byte is different; the program itself is built once
    #[arg(long)]
    twice: bool,
    /// Print JSON: each file, its size and its SHA-256
    #[arg(long)]
    json: bool,
}

impl Options {
    /// Does a step, and says so unless standard output is for the report alone.
    fn step(&self, what: &str, work: impl FnOnce(&Progress) -> Result<()>) -> Result<()> {
        match self.json {
            true => work(&Progress::quiet()),
            false => term::step(what, work),
        }
    }

    fn wants(&self, kind: Kind) -> bool {
        let named = self.deb || self.rpm || self.tarball;
        !named
            || match kind {
                Kind::Deb => self.deb,
                Kind::Rpm => self.rpm,
                Kind::Tarball => self.tarball,
            }
    }
}

/// What all packages are made from.
struct Parts {
    /// Every crate that is in the program.
    crates: Vec<Crate>,
    /// Linked with the host's libpcap, for the .deb.
    shared: Option<Binary>,
    /// With a libpcap of its own, for hosts whose libpcap has another name.
    bundled: Option<Binary>,
    /// Seconds since 1970: when the commit was made.
    time: u64,
}

/// The verb.
pub(crate) fn main(options: &Options) -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        bail!("packages are made for x86-64, on x86-64");
    }
    if !options.json {
        setup::ensure_build()?;
    }
    options.step("what makes packages", |progress| {
        setup::packagers(progress)?;
        tools::ensure(progress)
    })?;
    let home = house::target().join("package");
    let parts = parts(options, &home)?;
    let files = make(options, &parts, &home)?;
    if options.twice {
        let again = house::target().join("package-again");
        let others = make(options, &parts, &again)?;
        let different = different(&files, &others)?;
        fs::remove_dir_all(&again)?;
        if !different.is_empty() {
            bail!("made twice, these differ: {}", different.join(", "));
        }
    }
    show(options, &files, &parts)
}

/// Packages that are tried: each of two revisions, the second an upgrade of the first.
pub(crate) struct Tried {
    pub(crate) debs: Vec<PathBuf>,
    pub(crate) rpms: Vec<PathBuf>,
}

/// The .deb and the .rpm as they are shipped, in this directory: of this program, or of one that is built.
pub(crate) fn tried(program: Option<&Path>, home: &Path) -> Result<Tried> {
    term::step("what makes packages", |progress| {
        setup::packagers(progress)?;
        tools::ensure(progress)
    })?;
    let binary = |linked: Linked| match program {
        Some(program) => Binary::stripped(program, &home.join("capwarden")),
        None => Binary::build(linked, false, home),
    };
    let (shared, bundled) = (binary(Linked::Shared)?, binary(Linked::Bundled)?);
    let crates = crates::linked()?;
    let time = time()?;
    let revisions = [1, 2];
    let debs = |progress: &Progress| {
        let stage = Stage::fill(Kind::Deb, &shared, &crates, time, &home.join("build-deb"))?;
        let each = revisions.map(|revision| deb::make(progress, &stage, revision, true, home));
        each.into_iter().collect()
    };
    let rpms = |progress: &Progress| {
        let stage = Stage::fill(Kind::Rpm, &bundled, &crates, time, &home.join("build-rpm"))?;
        let each = revisions.map(|release| rpm::make(progress, &stage, release, home));
        each.into_iter().collect()
    };
    Ok(Tried {
        debs: term::step(".deb", debs)?,
        rpms: term::step(".rpm", rpms)?,
    })
}

/// Builds the program, and finds out what is in it.
fn parts(options: &Options, home: &Path) -> Result<Parts> {
    let _ = fs::remove_dir_all(home);
    fs::create_dir_all(home).with_context(|| format!("cannot make {}", home.display()))?;
    // Beside the packages, not among them.
    let programs = home.join("programs");
    let build = |linked: Linked| match &options.program {
        Some(program) => Binary::stripped(program, &programs.join("capwarden")),
        None => Binary::build(linked, options.json, &programs),
    };
    let shared = options.wants(Kind::Deb).then(|| build(Linked::Shared));
    let bundled = options.wants(Kind::Rpm) || options.wants(Kind::Tarball);
    let bundled = bundled.then(|| build(Linked::Bundled));
    Ok(Parts {
        crates: crates::linked()?,
        shared: shared.transpose()?,
        bundled: bundled.transpose()?,
        time: time()?,
    })
}

/// Makes what is wanted in this directory, and returns the files: packages, the list of what is in them,
/// and checksums.
fn make(options: &Options, parts: &Parts, home: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(home)?;
    let build = home.join("build");
    for (kind, name, what) in [
        (Kind::Deb, "deb", ".deb"),
        (Kind::Rpm, "rpm", ".rpm"),
        (Kind::Tarball, "tarball", "tarball"),
    ] {
        if !options.wants(kind) {
            continue;
        }
        options.step(what, |progress| {
            let binary = match kind {
                Kind::Deb => &parts.shared,
                Kind::Rpm | Kind::Tarball => &parts.bundled,
            };
            let binary = binary.as_ref().context("it was not built")?;
            let stage = Stage::fill(kind, binary, &parts.crates, parts.time, &build.join(name))?;
            let package = match kind {
                Kind::Deb => deb::make(progress, &stage, 1, false, home),
                Kind::Rpm => rpm::make(progress, &stage, 1, home),
                Kind::Tarball => tarball::make(progress, &stage, home),
            }?;
            check::check(kind, &package, &stage)
        })?;
    }
    let list = home.join(format!("capwarden-{VERSION}.cdx.json"));
    fs::write(&list, sbom::write(&parts.crates, parts.time)?)?;
    fs::remove_dir_all(&build)?;

    let mut files = vec![];
    for entry in fs::read_dir(home)? {
        let path = entry?.path();
        files.extend(path.is_file().then_some(path));
    }
    files.sort();
    let sums = home.join("SHA256SUMS");
    fs::write(&sums, checksums(&files)?)?;
    files.push(sums);
    Ok(files)
}

/// When the commit was made, unless `SOURCE_DATE_EPOCH` says when.
fn time() -> Result<u64> {
    if let Ok(told) = env::var("SOURCE_DATE_EPOCH") {
        return told
            .parse()
            .with_context(|| format!("SOURCE_DATE_EPOCH is no number: {told}"));
    }
    let mut git = Command::new("git");
    git.current_dir(house::root())
        .args(["log", "-1", "--format=%ct"]);
    let said = Progress::quiet().lines(&mut git).context(
        "when this was committed is not known; set SOURCE_DATE_EPOCH, in seconds since 1970",
    )?;
    let said = said.first().context("git says nothing")?;
    Ok(said.parse()?)
}

/// `sha256sum`'s lines of these files, by their names alone.
fn checksums(files: &[PathBuf]) -> Result<String> {
    let mut sums = String::new();
    for file in files {
        let name = file.file_name().context("no name")?.display();
        sums += &format!("{}  {name}\n", sha256(file)?);
    }
    Ok(sums)
}

fn sha256(file: &Path) -> Result<String> {
    let said = Progress::quiet().lines(Command::new("sha256sum").arg(file))?;
    let sum = said.first().and_then(|line| line.split(' ').next());
    Ok(sum.context("sha256sum says nothing")?.to_owned())
}

/// The names of those files that are not the same in both.
fn different(files: &[PathBuf], others: &[PathBuf]) -> Result<Vec<String>> {
    if files.len() != others.len() {
        bail!(
            "{} files the first time, {} after",
            files.len(),
            others.len()
        );
    }
    let mut different = vec![];
    for (one, other) in files.iter().zip(others) {
        if one.file_name() != other.file_name() || fs::read(one)? != fs::read(other)? {
            different.push(other.display().to_string());
        }
    }
    Ok(different)
}

fn show(options: &Options, files: &[PathBuf], parts: &Parts) -> Result<()> {
    let mut rows = vec![];
    for file in files {
        let size = fs::metadata(file)?.len();
        let name = file.file_name().context("no name")?.to_string_lossy();
        rows.push((name.into_owned(), size, sha256(file)?, file));
    }
    if options.json {
        let row = |(name, size, sum, path): &(String, u64, String, &PathBuf)| json!({ "name": name, "bytes": size, "sha256": sum, "path": path });
        let files: Vec<Value> = rows.iter().map(row).collect();
        let all = json!({ "version": VERSION, "files": files });
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    println!();
    for (name, size, sum, _) in &rows {
        println!("{:>8.1} MiB  {sum:.16}…  {name}", mebibytes(*size));
    }
    for binary in [&parts.shared, &parts.bundled].into_iter().flatten() {
        println!("{binary}");
    }
    if options.twice {
        println!("made twice, byte for byte the same");
    }
    Ok(())
}

fn mebibytes(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX)) / 1024.0
}
