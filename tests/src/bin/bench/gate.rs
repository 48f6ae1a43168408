//! A tool call through the gate, and through other gateways that are installed, against the same
//! server directly, all by turns, on one core and wherever they come to run; and what the agent occupies while nothing happens.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    Bench, Running,
    calm::{Calm, Pair, REST, Turn, counted},
    cores::Cores,
    measure::{Measurement, Target, Unit},
    peers::PEERS,
};

const SERVER: [&str; 3] = ["python3", "-c", include_str!("echo.py")];
const TOOL: &str = "echo";
const POLICY: &str = "version: 1\ndefault: deny\ntools: { echo: allow }\n";
/// The same, and each call is counted in a counter that lasts.
const COUNTED: &str = "version: 1\ndefault: deny\ntools: { echo: { limits: [ { max: 1000000, window: hour, scope: server } ] } }\n";

/// Calls in a row before it is the other's turn.
const CALLS: usize = 100;
const TURNS: usize = 11;
/// How long the agent may settle before its memory is looked at.
const SETTLE: Duration = Duration::from_millis(500);

/// A connection to an MCP server that answers each request before the next is sent.
struct Client {
    /// What the server's tool `echo` is called here.
    tool: &'static str,
    server: Running,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    line: String,
    /// The id of the last call.
    last: usize,
}

impl Client {
    fn start(command: &mut Command, tool: &'static str) -> Result<Self> {
        let mut server = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let input = server.0.stdin.take();
        let output = server.0.stdout.take().context("no stdout")?;
        let mut client = Self {
            tool,
            server,
            input,
            output: BufReader::new(output),
            line: String::new(),
            last: 2,
        };
        client.ask(r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#, "\"serverInfo\"")?;
        client.say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#)?;
        client.ask(
            r#"{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{}}"#,
            "\"tools\"",
        )?;
        client.call()?;
        Ok(client)
    }

    fn say(&mut self, message: &str) -> Result<()> {
        let input = self.input.as_mut().context("closed")?;
        Ok(input.write_all(format!("{message}\n").as_bytes())?)
    }

    /// Sends a request and waits for its answer, in which this stands.
    fn ask(&mut self, message: &str, expected: &str) -> Result<()> {
        self.say(message)?;
        loop {
            self.line.clear();
            self.output.read_line(&mut self.line)?;
            // Some have something to tell in between.
            if !self.line.contains("\"method\"") {
                break;
            }
        }
        ensure!(self.line.contains(expected), "the answer: {}", self.line);
        Ok(())
    }

    /// How long a call takes.
    fn call(&mut self) -> Result<Duration> {
        self.last += 1;
        let id = self.last;
        let (tool, text) = (self.tool, format!("hello, {id}"));
        let call = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{{"text":"{text}"}}}}}}"#
        );
        let start = Instant::now();
        self.ask(&call, &text)?;
        Ok(start.elapsed())
    }

    /// Calls one after the other.
    fn turn(&mut self) -> Result<Turn> {
        std::thread::sleep(REST);
        let mut times = Vec::with_capacity(CALLS);
        for _ in 0..CALLS {
            times.push(self.call()?.as_secs_f64());
        }
        Turn::of(times).context("no calls")
    }

    fn stop(mut self) -> Result<()> {
        drop(self.input.take());
        self.server.wait()
    }
}

/// Someone who stands between the client and the server, and how long calls took through it.
struct Gateway {
    name: &'static str,
    client: Client,
    /// The turns of the server without anybody in between, and its own, of the same moments.
    turns: Vec<Pair>,
}

