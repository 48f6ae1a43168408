//! Programs that a tool starts and that do not want to be bounded: detached, too many, too large, too
//! late. None of them outlives its session, and the server that started them outlives all.

use std::{net::TcpListener, thread};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{venv_python, wait_for},
    mcp::{Client, PATIENCE},
    stage::{Stage, granted, number, text},
};
use serde_json::{Value, json};

const SERVER: &str = include_str!("../scripts/programs.py");

/// Where programs may connect, and where not.
const GRANTED: u16 = 9_080;
const OTHER: u16 = 9_081;

fn policy(caps: &str) -> String {
    format!(
        r#"version: 1
tools:
  ping: allow
  reach_itself: allow
  start: {{ program: &terms {{ connect: [ "127.0.0.1:{GRANTED}" ], {caps} }} }}
  reach: {{ program: *terms }}
  fail: {{ program: *terms }}
  other: {{ program: {{ seconds: 5 }} }}
  stop: {{ ends: program }}
"#
    )
}

struct Rig {
    stage: Stage,
    client: Client,
    /// The server, and the agent.
    own: Vec<u32>,
}

impl Rig {
    fn new(caps: &str) -> Result<Self> {
        let stage = Stage::new()?;
        for port in [GRANTED, OTHER] {
            let listener = stage
                .space
                .enter(|| Ok(TcpListener::bind(("127.0.0.1", port))?))?;
            thread::spawn(move || listener.incoming().for_each(drop));
        }
        let server = stage.write("programs.py", SERVER)?;
        let mut client = stage.run(&policy(caps), &[&venv_python()?, &server])?;
        let shaken = client.shake_hands();
        shaken.with_context(|| stage.stderr().unwrap_or_default())?;
        let own = stage.space.processes()?;
        Ok(Self { stage, client, own })
    }

    fn start(&mut self, what: &str) -> Result<String> {
        let answer = self.client.call("start", &json!({ "what": what }))?;
        ensure!(answer.own_text() == "started", "{}", answer.line);
        granted(&answer)
    }

    /// Processes that were started since.
    fn programs(&self) -> Result<usize> {
        let mut processes = self.stage.space.processes()?;
        processes.retain(|process| !self.own.contains(process));
        Ok(processes.len())
    }

    fn run(&self, count: usize) -> Result<()> {
        wait_for("the programs", PATIENCE, || {
            Ok((self.programs()? == count).then_some(()))
        })
    }

    /// The session's record once it has ended, with nothing left but the server, which is alive.
    fn is_over(&mut self, session: &str, reason: &str) -> Result<Value> {
        let end = self.stage.end_record(session)?;
        ensure!(text(&end, "reason") == reason, "{end}");
        ensure!(self.programs()? == 0, "{} are left", self.programs()?);
        let alive = self.client.call("ping", &json!({}))?;
        ensure!(alive.own_text().starts_with("alive"), "{}", alive.line);
        Ok(end)
    }

    fn close(self) -> Result<()> {
        let why = "the client closed the connection";
        self.stage.ends_with(self.client, why)
    }
}

#[test]
fn detached_programs_are_gone_when_they_are_stopped() -> Result<()> {
    let mut rig = Rig::new("seconds: 60")?;
    let session = rig.start("sleep")?;
    let again = rig.client.call("start", &json!({ "what": "sleep" }))?;
    ensure!(
        !again.text().contains("granted"),
        "it joined: {}",
        again.line
    );
    rig.run(2)?;
    // One session has one set of terms.
    let other = rig.client.call("other", &json!({}))?;
    ensure!(
        other.failed() && other.text().contains("is open with other terms"),
        "{}",
        other.line
    );
    let failed = rig.client.call("fail", &json!({}))?;
    ensure!(failed.failed(), "{}", failed.line);
    let left = rig.programs()?;
    ensure!(left == 2, "another's failure left {left}");
    rig.client.call("stop", &json!({}))?;
    let end = rig.is_over(&session, "stop-call")?;
    ensure!(number(&end, "peak_processes") >= Some(2), "{end}");
    ensure!(end.get("peak_memory").is_none(), "not counted: {end}");
    rig.close()
}

