//! `cargo xtask vm`: the tests that speak to the kernel, on kernels that others have.
//!
//! Each kernel is one of Debian's own, and is booted twice in an emulated machine: with `bpf` among the
//! active security modules, and without, where programs for them load and attach like anywhere else, and
//! never run. A machine has no disk and no network: what it runs is in its first file system, and what
//! comes of that goes out over a serial port.

mod archive;
mod boot;
mod guest;
mod host;
mod kernels;
mod programs;
mod reading;
mod report;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use self::{
    boot::Machine,
    kernels::{Kernel, Line},
    programs::Programs,
    reading::Reading,
};
use crate::{house, setup, tally::Tally, term};

/// So many machines run at a time, each on one processor of the host.
const AT_A_TIME: usize = 2;

/// Options of `cargo xtask vm`
#[derive(Args, Default)]
pub(crate) struct Options {
    /// Only kernels of this line
    #[arg(long, value_enum, value_name = "LINE")]
    kernel: Option<Line>,
    /// Only with `bpf` among the security modules, or only without
    #[arg(long, value_enum, value_name = "HOW")]
    lsm: Option<Lsm>,
    /// Only the programs whose name contains this: lib, network, attacks; or package, a whole Debian
    #[arg(long, value_name = "NAME", default_value = "")]
    only: String,
    /// Only the tests whose name contains this
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Of `package`: with this capwarden, which is built already
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Keep the machines' files, and what the kernels said, in target/vm
    #[arg(long)]
    keep: bool,
    /// A shell in one machine, and nothing is run: by default of the newest kernel, with `bpf`
    #[arg(long)]
    shell: bool,
    /// Without what takes minutes: as a part of `cargo xtask test`.
    #[arg(skip)]
    brief: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Lsm {
    On,
    Off,
}

/// A machine that has been run, once or twice.
struct Booted {
    /// The kernel's version.
    kernel: String,
    lsm: bool,
    reading: Reading,
    /// Why it was lost, if it was.
    lost: Option<String>,
    /// Why it was booted again.
    retried: Option<String>,
    time: Duration,
}

/// The verb.
pub(crate) fn main(options: &Options) -> Result<()> {
    let start = Instant::now();
    setup::ensure_build()?;
    let kernels = obtain(options)?;
    let mut tally = Tally::default();
    run(options, &kernels, &mut tally)?;
    if options.shell {
        return Ok(());
    }
    print!("{}", tally.skipped());
    print!("{}", tally.failures());
    for broken in &tally.broken {
        println!("{} {broken}", term::mark(false));
    }
    let clean = tally.failed == 0 && tally.broken.is_empty();
    let time = term::elapsed(start.elapsed());
    println!("{} {tally} in {time}", term::mark(clean));
    if !clean {
        bail!("not everything passed; what failed printed is above the table");
    }
    Ok(())
}

/// A part of `cargo xtask test`: skipped where machines or kernels cannot be had, with the reason.
pub(crate) fn part(filter: Option<&str>, tally: &mut Tally) -> Result<()> {
    let options = Options {
        filter: filter.map(str::to_owned),
        brief: true,
        ..Options::default()
    };
    match obtain(&options) {
        Ok(kernels) => run(&options, &kernels, tally),
        Err(error) => {
            let reason = format!("{error:#}").replace('\n', " ");
            tally.skips.push(("vm".to_owned(), reason));
            Ok(())
        }
    }
}

/// The emulator and the kernels.
fn obtain(options: &Options) -> Result<Vec<Kernel>> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the machines are x86-64, and this host is not");
    }
    term::step("QEMU and busybox", setup::machines)?;
    let lines = Line::value_variants().iter().copied();
    let lines = lines.filter(|line| options.kernel.is_none_or(|only| only == *line));
    lines
        .map(|line| {
            term::step(&format!("Debian's kernel {line}"), |progress| {
                Kernel::obtain(progress, line)
            })
        })
        .collect()
}

