//! The agent is killed again and again: at any moment, and exactly at each system call of its own. What it leaves
//! behind is bounded all the same, the next agent clears it away, and the audit log has lost nothing.
//!
//! 40 rounds; `CAPWARDEN_ROUNDS=1000` makes as many.

mod audit_log;

use std::{
    collections::BTreeSet,
    env,
    fs::{self, File, OpenOptions},
    io::Write as _,
    net::Ipv4Addr,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::PathBuf,
    process::{Child, ChildStdin, ExitStatus, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use capwarden_tests::{
    agent::{MARK, NOBODY, capwarden, cgroups_of, offspring, wait_for, workplace},
    bpf_objects,
    captive::{self, Captive},
    dice::Dice,
    netns::{CW0, Net},
    tools::contains,
    tracer::{self, Calls, Point},
    traffic::Flood,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use audit_log::{AuditLog, Tail};

/// Packets that each session may capture, and how many are sent that are within its terms.
const CAP: u64 = 20;
const SENT: u32 = 60;
/// Those are to this port, on loopback, and have this in them.
const PORT: u16 = 9_999;
const GRANTED: &str = "granted";
const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Rounds whose records are in one log: it is read after each.
const ROUNDS_OF_A_LOG: usize = 50;
/// Nothing that is awaited takes longer.
const PATIENCE: Duration = Duration::from_secs(20);
const OTHERS_PATIENCE: Duration = Duration::from_secs(200);

const POLICY: &str = "version: 1
default: deny
tools:
  capture:
    limits: [ { max: 1000000, window: day } ]
    capture:
      from: { interface: interface, filter: filter }
      interfaces: [ lo ]
      within: udp port 9999
      packets: 20
      seconds: 60
";

/// Where a socket gets its guard.
const ARMING: [libc::c_long; 5] = [
    libc::SYS_socket,
    libc::SYS_setsockopt,
    libc::SYS_bind,
    libc::SYS_ioctl,
    libc::SYS_bpf,
];

/// What else leaves something behind.
const OTHERS: [libc::c_long; 19] = [
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_openat,
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_flock,
    libc::SYS_ftruncate,
    libc::SYS_rename,
    libc::SYS_unlink,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_socketpair,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_mmap,
];

/// How the agent is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Exec,
    Run,
}

/// When it is killed.
#[derive(Clone, Copy, Debug)]
enum Death {
    /// This long after its start.
    After(Duration),
    At(Point),
    /// Not at all, to see what it does.
    Never,
}

/// What one agent left.
#[derive(Debug, Default)]
struct Left {
    killed: bool,
    sockets: usize,
    heard: u64,
    calls: Calls,
}

/// An agent that was killed.
struct Dead {
    pid: u32,
    /// Its program that keeps frames from leaving, which holds until the next agent removes it.
    program: Option<u32>,
}

/// The place of all rounds.
struct Place<'a> {
    net: &'a Net,
    dir: TempDir,
    control: UnixListener,
    /// Agents that were killed.
    dead: Vec<Dead>,
    log: AuditLog,
}

impl<'a> Place<'a> {
    fn new(net: &'a Net) -> Result<Self> {
        let dir = workplace()?;
        fs::write(dir.path().join("policy.yaml"), POLICY)?;
        Ok(Self {
            net,
            control: captive::place(dir.path(), env!("CARGO_BIN_EXE_captive"))?,
            dead: Vec::new(),
            log: AuditLog::new(dir.path(), 0),
            dir,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&self, way: Way) -> Result<Child> {
        let mut said = OpenOptions::new();
        let said = said.append(true).create(true).open(self.path("stderr"))?;
        let user = NOBODY.to_string();
        let mut command = self.net.here.command(capwarden()?);
        command.env(MARK, self.dir.path());
        command.arg(if way == Way::Exec { "exec" } else { "run" });
        command
            .args(["--user", &user, "--audit"])
            .arg(self.log.path());
        let verb = match way {
            Way::Exec => {
                command.args(["-i", "lo", "-f", "udp port 9999", "-s", "60"]);
                command.args(["-c", &CAP.to_string()]);
                "hold"
            }
            Way::Run => {
                command.arg("-p").arg(self.path("policy.yaml"));
                command.arg("--state").arg(self.path("state"));
                "serve"
            }
        };
        command.arg("--").arg(self.path("captive")).arg(verb);
        command.arg(self.path("control"));
        command.current_dir(self.dir.path()).stdin(Stdio::piped());
        command.stdout(File::create(self.path("stdout"))?);
        let mut agent = command.stderr(said).spawn()?;
        if way == Way::Run {
            // The agent may be dead before it has read it.
            let _ = agent
                .stdin
                .as_mut()
                .context("no stdin")?
                .write_all(&asked());
        }
        Ok(agent)
    }

    /// Starts an agent, and sees it through to what is left when nothing governed runs any more.
    fn live(&mut self, way: Way, death: Death) -> Result<Left> {
        let before = bpf_objects::all()?;
        let child = self.start(way)?;
        let mut agent = Agent::follow(child, death)?;
        let pid = agent.pid;
        let mut left = Left::default();
        let holder = self.holder(&agent)?;
        if let Some(mut holder) = holder {
            let ready = holder.answer()?;
            let sockets = ready.get("sockets").and_then(Value::as_u64);
            left.sockets = usize::try_from(sockets.context("no number")?)?;
            // Half of what it may hear, of which its sockets each hear a copy, while the agent may be alive.
            self.send(LOOPBACK, PORT, GRANTED, 2)?;
            if gone_soon(&agent, death)? {
                self.inspect(&mut holder, &mut left)?;
            }
            holder.leave();
        }
        // A client that has what it wanted; `exec` does not read it.
        drop(agent.stdin.take());
        wait_for("the agent's end", PATIENCE, || {
            Ok(agent.has_ended()?.then_some(()))
        })?;
        let (calls, status) = agent
            .end
            .join()
            .map_err(|_| anyhow!("the killer panicked"))??;
        left.killed = status.code().is_none();
        left.calls = calls;
        if !left.killed {
            ensure!(
                cgroups_of(pid)?.is_empty(),
                "a cgroup of agent {pid} is left"
            );
        }
        let place = self.dir.path();
        wait_for("the end of all processes", PATIENCE, || {
            Ok(offspring(place)?.is_empty().then_some(()))
        })
        .with_context(|| format!("left: {:?}", offspring(place)))?;
        wait_for("the end of all packet sockets", PATIENCE, || {
            Ok((self.packet_sockets()? == 0).then_some(()))
        })?;
        let mut program = None;
        // Of what others of this host have loaded meanwhile it is awaited that they have ended.
        let new: BTreeSet<_> = bpf_objects::all()?.difference(&before).copied().collect();
        let mut kept = Vec::new();
        wait_for(
            "the end of eBPF programs, maps and links",
            OTHERS_PATIENCE,
            || {
                let now = bpf_objects::all()?;
                kept = new.intersection(&now).copied().collect();
                if let ([("program", id)], true) = (kept.as_slice(), left.killed) {
                    program = Some(*id);
                    return Ok(Some(()));
                }
                Ok(kept.is_empty().then_some(()))
            },
        )
        .with_context(|| format!("left: {kept:?}"))?;
        if left.killed {
            self.dead.push(Dead { pid, program });
        }
        Ok(left)
    }

    /// The governed process that holds sockets, once there is one. None if there never will be.
    fn holder(&self, agent: &Agent) -> Result<Option<Captive>> {
        wait_for("a holder of sockets", PATIENCE, || {
            // In this order: what is governed may come until the agent has gone.
            let dead = agent.has_ended()?;
            let alone = dead && offspring(self.dir.path())?.is_empty();
            match Captive::accept(&self.control)? {
                Some(holder) => Ok(Some(Some(holder))),
                None => Ok(alone.then_some(None)),
            }
        })
    }

    fn send(&self, to: Ipv4Addr, port: u16, payload: &str, count: u32) -> Result<()> {
        let from = if to == LOOPBACK {
            &self.net.here
        } else {
            &self.net.there
        };
        let mut flood = Flood::new(to, payload.as_bytes(), count);
        (flood.port, flood.rate) = (port, 20_000);
        flood.send(from).map(drop)
    }

    fn packet_sockets(&self) -> Result<usize> {
        self.net.here.enter(|| {
            let table = fs::read_to_string("/proc/thread-self/net/packet")?;
            Ok(table.lines().skip(1).count())
        })
    }

    /// The agent is dead: its sockets are bounded by what is locked on them.
    fn inspect(&self, holder: &mut Captive, left: &mut Left) -> Result<()> {
        wait_for("no other packet socket", PATIENCE, || {
            Ok((self.packet_sockets()? == left.sockets).then_some(()))
        })
        .with_context(|| format!("{} are held: {:?}", left.sockets, self.packet_sockets()))?;
        let attempts = holder.ask("loosen ")?;
        for attempt in attempts.as_array().context("a list")? {
            for (how, said) in [
                ("lock", "EPERM"),
                ("attach_bpf", "EPERM"),
                ("attach", "ENOSYS"),
                ("detach", "ENOSYS"),
            ] {
                ensure!(attempt.get(how) == Some(&json!(said)), "{how}: {attempt}");
            }
        }
        self.send(LOOPBACK, PORT, GRANTED, SENT)?;
        self.send(LOOPBACK, PORT + 1, "not this", SENT)?;
        self.send(CW0, PORT, "elsewhere", SENT)?;
        let heard = holder.ask(&format!("count {GRANTED}"))?;
        ensure!(heard.get("others") == Some(&json!(0)), "{heard}");
        left.heard = heard
            .get("marked")
            .and_then(Value::as_u64)
            .context("marked")?;
        let expected = if left.sockets == 0 { 0 } else { CAP };
        ensure!(left.heard == expected, "{} sockets: {heard}", left.sockets);
        Ok(())
    }

    /// Groups and programs of the dead are there until the next agent has started.
    fn swept(&self) -> Result<()> {
        let loaded = bpf_objects::all()?;
        for dead in &self.dead {
            let left = cgroups_of(dead.pid)?;
            ensure!(left.is_empty(), "{left:?} outlived the next agent's start");
            let program = dead.program.map(|id| ("program", id));
            let left = program.filter(|program| loaded.contains(program));
            ensure!(left.is_none(), "{left:?} outlived the next agent's start");
        }
        Ok(())
    }
}

/// Whether an agent that is to be killed has been: it is waited for until it has nothing more to do.
fn gone_soon(agent: &Agent, death: Death) -> Result<bool> {
    let tries = match death {
        Death::Never => 0,
        Death::After(delay) => delay.as_millis() / 2 + 20,
        Death::At(_) => 20,
    };
    for _ in 0..tries {
        if agent.has_ended()? {
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(2));
    }
    agent.has_ended()
}

/// An agent, and the thread that sees it die.
struct Agent {
    pid: u32,
    stdin: Option<ChildStdin>,
    handle: OwnedFd,
    end: JoinHandle<Result<(Calls, ExitStatus)>>,
}

impl Agent {
    fn follow(mut child: Child, death: Death) -> Result<Self> {
        let pid = child.id();
        let raw = Pid::from_raw(i32::try_from(pid)?).context("process 0")?;
        let handle = pidfd_open(raw, PidfdFlags::empty())?;
        let killed = handle.try_clone()?;
        Ok(Self {
            pid,
            stdin: child.stdin.take(),
            handle,
            end: thread::spawn(move || match death {
                Death::At(point) => tracer::follow(pid, Some(point)),
                Death::Never => tracer::follow(pid, None),
                Death::After(delay) => {
                    thread::sleep(delay);
                    // It may have ended by itself.
                    let _ = pidfd_send_signal(&killed, Signal::KILL);
                    Ok((Calls::new(), child.wait()?))
                }
            }),
        })
    }

    fn has_ended(&self) -> Result<bool> {
        let mut ready = [PollFd::new(&self.handle, PollFlags::IN)];
        Ok(poll(&mut ready, Some(&Timespec::default()))? > 0)
    }
}

/// What a client says first.
fn asked() -> Vec<u8> {
    let client = json!({ "protocolVersion": "2025-06-18", "capabilities": {},
        "clientInfo": { "name": "rounds", "version": "1" } });
    let call = json!({ "name": "capture", "arguments": { "interface": "lo", "filter": "udp" } });
    let lines = [
        json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client }),
        json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }),
        json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call }),
    ];
    lines.map(|line| format!("{line}\n")).concat().into_bytes()
}

