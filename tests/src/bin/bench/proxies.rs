//! What a proxy loses that is held to its caps: how much it carries, and how long a connection
//! through it takes, against the same proxy without capwarden, by turns.
//!
//! The proxies live in an MCP server, which is this program with another first argument: a relay of
//! our own, as fast as threads can be, and, where `CAPWARDEN_MITM` names its environment, mitmdump
//! as a child of the server. Each is there twice all the time, and idle when it is not its turn. Both
//! are in login sessions of their own, as capwarden's servers are, so that the scheduler treats
//! them alike. The web server behind the proxies and the client are threads of this process.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    Bench, Running, fixture,
    measure::{Measurement, Target, Unit},
};

/// The first argument for a process that is to be the MCP server with the proxy.
pub(crate) const ROLE: &str = "serve-proxy";

const WEB: u16 = 18_100;
const TURNS: usize = 11;
/// How long all are left alone before a turn.
const REST: Duration = Duration::from_millis(20);

/// A kind of proxy, and how much it is asked to do in a turn.
struct Kind {
    name: &'static str,
    program: Option<PathBuf>,
    /// Its two ports: without and with capwarden.
    ports: [u16; 2],
    /// Bytes of one download.
    bytes: u64,
    /// Connections, one after the other.
    connections: usize,
    /// Requests in a row over one connection.
    requests: usize,
}

fn kinds() -> Vec<Kind> {
    let mut kinds = vec![Kind {
        name: "relay",
        program: None,
        ports: [18_101, 18_102],
        bytes: 256 << 20,
        connections: 300,
        requests: 1_000,
    }];
    let mitmdump = env::var_os("CAPWARDEN_MITM").map(|home| Path::new(&home).join("bin/mitmdump"));
    kinds.extend(mitmdump.filter(|file| file.exists()).map(|file| Kind {
        name: "mitmdump",
        program: Some(file),
        ports: [18_103, 18_104],
        bytes: 64 << 20,
        connections: 40,
        requests: 100,
    }));
    kinds
}

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Measurement>> {
    serve_web()?;
    let mut all = Vec::new();
    for kind in kinds() {
        all.extend(measure_kind(bench, &kind).with_context(|| kind.name)?);
    }
    Ok(all)
}

fn measure_kind(bench: &Bench, kind: &Kind) -> Result<Vec<Measurement>> {
    let [plain, guarded] = kind.ports;
    let own = env::current_exe()?;
    let arguments = kind.program.iter();
    let mut command = Command::new("setsid");
    command.arg(&own).arg(ROLE).args(arguments.clone());
    let _plain = Server::start(&mut command, plain)?;
    let file = bench.file("proxies.yaml");
    fs::write(&file, policy(guarded))?;
    let mut command = bench.capwarden("run");
    command.args(["--user", "nobody"]);
    command.arg("--policy").arg(&file).arg("--");
    command.arg(&own).arg(ROLE).args(arguments);
    let _guarded = Server::start(&mut command, guarded)?;

    let mut rates = [const { Vec::new() }; 2];
    let mut setups = [const { Vec::new() }; 2];
    let mut answers = [const { Vec::new() }; 2];
    for turn in 0..=TURNS {
        for (side, port) in kind.ports.into_iter().enumerate() {
            thread::sleep(REST);
            let rate = download(port, kind.bytes)?;
            let setup = typical(kind.connections, || one_connection(port))?;
            let mut tunnel = tunnel(port)?;
            let answer = typical(kind.requests, || ask(&mut tunnel, 1))?;
            if turn > 0 {
                for (samples, value) in [&mut rates, &mut setups, &mut answers]
                    .into_iter()
                    .zip([rate, setup, answer])
                {
                    samples.get_mut(side).context("two sides")?.push(value);
                }
            }
        }
    }
    let row = |what: String, unit, [plain, guarded]: [Vec<f64>; 2], target| Measurement {
        what,
        unit,
        plain,
        guarded,
        target,
    };
    let (name, connections, requests) = (kind.name, kind.connections, kind.requests);
    let size = kind.bytes >> 20;
    Ok(vec![
        row(
            format!("{name}: bytes through it, {size} MiB"),
            Unit::Rate,
            rates,
            Target::AtLeast(0.95),
        ),
        row(
            format!("{name}: a connection and a request, p50 of {connections}"),
            Unit::Time,
            setups,
            Target::Ratio(1.1),
        ),
        row(
            format!("{name}: a request on a connection, p50 of {requests}"),
            Unit::Time,
            answers,
            Target::None,
        ),
    ])
}

