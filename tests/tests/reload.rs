//! The policy changes while `capwarden run` runs.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::wait_for,
    mcp::{Client, PATIENCE},
    stage::{Stage, granted, packets, python, text, user},
};
use rustix::process::Signal;
use serde_json::{Value, json};

const SERVER: &str = include_str!("../scripts/hostile.py");
const HTTP_SERVER: &str = include_str!("../scripts/http_server.py");
const HTTP_CLIENT: &str = include_str!("../scripts/reload_client.py");

const FIRST: &str = "version: 1
tools:
  echo: { limits: [ { max: 3, window: day } ] }
  capture:
    capture:
      from: { interface: interface, filter: filter }
      interfaces: [ lo ]
      within: udp
      packets: 20
      seconds: 30
  stop: { ends: capture }
";

/// Without captures, and with room for one more call.
const SECOND: &str = "version: 1
tools:
  echo: { limits: [ { max: 4, window: day } ] }
";

const CHANGED: &str = "notifications/tools/list_changed";

/// Puts a policy in place of another, as editors do.
fn replace(stage: &Stage, policy: &str) -> Result<()> {
    let new = stage.write("policy.yaml~", policy)?;
    Ok(fs::rename(new, stage.path("policy.yaml"))?)
}

/// Waits for so many policies to have been loaded, and to have been refused.
fn settled(stage: &Stage, loaded: usize, refused: usize) -> Result<Vec<Value>> {
    stage.audited("policy-reloaded", loaded)?;
    let refusals = stage.audited("policy-refused", refused)?;
    ensure!(stage.audit("policy-reloaded")?.len() == loaded);
    ensure!(refusals.len() == refused, "{refusals:?}");
    Ok(refusals)
}

fn tools(client: &mut Client) -> Result<Vec<String>> {
    let answer = client.request("tools/list", &json!({}))?;
    let tools = answer
        .value
        .pointer("/result/tools")
        .and_then(Value::as_array);
    let tools = tools.with_context(|| answer.line.clone())?;
    Ok(tools
        .iter()
        .map(|tool| text(tool, "name").to_owned())
        .collect())
}

fn told_of_tools(client: &mut Client) -> Result<()> {
    client.wait(PATIENCE, |message| text(message, "method") == CHANGED)?;
    Ok(())
}

#[test]
fn policy_that_the_server_could_change_is_not_loaded_again() -> Result<()> {
    let stage = Stage::new()?;
    let script = stage.write("hostile.py", SERVER)?;
    let mut agent = stage.run(SECOND, &[&python("python3")?, &script])?;
    agent.shake_hands()?;
    std::os::unix::fs::chown(stage.path("policy.yaml"), Some(user()), None)?;
    fs::write(stage.path("policy.yaml"), FIRST)?;
    let refused = settled(&stage, 0, 1)?;
    let why = refused.last().map(|refusal| text(refusal, "why"));
    ensure!(
        why.is_some_and(|why| why.contains("the server could change it")),
        "{why:?}"
    );
    ensure!(tools(&mut agent)? == ["echo"]);
    Ok(())
}