/// A moment to die at: while a socket is armed, at something else, or at any time.
fn death(dice: &mut Dice, calls: &Calls) -> Death {
    let from: &[libc::c_long] = match dice.roll(4) {
        0 => {
            return Death::After(Duration::from_micros(
                u64::try_from(dice.roll(160_000)).unwrap_or(0),
            ));
        }
        1 | 2 => &ARMING,
        _ => &OTHERS,
    };
    let made: Vec<(libc::c_long, u32)> = from
        .iter()
        .filter_map(|call| Some((*call, *calls.get(call)?)))
        .collect();
    let Some((call, count)) = dice.pick(&made).copied() else {
        return Death::After(Duration::ZERO);
    };
    Death::At(Point {
        call,
        before: u32::try_from(dice.roll(usize::try_from(count).unwrap_or(1))).unwrap_or(0),
        done: dice.roll(2) == 0,
    })
}

#[test]
fn agent_killed_anywhere_leaves_nothing_unbounded_and_nothing_behind() -> Result<()> {
    let rounds = env::var("CAPWARDEN_ROUNDS").map_or(Ok(40), |rounds| rounds.parse())?;
    let seed = env::var("CAPWARDEN_SEED").map_or(Ok(0x0dea_d0a6_e475), |seed| seed.parse())?;
    eprintln!("seed {seed}: CAPWARDEN_SEED={seed} has the same dice");
    let net = Net::new()?;
    let mut place = Place::new(&net)?;
    let mut dice = Dice::new(seed);
    let calls = [Way::Exec, Way::Run].map(|way| place.live(way, Death::Never));
    let [exec, run] = calls;
    let (exec, run) = (exec.context("exec")?, run.context("run")?);
    ensure!(!exec.killed && exec.sockets == 4, "{exec:?}");
    ensure!(!run.killed && run.sockets == 4, "{run:?}");
    ensure!(place.log.verify()?.is_empty());

    let (mut killed, mut holding, mut sockets, mut torn) = (0, 0, 0, 0);
    let mut tail: Option<Tail> = None;
    for round in 1..=rounds {
        let (way, calls) = match round % 3 {
            0 => (Way::Run, &run.calls),
            _ => (Way::Exec, &exec.calls),
        };
        let death = death(&mut dice, calls);
        let what = || format!("round {round}, {way:?}, {death:?}");
        let started = place.log.starts();
        let left = place.live(way, death).with_context(what)?;
        killed += usize::from(left.killed);
        holding += usize::from(left.heard > 0);
        sockets += if left.heard > 0 { left.sockets } else { 0 };
        if let Some(tail) = &tail {
            torn += usize::from(place.log.nothing_lost(tail).with_context(what)?);
        }
        if place.log.starts() > started {
            let last = place.dead.pop_if(|_| left.killed);
            place.swept().with_context(what)?;
            place.dead.clear();
            place.dead.extend(last);
        }
        if round % ROUNDS_OF_A_LOG == 0 {
            close(&mut place).with_context(what)?;
            tail = None;
        } else {
            tail = Some(place.log.tail(&mut dice).with_context(what)?);
        }
    }
    close(&mut place)?;
    let said = fs::read(place.path("stderr"))?;
    ensure!(
        !contains(&said, b"panicked"),
        "{}",
        String::from_utf8_lossy(&said)
    );
    eprintln!(
        "{rounds} rounds: killed in {killed}; {sockets} sockets outlived the agent in {holding} rounds, all locked and within their cap; {torn} torn ends repaired"
    );
    ensure!(killed > rounds / 2 && holding > 0 && torn > 0);
    Ok(())
}

/// An agent that lives does what it should: the log is sound, and nothing of the dead is left. What comes after it is
/// recorded in another log.
fn close(place: &mut Place<'_>) -> Result<()> {
    let left = place.live(Way::Run, Death::Never)?;
    ensure!(!left.killed && left.sockets == 4, "{left:?}");
    place.swept()?;
    place.dead.clear();
    let problems = place.log.verify()?;
    ensure!(problems.iter().all(audit_log::is_warning), "{problems:?}");
    place.log = place.log.next();
    Ok(())
}
