//! Governed processes that a service manager starts, as far as it can be seen without one: by a launcher, in cgroups that
//! outlive the agent, with a listener that is kept for the next one.
#![allow(
    unsafe_code,
    reason = "a launcher is passed a descriptor as a service manager does it"
)]

use std::{
    fs,
    net::Ipv4Addr,
    os::{
        fd::AsRawFd as _,
        unix::{fs::MetadataExt as _, net::UnixDatagram, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use capwarden::kernel::LAUNCHER_VERB;
use capwarden_tests::{
    agent::{Exec, NOBODY, capwarden, records, wait_for, workplace},
    captive::{self, Captive},
    netns::Namespace,
    stage, tools,
    traffic::Flood,
};

#[path = "../../agent/tests/common/launchers.rs"]
mod launchers;
use launchers::Launcher;

const CAP: u64 = 5;
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn capture_by_a_launcher_is_exact_in_its_cgroup_and_kept() -> Result<()> {
    let space = Namespace::new()?;
    let launcher = launcher(&space)?;
    let place = Place::new("exact")?;
    let keeping = workplace()?;
    let keeper = UnixDatagram::bind(keeping.path().join("notify"))?;
    keeper.set_read_timeout(Some(PATIENCE))?;

    let options = format!("--interface lo --packets {CAP} --seconds 60");
    let running = Exec::new(&space, &options)
        .environment("CAPWARDEN_LAUNCHERS", launcher.directory())
        .environment("CAPWARDEN_CGROUP", place.name())
        .environment("NOTIFY_SOCKET", keeping.path().join("notify"))
        .start("tcpdump -w {}/out.pcap -i lo".split(' '))?;
    let [tcpdump] = *running.capturing("lo", 1)? else {
        anyhow::bail!("not one process");
    };
    let status = fs::read_to_string(format!("/proc/{tcpdump}/status"))?;
    let parent = format!("PPid:\t{}\n", launcher.process());
    ensure!(status.contains(&parent), "not {parent}: {status}");
    let of = |process: u32| -> Result<String> {
        let groups = fs::read_to_string(format!("/proc/{process}/cgroup"))?;
        let unified = groups.lines().find_map(|line| line.strip_prefix("0::"));
        Ok(unified.context("no cgroup v2")?.to_owned())
    };
    let groups = format!("{}/capwarden-{}-", place.name(), running.child.id());
    ensure!(of(tcpdump)?.contains(&groups), "{}", of(tcpdump)?);
    let aside = format!("{}/holder", place.name());
    ensure!(
        of(place.holder.id())?.ends_with(&aside),
        "{}",
        of(place.holder.id())?
    );
    let name = format!("FDNAME=capwarden-{tcpdump}\n");
    ensure!(received(&keeper)? == format!("FDSTORE=1\n{name}"));

    Flood::new(Ipv4Addr::LOCALHOST, b"by a launcher", 20).send(&space)?;
    let done = running.finish()?;
    ensure!(done.status.success(), "{}", done.stderr);
    ensure!(done.ended("packets")? == CAP, "{}", done.stderr);
    ensure!(tools::tcpdump_count(&done.file("out.pcap"))? == CAP);
    ensure!(received(&keeper)? == format!("FDSTOREREMOVE=1\n{name}"));
    Ok(())
}

/// An agent that is killed takes none of its processes along, and the launcher starts more.
#[test]
fn launcher_outlives_an_agent_and_serves_the_next() -> Result<()> {
    let space = Namespace::new()?;
    let launcher = launcher(&space)?;
    let exec = || {
        Exec::new(&space, "--interface lo --packets 5 --seconds 60")
            .environment("CAPWARDEN_LAUNCHERS", launcher.directory())
    };
    let command = || "tcpdump -w {}/out.pcap -i lo".split(' ');
    let mut first = exec().start(command())?;
    let left = first.capturing("lo", 1)?;
    first.kill_agent()?;
    let second = exec().start(command())?;
    second.capturing("lo", 1)?;
    Flood::new(Ipv4Addr::LOCALHOST, b"by the next", 20).send(&space)?;
    let done = second.finish()?;
    ensure!(done.ended("packets")? == CAP, "{}", done.stderr);
    for process in &left {
        ensure!(Path::new(&format!("/proc/{process}")).exists(), "it lives");
    }
    first.clear_away(&left)?;
    Ok(())
}

/// Restarted, it would take its processes' `/tmp` along.
#[test]
fn launcher_becomes_another_version_once_nobody_is_left_whom_it_has_started() -> Result<()> {
    let space = Namespace::new()?;
    let place = stage::directory()?;
    let program = place.path().join("capwarden");
    let put = || {
        let new = place.path().join("new");
        fs::copy(capwarden()?, &new)?;
        Ok::<_, anyhow::Error>(fs::rename(new, &program)?)
    };
    put()?;
    let script = format!("exec {} {LAUNCHER_VERB}", program.display());
    let words = ["-c", script.as_str()];
    let launcher =
        space.enter(|| Ok(Launcher::start(Path::new("/bin/sh"), &words, &[], NOBODY)?))?;
    let exec = || {
        Exec::new(&space, "--interface lo --packets 5 --seconds 60")
            .environment("CAPWARDEN_LAUNCHERS", launcher.directory())
    };
    let command = || "tcpdump -w {}/out.pcap -i lo".split(' ');
    let runs = || {
        let file = format!("/proc/{}/exe", launcher.process());
        Ok::<_, anyhow::Error>(fs::metadata(file)?.ino())
    };
    let first = exec().start(command())?;
    first.capturing("lo", 1)?;
    let (before, after) = (runs()?, {
        put()?;
        fs::metadata(&program)?.ino()
    });
    ensure!(before != after);
    // It goes on as it is while somebody is there.
    let second = exec().start(command())?;
    second.capturing("lo", 1)?;
    ensure!(runs()? == before);
    Flood::new(Ipv4Addr::LOCALHOST, b"by both", 20).send(&space)?;
    for running in [first, second] {
        let done = running.finish()?;
        ensure!(done.ended("packets")? == CAP, "{}", done.stderr);
    }
    // The next one may have come before the last had quite gone.
    wait_for("another version", PATIENCE, || {
        exec().start(["true"])?.finish()?;
        Ok((runs()? == after).then_some(()))
    })?;
    let third = exec().start(command())?;
    third.capturing("lo", 1)?;
    Flood::new(Ipv4Addr::LOCALHOST, b"by the other", 20).send(&space)?;
    let done = third.finish()?;
    ensure!(done.ended("packets")? == CAP, "{}", done.stderr);
    Ok(())
}

#[test]
fn user_without_a_launcher_is_told_how_to_get_one() -> Result<()> {
    let space = Namespace::new()?;
    let nowhere = workplace()?;
    let exec = "exec --user nobody --interface lo --packets 5 --seconds 60 --audit";
    let done = space
        .command(capwarden()?)
        .args(exec.split(' '))
        .arg(nowhere.path().join("audit.jsonl"))
        .args(["--", "true"])
        .env("CAPWARDEN_LAUNCHERS", nowhere.path())
        .output()?;
    ensure!(!done.status.success());
    let told = String::from_utf8_lossy(&done.stderr);
    let next = "systemctl enable --now capwarden-server@nobody.socket";
    ensure!(told.contains(next), "{told}");
    Ok(())
}

/// What an agent that was killed has governed is answered by the next one: no, and that is recorded.
#[test]
fn next_agent_answers_for_one_that_was_killed() -> Result<()> {
    let space = Namespace::new()?;
    let place = workplace()?;
    let control = captive::place(place.path(), env!("CARGO_BIN_EXE_captive"))?;
    let keeper = UnixDatagram::bind(place.path().join("notify"))?;
    keeper.set_read_timeout(Some(PATIENCE))?;
    let mut first = Exec::new(&space, "--interface lo --packets 5 --seconds 60")
        .environment("NOTIFY_SOCKET", place.path().join("notify"))
        .start([
            place.path().join("captive"),
            "wait".into(),
            place.path().join("control"),
            "1".into(),
        ])?;
    let mut captive = wait_for("a captive", PATIENCE, || Captive::accept(&control))?;
    captive.answer()?;
    let (words, listener) = captive::kept(&keeper)?;
    let name = words.lines().find_map(|line| line.strip_prefix("FDNAME="));
    first.kill_agent()?;
    captive.tell("open ")?;

    let policy = place.path().join("policy.yaml");
    fs::write(
        &policy,
        "version: 1\ndefault: deny\ntools: { any: allow }\n",
    )?;
    let audit = place.path().join("next.jsonl");
    let mut command = space.command("sh");
    command
        .args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"])
        .arg(capwarden()?)
        .args(["run", "--user", "nobody", "-p"])
        .arg(&policy)
        .arg("--audit")
        .arg(&audit)
        .arg("--state")
        .arg(place.path().join("state"))
        .args(["--", "cat"])
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", name.context("no name")?)
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let descriptor = listener.as_raw_fd();
    let pass = move || {
        // SAFETY: it takes numbers. What it makes is not closed when the agent is executed.
        match unsafe { libc::dup2(descriptor, 3) } {
            3 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: it makes one system call, and allocates nothing.
    unsafe { command.pre_exec(pass) };
    let mut next = command.spawn()?;
    ensure!(captive.answer()? == "EPERM");
    drop(next.stdin.take());
    ensure!(next.wait()?.success());
    let records = records(&audit)?;
    let refused = records
        .iter()
        .any(|record| record.to_string().contains("socket-refused"));
    ensure!(refused, "{records:?}");
    captive.leave();
    drop(first);
    Ok(())
}

fn launcher(space: &Namespace) -> Result<Launcher> {
    let program = capwarden()?;
    space.enter(|| Ok(Launcher::start(&program, &[LAUNCHER_VERB], &[], NOBODY)?))
}

/// The next message to a keeper of descriptors.
fn received(keeper: &UnixDatagram) -> Result<String> {
    let mut bytes = [0; 4_096];
    let length = keeper.recv(&mut bytes)?;
    let words = bytes.get(..length).unwrap_or_default();
    Ok(String::from_utf8_lossy(words).into_owned())
}

/// A cgroup of a unit, with the process that holds it.
struct Place {
    path: PathBuf,
    holder: Child,
}

impl Place {
    fn new(what: &str) -> Result<Self> {
        let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let mounted = mounts.iter().find(|at| at.join("cgroup.procs").exists());
        let name = format!("cwtest-{}-{what}", std::process::id());
        let path = mounted.context("cgroup v2 is not mounted")?.join(name);
        fs::create_dir(&path)?;
        let holder = Command::new("sleep")
            .arg("infinity")
            .stdin(Stdio::null())
            .spawn()?;
        fs::write(path.join("cgroup.procs"), holder.id().to_string())?;
        Ok(Self { path, holder })
    }

    /// As the unit of the agent names it.
    fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        format!("/{}", name.to_string_lossy())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        for _ in 0..100 {
            let _ = fs::remove_dir(self.path.join("holder"));
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
