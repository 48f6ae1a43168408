//! `capwarden exec` under test: started in a namespace, awaited by what the kernel and the audit
//! log show, and held against its promises when it has ended.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{ErrorKind, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{netns::Namespace, tools::contains};

/// Everything that an `exec` starts has this in its environment, with the `exec`'s directory.
pub const MARK: &str = "CWTEST_EXEC";

/// The user of everything governed here.
pub const NOBODY: u32 = 65_534;

const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;

/// Nothing that is awaited here takes longer.
const LONG: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(3);

/// The capwarden under test.
pub fn capwarden() -> Result<PathBuf> {
    from_environment("CAPWARDEN_BIN")
}

/// The Python with scapy.
pub fn venv_python() -> Result<PathBuf> {
    Ok(from_environment("CAPWARDEN_VENV")?.join("bin/python"))
}

/// A place that `cargo xtask test` names.
pub fn from_environment(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os(name).with_context(|| {
        format!("{name} is not set: run the end-to-end tests with `cargo xtask test --only e2e`")
    })?;
    Ok(path.into())
}

/// Notes that a test was skipped, for `cargo xtask test`. The caller has asserted the reason.
pub fn skip(test: &str, reason: &str) -> Result<()> {
    use std::io::Write as _;
    eprintln!("skipped {test}: {reason}");
    if let Some(notes) = std::env::var_os("CAPWARDEN_SKIPS") {
        let mut notes = File::options().append(true).create(true).open(notes)?;
        writeln!(notes, "{test}\t{reason}")?;
    }
    Ok(())
}

/// A directory that governed processes may write to.
pub fn workplace() -> Result<TempDir> {
    let place = tempfile::Builder::new().prefix("cwtest-").tempdir()?;
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o1777))?;
    Ok(place)
}

/// `capwarden exec <options> -- <command>`, to be.
#[derive(Debug)]
pub struct Exec<'a> {
    namespace: &'a Namespace,
    options: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    interactive: bool,
    ip_netns_exec: bool,
}

impl<'a> Exec<'a> {
    /// With these options, separated by spaces.
    pub fn new(namespace: &'a Namespace, options: &str) -> Self {
        Self {
            namespace,
            options: options.split_whitespace().map(Into::into).collect(),
            environment: Vec::new(),
            interactive: false,
            ip_netns_exec: false,
        }
    }

    /// One more option with its value.
    #[must_use]
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.extend([name.into(), value.into()]);
        self
    }

    /// With this in its environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// With pipes for standard input and output.
    #[must_use]
    pub fn interactive(mut self) -> Self {
        self.interactive = true;
        self
    }

    /// Entered by `ip netns exec`, which hides the cgroups.
    #[must_use]
    pub fn by_ip_netns_exec(mut self) -> Self {
        self.ip_netns_exec = true;
        self
    }

    /// Starts it with a command as a list of words.
    pub fn start<T: Into<OsString>>(
        self,
        command: impl IntoIterator<Item = T>,
    ) -> Result<Running<'a>> {
        let place = workplace()?;
        self.start_in(place, command)
    }

    /// The same, with the files in `place`; `{}` in a word of the command stands for it.
    pub fn start_in<T: Into<OsString>>(
        self,
        place: TempDir,
        command: impl IntoIterator<Item = T>,
    ) -> Result<Running<'a>> {
        let file = |name: &str| File::create(place.path().join(name));
        let pipe = |or: File| {
            if self.interactive {
                Stdio::piped()
            } else {
                or.into()
            }
        };
        let here = place.path().display().to_string();
        let command = command.into_iter().map(|word| {
            let word: OsString = word.into();
            match word.to_str() {
                Some(text) => OsString::from(text.replace("{}", &here)),
                None => word,
            }
        });
        let mut enter = if self.ip_netns_exec {
            self.namespace.ip_netns_exec(capwarden()?)
        } else {
            self.namespace.command(capwarden()?)
        };
        let child = enter
            .env(MARK, place.path())
            .envs(self.environment)
            .arg("exec")
            .args(["--user", &NOBODY.to_string(), "--audit"])
            .arg(place.path().join("audit.jsonl"))
            .args(&self.options)
            .arg("--")
            .args(command)
            .current_dir(place.path())
            .stdin(if self.interactive {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(pipe(file("stdout")?))
            .stderr(file("stderr")?)
            .spawn()
            .context("cannot start capwarden")?;
        Ok(Running {
            namespace: self.namespace,
            child,
            place,
        })
    }
}

