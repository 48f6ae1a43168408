//! Calls that wait for an operator, end to end: `approve: operator` in a policy, the verbs, and what the
//! audit log says of it all.

use std::{collections::BTreeSet, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{capwarden, wait_for},
    mcp::{Client, Message, PATIENCE},
    stage::{Stage, python, text},
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A server that answers each call with its arguments.
const ECHO: &str = r#"
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    method, params = message.get("method"), message.get("params") or {}
    if method == "initialize":
        result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                  "serverInfo": {"name": "echo", "version": "1"}}
    else:
        with open("calls", "a") as calls:
            print(json.dumps(params), file=calls)
        result = {"content": [{"type": "text", "text": "done " + json.dumps(params.get("arguments"))}]}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"#;

fn policy(timeout: &str) -> String {
    format!(
        "version: 1\ntools:\n  echo: allow\n  restart: {{ approve: {{ by: operator, timeout: \"{timeout}\", why: it restarts the probe }} }}\n"
    )
}

struct Desk {
    stage: Stage,
}

impl Desk {
    fn new() -> Result<Self> {
        let stage = Stage::new()?;
        stage.write("server.py", ECHO)?;
        Ok(Self { stage })
    }

    fn agent(&self, timeout: &str) -> Result<Client> {
        let (python, server) = (python("python")?, self.stage.path("server.py"));
        let command: [&Path; 2] = [&python, &server];
        let mut client = self.stage.run(&policy(timeout), &command)?;
        client.shake_hands()?;
        Ok(client)
    }

    /// A verb's exit status and what it printed.
    fn verb(&self, words: &[&str]) -> Result<(Option<i32>, String)> {
        let mut command = Command::new(capwarden()?);
        command
            .args(words)
            .arg("--state")
            .arg(self.stage.path("state"));
        if let Some(&("approve" | "deny")) = words.first() {
            command.arg("--audit").arg(self.stage.path("audit.jsonl"));
        }
        let done = command.env_remove("SUDO_UID").output()?;
        let mut told = String::from_utf8_lossy(&done.stdout).into_owned();
        told += &String::from_utf8_lossy(&done.stderr);
        Ok((done.status.code(), told))
    }

    fn say(&self, words: &[&str]) -> Result<()> {
        let (status, told) = self.verb(words)?;
        ensure!(status == Some(0), "{words:?}: {status:?}, {told}");
        Ok(())
    }

    fn list(&self, words: &[&str]) -> Result<Vec<Value>> {
        let words = [&["approvals", "--json"], words].concat();
        let (status, told) = self.verb(&words)?;
        ensure!(status == Some(0), "{told}");
        Ok(serde_json::from_str(&told)?)
    }

    /// What the server was called with.
    fn calls(&self) -> usize {
        let calls = std::fs::read_to_string(self.stage.capture("calls"));
        calls.unwrap_or_default().lines().count()
    }

    /// Waits until the log says that this became of a request.
    fn became(&self, id: &str, became: &str) -> Result<Value> {
        wait_for(
            &format!("the record that {id} was {became}"),
            PATIENCE,
            || {
                let records = self.stage.audit("approval")?;
                let wanted =
                    |record: &Value| text(record, "id") == id && text(record, "became") == became;
                Ok(records.into_iter().find(wanted))
            },
        )
    }
}

/// The id that a call is told it is pending under.
fn pending(answer: &Message) -> Result<String> {
    let told = answer.value.pointer("/result/structuredContent/capwarden");
    let told = told.with_context(|| answer.line.clone())?;
    ensure!(
        text(told, "verdict") == "pending" && answer.failed(),
        "{told}"
    );
    let id = text(told, "id");
    ensure!(!text(told, "expires").is_empty(), "{told}");
    let verb = format!("capwarden approve {id}");
    ensure!(answer.own_text().contains(&verb), "{}", answer.own_text());
    Ok(id.to_owned())
}

fn restart(client: &mut Client) -> Result<Message> {
    client.call("restart", &json!({ "probe": "eth0", "after": 5 }))
}

