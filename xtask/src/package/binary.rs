//! The program as it is shipped: optimized, without symbols, and without a path of the host that built it.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::libpcap;
use crate::{
    house,
    term::{self, Progress},
};

/// The profile in the workspace's Cargo.toml, after which cargo also calls the directory.
const PROFILE: &str = "dist";

/// How the program comes by libpcap.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Linked {
    /// It loads the host's, which Debian calls `libpcap.so.0.8`.
    Shared,
    /// It has its own: other distributions' libpcap has another name, or there is none.
    Bundled,
}

/// A program, and what it needs of a host.
pub(super) struct Binary {
    /// Where it is.
    pub(super) path: PathBuf,
    /// The libraries that it loads: `libc.so.6`.
    pub(super) libraries: Vec<String>,
    /// The oldest C library that it starts with: `2.34`.
    pub(super) glibc: String,
}

impl Binary {
    /// Builds it, into this directory.
    pub(super) fn build(linked: Linked, quiet: bool, home: &Path) -> Result<Self> {
        let (name, what) = match linked {
            Linked::Shared => ("capwarden", "build capwarden (dist)"),
            Linked::Bundled => (
                "capwarden-bundled",
                "build capwarden (dist, with its own libpcap)",
            ),
        };
        let mut cargo = house::cargo(&["rustc", "--profile", PROFILE, "--locked"]);
        cargo.args(["--package", "capwarden", "--bin", "capwarden"]);
        cargo.env("CARGO_ENCODED_RUSTFLAGS", remapped()?.join("\x1f"));
        if linked == Linked::Bundled {
            let build = |progress: &Progress| libpcap::obtain(progress);
            let library = match quiet {
                true => build(&Progress::quiet()),
                false => term::step("libpcap, to be linked in", build),
            }?;
            // It is looked into before what the crate's build script names, and has an archive only.
            cargo.args(["--", &format!("-Lnative={}", library.display())]);
        }
        if quiet {
            let status = cargo.stdout(Stdio::null()).status();
            let built = status.context("cannot run cargo")?.success();
            anyhow::ensure!(built, "cargo failed");
        } else {
            term::loud(what, &mut cargo)?;
        }
        let built = house::target().join(PROFILE).join("capwarden");
        let binary = Self::stripped(&built, &home.join(name))?;
        let shared = |library: &String| library.starts_with("libpcap");
        if linked == Linked::Bundled && binary.libraries.iter().any(shared) {
            bail!(
                "{} loads a libpcap, and should have its own",
                binary.path.display()
            );
        }
        Ok(binary)
    }

    /// A copy of a program without its symbols.
    pub(super) fn stripped(file: &Path, to: &Path) -> Result<Self> {
        if let Some(above) = to.parent() {
            fs::create_dir_all(above)?;
        }
        let mut strip = Command::new("strip");
        strip.arg("--strip-all").arg("-o").arg(to).arg(file);
        Progress::quiet().run(&mut strip)?;
        Self::at(to)
    }

    /// Reads what a program needs out of it.
    fn at(path: &Path) -> Result<Self> {
        let objdump = |how: &str| {
            let mut objdump = Command::new("objdump");
            objdump.env("LC_ALL", "C").arg(how).arg(path);
            Progress::quiet().lines(&mut objdump)
        };
        let headers = objdump("--private-headers")?;
        let symbols = objdump("--dynamic-syms")?;
        Ok(Self {
            path: path.to_path_buf(),
            libraries: libraries(&headers),
            glibc: newest_glibc(&symbols).context("it uses nothing of glibc")?,
        })
    }
}

impl fmt::Display for Binary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, glibc) = (self.path.file_name().unwrap_or_default(), &self.glibc);
        let libraries = self.libraries.join(", ");
        write!(
            f,
            "{} needs glibc {glibc}; loads {libraries}",
            name.display()
        )
    }
}

/// Flags by which the compiler writes no path of this host into the program.
fn remapped() -> Result<Vec<String>> {
    let home = env::var_os("HOME").map(PathBuf::from);
    let cargo = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| home.map(|home| home.join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    let target = house::target();
    // Of several that fit, the last counts.
    let paths = [
        (cargo.as_path(), "/cargo"),
        (house::root(), "/capwarden"),
        (target.as_path(), "/capwarden/target"),
    ];
    let flag = |(from, to): (&Path, &str)| format!("--remap-path-prefix={}={to}", from.display());
    Ok(paths.map(flag).to_vec())
}

/// The libraries that are loaded, out of `objdump --private-headers`; the loader is none.
fn libraries(headers: &[String]) -> Vec<String> {
    let needed = headers
        .iter()
        .filter_map(|line| line.trim().strip_prefix("NEEDED"));
    let names = needed.map(|name| name.trim().to_owned());
    names.filter(|name| !name.starts_with("ld-linux")).collect()
}

/// The newest version of glibc that a symbol is bound to, out of `objdump --dynamic-syms`.
fn newest_glibc(symbols: &[String]) -> Option<String> {
    let versions = symbols.iter().filter_map(|line| {
        let (_, version) = line.split_once("GLIBC_")?;
        let version = version.split([')', ' ']).next()?;
        let numbers: Option<Vec<u32>> = version.split('.').map(|part| part.parse().ok()).collect();
        Some((numbers?, version.to_owned()))
    });
    versions.max().map(|(_, version)| version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_needs_is_read() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let headers = lines(
            "Dynamic Section:\n  NEEDED               libpcap.so.0.8\n  NEEDED               libc.so.6\n  \
             NEEDED               ld-linux-x86-64.so.2\n  INIT                 0x1",
        );
        assert_eq!(libraries(&headers), ["libpcap.so.0.8", "libc.so.6"]);
        let symbols = lines(
            "0000 DF *UND* 0000 (GLIBC_2.9) epoll_create1\n0000 DF *UND* 0000 (GLIBC_2.34) dlsym\n\
             0000 DF *UND* 0000 (GCC_3.0) _Unwind_Resume\n0000 DF *UND* 0000 (GLIBC_2.2.5) read",
        );
        assert_eq!(newest_glibc(&symbols).as_deref(), Some("2.34"));
        assert_eq!(newest_glibc(&[]), None);
    }
}