/// Every cap is there, and none is reached.
fn policy(port: u16) -> String {
    format!(
        "version: 1
baseline: none
tools:
  proxy_start:
    proxy:
      from: {{ port: port }}
      defaults: {{ host: 127.0.0.1 }}
      listen: [ \"127.0.0.1:{port}\" ]
      upstream: [ \"127.0.0.1:{WEB}\" ]
      interfaces: [ lo ]
      packets: 1000000000000
      bytes: 9000000000000000
      connections: 1000000000
      seconds: 3600
"
    )
}

/// The MCP server, told to start its proxy.
struct Server {
    input: Option<ChildStdin>,
    _output: BufReader<ChildStdout>,
    running: Running,
}

impl Server {
    fn start(command: &mut Command, port: u16) -> Result<Self> {
        let mut running = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let mut input = running.0.stdin.take().context("no stdin")?;
        let mut output = BufReader::new(running.0.stdout.take().context("no stdout")?);
        let mut ask = |id: u32, method: &str, params: Value| {
            writeln!(
                input,
                "{}",
                json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
            )?;
            loop {
                let mut line = String::new();
                ensure!(output.read_line(&mut line)? > 0, "the server is gone");
                let answer: Value = serde_json::from_str(&line)?;
                if answer.get("id").is_some() {
                    let failed = answer.pointer("/result/isError") == Some(&Value::Bool(true));
                    ensure!(answer.get("result").is_some() && !failed, "{line}");
                    return Ok(());
                }
            }
        };
        ask(
            1,
            "initialize",
            json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "bench", "version": "1" } }),
        )?;
        ask(
            2,
            "tools/call",
            json!({ "name": "proxy_start", "arguments": { "port": port } }),
        )?;
        fixture::listening(port)?;
        Ok(Self {
            input: Some(input),
            _output: output,
            running,
        })
    }
}

impl Drop for Server {
    /// It ends what it has started when its input does.
    fn drop(&mut self) {
        drop(self.input.take());
        for _ in 0..100 {
            if matches!(self.running.0.try_wait(), Ok(Some(_))) {
                return;
            }
            thread::sleep(REST);
        }
    }
}

/// The process with the proxy.
pub(crate) fn serve(program: Option<&str>) -> Result<()> {
    let mut children = Vec::new();
    for line in std::io::stdin().lines() {
        let message: Value = serde_json::from_str(&line?)?;
        let Some(id) = message.get("id") else {
            continue;
        };
        let result = if message.get("method").and_then(Value::as_str) == Some("initialize") {
            json!({ "protocolVersion": "2025-06-18", "capabilities": { "tools": {} }, "serverInfo": { "name": "proxy", "version": "1" } })
        } else {
            let port = message
                .pointer("/params/arguments/port")
                .and_then(Value::as_u64);
            let port = u16::try_from(port.context("no port")?)?;
            match program {
                Some(program) => children.push(mitmdump(program, port)?),
                None => {
                    let listener = TcpListener::bind(("127.0.0.1", port))?;
                    thread::spawn(move || for_each_client(&listener, relay));
                }
            }
            json!({ "content": [{ "type": "text", "text": "started" }] })
        };
        println!(
            "{}",
            json!({ "jsonrpc": "2.0", "id": id, "result": result })
        );
    }
    Ok(())
}

fn mitmdump(program: &str, port: u16) -> Result<Running> {
    let home = env::temp_dir().join(format!("mitm-{port}"));
    let mut command = Command::new(program);
    command.args([
        "-q",
        "--listen-host",
        "127.0.0.1",
        "--listen-port",
        &port.to_string(),
    ]);
    command.args([
        "--set",
        "stream_large_bodies=1",
        "--set",
        "connection_strategy=lazy",
    ]);
    command
        .arg("--set")
        .arg(format!("confdir={}", home.display()));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Running::start(&mut command)
}

fn for_each_client(listener: &TcpListener, each: fn(TcpStream) -> Result<()>) {
    for stream in listener.incoming().flatten() {
        thread::spawn(move || each(stream));
    }
}

