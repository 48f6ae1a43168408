//! Two hundred captures at once, of twenty clients of one daemon: each gets exactly its cap, and
//! however often that is done, nothing grows.
//!
//! Two rounds, unless `CAPWARDEN_SOAK` says for how many seconds: `CAPWARDEN_SOAK=3600` is an hour.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{capwarden, cgroups_of, exited, signal, wait_for},
    bpf_objects,
    mcp::Client,
    stage::{Stage, granted, memory, packets, text, user},
    tools::{PYTHON, script},
};
use rustix::process::Signal;
use serde_json::{Value, json};

const CLIENTS: usize = 20;
const EACH: usize = 10;
const CAP: u64 = 20;
const LONG: Duration = Duration::from_secs(120);
/// The memory, in KiB, of an agent that had two hundred captures: less is no measure.
const WORKED: u64 = 100 * 1024;
/// Descriptors that may come and go: files that are just being looked at.
const SPARE: usize = 8;

/// The daemon. Dropping it ends it.
struct Daemon {
    child: Child,
    stage: Stage,
}

impl Daemon {
    fn start() -> Result<Self> {
        let stage = Stage::new()?;
        let place = stage.path("");
        let server = script("many.py", &place)?;
        let policy = stage.write(
            "policy.yaml",
            &format!(
                "version: 1\ntools:\n  start:\n    capture:\n      from: {{ interface: interface }}\n      \
                 interfaces: [ lo ]\n      within: \"udp\"\n      packets: {CAP}\n      seconds: 600\n      payload: headers\n"
            ),
        )?;
        let config = json!({
            "version": 1,
            "audit": stage.path("audit.jsonl"),
            "state": stage.path("state"),
            "socket": stage.path("agent.sock"),
            "socket_group": "root",
            "servers": { "many": {
                "command": [PYTHON, server],
                "policy": policy,
                "user": user().to_string(),
                "most": CLIENTS,
            }},
        });
        // JSON is YAML.
        let config = stage.write("agent.yaml", &config.to_string())?;
        let mut command = stage.space.command(capwarden()?);
        command.arg("agent").arg("--config").arg(config);
        command.env("CAPWARDEN_LOG", "warn");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(fs::File::create(stage.path("stderr"))?);
        let child = command.spawn()?;
        let daemon = Self { child, stage };
        wait_for("the clients' socket", LONG, || {
            Ok(daemon.stage.path("agent.sock").exists().then_some(()))
        })
        .with_context(|| daemon.stage.stderr().unwrap_or_default())?;
        Ok(daemon)
    }

    fn client(&self, number: usize) -> Result<Client> {
        let mut command = self.stage.space.command(capwarden()?);
        command.args(["connect", "many", "--socket"]);
        command.arg(self.stage.path("agent.sock"));
        Client::start(&mut command, &self.stage.path(&format!("client-{number}")))
    }

    /// What went wrong, in the words of a client and of the daemon.
    fn said(&self, client: usize) -> String {
        let client = fs::read_to_string(self.stage.path(&format!("client-{client}")));
        let own = self
            .stage
            .stderr()
            .unwrap_or_else(|error| error.to_string());
        format!("{}{own}", client.unwrap_or_default())
    }