#[test]
fn fork_bomb_is_held_to_its_cap_and_ended() -> Result<()> {
    const CAP: u64 = 30;
    let mut rig = Rig::new(&format!("processes: {CAP}, seconds: 60"))?;
    rig.client.call("start", &json!({ "what": "bomb" }))?;
    let told = rig.client.session_end("s1")?;
    ensure!(text(&told, "reason") == "process-cap", "{told}");
    let end = rig.is_over("s1", "process-cap")?;
    // Whoever forks beyond it is killed, and counts until it is dead; a bomb that nobody holds has
    // thousands by then.
    let peak = number(&end, "peak_processes").unwrap_or_default();
    ensure!((CAP + 1..CAP * 4).contains(&peak), "{end}");
    rig.close()
}

#[test]
fn memory_cap_ends_the_programs_and_not_the_server() -> Result<()> {
    const CAP: u64 = 64 << 20;
    let mut rig = Rig::new("memory: 64MiB, seconds: 60")?;
    rig.start("sleep")?;
    rig.client.call("start", &json!({ "what": "hoard" }))?;
    let end = rig.is_over("s1", "memory-cap")?;
    let peak = number(&end, "peak_memory").unwrap_or_default();
    ensure!((CAP / 2..=CAP).contains(&peak), "{end}");
    rig.close()
}

#[test]
fn programs_connect_where_they_may_while_they_may() -> Result<()> {
    let mut rig = Rig::new("connections: 2, seconds: 60")?;
    let reach = |rig: &mut Rig, tool: &str, port: u16| -> Result<String> {
        let answer = rig.client.call(tool, &json!({ "port": port }))?;
        Ok(answer.own_text().to_owned())
    };
    const REFUSED: &str = "error 1";
    ensure!(
        reach(&mut rig, "reach_itself", GRANTED)? == REFUSED,
        "no session"
    );
    rig.start("sleep")?; // it keeps the session open between the calls
    ensure!(reach(&mut rig, "reach", GRANTED)? == "reached");
    ensure!(reach(&mut rig, "reach", OTHER)? == REFUSED);
    ensure!(reach(&mut rig, "reach", GRANTED)? == "reached");
    ensure!(reach(&mut rig, "reach", GRANTED)? == REFUSED, "the third");
    rig.client.call("stop", &json!({}))?;
    let end = rig.is_over("s1", "stop-call")?;
    ensure!(number(&end, "made") == Some(2), "{end}");
    ensure!(
        reach(&mut rig, "reach_itself", GRANTED)? == REFUSED,
        "it is over"
    );
    rig.close()
}

#[test]
fn session_ends_when_its_programs_have() -> Result<()> {
    let mut rig = Rig::new("seconds: 60")?;
    let session = rig.start("brief")?;
    rig.is_over(&session, "closed")?;
    let next = rig.start("sleep")?;
    ensure!(next != session);
    rig.run(1)?;
    rig.close()
}

#[test]
fn program_that_a_call_starts_after_the_end_of_its_session_is_killed() -> Result<()> {
    let mut rig = Rig::new("seconds: 0.5")?;
    let late = json!({ "what": "sleep", "after": 1.5 });
    let id = rig.client.ask_call("start", &late)?;
    rig.stage.end_record("s1")?;
    let answer = rig.client.answer(&id)?;
    ensure!(
        answer.text().contains("the deadline passed"),
        "the model is told: {}",
        answer.line
    );
    rig.run(0)?;
    rig.is_over("s1", "deadline")?;
    rig.close()
}

#[test]
fn nothing_is_left_when_the_client_has_gone() -> Result<()> {
    let mut rig = Rig::new("memory: 256MiB, processes: 9, seconds: 60")?;
    rig.start("sleep")?;
    rig.run(1)?;
    rig.close()
}
