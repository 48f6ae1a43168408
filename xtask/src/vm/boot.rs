//! One machine: QEMU with a kernel and what is to be run, watched until it ends.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::{kernels::Kernel, reading::Reading};

/// The emulator.
const QEMU: &str = "qemu-system-x86_64";

/// Always emulated: where there is `/dev/kvm`, stock kernels may stop or stall on it.
const ACCELERATOR: &str = "tcg";

/// The machine's time goes by the instructions that it executes, two nanoseconds each, and leaps where it
/// only waits: no deadline of a test is missed because the host is busy, sleeping costs nothing, and
/// each boot is like the one before. With more than one processor such a machine hangs.
const CLOCK: &str = "shift=1,sleep=off";
const PROCESSORS: &str = "1";

/// With a disk, time goes by as on the host where the machine waits: nothing comes from a disk in no time.
const CLOCK_WITH_DISK: &str = "shift=1,sleep=on";

/// All programs together, and the boot: several times what it takes on an idle host.
const MOST: Duration = Duration::from_secs(1200);

/// The same with a disk, where packages come and go, and services are waited for.
const MOST_WITH_DISK: Duration = Duration::from_secs(2400);

/// A kernel that has not started its first process by then never will. It takes 8 s on an idle host.
const MOST_BEFORE_FIRST_PROCESS: Duration = Duration::from_secs(120);

/// How often a machine is looked at that says nothing.
const LOOK: Duration = Duration::from_millis(500);

/// What the kernel says where a machine is lost.
const LOST: [&str; 6] = [
    "Kernel panic",
    "Oops",
    "soft lockup",
    "self-detected stall",
    "detected stalls on CPUs",
    "blocked for more than",
];

/// The security modules of a machine, besides `bpf`: those that Debian has active.
const SECURITY_MODULES: &str = "landlock,lockdown,yama,integrity,apparmor";

/// A machine before it is started.
pub(super) struct Machine<'a> {
    /// What is booted.
    pub(super) kernel: &'a Kernel,
    /// The first file system.
    pub(super) archive: &'a Path,
    /// Whether `bpf` is an active security module.
    pub(super) lsm: bool,
    /// Where the kernel's words go. What its programs print is beside it, as it comes, in a file that ends in
    /// `.said`.
    pub(super) console: PathBuf,
    /// A disk, which outlasts it.
    pub(super) disk: Option<PathBuf>,
}

impl Machine<'_> {
    /// The command that starts it.
    fn command(&self, shell: bool) -> Command {
        let modules = match self.lsm {
            true => &format!("{SECURITY_MODULES},bpf"),
            false => SECURITY_MODULES,
        };
        let layers = self.kernel.line.layers(self.lsm);
        let mut words =
            format!("console=ttyS0 quiet panic=-1 oops=panic lsm={modules} vm.require={layers}");
        if self.disk.is_some() {
            words += " systemd.getty_auto=no"; // nothing tells systemd that a terminal has come
        }
        if shell {
            words += " vm.shell";
        }
        let mut command = Command::new("timeout");
        let most = if shell { 0 } else { self.most().as_secs() }; // 0 is no end
        command
            .args(["--foreground", "--kill-after=5", &most.to_string(), QEMU])
            .args(["-accel", ACCELERATOR, "-smp", PROCESSORS])
            .args(["-machine", "pc", "-m", "1G"])
            .args(["-nodefaults", "-display", "none", "-no-reboot", "-serial"])
            .arg(format!("file:{}", self.console.display()))
            .args(["-serial", "stdio", "-kernel"])
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(self.archive)
            .args(["-append", &words]);
        if let Some(disk) = &self.disk {
            // Debian's kernels have this driver built in.
            let drive = format!(
                "if=none,id=disk,format=raw,cache=unsafe,file={}",
                disk.display()
            );
            command.args(["-drive", &drive, "-device", "nvme,drive=disk,serial=disk"]);
        }
        let clock = match self.disk {
            Some(_) => CLOCK_WITH_DISK,
            None => CLOCK,
        };
        if !shell {
            command.args(["-icount", clock]); // who types is slower than that
        }
        command
    }

    /// Boots it with a shell for who sits in front of the terminal.
    pub(super) fn shell(&self) -> Result<()> {
        let status = self.command(true).status().context("cannot run timeout")?;
        anyhow::ensure!(status.success(), "{QEMU}: {status}");
        Ok(())
    }

    /// Boots it and lets it run everything; tells what it is doing. None of what it does is an error
    /// here: it is in the reading.
    pub(super) fn run(&self, tell: &dyn Fn(&str)) -> Result<(Reading, Option<String>)> {
        fs::write(&self.console, "")
            .with_context(|| format!("cannot write {}", self.console.display()))?;
        let mut child = self
            .command(false)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run timeout")?;
        let out = child.stdout.take().context("no stdout")?;
        let (send, lines) = channel();
        let reader = thread::spawn(move || {
            let mut out = BufReader::new(out);
            let mut line = vec![];
            while out.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).into_owned();
                line.clear();
                if send.send((Instant::now(), text)).is_err() {
                    break;
                }
            }
        });

        let said = self.console.with_extension("said");
        let mut said =
            File::create(&said).with_context(|| format!("cannot write {}", said.display()))?;
        let start = Instant::now();
        let mut reading = Reading::default();
        let mut lost = None;
        loop {
            match lines.recv_timeout(LOOK) {
                Ok((when, line)) => {
                    let _ = writeln!(
                        said,
                        "{:8.1}  {}",
                        start.elapsed().as_secs_f64(),
                        line.trim_end()
                    );
                    reading.line(when, &line);
                    tell(reading.now());
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            lost = self.lost();
            if reading.up.is_none() && start.elapsed() > MOST_BEFORE_FIRST_PROCESS {
                let seconds = MOST_BEFORE_FIRST_PROCESS.as_secs();
                lost = Some(format!("no first process after {seconds} s"));
            }
            if lost.is_some() {
                end(&child);
                break;
            }
        }
        child.wait()?;
        let _ = reader.join();
        for (when, line) in lines.try_iter() {
            reading.line(when, &line);
        }
        if !reading.done {
            lost = lost.or_else(|| self.lost());
            let why = lost.unwrap_or_else(|| {
                format!(
                    "the machine ended before its time, or after {} s",
                    self.most().as_secs()
                )
            });
            reading.end(Instant::now(), &why);
            return Ok((reading, Some(why)));
        }
        Ok((reading, None))
    }

    /// How long it may take.
    fn most(&self) -> Duration {
        match self.disk {
            Some(_) => MOST_WITH_DISK,
            None => MOST,
        }
    }

    /// What the kernel says of its end.
    fn lost(&self) -> Option<String> {
        let console = fs::read(&self.console).ok()?;
        let console = String::from_utf8_lossy(&console);
        let mut lines = console.lines();
        let line = lines.find(|line| LOST.iter().any(|sign| line.contains(sign)))?;
        Some(format!("the kernel says: {}", line.trim()))
    }
}

/// Ends `timeout`, which ends QEMU.
fn end(child: &Child) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, Signal::TERM);
    }
}