impl Gateway {
    fn new(name: &'static str, client: Client) -> Self {
        Self {
            name,
            client,
            turns: Vec::new(),
        }
    }
}

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Measurement>> {
    let (policy, counted) = (bench.file("policy.yaml"), bench.file("counted.yaml"));
    fs::write(&policy, POLICY)?;
    fs::write(&counted, COUNTED)?;
    let idle = governed(bench, &policy, &[])?;
    std::thread::sleep(SETTLE);
    let resident = resident(idle.server.0.id())?;
    idle.stop()?;

    let mut rows = Vec::new();
    for cores in Cores::BOTH {
        let measured = cores.run(|| turns(bench, &policy, &counted, cores))?;
        rows.extend(compared(measured, cores)?);
    }
    rows.push(Measurement {
        what: "resident memory of `run`, idle".to_owned(),
        unit: Unit::Bytes,
        plain: Vec::new(),
        guarded: vec![resident],
        target: Target::Most(f64::from(20 << 20)),
    });
    Ok(rows)
}

/// A client of the server behind capwarden.
fn governed(bench: &Bench, policy: &Path, options: &[&str]) -> Result<Client> {
    let mut command = bench.capwarden("run");
    command.arg("--policy").arg(policy).args(options);
    Client::start(command.arg("--").args(SERVER), TOOL)
}

/// All by turns, each beside the server without anybody in between.
fn turns(bench: &Bench, policy: &Path, counted: &Path, cores: Cores) -> Result<Vec<Gateway>> {
    let mut direct = Client::start(Command::new(SERVER[0]).args(&SERVER[1..]), TOOL)?;
    let metrics = ["--metrics", "127.0.0.1:0"];
    let mut all = vec![
        Gateway::new("capwarden", governed(bench, policy, &[])?),
        Gateway::new("capwarden, with a counter", governed(bench, counted, &[])?),
        Gateway::new(
            "capwarden, with metrics",
            governed(bench, policy, &metrics)?,
        ),
    ];
    for peer in &PEERS {
        let Some(mut command) = peer.command(bench, &SERVER)? else {
            continue;
        };
        match Client::start(&mut command, peer.tool) {
            Ok(client) => all.push(Gateway::new(peer.name, client)),
            // The others can be measured without it.
            Err(error) => eprintln!("not measured: {}: {error:#}", peer.name),
        }
    }
    let mut calm = Calm::scout(cores, || direct.turn())?;
    for turn in 0..=TURNS {
        for gateway in &mut all {
            let Gateway {
                name,
                client,
                turns,
            } = gateway;
            let through = || client.turn().with_context(|| format!("through {name}"));
            let measured = calm.turn(|| direct.turn(), through)?;
            // The first warms up.
            if turn > 0 {
                turns.push(measured);
            }
        }
    }
    calm.report(&format!("tools/call on {}", cores.name()));
    direct.stop()?;
    Ok(all)
}

/// What each adds.
fn compared(measured: Vec<Gateway>, cores: Cores) -> Result<Vec<Measurement>> {
    let mut rows = Vec::new();
    for gateway in measured {
        let target = match gateway.name {
            "capwarden" => Target::Extra(10e-6),
            "capwarden, with a counter" => Target::Extra(15e-6),
            _ => Target::None,
        };
        let (cores_name, name) = (cores.name(), gateway.name);
        let turns = counted(gateway.turns);
        let row = |what: &str, of: fn(&Turn) -> f64, target| Measurement {
            what: format!("tools/call on {cores_name}, {what} of {CALLS}: {name}"),
            unit: Unit::Time,
            plain: turns.iter().map(|pair| of(&pair.plain)).collect(),
            guarded: turns.iter().map(|pair| of(&pair.guarded)).collect(),
            target,
        };
        rows.push(row("p50", |turn| turn.typical, cores.target(target)));
        rows.push(row("p99", |turn| turn.slow, Target::None));
        // Others have their own ways to end; they are killed.
        if gateway.name.starts_with("capwarden") {
            gateway.client.stop()?;
        }
    }
    Ok(rows)
}

/// `VmRSS`, in bytes.
fn resident(process: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kibibytes.context("no VmRSS")?.parse::<f64>()? * 1024.0)
}
