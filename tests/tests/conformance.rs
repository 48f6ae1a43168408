//! The conformance suite of the protocol against a server alone and against the same server behind
//! capwarden's HTTP front, a policy active: what the server does right alone it does right there.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{capwarden, exited, signal, skip, wait_for},
    stage::{Stage, node, suite, text, user},
};
use rustix::process::Signal;
use serde_json::{Value, json};

const SERVER: &str = include_str!("../scripts/conformance.py");
const RUNNER: &str = "node_modules/@modelcontextprotocol/conformance/dist/index.js";

/// Revisions, and how many checks the server alone passes at least.
const REVISIONS: [(&str, usize); 2] = [("2025-11-25", 80), ("2026-07-28", 160)];

/// An extension that the server does not have. What it is refused with is compared all the same.
const EXTENSION: &str = "tasks-";

/// Every tool but `hidden`, some with demands that the suite's calls meet.
const POLICY: &str = "version: 1
default: deny
tools:
  test_simple_text: allow
  test_image_content: allow
  test_audio_content: allow
  test_embedded_resource: allow
  test_multiple_content_types: allow
  test_tool_with_logging: allow
  test_tool_with_progress: allow
  test_error_handling: allow
  test_sampling: { args: { prompt: { absent: false, pattern: '.{1,1000}' } } }
  test_elicitation: { args: { message: { absent: false } } }
  test_elicitation_sep1034_defaults: allow
  test_elicitation_sep1330_enums: allow
  test_reconnection: allow
  test_input_required_result_elicitation: { args: { n: { absent: true } } }
  test_input_required_result_sampling: allow
  test_input_required_result_list_roots: allow
  test_input_required_result_request_state: allow
  test_input_required_result_tampered_state: allow
  test_input_required_result_multiple_inputs: allow
  test_input_required_result_multi_round: allow
  test_input_required_result_capabilities: allow
  test_missing_capability: allow
  test_streaming_elicitation: allow
  test_logging_tool: allow
  test_trigger_tool_change: allow
  test_trigger_prompt_change: allow
  test_header: allow
  json_schema_2020_12_tool: allow
";

/// The ports in a network namespace that nobody else is in.
const SERVER_PORT: u16 = 8000;
const FRONT_PORT: u16 = 8808;

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn conformance_is_that_of_the_server_alone() -> Result<()> {
    let front = has_front()?;
    let alone = Subject::alone()?;
    let behind = front.then(Subject::behind).transpose()?;
    let runs = |subject: &Subject| {
        let runs = REVISIONS.map(|(revision, _)| subject.suite(revision));
        runs.into_iter().collect::<Result<Vec<_>>>()
    };
    let alone_runs = runs(&alone)?;
    let behind_runs = behind.as_ref().map(runs).transpose()?;

    let mut plain = Vec::new();
    for (run, (revision, least)) in alone_runs.into_iter().zip(REVISIONS) {
        let report = run.finish()?;
        eprintln!("{revision}, alone: {report}");
        let failed = report.worse_than(&Report::default());
        let failed: Vec<_> = failed
            .iter()
            .filter(|line| !line.starts_with(EXTENSION))
            .collect();
        ensure!(failed.is_empty(), "the server alone fails: {failed:#?}");
        ensure!(report.passed() >= least, "{revision}: {report}");
        plain.push(report);
    }
    let (Some(behind), Some(behind_runs)) = (behind, behind_runs) else {
        return skip(
            "conformance_is_that_of_the_server_alone",
            "only the server alone was tested: this capwarden has no HTTP front",
        );
    };
    let mut worse = Vec::new();
    for ((run, (revision, _)), plain) in behind_runs.into_iter().zip(REVISIONS).zip(&plain) {
        let report = run.finish()?;
        eprintln!("{revision}, behind capwarden: {report}");
        worse.extend(
            report
                .worse_than(plain)
                .into_iter()
                .map(|line| format!("{revision}: {line}")),
        );
    }
    ensure!(worse.is_empty(), "worse behind capwarden: {worse:#?}");
    behind.hides()?;
    behind.stop()
}

