//! A tool call through the gate against the same server directly, and what the agent occupies
//! while nothing happens.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    Bench, Running,
    measure::{Measurement, Target, Unit},
};

const SERVER: [&str; 3] = ["python3", "-c", include_str!("echo.py")];
const POLICY: &str = "version: 1\ndefault: deny\ntools: { echo: allow }\n";

/// Calls in a row before it is the other's turn.
const CALLS: usize = 100;
const TURNS: usize = 11;
/// How long the agent may settle before its memory is looked at.
const SETTLE: Duration = Duration::from_millis(500);

/// A connection to an MCP server that answers each request before the next is sent.
struct Client {
    server: Running,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    line: String,
}

impl Client {
    fn start(command: &mut Command) -> Result<Self> {
        let mut server = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let input = server.0.stdin.take();
        let output = server.0.stdout.take().context("no stdout")?;
        let mut client = Self {
            server,
            input,
            output: BufReader::new(output),
            line: String::new(),
        };
        client.ask(r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#)?;
        client.say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#)?;
        client.ask(r#"{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{}}"#)?;
        Ok(client)
    }

    fn say(&mut self, message: &str) -> Result<()> {
        let input = self.input.as_mut().context("closed")?;
        Ok(input.write_all(format!("{message}\n").as_bytes())?)
    }

    fn ask(&mut self, message: &str) -> Result<()> {
        self.say(message)?;
        self.line.clear();
        self.output.read_line(&mut self.line)?;
        ensure!(
            self.line.contains("\"result\""),
            "the answer: {}",
            self.line
        );
        Ok(())
    }

    /// The times of a number of calls, in order of length.
    fn calls(&mut self, first_id: usize) -> Result<Vec<f64>> {
        let mut times = Vec::with_capacity(CALLS);
        for id in first_id..first_id + CALLS {
            let call = format!(
                r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"echo","arguments":{{"text":"hello, {id}"}}}}}}"#
            );
            let start = Instant::now();
            self.ask(&call)?;
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        Ok(times)
    }

    fn stop(mut self) -> Result<()> {
        drop(self.input.take());
        self.server.wait()
    }
}

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Measurement>> {
    let policy = bench.file("policy.yaml");
    fs::write(&policy, POLICY)?;
    let governed = |options: &[&str]| {
        let mut command = bench.capwarden("run");
        command.arg("--policy").arg(&policy).args(options);
        Client::start(command.arg("--").args(SERVER))
    };

    let idle = governed(&[])?;
    std::thread::sleep(SETTLE);
    let resident = resident(idle.server.0.id())?;
    idle.stop()?;

    let mut direct = Client::start(Command::new(SERVER[0]).args(&SERVER[1..]))?;
    let mut gated = governed(&[])?;
    let mut counted = governed(&["--metrics", "127.0.0.1:0"])?;
    let mut typical = (Vec::new(), Vec::new());
    let mut slow = (Vec::new(), Vec::new());
    let mut with_metrics = Vec::new();
    let at = |times: &[f64], percent: usize| times.get(times.len() * percent / 100).copied();
    for turn in 0..=TURNS {
        let id = 10 + turn * CALLS;
        let times = (direct.calls(id)?, gated.calls(id)?);
        let of_counted = counted.calls(id)?;
        if turn > 0 {
            typical.0.extend(at(&times.0, 50));
            typical.1.extend(at(&times.1, 50));
            slow.0.extend(at(&times.0, 99));
            slow.1.extend(at(&times.1, 99));
            with_metrics.extend(at(&of_counted, 50));
        }
    }
    direct.stop()?;
    gated.stop()?;
    counted.stop()?;
    let without_metrics = typical.1.clone();
    let row = |what: &str, (plain, guarded), target| Measurement {
        what: what.to_owned(),
        unit: Unit::Time,
        plain,
        guarded,
        target,
    };
    Ok(vec![
        row("tools/call, p50 of 100", typical, Target::Extra(200e-6)),
        row("tools/call, p99 of 100", slow, Target::None),
        row(
            "the same behind the gate, p50, without and with metrics",
            (without_metrics, with_metrics),
            Target::None,
        ),
        Measurement {
            what: "resident memory of `run`, idle".to_owned(),
            unit: Unit::Bytes,
            plain: Vec::new(),
            guarded: vec![resident],
            target: Target::Most(f64::from(20 << 20)),
        },
    ])
}

/// `VmRSS`, in bytes.
fn resident(process: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kibibytes.context("no VmRSS")?.parse::<f64>()? * 1024.0)
}