/// Builds, boots the machines, and reports.
fn run(options: &Options, kernels: &[Kernel], tally: &mut Tally) -> Result<()> {
    let home = house::target().join("vm");
    let _ = fs::remove_dir_all(&home);
    fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
    let (only, filter) = (&options.only, options.filter.as_deref());
    if only == host::NAME {
        let kernel = kernels.first().context("no kernel")?;
        host::run(
            options.program.as_deref(),
            filter,
            options.keep,
            kernel,
            &home,
            tally,
        )?;
        if !options.keep {
            fs::remove_dir_all(&home)?;
        }
        return Ok(());
    }
    let mut programs = programs::build(only, filter, options.brief, &home)?;
    if options.lsm.is_some() {
        for program in &mut programs.runs {
            program.once = false;
        }
    }
    let archives = term::step("what the machines boot", |progress| {
        let common = guest::fill(progress, &programs.runs)?;
        kernels
            .iter()
            .map(|kernel| {
                let mut archive = common.clone();
                guest::add_modules(&mut archive, kernel)?;
                let path = home.join(format!("{}.cpio", kernel.version));
                archive.write(&path)?;
                Ok(path)
            })
            .collect::<Result<Vec<PathBuf>>>()
    })?;
    let mut machines = vec![];
    // Those that do most are first.
    for lsm in [true, false] {
        if options.lsm.is_some_and(|only| (only == Lsm::On) != lsm) {
            continue;
        }
        for (kernel, archive) in kernels.iter().zip(&archives) {
            machines.push(machine(kernel, archive, lsm, &home));
        }
    }
    if options.shell {
        let wanted = machines.iter().rfind(|machine| machine.lsm);
        let wanted = wanted.or(machines.last()).context("no machine")?;
        return wanted.shell();
    }

    let mut booted = boot_all(&machines)?;
    if options.filter.is_some() {
        let runs = booted
            .iter_mut()
            .flat_map(|machine| &mut machine.reading.runs);
        runs.for_each(|run| run.empty = false);
    }
    if options.brief {
        let reason =
            "a whole Debian takes minutes to boot and to reboot: cargo xtask vm --only package";
        let skip = (host::NAME.to_owned(), reason.to_owned());
        programs.skips.push(skip);
    }
    report::show(&booted, &programs, tally);
    if options.keep {
        report::keep(&booted, &home)?;
        println!(
            "what was booted, what kernels and programs said, is in {}",
            home.display()
        );
    } else {
        fs::remove_dir_all(&home)?;
    }
    Ok(())
}

fn machine<'a>(kernel: &'a Kernel, archive: &'a Path, lsm: bool, home: &Path) -> Machine<'a> {
    let how = if lsm { "bpf" } else { "no-bpf" };
    Machine {
        kernel,
        archive,
        lsm,
        console: home.join(format!("{}-{how}.console", kernel.version)),
        disk: None,
    }
}

/// Boots all machines, some at a time, in their order.
fn boot_all(machines: &[Machine<'_>]) -> Result<Vec<Booted>> {
    let what = match machines.len() {
        1 => "one machine".to_owned(),
        n => format!("{n} machines, {AT_A_TIME} at a time"),
    };
    term::step(&what, |progress| {
        let waiting = Mutex::new(machines.iter().enumerate());
        let next = || waiting.lock().ok()?.next();
        let done = Mutex::new(vec![]);
        thread::scope(|scope| {
            for _ in 0..AT_A_TIME.min(machines.len()) {
                scope.spawn(|| {
                    while let Some((at, machine)) = next() {
                        let booted = boot(machine, progress);
                        if let Ok(mut done) = done.lock() {
                            done.push((at, booted));
                        }
                    }
                });
            }
        });
        let mut done = done.into_inner().unwrap_or_default();
        done.sort_by_key(|(at, _)| *at);
        done.into_iter().map(|(_, booted)| booted).collect()
    })
}

/// Boots a machine, and once more if it hung before its first process.
fn boot(machine: &Machine<'_>, progress: &term::Progress) -> Result<Booted> {
    let start = Instant::now();
    let version = &machine.kernel.version;
    let once = || machine.run(&|what| progress.say(&format!("{version}: {what}")));
    let (mut reading, mut lost) = once()?;
    let mut retried = None;
    if reading.up.is_none() {
        retried = lost.take();
        (reading, lost) = once()?;
    }
    Ok(Booted {
        kernel: version.clone(),
        lsm: machine.lsm,
        reading,
        lost,
        retried,
        time: start.elapsed(),
    })
}
