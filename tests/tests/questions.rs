//! Calls whose user is asked through the client, end to end: `approve: user` in a policy, a client of
//! the official SDK and one that speaks the stateless revision, and what the audit log says of it.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{capwarden, wait_for},
    mcp::{Client, Message, PATIENCE},
    stage::{Stage, python, text, user},
};
use rustix::process::Signal;
use serde_json::{Value, json};

const CLIENT: &str = include_str!("../scripts/elicit.py");

/// A server that writes down what it is called with, and wants input of its own for `install`.
const SERVER: &str = r#"
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

def answer(line):
    with open("came", "a") as came:
        print(line, file=came)
    message = json.loads(line)
    if "id" not in message or "method" not in message:
        return None
    method, params = message["method"], message.get("params") or {}
    if method == "initialize":
        result = {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}},
                  "serverInfo": {"name": "echo", "version": "1"}}
    elif method == "tools/list":
        result = {"tools": [{"name": "restart", "inputSchema": {"type": "object"}}]}
    else:
        with open("calls", "a") as calls:
            print(json.dumps(message), file=calls)
        result = {"content": [{"type": "text", "text": "done"}], "resultType": "complete"}
        if params.get("name") == "install" and params.get("requestState") != "theirs":
            result = {"resultType": "input_required", "requestState": "theirs",
                      "inputRequests": {"which": {"method": "elicitation/create", "params": {
                          "mode": "form", "message": "Which?", "requestedSchema": {
                              "type": "object", "properties": {"which": {"type": "string"}}}}}}}
    return json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result})

class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        line = answer(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.say(200 if line else 202, line or "")

    def do_GET(self):
        self.say(405, "")

    def do_DELETE(self):
        self.say(200, "")

    def say(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Mcp-Session-Id", "the-session")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass

if sys.argv[1:]:
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Http).serve_forever()
for line in sys.stdin:
    if line := answer(line):
        print(line, flush=True)
"#;

const POLICY: &str = "version: 1
tools:
  restart: { approve: { by: user, timeout: 10 min, why: it restarts the probe } }
  install: { approve: user, limits: [ { max: 1, window: day } ] }
";

const HERE: &str = "127.0.0.1:8808";

fn stage() -> Result<Stage> {
    let stage = Stage::new()?;
    stage.write("server.py", SERVER)?;
    stage.write("elicit.py", CLIENT)?;
    Ok(stage)
}

/// What the server was called with.
fn calls(stage: &Stage) -> Result<Vec<Value>> {
    let calls = fs::read_to_string(stage.capture("calls")).unwrap_or_default();
    let calls = calls.lines().map(serde_json::from_str);
    Ok(calls.collect::<Result<_, _>>()?)
}

/// What the SDK's client saw.
fn seen(command: &mut Command) -> Result<Value> {
    let done = command.output()?;
    let errors = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{errors}");
    serde_json::from_slice(&done.stdout).with_context(|| errors.into_owned())
}

/// The SDK's client, its user's answer, and capwarden as its server.
fn over_pipes(stage: &Stage, answer: &str) -> Result<Value> {
    let python = python("python3")?;
    let mut command = stage.space.command(&python);
    command
        .arg(stage.path("elicit.py"))
        .args([answer, "restart"]);
    command.arg(capwarden()?).args(["run", "-p"]);
    command.arg(stage.write("policy.yaml", POLICY)?);
    command.arg("--audit").arg(stage.path("audit.jsonl"));
    command.arg("--state").arg(stage.path("state"));
    command.arg("--user").arg(user().to_string()).arg("--");
    command.arg(&python).arg(stage.path("server.py"));
    command.current_dir(stage.path("captures"));
    seen(&mut command)
}

fn became(stage: &Stage) -> Result<Vec<String>> {
    let records = stage.audit("approval")?;
    let word = |record: &Value| format!("{} {}", text(record, "became"), text(record, "by"));
    Ok(records.iter().map(word).collect())
}

#[test]
fn user_of_the_sdk_says_yes() -> Result<()> {
    let stage = stage()?;
    let seen = over_pipes(&stage, "yes")?;
    // Each call is asked for.
    ensure!(
        seen["calls"] == json!([[false, "done"], [false, "done"]]),
        "{seen}"
    );
    let asked = seen["asked"].as_array().context("asked")?;
    ensure!(asked.len() == 2, "{seen}");
    for part in ["restart", "eth0", "it restarts the probe"] {
        ensure!(
            asked[0].as_str().unwrap_or_default().contains(part),
            "{seen}"
        );
    }
    let calls = calls(&stage)?;
    ensure!(calls.len() == 2 && calls[0]["params"]["arguments"] == json!({ "probe": "eth0" }));
    let one = [
        "requested ",
        "approved the client's user",
        "used the client's user",
    ];
    ensure!(
        became(&stage)? == [one, one].concat(),
        "{:?}",
        became(&stage)?
    );
    stage.audit_is_closed("the client closed the connection", Some(0))
}

#[test]
fn user_of_the_sdk_says_no_or_cannot_be_asked() -> Result<()> {
    for (answer, told, asked) in [
        ("no", "The user has denied this call", 1),
        ("none", "capwarden approve", 0),
    ] {
        let stage = stage()?;
        let seen = over_pipes(&stage, answer)?;
        for call in seen["calls"].as_array().context("calls")? {
            let text = call[1].as_str().unwrap_or_default();
            ensure!(call[0] == true && text.contains(told), "{seen}");
        }
        ensure!(
            seen["asked"].as_array().map(Vec::len) == Some(asked),
            "{seen}"
        );
        ensure!(calls(&stage)?.is_empty());
    }
    Ok(())
}

#[test]
fn user_is_asked_over_http_in_front_of_both_kinds_of_servers() -> Result<()> {
    asked_over_http(false).context("on pipes")?;
    asked_over_http(true).context("over HTTP")
}

fn asked_over_http(upstream: bool) -> Result<()> {
    let stage = stage()?;
    let (python3, script) = (python("python3")?, stage.path("server.py"));
    let mut options = vec!["--listen", HERE, "--anonymous"];
    let mut server = vec![&*python3, &*script];
    if upstream {
        options.extend(["--upstream", "http://127.0.0.1:8000/mcp"]);
        server.push(Path::new("8000"));
    }
    let mut agent = stage.run_with(POLICY, &options, &server)?;
    stage.listening_on(8808)?;
    let mut command = stage.space.command(python("python3")?);
    command
        .arg(stage.path("elicit.py"))
        .args(["yes", "restart"]);
    let seen = seen(command.arg(format!("http://{HERE}/mcp")))?;
    ensure!(
        seen.get("calls") == Some(&json!([[false, "done"], [false, "done"]])),
        "{seen}"
    );
    ensure!(
        seen.get("asked").and_then(Value::as_array).map(Vec::len) == Some(2),
        "{seen}"
    );
    ensure!(calls(&stage)?.len() == 2, "{:?}", calls(&stage)?);
    let came = fs::read_to_string(stage.capture("came"))?;
    ensure!(!came.contains("capwarden-"), "{came}");
    agent.signal(Signal::TERM)?;
    ensure!(agent.exit()?.code() == Some(143));
    stage.audit_is_closed("a signal", Some(143))
}

/// A call in the stateless revision, by a client that can ask.
fn call(client: &mut Client, tool: &str, probe: &str, more: &Value) -> Result<Message> {
    let mut params = json!({
        "name": tool,
        "arguments": { "probe": probe },
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": { "elicitation": {} },
        },
    });
    let (params_of, more) = (params.as_object_mut(), more.as_object());
    params_of
        .context("params")?
        .extend(more.context("more")?.clone());
    client.request("tools/call", &params)
}

