//! Two hundred captures at once, of twenty clients of one daemon: each gets exactly its cap, and
//! however often that is done, nothing grows.
//!
//! Two rounds, unless `CAPWARDEN_SOAK` says for how many seconds: `CAPWARDEN_SOAK=3600` is an hour.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{cgroups_of, wait_for},
    bpf_objects,
    daemon::Daemon,
    mcp::Client,
    stage::{granted, memory, packets, text, user},
    tools::{PYTHON, script},
};
use rustix::process::Signal;
use serde_json::{Value, json};

const CLIENTS: usize = 20;
const EACH: usize = 10;
const CAP: u64 = 20;
const LONG: Duration = Duration::from_secs(120);
/// The memory, in KiB, of an agent that had two hundred captures and has none: less is no measure.
const WORKED: u64 = 60 * 1024;
/// How long an agent rests until it has given back what clients took who have left, whenever they did.
const REST: Duration = Duration::from_secs(12);
/// So many rounds are between two rests.
const TIRED: usize = 10;
/// Descriptors that may come and go: files that are just being looked at.
const SPARE: usize = 8;

/// A daemon with a server for many clients, and its process.
fn begin() -> Result<(Daemon, Client)> {
    let policy = format!(
        "version: 1\ntools:\n  start:\n    capture:\n      from: {{ interface: interface }}\n      \
         interfaces: [ lo ]\n      within: \"udp\"\n      packets: {CAP}\n      seconds: 600\n      payload: headers\n"
    );
    let daemon = Daemon::new(&policy)?;
    let server = script("many.py", &daemon.stage.path(""))?;
    daemon.configure(&format!(
        "  many:\n    command: [{PYTHON}, {}]\n    policy: {}\n    user: {}\n    most: {CLIENTS}\n",
        server.display(),
        daemon.at("policy.yaml"),
        user(),
    ))?;
    let agent = daemon.start()?;
    Ok((daemon, agent))
}

/// What went wrong, in the words of a client and of the daemon.
fn words(daemon: &Daemon, client: usize) -> String {
    let client = fs::read_to_string(daemon.stage.path(&format!("client-{client}")));
    let own = daemon.stage.stderr();
    let own = own.unwrap_or_else(|error| error.to_string());
    format!("{}{own}", client.unwrap_or_default())
}

/// What a daemon holds.
fn holds(agent: &Client) -> Result<Holds> {
    let pid = agent.pid();
    Ok(Holds {
        memory: memory(pid, "VmRSS")?,
        descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
        cgroups: cgroups_of(pid)?.len(),
        objects: bpf_objects::all()?.len(),
    })
}

/// What an agent holds of the host. Its memory is told by what it is at rest.
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
                    let mut mcp = daemon.client("many", client)?;
                    let mut captures = Vec::new();
                    for capture in 0..EACH {
                        let file = stage.capture(&format!("{number}-{client}-{capture}.pcap"));
                        let answer = mcp.call("start", &json!({ "interface": "lo", "file": file }));
                        let answer = answer.with_context(|| words(daemon, client))?;
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
    let (daemon, mut agent) = begin()?;
    let mut rounds = 0;
    let (mut first, mut rested): (Option<Holds>, Option<u64>) = (None, None);
    loop {
        round(&daemon, rounds)?;
        rounds += 1;
        let settled = wait_for("what clients had to be given back", LONG, || {
            let holds = holds(&agent)?;
            Ok(match first {
                Some(first) => (holds.descriptors <= first.descriptors + SPARE
                    && holds.cgroups <= first.cgroups
                    && holds.objects <= first.objects)
                    .then_some(holds),
                None => (holds.cgroups == 0).then_some(holds),
            })
        });
        let after = settled.with_context(|| format!("{first:?}, now {:?}", holds(&agent)))?;
        eprintln!("round {rounds}, {:.1?}: {after:?}", start.elapsed());
        // What the first round leaves is what an agent has that has worked.
        first.get_or_insert(after);
        let over = seconds.map_or(rounds >= 2, |seconds| start.elapsed().as_secs() >= seconds);
        if over || rounds % TIRED == 1 {
            thread::sleep(REST);
            let memory = holds(&agent)?.memory;
            eprintln!("at rest after round {rounds}: {memory} KiB");
            let most = *rested.get_or_insert(memory.max(WORKED)) * 3 / 2;
            ensure!(
                memory <= most,
                "{memory} KiB at rest, {most} would be as before"
            );
        }
        if over {
            break;
        }
    }
    agent.signal(Signal::TERM)?;
    let status = agent.exit()?;
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
