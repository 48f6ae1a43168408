//! Agents that share their counters in Redis, which is stopped, killed and started again.

use std::path::Path;

use anyhow::{Result, ensure};
use capwarden_tests::{
    agent::{signal, wait_for},
    mcp::{Client, PATIENCE},
    redis::Redis,
    stage::{Stage, directory, python},
};
use rustix::process::Signal;
use serde_json::json;

/// A server that answers whatever it is asked.
const ECHO: &str = r#"
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if "id" in message:
        result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                  "serverInfo": {"name": "echo", "version": "1"},
                  "content": [{"type": "text", "text": "done"}]}
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"#;

const POLICY: &str = "version: 1
tools:
  free: allow
  echo: { limits: [ { max: 12, window: \"60 min\" } ] }
";

const MOST: usize = 12;
const LOST: &str = "the counters cannot be reached";

fn agent(stage: &Stage, redis: &Redis) -> Result<Client> {
    let server = stage.write("server.py", ECHO)?;
    let python = python("python")?;
    let command: [&Path; 2] = [&python, &server];
    let mut client = stage.run_with(POLICY, &["--counters", &redis.address()], &command)?;
    client.shake_hands()?;
    Ok(client)
}

/// Whether a call was let through; if not, what was said.
fn call(client: &mut Client) -> Result<Result<(), String>> {
    let answer = client.call("echo", &json!({}))?;
    Ok(if answer.failed() {
        Err(answer.text())
    } else {
        Ok(())
    })
}

/// Calls until the counters are there again, and one call was let through.
fn recovered(client: &mut Client) -> Result<()> {
    wait_for("the counters", PATIENCE, || match call(client)? {
        Ok(()) => Ok(Some(())),
        Err(why) => {
            ensure!(why.contains(LOST), "{why}");
            Ok(None)
        }
    })
}

#[test]
fn two_agents_share_one_limit_whatever_happens_to_redis() -> Result<()> {
    let place = directory()?;
    let durable = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut redis = Redis::start(place.path(), &durable)?;
    let stages = [Stage::new()?, Stage::new()?];
    let [first, second] = &stages;
    let mut agents = [agent(first, &redis)?, agent(second, &redis)?];
    let mut admitted = 0;
    for agent in &mut agents {
        ensure!(call(agent)? == Ok(()));
        admitted += 1;
    }

    // It does not answer: what needs no counter goes on.
    signal(redis.pid(), Signal::STOP)?;
    for agent in &mut agents {
        let refused = call(agent)?;
        ensure!(
            refused.as_ref().is_err_and(|why| why.contains(LOST)),
            "{refused:?}"
        );
        ensure!(!agent.call("free", &json!({}))?.failed());
    }
    signal(redis.pid(), Signal::CONT)?;
    for agent in &mut agents {
        recovered(agent)?;
        admitted += 1;
    }

    // It is gone, and comes back with what it had counted.
    redis.kill()?;
    for agent in &mut agents {
        let refused = call(agent)?;
        ensure!(
            refused.as_ref().is_err_and(|why| why.contains(LOST)),
            "{refused:?}"
        );
    }
    redis.restart()?;
    for agent in &mut agents {
        recovered(agent)?;
        admitted += 1;
    }

    // Together they get what is left, by turns. What was asked while it was stopped may count.
    let mut full = 0;
    for turn in 0..2 * MOST {
        let [one, other] = &mut agents;
        match call(if turn % 2 == 0 { one } else { other })? {
            Ok(()) => {
                ensure!(full == 0, "admitted after the limit was reached");
                admitted += 1;
            }
            Err(why) => {
                ensure!(why.contains("The limit of 12 in any 1 h"), "{why}");
                full += 1;
            }
        }
    }
    ensure!(
        full > 0 && (MOST - 2..=MOST).contains(&admitted),
        "{admitted}"
    );
    for (agent, stage) in agents.iter_mut().zip(&stages) {
        agent.close_input();
        agent.exit()?;
        let said = stage.stderr()?;
        ensure!(said.contains("counters are shared there"), "{said}");
        ensure!(
            said.contains("cannot be reached; calls with limits"),
            "{said}"
        );
    }
    Ok(())
}
