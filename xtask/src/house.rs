//! Where things are.

use std::{
    env, fs,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::root as privileges;

/// The checkout.
pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// Cargo's target directory: the one that this very program was built in.
pub(crate) fn target() -> PathBuf {
    env::current_exe()
        .ok()
        .and_then(|exe| exe.ancestors().nth(2).map(Path::to_path_buf))
        .unwrap_or_else(|| root().join("target"))
}

/// Where tools for the build are installed.
pub(crate) fn tools() -> PathBuf {
    target().join("tools")
}

/// The capwarden that is tested and shown: the release build, for real floods of packets.
pub(crate) fn capwarden() -> PathBuf {
    target().join("release/capwarden")
}

/// A directory that unprivileged users can read: the target directory or, where somebody's home
/// is closed to others, one in `/var/tmp`. Governed servers run without privileges from here.
pub(crate) fn public() -> Result<PathBuf> {
    let target = target();
    fs::create_dir_all(&target).with_context(|| format!("cannot make {}", target.display()))?;
    let target = fs::canonicalize(&target)?;
    if open_to_others(&target) {
        return Ok(target);
    }
    let me = privileges::invoker();
    let own = PathBuf::from(format!("/var/tmp/capwarden-{me}"));
    match fs::DirBuilder::new().mode(0o755).create(&own) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(e).with_context(|| format!("cannot make {}", own.display()));
        }
        _ => {}
    }
    let found = fs::symlink_metadata(&own)?;
    let trusted = found.uid() == me || found.uid() == 0;
    if !found.is_dir() || !trusted || found.permissions().mode() & 0o022 != 0 {
        bail!(
            "{} is not a directory that only you can write; remove it",
            own.display()
        );
    }
    Ok(own)
}

/// The Python environment with the real MCP servers.
pub(crate) fn venv() -> Result<PathBuf> {
    Ok(public()?.join("venv"))
}

/// Other gateways, which the bench measures beside capwarden.
pub(crate) fn peers() -> PathBuf {
    tools().join("peers")
}

/// The MCP conformance suite: a Python environment with Node in it.
pub(crate) fn suite() -> Result<PathBuf> {
    Ok(public()?.join("suite"))
}

/// A Python environment with an intercepting proxy.
pub(crate) fn proxies() -> Result<PathBuf> {
    Ok(public()?.join("proxies"))
}

fn open_to_others(path: &Path) -> bool {
    path.ancestors()
        .all(|dir| fs::metadata(dir).is_ok_and(|found| found.permissions().mode() & 0o001 == 0o001))
}

/// A cargo that does not inherit what `cargo run` told this program about itself: crates that
/// look at these variables would be rebuilt.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root()).args(arguments);
    forget_own(&mut cargo);
    cargo
}

/// Takes what `cargo run` told this program about itself out of a command's environment.
pub(crate) fn forget_own(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let own = name.to_str().is_some_and(|name| {
            [
                "CARGO_PKG_",
                "CARGO_MANIFEST_",
                "CARGO_BIN_",
                "CARGO_CRATE_",
            ]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        });
        if own {
            command.env_remove(name);
        }
    }
}

/// Whether a program is in `PATH`, or where Debian keeps programs for root.
pub(crate) fn has_program(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(name).is_file())
}