#[test]
fn policy_that_changes_decides_at_once_and_a_bad_one_never() -> Result<()> {
    let stage = Stage::new()?;
    let script = stage.write("hostile.py", SERVER)?;
    let policy = stage.path("policy.yaml");
    let mut agent = stage.run(FIRST, &[&python("python3")?, &script])?;
    agent.shake_hands()?;
    ensure!(tools(&mut agent)?.contains(&"capture".to_owned()));
    ensure!(agent.call("echo", &json!({ "n": 1 }))?.text() == "{\"n\": 1}");
    let udp = stage.space.udp()?;
    let file = stage.capture("running.pcap");
    let filter = format!("udp port {}", udp.port());
    let arguments = json!({ "interface": "lo", "file": file, "filter": filter });
    let session = granted(&agent.call("capture", &arguments)?)?;
    stage.live(&file, 1)?;

    // By rename. The client is told that there are fewer tools; the session goes on.
    replace(&stage, SECOND)?;
    told_of_tools(&mut agent)?;
    settled(&stage, 1, 0)?;
    ensure!(tools(&mut agent)? == ["echo"]);
    ensure!(
        agent
            .call("capture", &arguments)?
            .line
            .contains("Unknown tool")
    );
    udp.send(50, 10)?;
    let end = agent.session_end(&session)?;
    ensure!(text(&end, "reason") == "packet-cap", "{end}");
    ensure!(packets(&file)? == 20);

    // Bad ones, in every way, leave it as it is; so does asking for it again.
    fs::write(
        &policy,
        "version: 1\ntools: { echo: { limits: [ { mox: 1 } ] } }\n",
    )?;
    let refused = settled(&stage, 1, 1)?;
    let why = refused.last().map(|refusal| text(refusal, "why"));
    ensure!(
        why.is_some_and(|why| why.contains("policy.yaml:2:") && why.contains("`mox`")),
        "{why:?}"
    );
    let bad_filter = FIRST.replace("within: udp", "within: \"udp and\"");
    replace(&stage, &bad_filter)?;
    let refused = settled(&stage, 1, 2)?;
    let why = refused.last().map(|refusal| text(refusal, "why"));
    ensure!(why.is_some_and(|why| why.contains("within")), "{why:?}");
    agent.signal(Signal::HUP)?;
    settled(&stage, 1, 3)?;
    ensure!(
        stage.stderr()?.contains("stays in force"),
        "{}",
        stage.stderr()?
    );
    ensure!(agent.call("echo", &json!({ "n": 2 }))?.text() == "{\"n\": 2}");

    // Gone, and made anew: nothing but the last says anything.
    fs::remove_file(&policy)?;
    let refused = settled(&stage, 1, 4)?;
    let why = refused.last().map(|refusal| text(refusal, "why"));
    ensure!(
        why.is_some_and(|why| why.contains("there is no file")),
        "{why:?}"
    );
    fs::write(&policy, FIRST)?;
    told_of_tools(&mut agent)?;
    settled(&stage, 2, 4)?;

    // Truncated and written. What was counted stays: a third call is the last of three, and a
    // fourth passes where four may.
    ensure!(agent.call("echo", &json!({ "n": 3 }))?.text() == "{\"n\": 3}");
    ensure!(agent.call("echo", &json!({}))?.failed());
    fs::write(&policy, SECOND)?;
    told_of_tools(&mut agent)?;
    settled(&stage, 3, 4)?;
    ensure!(agent.call("echo", &json!({ "n": 4 }))?.text() == "{\"n\": 4}");
    ensure!(agent.call("echo", &json!({}))?.failed());

    // Each in place of the one before.
    let records = stage.audit("policy-reloaded")?;
    for pair in records.windows(2) {
        let [one, next] = pair else { continue };
        ensure!(text(one, "sha256") == text(next, "before"), "{records:?}");
        ensure!(text(one, "sha256") != text(next, "sha256"), "{records:?}");
    }
    // The same once more is nothing new.
    agent.signal(Signal::HUP)?;
    wait_for("the answer in the log", PATIENCE, || {
        Ok(stage.stderr()?.contains("as it was").then_some(()))
    })?;
    settled(&stage, 3, 4)?;
    agent.close_input();
    ensure!(agent.exit()?.success(), "{}", stage.stderr()?);
    stage.audit_is_closed("the client closed the connection", Some(0))
}

#[test]
fn every_local_client_is_told_of_new_tools() -> Result<()> {
    let stage = Stage::new()?;
    let script = stage.write("hostile.py", SERVER)?;
    let socket = stage.path("socket");
    let listen = format!("unix:{}", socket.display());
    let server = [&*python("python3")?, &*script];
    let mut agent = stage.run_with(SECOND, &["--listen", &listen], &server)?;
    wait_for("the socket", PATIENCE, || Ok(socket.exists().then_some(())))?;
    let mut clients = Vec::new();
    for name in ["one", "other"] {
        let mut client = Client::start(
            &mut stage.bridge(&socket)?,
            &stage.path(&format!("{name}-stderr")),
        )?;
        client.shake_hands()?;
        ensure!(tools(&mut client)? == ["echo"]);
        clients.push(client);
    }
    replace(&stage, FIRST)?;
    for client in &mut clients {
        told_of_tools(client)?;
        ensure!(tools(client)?.len() == 3);
    }
    agent.signal(Signal::TERM)?;
    ensure!(agent.exit()?.code() == Some(143), "{}", stage.stderr()?);
    for client in &mut clients {
        client.close_input();
        ensure!(client.exit()?.success());
    }
    stage.is_empty()?;
    stage.audit_is_closed("a signal", Some(143))
}

#[test]
fn http_client_is_told_of_new_tools() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.write("http_server.py", HTTP_SERVER)?;
    let client = stage.write("reload_client.py", HTTP_CLIENT)?;
    let new = stage.write(
        "new.yaml",
        "version: 1\ntools: { echo: allow, slow: allow }\n",
    )?;
    let mut agent = stage.run_with(
        "version: 1\ntools: { echo: allow }\n",
        &[
            "--listen",
            "127.0.0.1:8808",
            "--anonymous",
            "--upstream",
            "http://127.0.0.1:8000/mcp",
        ],
        &[&python("python3")?, &server, Path::new("8000")],
    )?;
    wait_for("the listener", PATIENCE, || {
        Ok(stage.stderr()?.contains("listening on").then_some(()))
    })?;
    let mut command = stage.space.command(python("python3")?);
    command.arg(client).arg("http://127.0.0.1:8808/mcp");
    let done = command.arg(new).arg(stage.path("policy.yaml")).output()?;
    let errors = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{errors}{}", stage.stderr()?);
    let seen: Value = serde_json::from_slice(&done.stdout)?;
    ensure!(seen.get("told") == Some(&json!(true)), "{seen}");
    ensure!(seen.get("before") == Some(&json!(["echo"])), "{seen}");
    let after = match seen.get("new") == Some(&json!(true)) {
        true => json!(["echo", "slow"]),
        false => json!(["echo"]),
    };
    ensure!(seen.get("after") == Some(&after), "{seen}");
    agent.signal(Signal::TERM)?;
    ensure!(agent.exit()?.code() == Some(143), "{}", stage.stderr()?);
    stage.audit_is_closed("a signal", Some(143))
}
