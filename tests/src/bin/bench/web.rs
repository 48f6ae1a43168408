//! A tool call over HTTP: to the server directly, through capwarden, and through other gateways that
//! are installed, by turns, on one core and wherever they come to run.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    Bench, Running,
    calm::{Calm, REST, Turn, counted},
    cores::Cores,
    fixture,
    measure::{Measurement, Target, Unit},
};

/// Where the server is, and capwarden in front of it.
pub(crate) const SERVER: u16 = 18_000;
pub(crate) const GATE: u16 = 18_001;
/// The same, for clients that bear a grant.
const GRANTS: u16 = 18_002;

const POLICY: &str = "version: 1\ndefault: deny\ntools: { echo: allow }\n";
const CALLS: usize = 100;
const TURNS: usize = 11;

/// A call of the tool `echo`, as it is sent.
pub(crate) fn call(id: usize, text: &str, token: Option<&str>) -> String {
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"echo","arguments":{{"text":"{text}"}}}}}}"#
    );
    let grant = token.map_or(String::new(), |token| {
        format!("authorization: Bearer {token}\r\n")
    });
    let length = body.len();
    format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost:{GATE}\r\n{grant}content-type: application/json\r\naccept: application/json, text/event-stream\r\nmcp-protocol-version: 2025-06-18\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

/// capwarden in front of the server, at [`GATE`].
pub(crate) fn capwarden(bench: &Bench, options: &[&str], policy: &str) -> Result<Running> {
    gate_at(bench, GATE, options, policy)
}

fn gate_at(bench: &Bench, port: u16, options: &[&str], policy: &str) -> Result<Running> {
    let file = bench.file("web.yaml");
    fs::write(&file, policy)?;
    let mut command = bench.capwarden("run");
    command.arg("--policy").arg(&file).args([
        "--listen",
        &format!("127.0.0.1:{port}"),
        "--upstream",
        &format!("http://127.0.0.1:{SERVER}/mcp"),
    ]);
    let gate = Running::start(command.args(options))?;
    fixture::listening(port)?;
    Ok(gate)
}

/// A client with one connection, which waits for each answer.
struct Client {
    name: &'static str,
    stream: TcpStream,
    host: u16,
    token: Option<String>,
    /// The number of the last call.
    last: usize,
}

impl Client {
    fn new(name: &'static str, port: u16, token: Option<String>) -> Result<Self> {
        let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self {
            name,
            stream,
            host: port,
            token,
            last: 0,
        })
    }

    /// How long a call takes.
    fn call(&mut self) -> Result<f64> {
        self.last += 1;
        let id = self.last;
        let text = format!("hello, {id}");
        let sent = call(id, &text, self.token.as_deref())
            .replace(&format!(":{GATE}"), &format!(":{}", self.host));
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        let start = Instant::now();
        self.stream.write_all(sent.as_bytes())?;
        // The answer is one JSON text, and all of it is there when its last brace is.
        while !answer.ends_with(b"}") {
            let read = self.stream.read(&mut piece)?;
            ensure!(read > 0, "the connection was closed");
            answer.extend_from_slice(piece.get(..read).unwrap_or_default());
        }
        let took = start.elapsed().as_secs_f64();
        let answer = String::from_utf8_lossy(&answer);
        ensure!(answer.contains(&text), "the answer: {answer}");
        Ok(took)
    }

    fn turn(&mut self) -> Result<Turn> {
        std::thread::sleep(REST);
        let mut times = Vec::with_capacity(CALLS);
        for _ in 0..CALLS {
            let took = self.call();
            times.push(took.with_context(|| format!("through {}", self.name))?);
        }
        Turn::of(times).context("no calls")
    }
}

/// The token of a grant for the server.
fn grant(bench: &Bench) -> Result<String> {
    let mut command = Command::new(&bench.capwarden);
    command.args(["grant", "create", "bench", "--server"]);
    command.arg(format!("http://127.0.0.1:{SERVER}/mcp"));
    command.arg("--state").arg(bench.file("state"));
    let done = command.stderr(Stdio::inherit()).output()?;
    ensure!(done.status.success(), "no grant: {}", done.status);
    Ok(String::from_utf8(done.stdout)?.trim().to_owned())
}

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Measurement>> {
    let mut rows = Vec::new();
    let token = grant(bench)?;
    for cores in Cores::BOTH {
        rows.extend(cores.run(|| turns(bench, &token, cores))?);
    }
    Ok(rows)
}

fn turns(bench: &Bench, token: &str, cores: Cores) -> Result<Vec<Measurement>> {
    let server = fixture::start(SERVER)?;
    let anonymous = capwarden(bench, &["--anonymous"], POLICY)?;
    let granted = gate_at(bench, GRANTS, &[], POLICY)?;
    let mut direct = Client::new("nobody", SERVER, None)?;
    let mut all = [
        Client::new("capwarden", GATE, None)?,
        Client::new("capwarden, with a grant", GRANTS, Some(token.to_owned()))?,
    ]
    .map(|client| (client, Vec::new()));
    let mut calm = Calm::scout(cores, || direct.turn())?;
    for turn in 0..=TURNS {
        for (client, turns) in &mut all {
            let measured = calm.turn(|| direct.turn(), || client.turn())?;
            // The first warms up.
            if turn > 0 {
                turns.push(measured);
            }
        }
    }
    calm.report(&format!("tools/call over HTTP on {}", cores.name()));
    drop((server, anonymous, granted));
    let all = all.map(|(client, turns)| (client, counted(turns)));
    let rows = all.into_iter().map(|(client, turns)| Measurement {
        what: format!(
            "tools/call over HTTP on {}, p50 of {CALLS}: {}",
            cores.name(),
            client.name
        ),
        unit: Unit::Time,
        plain: turns.iter().map(|pair| pair.plain.typical).collect(),
        guarded: turns.iter().map(|pair| pair.guarded.typical).collect(),
        target: cores.target(Target::Extra(80e-6)),
    });
    Ok(rows.collect())
}
