//! Processes that call the agent too often, with arguments that nobody means, and die over it: the agent goes on
//! answering, everybody, and grows no larger.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{Exec, number, wait_for},
    captive::{self, Captive},
    mcp::{Client, PATIENCE},
    netns::Namespace,
    stage::{Stage, memory},
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// What an agent may hold, in KiB, and how many descriptors: each capture socket takes some.
const MEMORY: u64 = 96 * 1024;
const DESCRIPTORS: usize = 600;
/// Capture sockets that one session may open.
const SOCKETS: u64 = 64;

const POLICY: &str = "version: 1
default: deny
tools:
  flood: allow
  capture:
    capture:
      from: { interface: interface }
      interfaces: [ lo ]
      packets: 20
      seconds: 60
";

fn descriptors(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

fn is_small(agent: u32) -> Result<()> {
    let (memory, descriptors) = (memory(agent, "VmRSS")?, descriptors(agent)?);
    ensure!(
        memory < MEMORY && descriptors < DESCRIPTORS,
        "{memory} KiB, {descriptors} descriptors"
    );
    Ok(())
}

#[test]
fn calls_that_nobody_means_are_answered() -> Result<()> {
    let space = Namespace::new()?;
    let mut calls = 0;
    for seed in 1..=4_u64 {
        calls += any_calls(&space, seed).with_context(|| format!("seed {seed}"))?;
    }
    eprintln!("{calls} calls");
    ensure!(calls > 4 * 1_000);
    Ok(())
}

fn any_calls(space: &Namespace, seed: u64) -> Result<u64> {
    let place = capwarden_tests::agent::workplace()?;
    let control = captive::place(place.path(), env!("CARGO_BIN_EXE_captive"))?;
    let seed = seed.to_string();
    let command = ["{}/captive", "fuzz", "{}/control", &seed];
    let running = Exec::new(space, "-i any -s 60").start_in(place, command)?;
    let mut captive = wait_for("a captive", PATIENCE, || Captive::accept(&control))?;
    let report = captive.answer().with_context(|| running.stderr())?;
    eprintln!("seed {seed}: {report}");
    ensure!(report.get("loose") == Some(&json!(0)), "{report}");
    ensure!(report.get("full") == Some(&json!("EMFILE")), "{report}");
    // Whoever means well is still answered, if only by a refusal where there were enough sockets.
    let said = captive.ask("open ")?;
    ensure!(said == "ok" || said == "EMFILE", "{said}");
    is_small(running.child.id())?;
    captive.leave();
    let done = running.finish()?;
    ensure!(!done.stderr.contains("panicked"), "{}", done.stderr);
    ensure!(done.ended("sockets")? <= SOCKETS);
    number(&report, "calls")
}

/// A server for this client alone, behind the agent that all share.
fn client(stage: &Stage, name: &str) -> Result<Client> {
    let mut bridge = stage.bridge(&stage.path("socket"))?;
    let mut client = Client::start(&mut bridge, &stage.path(name))?;
    client.shake_hands()?;
    Ok(client)
}

fn next(control: &std::os::unix::net::UnixListener) -> Result<Captive> {
    wait_for("a captive", PATIENCE, || Captive::accept(control))
}

#[test]
fn flood_of_one_server_holds_up_no_other() -> Result<()> {
    let stage = Stage::new()?;
    let control = captive::place(&stage.path("captures"), env!("CARGO_BIN_EXE_captive"))?;
    let at = stage.path("captures/control");
    let listen = format!("unix:{}", stage.path("socket").display());
    let captive = stage.path("captures/captive");
    let server: [&Path; 3] = [&captive, Path::new("serve"), &at];
    let mut agent = stage.run_with(POLICY, &["--listen", &listen], &server)?;
    let socket = stage.path("socket");
    wait_for("the socket", PATIENCE, || Ok(socket.exists().then_some(())))?;
    let (mut wild, mut calm) = (client(&stage, "wild")?, client(&stage, "calm")?);

    // No capture was asked for: each of them is refused, and all together are told of in few words.
    ensure!(!wild.call("flood", &json!({}))?.failed());
    let mut flood = next(&control)?;
    for _ in 0..5 {
        let granted = calm.call("capture", &json!({ "interface": "lo" }))?;
        ensure!(!granted.failed(), "{}", granted.line);
        let mut holder = next(&control)?;
        let ready = holder.answer()?;
        ensure!(ready.get("sockets") == Some(&json!(4)), "{ready}");
        holder.leave();
    }
    is_small(agent.pid())?;
    let asked = flood.ask("stop")?;
    ensure!(number(&asked, "EPERM")? >= 10_000, "{asked}");
    ensure!(
        asked.as_object().is_some_and(|asked| asked.len() == 1),
        "{asked}"
    );
    flood.leave();
    let told = stage.audit("socket-refused")?;
    ensure!(told.len() < 20, "{} records", told.len());

    // One that was granted a capture gets as many sockets as there are, and is ended when it goes on.
    let granted = wild.call("capture", &json!({ "interface": "lo" }))?;
    ensure!(!granted.failed(), "{}", granted.line);
    let mut holder = next(&control)?;
    holder.answer()?;
    holder.tell("flood ")?;
    let end = stage.audited("session-ended", 6)?.pop().context("no end")?;
    ensure!(end.get("reason") == Some(&json!("violation")), "{end}");
    ensure!(number(&end, "sockets")? == SOCKETS, "{end}");
    is_small(agent.pid())?;
    let again = calm.call("capture", &json!({ "interface": "lo" }))?;
    ensure!(!again.failed(), "{}", again.line);
    next(&control)?.leave();

    for mut client in [wild, calm] {
        client.close_input();
        client.exit()?;
    }
    agent.signal(Signal::TERM)?;
    agent.exit()?;
    stage.stderr()?;
    stage.is_empty()?;
    let refused: u64 = stage.audit("socket-refused")?.iter().map(times).sum();
    ensure!(refused >= 11_000, "{refused} refusals are in the record");
    Ok(())
}

/// How many refusals a record stands for.
fn times(record: &Value) -> u64 {
    record.get("times").and_then(Value::as_u64).unwrap_or(1)
}
