//! A listener outlives its agent: what asks for a capture socket meanwhile waits for the next one.
//!
//! Agents are this program again, in one of its roles.
#![allow(
    unsafe_code,
    reason = "a descriptor is passed as a service manager does it"
)]

use std::{
    env, fs,
    io::{self, Read as _},
    net::Ipv4Addr,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{net::UnixDatagram, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use capwarden::{
    filter::Compiler,
    kernel::{
        Admit, ArmedSocket, Broker, Caller, Credentials, Errno, Keeper, Launch, PacketMembership,
        Refusal, Rejection, SocketCall, kept, launch,
    },
    policy::{InterfaceTerms, Outside, Payload, Terms},
    session::{Attribution, Events, Sessions},
};
use capwarden_tests::{
    agent::{NOBODY, capwarden, wait_for, workplace},
    captive::{self, Captive},
    netns::Namespace,
    traffic::Flood,
};
use serde_json::json;

/// What this process is: see [`main`].
const ROLE: &str = "CWTEST_ROLE";
/// Where everything is.
const PLACE: &str = "CWTEST_PLACE";
/// Packets that the second agent grants.
const CAP: u64 = 5;
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn listener_outlives_its_agent_and_the_next_one_answers() -> Result<()> {
    match env::var(ROLE).as_deref() {
        Ok("first") => first(&place()?),
        Ok("next") => next(&place()?),
        _ => main(),
    }
}

fn place() -> Result<PathBuf> {
    Ok(env::var_os(PLACE).context(PLACE)?.into())
}

fn main() -> Result<()> {
    let space = Namespace::new()?;
    let dir = workplace()?;
    let place = dir.path();
    let control = captive::place(place, env!("CARGO_BIN_EXE_captive"))?;
    let keeper = UnixDatagram::bind(place.join("notify"))?;
    keeper.set_read_timeout(Some(PATIENCE))?;

    let mut first = agent(&space, place, "first", None)?;
    let connected = || {
        let mut next = wait_for("a captive", PATIENCE, || Captive::accept(&control))?;
        let process = next
            .answer()?
            .get("process")
            .and_then(serde_json::Value::as_u64);
        Ok::<_, anyhow::Error>((next, process.context("a number")?))
    };
    let (mut one, one_is) = connected()?;
    let (mut two, two_is) = connected()?;
    let (words, listener) = captive::kept(&keeper)?;
    let name = words.lines().find_map(|line| line.strip_prefix("FDNAME="));
    let name = name.context("no name")?;
    ensure!(words.contains("FDSTORE=1\n"), "{words}");
    ensure!(one.ask("open ")? == "EPERM", "the first agent answers");

    // It dies while it answers one call; another comes when it is dead.
    one.tell("open ")?;
    wait_for("a call that was received", PATIENCE, || {
        Ok(place.join("receiving").exists().then_some(()))
    })?;
    first.kill()?;
    first.wait()?;
    two.tell("open ")?;
    for process in [one_is, two_is] {
        wait_for("a call that waits", PATIENCE, || {
            Ok(waits(process)?.then_some(()))
        })?;
    }

    let mut next = agent(&space, place, "next", Some((&listener, name)))?;
    // Of the first agent's sessions nothing is kept.
    ensure!(two.answer()? == "EPERM");
    ensure!(
        one.answer()? == "EPERM",
        "the call that the dead agent had received"
    );
    drop(next.stdin.take());
    wait_for("a session", PATIENCE, || {
        Ok(place.join("granted").exists().then_some(()))
    })?;
    for captive in [&mut one, &mut two] {
        ensure!(captive.ask("open ")? == "ok");
        let attempts = captive.ask("loosen ")?;
        ensure!(
            attempts.pointer("/0/lock") == Some(&json!("EPERM")),
            "{attempts}"
        );
    }
    Flood::new(Ipv4Addr::LOCALHOST, b"granted", 4 * u32::try_from(CAP)?).send(&space)?;
    let mut heard = 0;
    for captive in [&mut one, &mut two] {
        let count = captive.ask("count granted")?;
        heard += count
            .get("marked")
            .and_then(serde_json::Value::as_u64)
            .context("marked")?;
        ensure!(count.get("others") == Some(&json!(0)), "{count}");
    }
    ensure!(heard == CAP, "{heard} packets of {CAP}");

    // Once nobody keeps it any more, nothing waits for ever.
    next.kill()?;
    next.wait()?;
    one.tell("open ")?;
    wait_for("a call that waits", PATIENCE, || {
        Ok(waits(one_is)?.then_some(()))
    })?;
    drop((listener, keeper));
    ensure!(one.answer()? == "ENOSYS");
    one.leave();
    two.leave();
    Ok(())
}

/// Whether a process waits in `socket`, for an agent's answer.
fn waits(process: u64) -> Result<bool> {
    let call = fs::read_to_string(format!("/proc/{process}/syscall"))?;
    Ok(call.split(' ').next() == Some(&libc::SYS_socket.to_string()))
}

/// Starts an agent, to which the listener is passed under this name.
fn agent(
    space: &Namespace,
    place: &Path,
    role: &str,
    listener: Option<(&OwnedFd, &str)>,
) -> Result<Child> {
    const FIRST: i32 = 3;
    // The shell knows its own number, and becomes the agent.
    let mut command = space.command("sh");
    command.args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"]);
    command.arg(env::current_exe()?);
    command.args([
        "--exact",
        "listener_outlives_its_agent_and_the_next_one_answers",
    ]);
    command.arg("--nocapture").env(ROLE, role).env(PLACE, place);
    command.env("NOTIFY_SOCKET", place.join("notify"));
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    if let Some((listener, name)) = listener {
        let listener = listener.as_raw_fd();
        command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name);
        let pass = move || {
            // SAFETY: it takes numbers. What it makes is not closed when the agent is executed.
            match unsafe { libc::dup2(listener, FIRST) } {
                FIRST => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        // SAFETY: it makes one system call, and allocates nothing.
        unsafe { command.pre_exec(pass) };
    }
    Ok(command.spawn()?)
}

/// The first agent: refuses one call, and dies over the next.
fn first(place: &Path) -> Result<()> {
    let command = ["captive", "wait", "control", "2"];
    let [program, verb, control, count] = command;
    let command = [
        place.join(program).into_os_string(),
        verb.into(),
        place.join(control).into_os_string(),
        count.into(),
    ];
    let credentials = Credentials::choose(Some(&NOBODY.to_string()))?;
    let plan = Launch {
        command: &command,
        credentials: &credentials,
        cgroup: None,
        piped: false,
    };
    let keeper = Keeper::at(&env::var_os("NOTIFY_SOCKET").context("nobody keeps anything")?)?;
    let admit = Dying {
        place: place.to_owned(),
        calls: AtomicU32::new(0),
    };
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let (mut governed, _broker) = launch(&plan, |process, listener| {
            keeper.keep(process, &listener)?;
            Broker::start(listener, admit)
        })?;
        governed.wait().await?;
        Ok(())
    })
}

/// The next agent: takes the listener over, and grants a session once it is told.
fn next(place: &Path) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let (events, mut happened) = Events::channel("python3");
        tokio::spawn(async move { while happened.recv().await.is_some() {} });
        let compiler = Compiler::new(capwarden()?);
        let sessions = Sessions::new(
            Attribution::WholeTree,
            compiler,
            None,
            None,
            None,
            None,
            events,
        );
        let mut listeners = kept();
        let passed = listeners.pop().context("nothing was passed")?;
        ensure!(listeners.is_empty() && kept().is_empty() && passed.process > 0);
        let _broker = Broker::adopt(passed.listener, sessions.clone())?;
        tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new())).await??;
        let terms = Terms {
            interfaces: InterfaceTerms::Any,
            filters: Vec::new(),
            outside: Outside::Narrow,
            packets: Some(CAP),
            bytes: None,
            duration: Some(Duration::from_secs(60)),
            snap_length: 65_535,
            payload: Payload::Full,
        };
        sessions.start(terms).await?;
        fs::write(place.join("granted"), "")?;
        std::future::pending().await
    })
}

