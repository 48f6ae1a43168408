//! Doing single things as root. The builds are never done as root for another user, so that the
//! target directory stays theirs.

use std::{env, ffi::OsString, os::unix::process::CommandExt, path::Path, process::Command};

use anyhow::{Result, bail};

use crate::house;

/// An unprivileged user that every Linux has: `nobody`.
const NOBODY: u32 = 65534;

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command as root, with these variables set for it.
pub(crate) fn command(program: &Path, variables: &[(&str, OsString)]) -> Result<Command> {
    if is_root() {
        let mut command = Command::new(program);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        return Ok(command);
    }
    if !house::has_program("sudo") {
        bail!("this needs root and there is no sudo here; run the same command as root");
    }
    let mut command = Command::new("sudo");
    command.arg("env");
    for (name, value) in variables {
        let mut assignment = OsString::from(name);
        assignment.push("=");
        assignment.push(value);
        command.arg(assignment);
    }
    command.arg(program);
    Ok(command)
}

/// Replaces this process by the same one as root, through sudo, with these arguments.
pub(crate) fn again(arguments: &[&str]) -> Result<()> {
    println!("packet captures need root: going on through sudo");
    let path = env::var_os("PATH").unwrap_or_default();
    let mut command = command(&env::current_exe()?, &[("PATH", path)])?;
    Err(command.args(arguments).exec().into())
}

/// Who called this: through sudo, the user in front of it.
pub(crate) fn invoker() -> u32 {
    env::var("SUDO_UID")
        .ok()
        .filter(|_| is_root())
        .and_then(|uid| uid.parse().ok())
        .unwrap_or_else(|| rustix::process::geteuid().as_raw())
}

/// Whom governed servers run as: the user who called this, or nobody in place of root.
pub(crate) fn unprivileged() -> u32 {
    match invoker() {
        0 => NOBODY,
        uid => uid,
    }
}
