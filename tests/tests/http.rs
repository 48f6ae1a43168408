//! A real MCP server that speaks streamable HTTP, behind `capwarden run --listen`, and a real client.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use capwarden_tests::stage::{Stage, python, text};
use rustix::process::Signal;
use serde_json::{Value, json};

const SERVER: &str = include_str!("../scripts/http_server.py");
const CLIENT: &str = include_str!("../scripts/http_client.py");

const POLICY: &str = "version: 1
default: deny
tools:
  echo: { args: { text: { pattern: '^.{0,100}$' } } }
  slow: allow
  ask: allow
  capture:
    capture:
      from: { interface: interface, packets: packets }
      interfaces: [ lo ]
      packets: 1000
      seconds: 1
      over: clamp
";

const HERE: &str = "127.0.0.1:8808";
const SERVER_AT: &str = "http://127.0.0.1:8000/mcp";

/// What a client of the official SDK saw at an address.
fn seen(stage: &Stage, address: &str) -> Result<Value> {
    let script = stage.write("http_client.py", CLIENT)?;
    let mut command = stage.space.command(python("python3")?);
    command.arg(script).arg(address);
    let done = command.output()?;
    let errors = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{errors}{}", stage.stderr()?);
    Ok(serde_json::from_slice(&done.stdout)?)
}

/// What holds whether or not the kernel holds anything to it.
fn gated(seen: &Value) -> Result<()> {
    let tools = json!(["echo", "slow", "ask", "capture"]);
    ensure!(seen.get("tools") == Some(&tools), "{seen}");
    ensure!(
        seen.get("echo") == Some(&json!([false, "h\u{e9}llo \u{2028} \u{4e16}"])),
        "{seen}"
    );
    ensure!(
        seen.get("secret") == Some(&json!([null, "Unknown tool: secret"])),
        "{seen}"
    );
    ensure!(seen.pointer("/denied/0") == Some(&json!(true)), "{seen}");
    ensure!(
        seen.pointer("/denied/1")
            .is_some_and(|why| why.to_string().contains("not allowed")),
        "{seen}"
    );
    ensure!(
        seen.get("slow") == Some(&json!([false, "slowly"])),
        "{seen}"
    );
    ensure!(seen.get("many") == Some(&json!(true)), "{seen}");
    Ok(())
}

#[test]
fn http_server_is_governed_with_its_captures() -> Result<()> {
    let stage = Stage::new()?;
    let script = stage.write("http_server.py", SERVER)?;
    let mut agent = stage.run_with(
        POLICY,
        &["--listen", HERE, "--upstream", SERVER_AT, "--anonymous"],
        &[&python("python3")?, &script, Path::new("8000")],
    )?;
    stage.listening_on(8808)?;
    let seen = seen(&stage, &format!("http://{HERE}/mcp"))?;
    gated(&seen)?;
    ensure!(seen.get("session") == Some(&json!(true)), "{seen}");
    ensure!(
        seen.get("progress") == Some(&json!([0.0, 1.0, 2.0])),
        "{seen}"
    );
    ensure!(
        seen.get("ask") == Some(&json!([false, "0 roots"])),
        "{seen}"
    );
    let granted = seen.pointer("/capture/1").map(text_of).unwrap_or_default();
    ensure!(
        granted.contains("capwarden granted s1: lo, 1000 packets, 1 s"),
        "{seen}"
    );
    let reason = seen.pointer("/notices/0/reason");
    ensure!(reason == Some(&json!("deadline")), "{seen}");
    ensure!(!stage.audit("socket-armed")?.is_empty());
    let calls = stage.audit("call")?;
    let secret = calls.iter().find(|call| text(call, "tool") == "secret");
    ensure!(
        text(secret.context("no record")?, "reason") == "the tool is hidden",
        "{calls:?}"
    );

    agent.signal(Signal::TERM)?;
    ensure!(agent.exit()?.code() == Some(143), "{}", stage.stderr()?);
    ensure!(!stage.stderr()?.contains("could not be completed"));
    stage.is_empty()?;
    stage.audit_is_closed("a signal", Some(143))
}

#[test]
fn http_server_that_runs_already_is_gated_only() -> Result<()> {
    let stage = Stage::new()?;
    let script = stage.write("http_server.py", SERVER)?;
    let arguments = ["8000", "json", "stateless"].map(Path::new);
    let mut server = vec![python("python3")?, script];
    server.extend(arguments.map(Path::to_owned));
    let server: Vec<&Path> = server.iter().map(std::path::PathBuf::as_path).collect();
    let server = stage.direct(&server)?;
    let mut agent = stage.run_with(
        POLICY,
        &["--listen", HERE, "--upstream", SERVER_AT, "--anonymous"],
        &[],
    )?;
    stage.listening_on(8808)?;
    stage.listening_on(8000)?;
    let seen = seen(&stage, &format!("http://{HERE}/mcp"))?;
    gated(&seen)?;
    ensure!(seen.get("session") == Some(&json!(false)), "{seen}");
    let told = seen.pointer("/capture/1").map(text_of).unwrap_or_default();
    ensure!(
        told.contains("only for a server that capwarden started"),
        "{seen}"
    );
    let loud = stage.stderr()?;
    ensure!(
        loud.contains("calls are gated, nothing is enforced in the kernel"),
        "{loud}"
    );
    agent.signal(Signal::TERM)?;
    ensure!(agent.exit()?.code() == Some(143));
    ensure!(!stage.stderr()?.contains("could not be completed"));
    server.signal(Signal::KILL)?;
    stage.audit_is_closed("a signal", Some(143))
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
