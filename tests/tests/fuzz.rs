//! Random and mutated lines from both sides, through the real process.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    dice::Dice,
    mangle,
    mcp::{Client, PATIENCE},
    stage::{Stage, memory, python, text},
};
use serde_json::{Value, json};

const ECHO: &str = include_str!("../scripts/echo.py");
const HOSTILE: &str = include_str!("../scripts/hostile.py");

const POLICY: &str = "version: 1
default: deny
tools:
  echo: { args: { n: { at_most: 1000000 } } }
  stop: { ends: capture }
  long: allow
  capture:
    capture:
      from: { interface: interface, filter: filter }
      interfaces: [ nosuch0 ]
      packets: 10
";

/// Lines of the client in all.
const LINES: usize = 10_000;
/// Of which so many are sent before it is asked whether all is well.
const BATCH: usize = 500;
/// What capwarden may hold while no line is long, in KiB.
const QUIET: u64 = 64 * 1024;
/// The longest lines that are read, in KiB: of a client, and of a server.
const CLIENT_LINE: u64 = 4 * 1024;
const SERVER_LINE: u64 = 64 * 1024;

/// A call that is all right gets its answer.
fn all_is_well(client: &mut Client, number: usize) -> Result<()> {
    let id = json!(format!("calm{number}"));
    let line = json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call",
        "params": { "name": "echo", "arguments": { "n": number } } });
    client.send(format!("{line}\n").as_bytes())?;
    let answer = client.answer(&id)?;
    ensure!(
        answer.text() == format!("{{\"n\": {number}}}"),
        "{}",
        answer.line
    );
    Ok(())
}

#[test]
fn fuzz_lines_from_both_sides_leave_a_working_gate() -> Result<()> {
    let stage = Stage::new()?;
    let script = stage.write("echo.py", ECHO)?;
    let seed = std::path::Path::new("7");
    let mut client = stage.run(POLICY, &[&python("python3")?, &script, seed])?;
    let mut dice = Dice::new(0x5eed_0000_0000_0001);
    for batch in 0..LINES / BATCH {
        for number in 0..BATCH {
            let line = mangle::line(&mut dice, batch * BATCH + number);
            client.send(&line)?;
        }
        all_is_well(&mut client, batch).with_context(|| {
            format!(
                "after batch {batch}: {}",
                stage.stderr().unwrap_or_default().len()
            )
        })?;
        let noise = client.noise();
        ensure!(noise.is_empty(), "the client got {:?}", noise.first());
        // Whatever was in a list of tools, mutated or not: no hidden one is in it.
        for message in client.rest().drain(..) {
            let tools = message
                .value
                .pointer("/result/tools")
                .and_then(Value::as_array);
            let mut names = tools.into_iter().flatten().map(|tool| text(tool, "name"));
            ensure!(!names.any(|name| name == "hidden"), "{}", message.line);
        }
    }
    let most = memory(client.pid(), "VmHWM")?;
    eprintln!("after {LINES} lines: {most} KiB at most");
    ensure!(most < QUIET, "{most} KiB");
    ensure!(stage.audit("session-opened")?.is_empty());
    client.close_input();
    ensure!(client.exit()?.success(), "{}", stage.stderr()?);
    stage.stderr()?;
    stage.is_empty()?;
    stage.audit_is_closed("the client closed the connection", Some(0))
}

#[test]
fn fuzz_long_lines_cost_no_more_than_their_caps() -> Result<()> {
    const PIECE: usize = 1 << 20;
    let stage = Stage::new()?;
    let script = stage.write("hostile.py", HOSTILE)?;
    let mut client = stage.run(POLICY, &[&python("python3")?, &script])?;
    client.shake_hands()?;
    let most = |client: &Client| memory(client.pid(), "VmHWM");
    let quiet = most(&client)?;

    // 100 MiB of the client's without an end.
    let piece = vec![b'x'; PIECE];
    client.send(b"{\"jsonrpc\":\"2.0\",\"id\":\"long\",\"method\":\"ping\",\"params\":\"")?;
    for _ in 0..100 {
        client.send(&piece)?;
    }
    let after_client = most(&client)?;
    client.send(b"\"}\n")?;
    let refused = client.wait(PATIENCE, |message| message.get("error").is_some())?;
    ensure!(
        refused.value.get("id") == Some(&Value::Null),
        "{}",
        refused.line
    );
    ensure!(refused.line.contains("too long"), "{}", refused.line);
    // The buffer grows by doubling, and is copied when it does.
    let limit = quiet + 3 * CLIENT_LINE;
    ensure!(after_client < limit, "{quiet} KiB, then {after_client} KiB");

    // A line of the server that is just not too long comes whole.
    let call = |client: &mut Client, mebibytes: u32| -> Result<String> {
        let answer = client.call("long", &json!({ "mebibytes": mebibytes }))?;
        Ok(answer.text())
    };
    ensure!(call(&mut client, 30)? == "that was long");
    let long = client.wait(Duration::from_secs(5), |message| {
        text(message, "method") == "x"
    })?;
    ensure!(text(&long.value, "params").len() == 30 * PIECE);
    drop(long);

    // 100 MiB of the server's do not, and what comes after them does.
    ensure!(call(&mut client, 100)? == "that was long");
    ensure!(
        !client
            .rest()
            .iter()
            .any(|message| text(&message.value, "method") == "x")
    );
    let after_server = most(&client)?;
    let now = memory(client.pid(), "VmRSS")?;
    eprintln!(
        "long lines: {quiet} KiB at first, {after_client} KiB with the client's, {after_server} KiB with the server's, {now} KiB now"
    );
    ensure!(
        after_server < quiet + SERVER_LINE + 3 * CLIENT_LINE,
        "{after_server} KiB"
    );
    ensure!(now < quiet + 2 * CLIENT_LINE, "{now} KiB are kept");

    let answer = client.call("echo", &json!({ "n": 1 }))?;
    ensure!(answer.text() == "{\"n\": 1}", "{}", answer.line);
    client.close_input();
    ensure!(client.exit()?.success());
    stage.stderr()?;
    stage.is_empty()?;
    stage.audit_is_closed("the client closed the connection", Some(0))
}