/// Whether this capwarden serves HTTP. One that does not refuses the option.
fn has_front() -> Result<bool> {
    let done = Command::new(capwarden()?)
        .args(["run", "--listen", "127.0.0.1:0", "--help"])
        .output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(
        done.status.success() || said.contains("unexpected argument '--listen'"),
        "{said}"
    );
    Ok(done.status.success())
}

/// What the suite is run against.
struct Subject {
    stage: Stage,
    process: Process,
    url: String,
}

impl Subject {
    fn alone() -> Result<Self> {
        let stage = Stage::new()?;
        let script = stage.write("conformance.py", SERVER)?;
        let mut command = stage.space.command(suite("bin/python3")?);
        command.arg(script).arg(SERVER_PORT.to_string());
        Self::start(stage, &mut command, SERVER_PORT)
    }

    fn behind() -> Result<Self> {
        let stage = Stage::new()?;
        let script = stage.write("conformance.py", SERVER)?;
        let policy = stage.write("policy.yaml", POLICY)?;
        let mut command = stage.space.command(capwarden()?);
        command.arg("run").arg("-p").arg(policy);
        command.arg("--audit").arg(stage.path("audit.jsonl"));
        command.arg("--state").arg(stage.path("state"));
        command.arg("--user").arg(user().to_string());
        command.args(["--listen", &format!("127.0.0.1:{FRONT_PORT}")]);
        command.args(["--upstream", &url(SERVER_PORT), "--anonymous"]);
        command.arg("--").arg(suite("bin/python3")?);
        command.arg(script).arg(SERVER_PORT.to_string());
        Self::start(stage, &mut command, FRONT_PORT)
    }

    /// Starts it, and waits until it and the server take connections.
    fn start(stage: Stage, command: &mut Command, port: u16) -> Result<Self> {
        let directory = stage.path("captures");
        command
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("HOME", &directory)
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(File::create(stage.path("stdout"))?)
            .stderr(File::create(stage.path("stderr"))?);
        let process = Process::start(command)?;
        for port in [SERVER_PORT, port] {
            wait_for(&format!("a listener on port {port}"), PATIENCE, || {
                let connected = || Ok(TcpStream::connect(("127.0.0.1", port)).is_ok());
                Ok(stage.space.enter(connected)?.then_some(()))
            })
            .with_context(|| stage.stderr().unwrap_or_default())?;
        }
        let url = url(port);
        Ok(Self {
            stage,
            process,
            url,
        })
    }

    /// Starts the suite, with all that a revision requires.
    fn suite(&self, revision: &str) -> Result<Run> {
        let results = self.stage.path(revision);
        let said = self.stage.path(&format!("{revision}.txt"));
        let mut command = self.stage.space.command(node()?);
        command
            .arg(suite(RUNNER)?)
            .args(["server", "--url", &self.url]);
        command.args(["--requirements", revision, "--output-dir"]);
        command.arg(&results).stdin(Stdio::null());
        command.stdout(File::create(&said)?).stderr(Stdio::null());
        Ok(Run {
            process: Process::start(&mut command)?,
            results,
            said,
        })
    }

    /// A tool that the policy does not name is in no list, and what else is in the list stays.
    fn hides(&self) -> Result<()> {
        let asked =
            json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": { "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        } } })
            .to_string();
        let request = format!(
            "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{FRONT_PORT}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n\
             MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/list\r\n\
             Content-Length: {}\r\n\r\n{asked}",
            asked.len()
        );
        let answer = self.stage.space.enter(|| {
            let mut stream = TcpStream::connect(("127.0.0.1", FRONT_PORT))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        for kept in [
            "\"test_header\"",
            "\"ttlMs\"",
            "\"cacheScope\"",
            "\"x-mcp-header\"",
        ] {
            ensure!(answer.contains(kept), "{kept} is lost: {answer}");
        }
        ensure!(!answer.contains("\"hidden\""), "{answer}");
        Ok(())
    }

    /// Ends capwarden, which ends the server.
    fn stop(mut self) -> Result<()> {
        signal(self.process.0.id(), Signal::TERM)?;
        exited(&mut self.process.0, PATIENCE)?;
        self.stage.stderr()?;
        self.stage.is_empty()
    }
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}/mcp")
}