/// A `capwarden exec` that was started. Dropping it kills it.
#[derive(Debug)]
pub struct Running<'a> {
    namespace: &'a Namespace,
    /// The agent.
    pub child: Child,
    place: TempDir,
}

impl Running<'_> {
    /// A file in its directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// What capwarden and the command wrote to standard error so far.
    pub fn stderr(&self) -> String {
        fs::read(self.file("stderr"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Waits until `look` gives something.
    pub fn wait_for<T>(&self, what: &str, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        wait_for(what, LONG, look).with_context(|| self.stderr())
    }

    /// Waits for the first record of a kind.
    pub fn record(&self, kind: &str) -> Result<Value> {
        let log = self.file("audit.jsonl");
        self.wait_for(kind, || {
            let records = records(&log).unwrap_or_default();
            Ok(records.into_iter().find(|record| is(record, kind)))
        })
    }

    /// Waits until `count` processes have a capture socket that hears packets of `interface` (`any`:
    /// of all), as the kernel sees it, and asserts that none of them has a capability. Returns
    /// their ids.
    pub fn capturing(&self, interface: &str, count: usize) -> Result<Vec<u32>> {
        let index = match interface {
            "any" => 0,
            name => self.namespace.index(name)?,
        };
        let table = format!("/proc/{}/net/packet", self.child.id());
        let log = self.file("audit.jsonl");
        let pids = self.wait_for("live capture sockets", || {
            let live: Vec<String> = fs::read_to_string(&table)?
                .lines()
                .filter_map(|line| live_inode(line, index))
                .map(|inode| format!("socket:[{inode}]"))
                .collect();
            let armed = records(&log).unwrap_or_default();
            let mut pids: Vec<u32> = armed
                .iter()
                .filter(|record| is(record, "socket-armed"))
                .filter_map(|record| record.get("pid")?.as_u64()?.try_into().ok())
                .filter(|pid| holds(*pid, &live))
                .collect();
            pids.dedup();
            // Before it waits for packets it may still put its filter on, which lets none through
            // at first: libpcap reads away what came before.
            let ready = pids.len() >= count && pids.iter().all(|pid| waits_for_packets(*pid));
            Ok(ready.then_some(pids))
        })?;
        for pid in &pids {
            assert_powerless(*pid)?;
        }
        Ok(pids)
    }

    /// Waits until the agent has ended, and checks what holds for every session: the log is sound
    /// and complete, its counts agree, the cgroup and all processes are gone.
    pub fn finish(self) -> Result<Finished> {
        self.finish_within(LONG)
    }

    /// The same, with less patience.
    pub fn finish_within(mut self, limit: Duration) -> Result<Finished> {
        drop(self.child.stdin.take());
        let pid = self.child.id();
        let status = match exited(&mut self.child, limit) {
            Ok(status) => status,
            Err(error) => bail!("{error}\n{}", self.stderr()),
        };
        let mut stdout = fs::read_to_string(self.file("stdout")).unwrap_or_default();
        if let Some(pipe) = &mut self.child.stdout {
            pipe.read_to_string(&mut stdout)?;
        }
        let left = offspring(self.place.path())?;
        ensure!(left.is_empty(), "processes {left:?} outlived their session");
        let groups = cgroups_of(pid)?;
        ensure!(groups.is_empty(), "{groups:?} outlived the agent");

        let log = self.file("audit.jsonl");
        let verified = Command::new(capwarden()?)
            .args(["audit", "verify"])
            .arg(&log)
            .output()?;
        let said = String::from_utf8_lossy(&verified.stdout);
        ensure!(verified.status.success(), "audit verify: {said}");
        let records = records(&log)?;
        let finished = Finished {
            status,
            stdout,
            stderr: self.stderr(),
            records,
            place: std::mem::replace(&mut self.place, TempDir::new()?),
        };
        finished.check_records()?;
        Ok(finished)
    }

    /// Kills the agent as nobody wants it, and nothing else.
    pub fn kill_agent(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends what a killed agent left behind, in good order, and returns the directory.
    pub fn clear_away(mut self, pids: &[u32]) -> Result<TempDir> {
        for pid in pids {
            signal(*pid, Signal::TERM)?;
        }
        self.wait_for("the processes to end", || {
            Ok(offspring(self.place.path())?.is_empty().then_some(()))
        })?;
        for group in cgroups_of(self.child.id())? {
            self.remove_cgroup(&group)?;
        }
        Ok(std::mem::replace(&mut self.place, TempDir::new()?))
    }

    fn remove_cgroup(&self, group: &Path) -> Result<()> {
        // An ended process is in its cgroup for a moment longer.
        self.wait_for("an empty cgroup", || match fs::remove_dir(group) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy => Ok(None),
            done => Ok(Some(done?)),
        })
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in offspring(self.place.path()).unwrap_or_default() {
            let _ = signal(pid, Signal::KILL);
        }
        for group in cgroups_of(self.child.id()).unwrap_or_default() {
            let _ = self.remove_cgroup(&group);
        }
    }
}

/// A `capwarden exec` that has ended as it should.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub status: ExitStatus,
    /// What the command printed.
    pub stdout: String,
    /// What capwarden and the command said.
    pub stderr: String,
    /// The audit log.
    pub records: Vec<Value>,
    place: TempDir,
}

impl Finished {
    /// A file in its directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// The one record of a kind.
    pub fn record(&self, kind: &str) -> Result<&Value> {
        let mut found = self.records.iter().filter(|record| is(record, kind));
        match (found.next(), found.next()) {
            (Some(record), None) => Ok(record),
            _ => bail!("not one {kind} in {:#?}", self.records),
        }
    }

    /// Why the session ended.
    pub fn reason(&self) -> Result<&str> {
        text(self.record("session-ended")?, "reason")
    }

    /// What the session ended with.
    pub fn ended(&self, field: &str) -> Result<u64> {
        number(self.record("session-ended")?, field)
    }

    fn check_records(&self) -> Result<()> {
        let kinds: Vec<&str> = self
            .records
            .iter()
            .map(|record| text(record, "kind"))
            .collect::<Result<_>>()?;
        let (first, last) = (kinds.first().copied(), kinds.last().copied());
        ensure!(
            (first, last) == (Some("agent-started"), Some("agent-stopped")),
            "{kinds:?}"
        );
        self.record("session-opened")?;
        let armed = kinds.iter().filter(|kind| **kind == "socket-armed").count();
        ensure!(
            self.ended("sockets")? == u64::try_from(armed)?,
            "{armed} sockets armed, but {:?}",
            self.record("session-ended")?
        );
        let passed_on = self.record("agent-stopped")?.get("status");
        ensure!(
            passed_on.and_then(Value::as_i64) == self.status.code().map(i64::from),
            "recorded {passed_on:?}, exited {}",
            self.status
        );
        Ok(())
    }
}

/// When a record was written.
pub fn time(record: &Value) -> Result<SystemTime> {
    // `2026-11-21T04:17:45.150757Z`; GNU date knows the calendar.
    let done = Command::new("date")
        .args(["+%s%N", "--date", text(record, "time")?])
        .output()?;
    let nanoseconds: u64 = String::from_utf8(done.stdout)?.trim().parse()?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds))
}

