//! A machine as hosts are: Debian 12 on a disk, with systemd. The packages are tried in it as an administrator
//! would: installed, used, over a reboot, upgraded, removed and purged.

mod disk;

use std::{path::Path, time::Instant};

use anyhow::Result;

use super::{
    Booted, archive::Archive, boot::Machine, guest, kernels::Kernel, programs::Programs, report,
};
use crate::{
    package::{self, Tried},
    tally::Tally,
    term,
};

/// What `--only` calls it.
pub(super) const NAME: &str = "package";

/// The first process of the kernel's own file system: it goes on from the disk.
const INIT: &str = include_str!("init.sh");
/// What is tried, and the parts of it that it reads.
const TRIALS: &str = include_str!("trials.sh");
const PARTS: [(&str, &str); 2] = [
    ("faults.sh", include_str!("faults.sh")),
    ("rpm.sh", include_str!("rpm.sh")),
];
/// A server for it.
const SERVER: &str = include_str!("server.pl");
/// What starts that, at each boot.
const UNIT: &str = include_str!("trials.service");

/// Makes packages, each twice, the second an upgrade of the first, and lets a machine try them: of this program,
/// or of one that is built; only with the trials whose name contains this.
pub(super) fn run(
    program: Option<&Path>,
    only: Option<&str>,
    keep: bool,
    kernel: &Kernel,
    home: &Path,
    tally: &mut Tally,
) -> Result<()> {
    let base = term::step("Debian 12, to be booted from a disk", disk::obtain)?;
    let packages = package::tried(program, home)?;
    let disk = home.join("disk.ext4");
    let archive = home.join("host.cpio");
    term::step("what the machine boots", |progress| {
        disk::copy(progress, &base, &disk)?;
        fill(progress, kernel, &packages, only)?.write(&archive)
    })?;
    let mut machine = Machine {
        kernel,
        archive: &archive,
        lsm: true,
        console: home.join("first.console"),
        disk: Some(disk),
    };
    // A reboot is the end of an emulated machine, and the next goes on with its disk.
    let boot = |machine: &Machine<'_>, what: &str| {
        term::step(what, |progress| {
            let start = Instant::now();
            let (reading, lost) = machine.run(&|what| progress.say(what))?;
            Ok(Booted {
                kernel: kernel.version.clone(),
                lsm: true,
                reading,
                lost,
                retried: None,
                time: start.elapsed(),
            })
        })
    };
    let mut booted = vec![boot(&machine, "a machine with systemd")?];
    if booted.iter().all(|machine| machine.lost.is_none()) {
        machine.console = home.join("rebooted.console");
        booted.push(boot(&machine, "the same, rebooted")?);
    }
    if only.is_some() {
        let runs = booted.iter_mut();
        let runs = runs.flat_map(|machine| &mut machine.reading.runs);
        runs.for_each(|run| run.empty = false);
    }
    report::show(&booted, &Programs::default(), tally);
    if keep {
        println!(
            "the disk, what the kernels and what the trials said is in {}",
            home.display()
        );
    }
    Ok(())
}

/// What the kernel unpacks: the way to the disk, and what is put onto it.
fn fill(
    progress: &term::Progress,
    kernel: &Kernel,
    packages: &Tried,
    only: Option<&str>,
) -> Result<Archive> {
    let mut archive = guest::bare(progress)?;
    archive.text("init", INIT, 0o755);
    archive.text("trials/run", TRIALS, 0o755);
    archive.text("trials/server.pl", SERVER, 0o755);
    archive.text("trials/trials.service", UNIT, 0o644);
    for (name, part) in PARTS {
        archive.text(&format!("trials/{name}"), part, 0o644);
    }
    archive.text("trials/only", only.unwrap_or_default(), 0o644);
    for (kind, packages) in [("deb", &packages.debs), ("rpm", &packages.rpms)] {
        for (number, package) in (1..).zip(packages) {
            archive.file(&format!("trials/{number}.{kind}"), package, 0o644);
        }
    }
    guest::add_modules(&mut archive, kernel)?;
    Ok(archive)
}
