//! Which tools build the kernel programs, and where they are found.
//!
//! `agent/build.rs` and `cargo xtask setup` both include this file, so that what the one asks for
//! is what the other installs.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The LLVM major version that `bpf-linker` is built with. A compiler with a newer LLVM writes
/// bitcode that the linker cannot read.
pub(crate) const LINKER_LLVM: u32 = 22;

/// The linker's file name.
pub(crate) const LINKER: &str = "bpf-linker";

/// The toolchain that `rust-toolchain.toml` of this directory pins.
pub(crate) fn pinned(ebpf: &Path) -> Result<String, String> {
    let file = ebpf.join("rust-toolchain.toml");
    let text = std::fs::read_to_string(&file)
        .map_err(|e| format!("cannot read {}: {e}", file.display()))?;
    text.lines()
        .filter_map(|line| line.split_once('='))
        .find(|(key, _)| key.trim() == "channel")
        .map(|(_, value)| value.trim().trim_matches('"').to_owned())
        .ok_or_else(|| format!("{} names no channel", file.display()))
}

/// The installed toolchain to use: the pinned one or, where it is not installed, a `nightly` whose
/// LLVM the linker can read. `Err` says what is missing.
pub(crate) fn installed(pinned: &str) -> Result<String, String> {
    let list = output(Command::new("rustup").args(["toolchain", "list"]))?;
    let has = |name: &str| {
        list.lines().any(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with("-x86_64") || rest.starts_with("-aarch64"))
        })
    };
    if has(pinned) {
        return Ok(pinned.to_owned());
    }
    if has("nightly") {
        return match llvm("nightly")? {
            major if major <= LINKER_LLVM => Ok("nightly".to_owned()),
            major => Err(format!(
                "the toolchain {pinned} is not installed, and the installed nightly (LLVM {major}) is newer than bpf-linker's LLVM {LINKER_LLVM}"
            )),
        };
    }
    Err(format!("the toolchain {pinned} is not installed"))
}

/// Whether the toolchain has the sources of `core`.
pub(crate) fn has_rust_src(toolchain: &str) -> Result<bool, String> {
    let sysroot =
        output(Command::new("rustup").args(["run", toolchain, "rustc", "--print", "sysroot"]))?;
    Ok(Path::new(sysroot.trim())
        .join("lib/rustlib/src/rust/library/core/Cargo.toml")
        .is_file())
}

/// The linker: the one that `cargo xtask setup` built under a target directory, or one in `PATH`.
/// It is found only if it runs: it needs its LLVM library at run time.
pub(crate) fn linker(target_dirs: &[&Path]) -> Option<PathBuf> {
    let own = target_dirs.iter().map(|dir| dir.join("tools/bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    own.chain(std::env::split_paths(&path))
        .map(|dir| dir.join(LINKER))
        .filter(|file| file.is_file())
        .find(|file| output(Command::new(file).arg("--version")).is_ok())
}

fn llvm(toolchain: &str) -> Result<u32, String> {
    let version = output(Command::new("rustup").args(["run", toolchain, "rustc", "-vV"]))?;
    version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))
        .and_then(|version| version.split('.').next()?.parse().ok())
        .ok_or_else(|| format!("the toolchain {toolchain} does not tell its LLVM version"))
}

fn output(command: &mut Command) -> Result<String, String> {
    let shown = format!("{command:?}").replace('"', "");
    let done = command
        .output()
        .map_err(|e| format!("cannot run {shown}: {e}"))?;
    if done.status.success() {
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    } else {
        Err(format!(
            "{shown} failed: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        ))
    }
}