/// A field that is text.
pub fn text<'a>(record: &'a Value, field: &str) -> Result<&'a str> {
    record
        .get(field)
        .and_then(Value::as_str)
        .with_context(|| format!("no text {field} in {record}"))
}

/// A field that is a number.
pub fn number(record: &Value, field: &str) -> Result<u64> {
    record
        .get(field)
        .and_then(Value::as_u64)
        .with_context(|| format!("no number {field} in {record}"))
}

/// The records of an audit log.
pub fn records(log: &Path) -> Result<Vec<Value>> {
    fs::read_to_string(log)?
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect()
}

fn is(record: &Value, kind: &str) -> bool {
    record.get("kind").and_then(Value::as_str) == Some(kind)
}

/// The inode of a socket that hears `interface`, from its line of `/proc/net/packet`: sk RefCnt
/// Type Proto Iface R Rmem User Inode.
fn live_inode(line: &str, interface: u32) -> Option<&str> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    match fields.as_slice() {
        [_, _, _, "0003", index, "1", _, _, inode] if index.parse() == Ok(interface) => {
            Some(*inode)
        }
        _ => None,
    }
}

/// Whether a process is in a system call that waits for something to read.
fn waits_for_packets(pid: u32) -> bool {
    const WAITING: [libc::c_long; 9] = [
        libc::SYS_read,
        libc::SYS_poll,
        libc::SYS_ppoll,
        libc::SYS_select,
        libc::SYS_pselect6,
        libc::SYS_epoll_wait,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_clock_nanosleep,
    ];
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let number = call
        .split(' ')
        .next()
        .and_then(|number| number.parse().ok());
    number.is_some_and(|number| WAITING.contains(&number))
}