/// Refuses the first call, and has no answer to the second.
struct Dying {
    place: PathBuf,
    calls: AtomicU32,
}

impl Admit for Dying {
    fn admit(&self, _: &Caller, _: SocketCall) -> Result<ArmedSocket, Refusal> {
        if self.calls.fetch_add(1, Ordering::Relaxed) > 0 {
            let _ = fs::write(self.place.join("receiving"), "");
            loop {
                thread::park();
            }
        }
        Err(Refusal {
            errno: Errno::PERM,
            reason: "there is no session".to_owned(),
        })
    }

    fn may_bind(&self, _: &Caller, _: u32) -> Result<(), Refusal> {
        Ok(())
    }

    fn armed_for(&self, _: u64) -> Option<u32> {
        None
    }

    fn detach(&self, _: u64) -> Result<(), Rejection> {
        Err(Rejection::Kernel(Errno::PERM))
    }

    fn attach(
        &self,
        _: &Caller,
        _: u64,
        _: Vec<capwarden::filter::Insn>,
        _: &dyn Fn() -> bool,
    ) -> Result<(), Rejection> {
        Err(Rejection::Kernel(Errno::PERM))
    }

    fn ring(&self, _: u64, _: u64, _: &dyn Fn() -> Result<(), Errno>) -> Result<(), Rejection> {
        Err(Rejection::Kernel(Errno::PERM))
    }

    fn add_membership(
        &self,
        _: u64,
        _: &PacketMembership,
        _: &dyn Fn() -> Result<(), Errno>,
    ) -> Result<(), Rejection> {
        Err(Rejection::Kernel(Errno::PERM))
    }

    fn armed(&self, _: Caller, _: SocketCall, _: u64) {}

    fn withdrawn(&self, _: u64) {}

    fn refused(&self, _: Option<Caller>, _: Refusal) {}
}
