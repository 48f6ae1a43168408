//! Debian's kernels for virtual machines, as Debian ships them: fetched once, and kept.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{
    apt::{self, Apt},
    house,
    term::Progress,
};

/// The parts of a kernel's modules that are put into the machines: what packets go through.
const MODULES: [&str; 4] = ["net", "drivers/net", "crypto", "lib"];

/// Drivers for hardware that the machines do not have, by far most of all.
const HARDWARE: [&str; 1] = ["drivers/net/ethernet"];

/// A line of kernels.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Line {
    /// Of Debian 12
    #[value(name = "6.1")]
    V6_1,
    /// Of Debian 13
    #[value(name = "6.12")]
    V6_12,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        })
    }
}

/// What capwarden must find on each of them, as the attack table's `--require` takes it.
const LAYERS: &str =
    "guard,seccomp-notification,fork-tagging,cgroup-v2,network-guard,injection-drop,private-mounts";

impl Line {
    /// The layers of enforcement that must work on a kernel of this line, with `bpf` among its security
    /// modules or without.
    pub(super) fn layers(self, lsm: bool) -> String {
        let landlock = match self {
            Self::V6_1 => "landlock-domain", // scopes came with 6.12
            Self::V6_12 => "landlock",
        };
        let backstop = if lsm { ",bpf-lsm" } else { "" };
        format!("{LAYERS},{landlock}{backstop}")
    }

    /// The packages that depend on its newest kernel, of one Debian release or another.
    fn newest(self) -> &'static [&'static str] {
        match self {
            Self::V6_1 => &["linux-image-cloud-amd64"],
            Self::V6_12 => &["linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64"],
        }
    }
}

/// A kernel that can be booted.
pub(super) struct Kernel {
    /// Which line it is of.
    pub(super) line: Line,
    /// The version that it calls itself: `6.1.0-56-cloud-amd64`.
    pub(super) version: String,
    /// Its image.
    pub(super) image: PathBuf,
    /// Its modules, as they lie below `/lib/modules/<version>`.
    pub(super) modules: PathBuf,
}

impl Kernel {
    /// The kernel of this line that is kept here, or the newest that apt finds.
    pub(super) fn obtain(progress: &Progress, line: Line) -> Result<Self> {
        let home = house::tools().join("vm").join(line.to_string());
        if let Ok(kept) = Self::at(line, &home) {
            return Ok(kept);
        }
        let host = Apt::host()?;
        let fetched = fetch(progress, &host, line, &home).or_else(|of_host| {
            progress.say("asking Debian's archive");
            let apart = house::tools().join("vm/apt");
            let fetched = Apt::apart(progress, &apart, apt::KERNELS)
                .and_then(|apt| fetch(progress, &apt, line, &home))
                .with_context(|| format!("nor has the host's own apt one ({of_host:#})"));
            let _ = fs::remove_dir_all(&apart);
            fetched
        });
        fetched.with_context(|| {
            format!(
                "Debian's kernel {line} cannot be had; run apt-get update, or let \
                 http://deb.debian.org be reached, then run this again"
            )
        })?;
        Self::at(line, &home)
    }

    /// The kernel that was unpacked here.
    fn at(line: Line, home: &Path) -> Result<Self> {
        let modules = only_entry(&home.join("lib/modules"))?;
        let version = modules
            .file_name()
            .context("no version")?
            .to_string_lossy()
            .into_owned();
        let image = home.join(format!("boot/vmlinuz-{version}"));
        if !image.exists() || !modules.join("modules.dep").exists() {
            bail!("{} is not whole", home.display());
        }
        Ok(Self {
            line,
            version,
            image,
            modules,
        })
    }
}

/// Fetches the newest kernel of a line, and keeps of it what the machines need.
fn fetch(progress: &Progress, apt: &Apt, line: Line, home: &Path) -> Result<()> {
    let prefix = format!("linux-image-{line}.");
    let mut found = line
        .newest()
        .iter()
        .map(|newest| apt.depends(newest, &prefix));
    let package = found
        .find(Result::is_ok)
        .unwrap_or_else(|| bail!("apt knows no package {prefix}…-cloud-amd64"))?;

    let fresh = home.with_extension("new");
    for old in [&fresh, &home.to_path_buf()] {
        if old.exists() {
            fs::remove_dir_all(old).with_context(|| format!("cannot remove {}", old.display()))?;
        }
    }
    apt.unpack(progress, &package, &fresh)?;
    let modules = only_entry(&fresh.join("lib/modules"))?;
    let version = modules.file_name().context("no version")?;
    prune(&modules)?;
    unpack_modules(progress, &modules.join("kernel"))?;
    // Which module needs which is not in the package: installing it would find that out.
    let mut depmod = Command::new("busybox");
    progress.run(depmod.arg("depmod").arg("-b").arg(&fresh).arg(version))?;
    fs::rename(&fresh, home).with_context(|| format!("cannot make {}", home.display()))
}

/// Takes away what no machine needs.
fn prune(modules: &Path) -> Result<()> {
    let (all, kept) = (modules.join("kernel"), modules.join("kept"));
    for part in MODULES {
        let from = all.join(part);
        let to = kept.join(part);
        fs::create_dir_all(to.parent().context("no parent")?)?;
        fs::rename(&from, &to).with_context(|| format!("the kernel has no {}", from.display()))?;
    }
    for part in HARDWARE {
        let _ = fs::remove_dir_all(kept.join(part));
    }
    fs::remove_dir_all(&all)?;
    Ok(fs::rename(kept, all)?)
}

/// Unpacks modules that are packed: the kernel may have to be told that they are, and busybox does not.
fn unpack_modules(progress: &Progress, directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            unpack_modules(progress, &path)?;
        } else if path.extension().is_some_and(|end| end == "xz") {
            progress.run(Command::new("busybox").arg("unxz").arg(path))?;
        }
    }
    Ok(())
}

/// The only entry of a directory.
fn only_entry(directory: &Path) -> Result<PathBuf> {
    let cannot = || format!("cannot read {}", directory.display());
    let mut entries = fs::read_dir(directory).with_context(cannot)?;
    let first = entries.next().with_context(cannot)??.path();
    match entries.next() {
        None => Ok(first),
        Some(_) => bail!("{} has more than one entry", directory.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_with_bpf_must_have_the_backstop_and_are_told_so() {
        for line in Line::value_variants() {
            let has =
                |lsm: bool, layer: &str| line.layers(lsm).split(',').any(|name| name == layer);
            assert!(has(true, "bpf-lsm") && !has(false, "bpf-lsm"));
            assert!(has(false, "injection-drop"));
            // On a kernel's command line, a space ends a word.
            assert!(!line.layers(true).contains(' '));
        }
        let init = include_str!("init.sh");
        assert!(init.contains(r"vm\.require=") && init.contains("--require $required"));
    }
}