/// One client of the relay: `CONNECT`.
fn relay(mut client: TcpStream) -> Result<()> {
    client.set_nodelay(true)?;
    let head = head(&mut client)?;
    let target = head.split(' ').nth(1).context("no target")?;
    let mut upstream = TcpStream::connect(target)?;
    upstream.set_nodelay(true)?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let (mut from, mut to) = (client.try_clone()?, upstream.try_clone()?);
    let there = thread::spawn(move || {
        copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    copy(&mut upstream, &mut client);
    let _ = client.shutdown(Shutdown::Both);
    let _ = there.join();
    Ok(())
}

fn copy(from: &mut TcpStream, to: &mut TcpStream) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(some @ 1..) = from.read(&mut bytes) {
        if to.write_all(bytes.get(..some).unwrap_or_default()).is_err() {
            return;
        }
    }
}

/// Up to the empty line, and not a byte more.
fn head(stream: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    let mut bytes = [0; 4096];
    while !head.ends_with(b"\r\n\r\n") {
        let some = stream.read(&mut bytes)?;
        ensure!(some > 0, "closed");
        head.extend_from_slice(bytes.get(..some).unwrap_or_default());
    }
    Ok(String::from_utf8(head)?)
}

/// A web server that answers `/N` with so many bytes.
fn serve_web() -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", WEB))?;
    thread::spawn(move || for_each_client(&listener, respond));
    Ok(())
}

fn respond(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let block = vec![b'w'; 64 << 10];
    loop {
        let request = head(&mut stream)?;
        let path = request.split(' ').nth(1).context("no path")?;
        let mut left: usize = path.trim_start_matches('/').parse()?;
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {left}\r\n\r\n").into_bytes();
        if left < 1024 {
            answer.resize(answer.len() + left, b'w');
            left = 0;
        }
        stream.write_all(&answer)?;
        while left > 0 {
            let some = left.min(block.len());
            stream.write_all(block.get(..some).unwrap_or_default())?;
            left -= some;
        }
    }
}

fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

/// A connection to the web server through the proxy.
fn tunnel(port: u16) -> Result<TcpStream> {
    let mut stream = connect(port)?;
    let web = format!("127.0.0.1:{WEB}");
    stream.write_all(format!("CONNECT {web} HTTP/1.1\r\nHost: {web}\r\n\r\n").as_bytes())?;
    let answer = head(&mut stream)?;
    ensure!(answer.contains(" 200 "), "{answer}");
    Ok(stream)
}

/// Asks for so many bytes and reads the answer, headers included.
fn ask(stream: &mut TcpStream, bytes: u64) -> Result<()> {
    stream
        .write_all(format!("GET /{bytes} HTTP/1.1\r\nHost: 127.0.0.1:{WEB}\r\n\r\n").as_bytes())?;
    let mut piece = vec![0; 256 << 10];
    let mut start = Vec::new();
    let head = loop {
        let some = stream.read(&mut piece)?;
        ensure!(some > 0, "closed");
        start.extend_from_slice(piece.get(..some).unwrap_or_default());
        if let Some(end) = start.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let mut left = bytes.saturating_sub(u64::try_from(start.len() - head)?);
    while left > 0 {
        let some = stream.read(&mut piece)?;
        ensure!(some > 0, "closed early");
        left = left.saturating_sub(u64::try_from(some)?);
    }
    Ok(())
}

/// Bytes per second.
fn download(port: u16, bytes: u64) -> Result<f64> {
    let mut stream = tunnel(port)?;
    let start = Instant::now();
    ask(&mut stream, bytes)?;
    let size = u32::try_from(bytes)?;
    Ok(f64::from(size) / start.elapsed().as_secs_f64())
}

fn one_connection(port: u16) -> Result<()> {
    ask(&mut tunnel(port)?, 1)
}

/// The median time of doing it so often.
fn typical(times: usize, mut once: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut all = Vec::with_capacity(times);
    for _ in 0..times {
        let start = Instant::now();
        once()?;
        all.push(start.elapsed().as_secs_f64());
    }
    all.sort_by(f64::total_cmp);
    all.get(times / 2).copied().context("nothing was done")
}