    /// What it holds.
    fn holds(&self) -> Result<Holds> {
        let pid = self.child.id();
        Ok(Holds {
            memory: memory(pid, "VmRSS")?,
            descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
            cgroups: cgroups_of(pid)?.len(),
            objects: bpf_objects::all()?.len(),
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What an agent holds of the host.
#[derive(Clone, Copy, Debug)]
struct Holds {
    /// KiB
    memory: u64,
    descriptors: usize,
    cgroups: usize,
    /// Programs, maps and links.
    objects: usize,
}

/// Each of the clients has captures of its own, all at once, and all of them run into their cap.
fn round(daemon: &Daemon, number: usize) -> Result<()> {
    let stage = &daemon.stage;
    let udp = stage.space.udp()?;
    let clients = thread::scope(|scope| {
        let begun: Vec<_> = (0..CLIENTS)
            .map(|client| {
                scope.spawn(move || -> Result<(Client, Vec<(String, PathBuf)>)> {
                    let mut mcp = daemon.client(client)?;
                    mcp.shake_hands()?;
                    let mut captures = Vec::new();
                    for capture in 0..EACH {
                        let file = stage.capture(&format!("{number}-{client}-{capture}.pcap"));
                        let answer = mcp.call("start", &json!({ "interface": "lo", "file": file }));
                        let answer = answer.with_context(|| daemon.said(client))?;
                        captures.push((granted(&answer)?, file));
                    }
                    Ok((mcp, captures))
                })
            })
            .collect();
        let ended = begun.into_iter().map(thread::ScopedJoinHandle::join);
        ended
            .map(|client| client.map_err(|_| anyhow::anyhow!("a client panicked"))?)
            .collect::<Result<Vec<_>>>()
    })?;
    // All of them listen.
    wait_for("all captures", LONG, || {
        Ok((stage.space.listening()? == CLIENTS * EACH).then_some(()))
    })?;
    for (_, captures) in &clients {
        for (_, file) in captures {
            stage.live(file, CLIENTS * EACH)?;
        }
    }
    udp.send(usize::try_from(CAP)? * 3, 40)?;
    let mut sessions = BTreeSet::new();
    for (mut mcp, captures) in clients {
        for (session, file) in captures {
            let end = mcp.session_end(&session)?;
            ensure!(end.get("reason") == Some(&json!("packet-cap")), "{end}");
            ensure!(packets(&file)? == CAP, "{}", file.display());
            ensure!(sessions.insert(session), "two of one name");
            fs::remove_file(file)?;
        }
        mcp.close_input();
        ensure!(mcp.exit()?.success());
    }
    ensure!(sessions.len() == CLIENTS * EACH);
    wait_for("servers to be gone", LONG, || {
        Ok((stage.space.listening()? == 0).then_some(()))
    })
}

#[test]
fn two_hundred_captures_at_once_are_exact_and_leave_nothing() -> Result<()> {
    let seconds = std::env::var("CAPWARDEN_SOAK").ok();
    let seconds: Option<u64> = seconds.map(|seconds| seconds.parse()).transpose()?;
    let start = Instant::now();
    let mut daemon = Daemon::start()?;
    let mut rounds = 0;
    let mut first: Option<Holds> = None;
    loop {
        round(&daemon, rounds)?;
        rounds += 1;
        let settled = wait_for("what clients had to be given back", LONG, || {
            let holds = daemon.holds()?;
            Ok(match first {
                Some(first) => (holds.descriptors <= first.descriptors + SPARE
                    && holds.cgroups <= first.cgroups
                    && holds.objects <= first.objects
                    // Memory is given back some seconds after clients have left.
                    && holds.memory <= first.memory.max(WORKED) * 3 / 2)
                    .then_some(holds),
                None => (holds.cgroups == 0).then_some(holds),
            })
        });
        let holds = settled.with_context(|| format!("{first:?}, now {:?}", daemon.holds()))?;
        eprintln!("round {rounds}, {:.1?}: {holds:?}", start.elapsed());
        // What the first round leaves is what an agent has that has worked.
        first.get_or_insert(holds);
        let over = seconds.map_or(rounds >= 2, |seconds| start.elapsed().as_secs() >= seconds);
        if over {
            break;
        }
    }
    signal(daemon.child.id(), Signal::TERM)?;
    let status = exited(&mut daemon.child, LONG)?;
    let said = daemon.stage.stderr()?;
    ensure!(status.success(), "{status}: {said}");
    // Nothing is lost of the record, either.
    let ends = daemon.stage.audit("session-ended")?;
    let exact = |end: &&Value| end.get("packets") == Some(&json!(CAP));
    ensure!(ends.iter().filter(exact).count() == rounds * CLIENTS * EACH);
    ensure!(ends.iter().all(|end| text(end, "reason") == "packet-cap"));
    daemon.stage.audit_is_closed("a signal", Some(0))?;
    ensure!(daemon.stage.processes(&[])?.is_empty());
    Ok(())
}
