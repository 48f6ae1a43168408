//! The tarball: the files below one directory, for hosts that know neither .deb nor .rpm.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use super::{VERSION, contents::Stage};
use crate::term::Progress;

/// Makes it from what was staged, and says where it is.
pub(super) fn make(progress: &Progress, stage: &Stage, home: &Path) -> Result<PathBuf> {
    let name = format!("capwarden-{VERSION}-x86_64-linux");
    let package = home.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.args(["--create", "--format=gnu", "--sort=name", "--numeric-owner"])
        .args(["--owner=0", "--group=0", "--mode=u=rwX,go=rX"])
        .arg(format!("--mtime=@{}", stage.time))
        .arg(format!("--transform=s,^\\.,{name},"))
        .arg("--use-compress-program=gzip -9 --no-name")
        .arg("--file")
        .arg(&package)
        .arg("--directory")
        .arg(&stage.root)
        .arg(".");
    progress.run(&mut tar)?;
    Ok(package)
}
