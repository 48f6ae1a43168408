//! The disk: made once, with Debian's own installer of base systems, and kept.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{house, root, setup, term::Progress};

/// What is in it besides Debian's smallest system: an init, what the package needs, and what the trials ask.
const PACKAGES: [&str; 11] = [
    "bpftool",
    "dbus",
    "init-system-helpers",
    "iproute2",
    "kmod",
    "libpcap0.8",
    "procps",
    "rpm",
    "systemd",
    "systemd-sysv",
    "tcpdump",
];

const RELEASE: &str = "bookworm";
const ARCHIVE: &str = "http://deb.debian.org/debian";

/// Room for what is in it, twice.
const SIZE: &str = "900M";

/// The disk that is kept here, or a new one, which takes three minutes. Nobody writes to it.
pub(super) fn obtain(progress: &Progress) -> Result<PathBuf> {
    setup::installers(progress)?;
    let home = house::tools().join("vm");
    let disk = home.join(format!("{RELEASE}.ext4"));
    let list = disk.with_extension("list");
    let wanted = PACKAGES.join(",");
    if disk.exists() && fs::read_to_string(&list).is_ok_and(|list| list == wanted) {
        return Ok(disk);
    }
    fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
    let tree = disk.with_extension("root");
    let fresh = disk.with_extension("new");
    let as_root = |program: &str| root::command(Path::new(program), &[]);
    progress.run(as_root("rm")?.args(["--recursive", "--force"]).arg(&tree))?;
    let made = progress
        .run(
            as_root("debootstrap")?
                .args(["--variant=minbase", "--include", &wanted, RELEASE])
                .arg(&tree)
                .arg(ARCHIVE),
        )
        .with_context(|| {
            format!("Debian 12 cannot be had; let {ARCHIVE} be reached, then run this again")
        })
        .and_then(|()| {
            // What was fetched is unpacked.
            let mut rm = as_root("find")?;
            rm.arg(tree.join("var/cache/apt"))
                .args(["-type", "f", "-delete"]);
            progress.run(&mut rm)?;
            let _ = fs::remove_file(&fresh);
            let mut mkfs = as_root("mkfs.ext4")?;
            mkfs.args(["-q", "-F", "-L", "root", "-d"]).arg(&tree);
            progress.run(mkfs.arg(&fresh).arg(SIZE))?;
            // Whoever builds runs the emulator as himself.
            let owner = format!("{}", root::invoker());
            progress.run(as_root("chown")?.arg(owner).arg(&fresh))
        });
    progress.run(as_root("rm")?.args(["--recursive", "--force"]).arg(&tree))?;
    made?;
    fs::write(&list, wanted)?;
    fs::rename(&fresh, &disk).with_context(|| format!("cannot make {}", disk.display()))?;
    Ok(disk)
}

/// A copy that can be written to.
pub(super) fn copy(progress: &Progress, disk: &Path, to: &Path) -> Result<()> {
    let mut cp = Command::new("cp");
    progress.run(
        cp.args(["--sparse=always", "--reflink=auto"])
            .arg(disk)
            .arg(to),
    )
}
