//! The operators' verbs against agents that run: what they list is what the kernel has counted, what they
//! stop is stopped and in the record, and nobody but root is listened to.

use std::{fs, net::Ipv4Addr, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{Exec, NOBODY, Running, capwarden, wait_for},
    mcp::{Client, PATIENCE},
    netns::Namespace,
    stage::{AWSLABS, Stage, number, packets, python, text},
    traffic::Flood,
};
use serde_json::{Value, json};

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
const PAYLOAD: &[u8] = &[b'x'; 50];

/// A verb's exit status and what it printed.
fn verb(words: &[&str]) -> Result<(Option<i32>, String)> {
    let done = Command::new(capwarden()?)
        .args(words)
        .env_remove("SUDO_UID")
        .output()?;
    let mut told = String::from_utf8_lossy(&done.stdout).into_owned();
    told += &String::from_utf8_lossy(&done.stderr);
    Ok((done.status.code(), told))
}

/// The sessions of one agent process, as `sessions --json` lists them.
fn sessions(agent: u32) -> Result<Vec<Value>> {
    let done = Command::new(capwarden()?)
        .args(["sessions", "--json"])
        .output()?;
    let errors = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{errors}");
    let listed: Value = serde_json::from_slice(&done.stdout)?;
    let all = listed.get("sessions").and_then(Value::as_array);
    let all = all.context("no list")?.iter();
    let its = |one: &&Value| number(one, "pid") == Some(agent.into());
    Ok(all.filter(its).cloned().collect())
}

/// The one session of an agent process, once it is as wanted.
fn session(agent: u32, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    wait_for("a session that is as wanted", PATIENCE, || {
        let all = sessions(agent)?;
        ensure!(all.len() <= 1, "{all:?}");
        Ok(all.into_iter().find(&wanted))
    })
    .with_context(|| format!("{:?}", sessions(agent)))
}

fn seen(session: &Value, what: &str) -> Option<u64> {
    number(session.get(what)?, "seen")
}

fn cap(session: &Value, what: &str) -> Option<u64> {
    number(session.get(what)?, "cap")
}

/// `tcpdump` on loopback, once it hears.
fn tcpdump(namespace: &Namespace) -> Result<(Running<'_>, u32)> {
    let options = "--interface lo --packets 1000 --bytes 5MiB --seconds 60";
    let exec = Exec::new(namespace, options).option("--filter", "udp");
    let words = "tcpdump -U -B 8192 -w {}/out.pcap -i lo".split(' ');
    let running = exec.start(words)?;
    let pids = running.capturing("lo", 1)?;
    Ok((running, pids[0]))
}

#[test]
fn capture_under_exec_is_listed_exactly_and_stopped_whole() -> Result<()> {
    let namespace = Namespace::new()?;
    let (running, tool) = tcpdump(&namespace)?;
    let agent = running.child.id();
    Flood::new(LOOPBACK, PAYLOAD, 40).send(&namespace)?;
    let one = session(agent, |one| seen(one, "packets") == Some(40))?;
    // 14 + 20 + 8 + 50 bytes each.
    ensure!(seen(&one, "bytes") == Some(40 * 92), "{one}");
    ensure!(cap(&one, "packets") == Some(1_000), "{one}");
    ensure!(cap(&one, "bytes") == Some(5 << 20), "{one}");
    ensure!(one.pointer("/interfaces/0") == Some(&json!("lo")), "{one}");
    ensure!(
        text(&one, "asked") == "udp" && text(&one, "kind") == "capture",
        "{one}"
    );
    ensure!(
        text(&one, "standing") == "live" && text(&one, "server") == "tcpdump",
        "{one}"
    );
    ensure!(
        one.pointer("/processes/0/pid") == Some(&json!(tool)),
        "{one}"
    );
    ensure!(
        one.pointer("/who/principal") == Some(&json!("uid:0")),
        "{one}"
    );
    let left = number(&one, "left_ms").context("no deadline")?;
    ensure!(left < 60_000 && number(&one, "sockets") == Some(1), "{one}");

    let id = text(&one, "id");
    let (status, told) = verb(&["sessions", "--server", "tcpdump"])?;
    let shown = format!("{}/s1", &id[..8]);
    ensure!(status == Some(0) && told.contains(&shown), "{told}");
    ensure!(told.contains("40 of 1000 packets"), "{told}");

    let (status, told) = verb(&["stop", &shown, "--why", "not during the fair"])?;
    let ended = format!("{shown} ended: an operator stopped it (40 packets, 3680 bytes)");
    ensure!(status == Some(0) && told.contains(&ended), "{told}");
    let log = fs::read_to_string(running.file("audit.jsonl"))?;
    let log: Vec<Value> = log
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let at = |kind| log.iter().position(|record| text(record, "kind") == kind);
    let act = at("operator").context("no record of the operator")?;
    ensure!(Some(act) < at("session-ended"), "{log:?}");
    ensure!(text(&log[act], "by") == "uid:0" && text(&log[act], "did") == "stop");
    ensure!(
        text(&log[act], "why") == "not during the fair",
        "{}",
        log[act]
    );
    let done = running.finish()?;
    ensure!(done.reason()? == "stopped" && done.ended("packets")? == 40);
    ensure!(packets(&done.file("out.pcap"))? == 40, "its file is whole");
    ensure!(!socket(agent).exists(), "the socket is taken away");
    let (status, told) = verb(&["stop", id])?;
    ensure!(status == Some(1) && told.contains("is open"), "{told}");
    Ok(())
}