/// A process that is killed, by its id, if it is still there when it is dropped.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Result<Self> {
        let child = command.spawn();
        Ok(Self(
            child.with_context(|| format!("cannot run {command:?}"))?,
        ))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The suite, at work.
struct Run {
    process: Process,
    results: std::path::PathBuf,
    said: std::path::PathBuf,
}

impl Run {
    /// Waits for its end, and reads what it found. It fails where a check does, which says nothing.
    fn finish(mut self) -> Result<Report> {
        exited(&mut self.process.0, PATIENCE)?;
        let report = Report::read(&self.results);
        report.with_context(|| fs::read_to_string(&self.said).unwrap_or_default())
    }
}

/// How often a check came out how. Some are made several times in a scenario.
#[derive(Clone, Debug, Default)]
struct Outcomes {
    passed: usize,
    failed: usize,
    warned: usize,
    /// What was said of one that did not pass.
    why: String,
}

/// What the suite found: scenario and check, and how it came out.
#[derive(Debug, Default)]
struct Report(BTreeMap<(String, String), Outcomes>);

impl Report {
    /// The suite writes one directory for each scenario: `server-SCENARIO-TIME/checks.json`.
    fn read(results: &Path) -> Result<Self> {
        let mut report = Self::default();
        for entry in fs::read_dir(results).context("the suite wrote nothing")? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let time = name.len().saturating_sub("-2026-11-21T14-18-17-292Z".len());
            let scenario = name.get(..time).unwrap_or(&name);
            let scenario = scenario.strip_prefix("server-").unwrap_or(scenario);
            let checks = fs::read(entry.path().join("checks.json"))?;
            let checks: Vec<Value> = serde_json::from_slice(&checks)?;
            for check in checks {
                let key = (scenario.to_owned(), text(&check, "id").to_owned());
                let outcomes = report.0.entry(key).or_default();
                match text(&check, "status") {
                    "SUCCESS" => outcomes.passed += 1,
                    "FAILURE" => outcomes.failed += 1,
                    "WARNING" => outcomes.warned += 1,
                    _ => continue,
                }
                let why = text(&check, "errorMessage");
                if !why.is_empty() {
                    why.clone_into(&mut outcomes.why);
                }
            }
        }
        Ok(report)
    }

    fn passed(&self) -> usize {
        self.0.values().map(|outcomes| outcomes.passed).sum()
    }

    /// The checks that came out worse here than there.
    fn worse_than(&self, other: &Self) -> Vec<String> {
        let mut worse = Vec::new();
        let none = Outcomes::default();
        for (key, theirs) in &other.0 {
            let ours = self.0.get(key).unwrap_or(&none);
            let told = ours.failed > theirs.failed || ours.warned > theirs.warned;
            if ours.passed < theirs.passed && !told {
                let (scenario, check) = key;
                worse.push(format!(
                    "{scenario}: {check}: passed {} times, not {}",
                    ours.passed, theirs.passed
                ));
            }
        }
        for (key, ours) in &self.0 {
            let theirs = other.0.get(key).unwrap_or(&none);
            if ours.failed > theirs.failed || ours.warned > theirs.warned {
                let (scenario, check) = key;
                worse.push(format!("{scenario}: {check}: {}", ours.why));
            }
        }
        worse
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let failed: usize = self.0.values().map(|outcomes| outcomes.failed).sum();
        let warned: usize = self.0.values().map(|outcomes| outcomes.warned).sum();
        let passed = self.passed();
        write!(
            f,
            "{passed} checks passed, {failed} failed, {warned} warned"
        )
    }
}