fn state(answer: &Message) -> Result<String> {
    let part = |of: &str| answer.value.pointer(of).and_then(Value::as_str);
    ensure!(
        part("/result/resultType") == Some("input_required"),
        "{}",
        answer.line
    );
    let state = part("/result/requestState");
    Ok(state.with_context(|| answer.line.clone())?.to_owned())
}

fn yes(state: &str) -> Value {
    json!({
        "requestState": state,
        "inputResponses": {
            "capwarden_approval": { "action": "accept", "content": { "approve": true } },
        },
    })
}

#[test]
fn stateless_call_comes_again_with_its_users_yes() -> Result<()> {
    let stage = stage()?;
    let server = [&*python("python3")?, &stage.path("server.py")];
    let mut client = stage.run(POLICY, &server)?;
    let mine = state(&call(&mut client, "restart", "eth0", &json!({}))?)?;
    ensure!(mine.starts_with("capwarden."), "{mine}");
    let mut tampered = mine.clone();
    let last = tampered.pop();
    tampered.push(if last == Some('0') { '1' } else { '0' });
    for (probe, state, why) in [
        ("eth0", &tampered, "not one that was given out"),
        ("eth1", &mine, "another call"),
    ] {
        let answer = call(&mut client, "restart", probe, &yes(state))?;
        ensure!(
            answer.failed() && answer.text().contains(why),
            "{}",
            answer.line
        );
    }
    ensure!(calls(&stage)?.is_empty());
    let answer = call(&mut client, "restart", "eth0", &yes(&mine))?;
    ensure!(answer.own_text() == "done", "{}", answer.line);
    let again = call(&mut client, "restart", "eth0", &yes(&mine))?;
    ensure!(again.text().contains("answered already"), "{}", again.line);
    let seen = calls(&stage)?;
    ensure!(seen.len() == 1, "{seen:?}");
    for key in ["requestState", "inputResponses"] {
        ensure!(seen[0]["params"].get(key).is_none(), "{seen:?}");
    }
    ensure!(seen[0]["params"]["_meta"].is_object(), "{seen:?}");
    let waits = "the record of the second request";
    wait_for(waits, PATIENCE, || {
        let one = became(&stage)?;
        let wanted = [
            "requested ",
            "approved the client's user",
            "used the client's user",
        ];
        Ok((one
            .iter()
            .filter(|word| wanted.contains(&word.as_str()))
            .count()
            >= 3)
            .then_some(()))
    })
}

#[test]
fn question_of_the_server_comes_after_that_of_the_gate() -> Result<()> {
    let stage = stage()?;
    let server = [&*python("python3")?, &stage.path("server.py")];
    let mut client = stage.run(POLICY, &server)?;
    let mine = state(&call(&mut client, "install", "eth0", &json!({}))?)?;
    let theirs = state(&call(&mut client, "install", "eth0", &yes(&mine))?)?;
    ensure!(theirs == "theirs");
    let more = json!({
        "requestState": "theirs",
        "inputResponses": { "which": { "action": "accept", "content": { "which": "a" } } },
    });
    let answer = call(&mut client, "install", "eth0", &more)?;
    ensure!(answer.own_text() == "done", "{}", answer.line);
    let seen = calls(&stage)?;
    ensure!(seen.len() == 2, "{seen:?}");
    ensure!(seen[0]["params"].get("requestState").is_none(), "{seen:?}");
    ensure!(seen[1]["params"]["requestState"] == "theirs", "{seen:?}");
    ensure!(
        seen[1]["params"]["inputResponses"] == more["inputResponses"],
        "{seen:?}"
    );
    // It was charged once, and that was the one.
    let answer = call(&mut client, "install", "eth0", &json!({}))?;
    ensure!(
        answer.failed() && answer.text().contains("limit"),
        "{}",
        answer.line
    );
    Ok(())
}