#[test]
fn approved_call_goes_once() -> Result<()> {
    let desk = Desk::new()?;
    let mut client = desk.agent("10 min")?;
    let id = pending(&restart(&mut client)?)?;
    ensure!(pending(&restart(&mut client)?)? == id);
    ensure!(desk.calls() == 0, "it was held back");
    // Others are not held up.
    let other = client.call("echo", &json!({}))?;
    ensure!(!other.failed(), "{}", other.line);

    let list = desk.list(&[])?;
    ensure!(list.len() == 1, "{list:?}");
    ensure!(text(&list[0], "id") == id && text(&list[0], "tool") == "restart");
    ensure!(text(&list[0], "arguments") == r#"{"after":5,"probe":"eth0"}"#);
    ensure!(text(&list[0], "why") == "it restarts the probe", "{list:?}");
    let (_, told) = desk.verb(&["approvals"])?;
    ensure!(
        told.contains(&id) && told.contains("restarts the probe"),
        "{told}"
    );

    desk.say(&["approve", &id.to_lowercase()])?;
    desk.became(&id, "approved")?;
    // A second time is no second approval.
    let (status, told) = desk.verb(&["approve", &id])?;
    ensure!(
        status == Some(0) && told.contains("was approved already"),
        "{told}"
    );
    let records = desk.stage.audit("approval")?;
    let by_verbs = records
        .iter()
        .filter(|record| text(record, "became") == "approved" && record.get("seen").is_none());
    ensure!(by_verbs.count() == 1, "{records:?}");
    // Another call is another call.
    let other = client.call("restart", &json!({ "probe": "eth1", "after": 5 }))?;
    ensure!(pending(&other)? != id);
    // The order of arguments is none.
    let answer = client.call("restart", &json!({ "after": 5, "probe": "eth0" }))?;
    ensure!(answer.own_text().starts_with("done"), "{}", answer.line);
    ensure!(pending(&restart(&mut client)?)? != id);
    ensure!(desk.calls() == 2, "one echo, one restart");
    let (status, told) = desk.verb(&["approve", &id])?;
    ensure!(
        status == Some(1) && told.contains("has been used"),
        "{told}"
    );

    let used = desk.became(&id, "used")?;
    ensure!(
        text(&used, "by") == "uid:0" && !text(&used, "at").is_empty(),
        "{used}"
    );
    client.close_input();
    client.exit()?;
    let became: Vec<String> = desk
        .stage
        .audit("approval")?
        .iter()
        .filter(|record| text(record, "id") == id)
        .map(|record| {
            let seen = record.get("seen").is_some();
            text(record, "became").to_owned() + if seen { ", seen" } else { "" }
        })
        .collect();
    ensure!(
        became == ["requested", "approved", "approved, seen", "used"],
        "{became:?}"
    );
    let verdicts: BTreeSet<String> = desk
        .stage
        .audit("call")?
        .iter()
        .map(|record| text(record, "verdict").to_owned())
        .collect();
    ensure!(verdicts.contains("pending"), "{verdicts:?}");
    desk.stage
        .audit_is_closed("the client closed the connection", Some(0))
}

#[test]
fn denied_call_is_told_why() -> Result<()> {
    let desk = Desk::new()?;
    let mut client = desk.agent("10 min")?;
    let id = pending(&restart(&mut client)?)?;
    desk.say(&["deny", &id, "--why", "not during the fair"])?;
    for _ in 0..2 {
        let answer = restart(&mut client)?;
        ensure!(
            answer.failed() && answer.own_text().contains("because: not during the fair"),
            "{}",
            answer.line
        );
    }
    let denied = desk.became(&id, "denied")?;
    ensure!(text(&denied, "why") == "not during the fair", "{denied}");
    let (status, _) = desk.verb(&["deny", "0000-0000"])?;
    ensure!(status == Some(1));
    ensure!(desk.calls() == 0);
    client.close_input();
    client.exit()?;
    desk.stage
        .audit_is_closed("the client closed the connection", Some(0))
}

#[test]
fn what_an_operator_says_is_recorded_at_once_or_is_not() -> Result<()> {
    let desk = Desk::new()?;
    let mut client = desk.agent("10 min")?;
    let id = pending(&restart(&mut client)?)?;
    client.signal(Signal::KILL)?;
    client.exit()?;
    // There is no agent that could see it.
    desk.say(&["approve", &id])?;
    desk.say(&["deny", &id, "--why", "not now"])?;
    let said: Vec<Value> = desk.stage.audit("approval")?;
    let said: Vec<&Value> = said
        .iter()
        .filter(|one| !text(one, "by").is_empty())
        .collect();
    ensure!(said.len() == 2, "{said:?}");
    for (record, became) in said.iter().zip(["approved", "denied"]) {
        ensure!(
            text(record, "became") == became
                && text(record, "id") == id
                && text(record, "by") == "uid:0"
                && text(record, "tool") == "restart"
                && text(record, "at").ends_with('Z'),
            "{record}"
        );
    }
    ensure!(text(said[1], "why") == "not now", "{said:?}");
    // Several have written, and the chain holds.
    let mut verify = Command::new(capwarden()?);
    let done = verify
        .args(["audit", "verify"])
        .arg(desk.stage.path("audit.jsonl"));
    ensure!(done.status()?.success());

    // Where it cannot be recorded, nothing is approved.
    std::fs::remove_file(desk.stage.path("audit.jsonl"))?;
    std::fs::create_dir(desk.stage.path("audit.jsonl"))?;
    let (status, told) = desk.verb(&["approve", &id])?;
    ensure!(status != Some(0), "{told}");
    let all = desk.list(&["--all"])?;
    let state = all[0].pointer("/standing/state").and_then(Value::as_str);
    ensure!(state == Some("denied"), "{all:?}");
    Ok(())
}

#[test]
fn approval_expires_unused() -> Result<()> {
    let desk = Desk::new()?;
    let mut client = desk.agent("2 s")?;
    let first = pending(&restart(&mut client)?)?;
    desk.became(&first, "expired")?;
    let (status, told) = desk.verb(&["approve", &first])?;
    ensure!(status == Some(1) && told.contains("has expired"), "{told}");
    let second = pending(&restart(&mut client)?)?;
    ensure!(second != first);
    desk.say(&["approve", &second])?;
    desk.became(&second, "expired")?;
    ensure!(pending(&restart(&mut client)?)? != second);
    ensure!(desk.calls() == 0);
    let over = desk.list(&["--all"])?;
    ensure!(
        over.iter()
            .any(|one| text(one, "id") == first && one.get("arguments") == Some(&Value::Null)),
        "{over:?}"
    );
    Ok(())
}

#[test]
fn approval_outlives_an_agent_that_is_killed() -> Result<()> {
    let desk = Desk::new()?;
    let mut client = desk.agent("10 min")?;
    let id = pending(&restart(&mut client)?)?;
    desk.say(&["approve", &id])?;
    client.signal(Signal::KILL)?;
    client.exit()?;
    let mut client = desk.agent("10 min")?;
    let answer = restart(&mut client)?;
    ensure!(answer.own_text().starts_with("done"), "{}", answer.line);
    ensure!(pending(&restart(&mut client)?)? != id, "it was used");
    // Killed once more, after it was used.
    client.signal(Signal::KILL)?;
    client.exit()?;
    let mut client = desk.agent("10 min")?;
    pending(&restart(&mut client)?)?;
    ensure!(desk.calls() == 1);
    client.close_input();
    client.exit()?;
    let used = desk.became(&id, "used")?;
    ensure!(text(&used, "by") == "uid:0", "{used}");
    desk.stage
        .audit_is_closed("the client closed the connection", Some(0))
}

#[test]
fn grant_is_shown_once_and_revoked() -> Result<()> {
    let desk = Desk::new()?;
    let log = desk.stage.path("audit.jsonl");
    let log = log.to_str().context("no UTF-8")?;
    let create = [
        "grant",
        "create",
        "laptop",
        "--server",
        "pcap",
        "--expires",
        "1h",
        "--packets",
        "10",
        "--audit",
        log,
    ];
    let (status, told) = desk.verb(&create)?;
    ensure!(status == Some(0), "{told}");
    let token = told
        .lines()
        .find(|line| line.starts_with("cwg_"))
        .context("no token")?;
    ensure!(token.len() == 62, "{token}");
    let (_, list) = desk.verb(&["grant", "list"])?;
    ensure!(
        list.contains("laptop") && list.contains("at most 10 packets"),
        "{list}"
    );
    ensure!(!list.contains(token));
    ensure!(desk.verb(&create)?.0 == Some(2), "the name is taken");
    let revoke = ["grant", "revoke", "laptop", "--audit", log];
    desk.say(&revoke)?;
    ensure!(desk.verb(&revoke)?.0 == Some(1));
    let records = desk.stage.audit("grant")?;
    let became: Vec<&str> = records.iter().map(|one| text(one, "became")).collect();
    ensure!(became == ["made", "revoked"], "{records:?}");
    ensure!(text(&records[0], "name") == "laptop" && text(&records[1], "by") == "uid:0");
    ensure!(!format!("{records:?}").contains(token));
    let (_, list) = desk.verb(&["grant", "list", "--json"])?;
    let list: Vec<Value> = serde_json::from_str(&list)?;
    ensure!(text(&list[0], "standing") == "revoked", "{list:?}");
    Ok(())
}