/// Whether a process has one of these files open.
fn holds(pid: u32, files: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors
        .filter_map(|descriptor| fs::read_link(descriptor.ok()?.path()).ok())
        .any(|target| files.iter().any(|file| target.as_os_str() == file.as_str()))
}

/// The processes that descend from the command started in `place`.
pub fn offspring(place: &Path) -> Result<Vec<u32>> {
    let mark = format!("{MARK}={}\0", place.display());
    let all =
        fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let marked = |pid: &u32| {
        fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|environment| contains(&environment, mark.as_bytes()))
    };
    Ok(all.filter(marked).collect())
}

/// Asserts that a process has no capability, cannot get one, and is nobody.
pub fn assert_powerless(pid: u32) -> Result<()> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} is gone"))?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(|value| value.split_whitespace().collect::<Vec<_>>())
            .with_context(|| format!("no {name} in {status}"))
    };
    // The bounding set keeps what a tool's file capabilities may name, or it could not be executed;
    // with no new privileges, nothing comes of it.
    for (set, may_have) in [
        ("CapEff", 0),
        ("CapPrm", 0),
        ("CapInh", 0),
        ("CapAmb", 0),
        ("CapBnd", NET_ADMIN | NET_RAW),
    ] {
        let value = field(set)?.concat();
        ensure!(
            u64::from_str_radix(&value, 16)? & !may_have == 0,
            "{set} of process {pid} is {value}"
        );
    }
    let nobody = NOBODY.to_string();
    for ids in ["Uid", "Gid"] {
        let ids = field(ids)?;
        ensure!(ids.iter().all(|id| **id == nobody), "{ids:?}");
    }
    ensure!(field("NoNewPrivs")? == ["1"], "new privileges are possible");
    ensure!(field("Seccomp")? == ["2"], "no seccomp filter");
    Ok(())
}

/// The cgroups that an agent made.
pub fn cgroups_of(agent: u32) -> Result<Vec<PathBuf>> {
    let mount = fs::read_to_string("/proc/self/mountinfo")?;
    let mount = mount.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let here = before.split(' ').nth(4)?;
        after.starts_with("cgroup2 ").then(|| PathBuf::from(here))
    });
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let (Some(mount), Some(own)) = (mount, own) else {
        return Ok(Vec::new());
    };
    let prefix = format!("capwarden-{agent}-");
    let Ok(groups) = fs::read_dir(mount.join(own)).or_else(|_| fs::read_dir(&mount)) else {
        return Ok(Vec::new());
    };
    Ok(groups
        .filter_map(|group| Some(group.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(&prefix))
        })
        .collect())
}

/// Sends a signal to a process.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("process 0")?;
    Ok(kill_process(pid, signal)?)
}

/// Waits for a child, which is killed if it takes longer.
pub fn exited(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let pid = Pid::from_raw(i32::try_from(child.id())?).context("process 0")?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let mut ready = [PollFd::new(&pidfd, PollFlags::IN)];
    if poll(&mut ready, Some(&Timespec::try_from(limit)?))? == 0 {
        child.kill()?;
        child.wait()?;
        bail!("process {} did not end within {limit:?}", child.id());
    }
    Ok(child.wait()?)
}

/// Looks again and again, for what the kernel sends no event of.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if start.elapsed() > limit {
            return Err(anyhow!("{what}: nothing within {limit:?}"));
        }
        thread::sleep(LOOK_AGAIN);
    }
}