/// The operators' socket of an agent.
fn socket(agent: u32) -> PathBuf {
    format!("/run/capwarden/agents/{agent}.sock").into()
}

const POLICY: &str = "version: 1
default: deny
tools:
  start_packet_capture:
    capture:
      from: { interface: interface, filter: capture_filter, seconds: duration }
      interfaces: [ lo ]
      within: udp
      outside: narrow
      packets: 500
      over: clamp
  stop_packet_capture: { ends: capture }
";

/// A real MCP server behind `run`.
fn server(stage: &Stage) -> Result<Client> {
    let mut client = stage.run_with(POLICY, &["--server", "fair"], &[&python(AWSLABS)?])?;
    client
        .shake_hands()
        .with_context(|| stage.stderr().unwrap_or_default())?;
    Ok(client)
}

#[test]
fn capture_of_a_real_server_is_listed_with_who_asked_and_its_client_is_told_of_the_stop()
-> Result<()> {
    let stage = Stage::new()?;
    let mut client = server(&stage)?;
    let agent = client.pid();
    ensure!(sessions(agent)?.is_empty());
    let udp = stage.space.udp()?;
    let arguments = json!({
        "interface": "lo", "duration": 30, "output_file": "out.pcap",
        "capture_filter": format!("port {}", udp.port()),
    });
    let answer = client.call("start_packet_capture", &arguments)?;
    ensure!(!answer.failed(), "{}", answer.line);
    stage.live(&stage.capture("out.pcap"), 1)?;
    udp.send(25, 10)?;
    let one = session(agent, |one| seen(one, "packets") == Some(25))?;
    ensure!(
        one.pointer("/who/tool") == Some(&json!("start_packet_capture")),
        "{one}"
    );
    ensure!(
        text(&one, "within") == "udp" && text(&one, "server") == "fair",
        "{one}"
    );
    ensure!(
        text(&one, "asked") == format!("port {}", udp.port()),
        "{one}"
    );
    ensure!(
        !text(&one, "cut").is_empty(),
        "what the policy took away: {one}"
    );
    ensure!(cap(&one, "packets") == Some(500), "{one}");

    let (status, told) = verb(&["stop", "--server", "fair"])?;
    ensure!(status == Some(0) && told.contains("(25 packets"), "{told}");
    let notice = client.session_end("s1")?;
    ensure!(notice.to_string().contains("\"stopped\""), "{notice}");
    ensure!(sessions(agent)?.is_empty());
    ensure!(stage.audited("operator", 1)?.len() == 1);
    // The server lives on.
    let answer = client.call("start_packet_capture", &arguments)?;
    ensure!(!answer.failed(), "{}", answer.line);
    stage.ends_with(client, "the client closed the connection")
}

#[test]
fn nobody_but_root_is_listened_to() -> Result<()> {
    let namespace = Namespace::new()?;
    let (running, _) = tcpdump(&namespace)?;
    let agent = running.child.id();
    let mode = |path: &std::path::Path| {
        Ok::<_, std::io::Error>(fs::metadata(path)?.permissions().mode() & 0o777)
    };
    let socket = socket(agent);
    ensure!(mode(&socket)? == 0o600);
    ensure!(mode(socket.parent().context("a directory")?)? == 0o700);
    let nobody = |program: &std::path::Path, words: &[&str]| -> Result<(Option<i32>, String)> {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={NOBODY}"), "--clear-groups", "--"]);
        let done = command.arg(program).args(words).output()?;
        Ok((
            done.status.code(),
            String::from_utf8_lossy(&done.stderr).into_owned(),
        ))
    };
    // A copy, since not everybody may look into the place of the original.
    let copy = running.file("capwarden");
    fs::copy(capwarden()?, &copy)?;
    for words in [&["sessions"][..], &["stop", "--all"]] {
        let (status, told) = nobody(&copy, words)?;
        ensure!(
            status == Some(4) && told.contains("only root may"),
            "{told}"
        );
    }
    let connect = format!(
        "import socket; socket.socket(socket.AF_UNIX).connect('{}')",
        socket.display()
    );
    let (_, told) = nobody("python3".as_ref(), &["-c", &connect])?;
    ensure!(told.contains("PermissionError"), "{told}");
    ensure!(sessions(agent)?.len() == 1);
    let (status, _) = verb(&["stop", "--server", "no such server"])?;
    ensure!(status == Some(1));
    verb(&["stop", text(&sessions(agent)?[0], "id")])?;
    running.finish()?;
    Ok(())
}

#[test]
fn socket_of_an_agent_that_was_killed_is_swept() -> Result<()> {
    let namespace = Namespace::new()?;
    let (mut running, tool) = tcpdump(&namespace)?;
    let agent = running.child.id();
    ensure!(socket(agent).exists());
    running.kill_agent()?;
    ensure!(socket(agent).exists(), "nobody was left to remove it");
    ensure!(sessions(agent)?.is_empty());
    ensure!(!socket(agent).exists());
    running.clear_away(&[tool])?;
    Ok(())
}
