//! Bytes that nobody means, from clients and from servers at once, on every way on which messages come (on pipes:
//! `fuzz.rs`). What is in them reaches nobody, and the next one is served.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::wait_for,
    dice::Dice,
    mangle,
    mcp::{Client, PATIENCE},
    stage::{Stage, memory, python},
};
use rustix::process::Signal;
use serde_json::{Value, json};

const ECHO: &str = include_str!("../scripts/echo.py");
const CARRY: &str = include_str!("../scripts/carry.py");

const POLICY: &str = "version: 1
default: deny
tools:
  echo: { args: { n: { at_most: 1000000 } } }
";

const HERE: &str = "127.0.0.1:8808";
/// Requests over HTTP, and connections to the Unix socket; after so many of them it is asked whether all is well.
const REQUESTS: usize = 400;
const CONNECTIONS: usize = 20;
const BATCH: usize = 100;
/// Lines on one connection.
const LINES: usize = 100;
/// What capwarden may hold, in KiB: requests of 5 MiB are refused when 4 MiB have come.
const MEMORY: u64 = 128 * 1024;
/// How long a stream is listened to that may have nothing to say.
const SHORT: Duration = Duration::from_millis(30);

/// Sends bytes in pieces of any size. The other side may hang up before the end.
fn send(dice: &mut Dice, stream: &mut impl Write, bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let most = if dice.roll(3) == 0 { 20 } else { rest.len() };
        let (piece, next) = rest.split_at((1 + dice.roll(most)).min(rest.len()));
        rest = next;
        if stream.write_all(piece).is_err() {
            return;
        }
    }
}

/// Ends an agent that has had all that, and looks at what it left.
fn end(stage: &Stage, mut agent: Client) -> Result<()> {
    let most = memory(agent.pid(), "VmHWM")?;
    eprintln!("{most} KiB at most");
    ensure!(most < MEMORY, "{most} KiB");
    agent.signal(Signal::TERM)?;
    ensure!(agent.exit()?.code() == Some(143), "{}", stage.stderr()?);
    stage.stderr()?;
    stage.is_empty()?;
    stage.audit_is_closed("a signal", Some(143))
}

#[test]
fn fuzz_unix_socket() -> Result<()> {
    let stage = Stage::new()?;
    let script = stage.write("echo.py", ECHO)?;
    let listen = format!("unix:{}", stage.path("socket").display());
    let server: [&Path; 3] = [&python("python3")?, &script, Path::new("11")];
    let agent = stage.run_with(POLICY, &["--listen", &listen], &server)?;
    let socket = stage.path("socket");
    wait_for("the socket", PATIENCE, || Ok(socket.exists().then_some(())))?;
    let mut dice = Dice::new(0x5eed_0000_0000_0002);
    for connection in 0..CONNECTIONS {
        let mut stream = UnixStream::connect(&socket)?;
        let mut answers = stream.try_clone()?;
        // Else both sides could wait for each other to read.
        let reader = std::thread::spawn(move || answers.read_to_end(&mut Vec::new()));
        for number in 0..LINES {
            let mut line = mangle::line(&mut dice, connection * LINES + number);
            if dice.roll(50) == 0 {
                line.pop();
            }
            send(&mut dice, &mut stream, &line);
        }
        let _ = stream.shutdown(Shutdown::Both);
        let _ = reader.join();
    }
    let mut stream = UnixStream::connect(&socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(call().as_bytes())?;
    stream.write_all(b"\n")?;
    let answer = until(&mut stream, "{\\\"n\\\": 7}")?;
    ensure!(!answer.contains("hidden"), "{answer}");
    drop(stream);
    end(&stage, agent)
}

/// A call that is all right.
fn call() -> String {
    r#"{"jsonrpc":"2.0","id":"calm","method":"tools/call","params":{"name":"echo","arguments":{"n":7}}}"#.to_owned()
}

/// Reads until this comes.
fn until(stream: &mut impl Read, wanted: &str) -> Result<String> {
    let mut all = Vec::new();
    let mut piece = [0; 4_096];
    loop {
        let text = String::from_utf8_lossy(&all).into_owned();
        if text.contains(wanted) {
            return Ok(text);
        }
        let count = stream.read(&mut piece).with_context(|| text.clone())?;
        ensure!(count > 0, "it ended: {text}");
        all.extend_from_slice(piece.get(..count).unwrap_or_default());
    }
}

#[test]
fn fuzz_http_to_a_server_on_pipes() -> Result<()> {
    let stage = Stage::new()?;
    let script = stage.write("echo.py", ECHO)?;
    let server: [&Path; 3] = [&python("python3")?, &script, Path::new("13")];
    let agent = stage.run_with(POLICY, &["--listen", HERE, "--anonymous"], &server)?;
    over_http(&stage, agent, 0x5eed_0000_0000_0003)
}

#[test]
fn fuzz_http_to_an_http_server() -> Result<()> {
    let stage = Stage::new()?;
    stage.serve(8000, hostile)?;
    let options = [
        "--listen",
        HERE,
        "--anonymous",
        "--upstream",
        "http://127.0.0.1:8000/mcp",
    ];
    let agent = stage.run_with(POLICY, &options, &[])?;
    over_http(&stage, agent, 0x5eed_0000_0000_0004)
}

/// Sends requests to an agent, then is served by it.
fn over_http(stage: &Stage, agent: Client, seed: u64) -> Result<()> {
    stage.listening_on(8808)?;
    let mut dice = Dice::new(seed);
    let (mut session, mut answered) = (begin(stage)?, 0);
    for number in 0..REQUESTS {
        let request = mangle::request(&mut dice, HERE, &session, number);
        let mut stream = connect(
            stage,
            if request.message.is_some() {
                PATIENCE
            } else {
                SHORT
            },
        )?;
        send(&mut dice, &mut stream, &request.bytes);
        let mut answer = vec![0; 1 << 16];
        let told = match request.message.is_some() {
            true => stream.read(&mut answer)?,
            false => {
                let _ = stream.shutdown(Shutdown::Write);
                stream.read(&mut answer).unwrap_or(0) // hung up on, or a stream without an event
            }
        };
        let answer = String::from_utf8_lossy(answer.get(..told).unwrap_or_default());
        let what = || {
            String::from_utf8_lossy(&request.bytes)
                .chars()
                .take(2_000)
                .collect::<String>()
        };
        let whole = request.message.is_some();
        ensure!(!whole || told > 0, "no answer to {}", what());
        // A page of an error is the server's own, and so is what it says when it is asked for something else.
        let message: Option<Value> = request
            .message
            .as_deref()
            .and_then(|m| serde_json::from_slice(m).ok());
        let method = message.as_ref().and_then(|message| message.get("method"));
        if method == Some(&json!("tools/list")) && answer.starts_with("HTTP/1.1 2") {
            ensure!(!answer.contains("\"hidden\""), "{}\n{answer}", what());
        }
        // The last of these is for what the server has answered.
        let statuses = ["200", "202", "502"].map(|status| format!("HTTP/1.1 {status} "));
        answered += usize::from(statuses.iter().any(|status| answer.starts_with(status)));
        // For all that a client can know, its session is over.
        if answer.starts_with("HTTP/1.1 404 ") {
            session = begin(stage)?;
        }
        if number % BATCH == BATCH - 1 {
            served(stage, &session).with_context(|| format!("after request {number}"))?;
            session = begin(stage)?;
        }
    }
    eprintln!("{answered} of {REQUESTS} requests got as far as the server");
    ensure!(answered > REQUESTS / 6);
    // The transport of 2024-11-05.
    let script = stage.write("carry.py", CARRY)?;
    let mut command = stage.space.command(python("python3")?);
    command.arg(script).arg(format!("http://{HERE}/sse"));
    let mut client = Client::start(&mut command, &stage.path("client-stderr"))?;
    client.send(format!("{}\n", INITIALIZE).as_bytes())?;
    client.answer(&json!("calm-1"))?;
    client.send(format!("{}\n", call()).as_bytes())?;
    let answer = client.answer(&json!("calm"))?;
    ensure!(answer.text() == "{\"n\": 7}", "{}", answer.line);
    client.signal(Signal::KILL)?;
    client.exit()?;
    end(stage, agent)
}

fn connect(stage: &Stage, patience: Duration) -> Result<TcpStream> {
    let stream = stage.space.enter(|| Ok(TcpStream::connect(HERE)?))?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":"calm-1","method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"calm","version":"1"}}}"#;

/// Posts a message in a session, and reads until something comes.
fn ask(stage: &Stage, body: &str, session: &str, wanted: &str) -> Result<String> {
    let length = body.len();
    let mut stream = connect(stage, PATIENCE)?;
    write!(
        stream,
        "POST /mcp HTTP/1.1\r\nHost: {HERE}\r\nAccept: application/json, text/event-stream\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{session}\r\n{body}"
    )?;
    until(&mut stream, wanted)
}

/// Begins a session, and returns the header that names it.
fn begin(stage: &Stage) -> Result<String> {
    let begun = ask(stage, INITIALIZE, "", "serverInfo")?;
    let at = begun
        .to_lowercase()
        .find("mcp-session-id: ")
        .context("no session")?;
    let session = begun.get(at..).and_then(|line| line.lines().next());
    Ok(format!("{}\r\n", session.context("no session")?))
}

/// A client gets what it asks for, and ends its session.
fn served(stage: &Stage, session: &str) -> Result<()> {
    let answer = ask(stage, &call(), session, "{\\\"n\\\": 7}")?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let mut stream = connect(stage, PATIENCE)?;
    write!(
        stream,
        "DELETE /mcp HTTP/1.1\r\nHost: {HERE}\r\nContent-Length: 0\r\n{session}\r\n"
    )?;
    until(&mut stream, "\r\n\r\n").map(drop)
}

/// A server that answers calm requests as it should, and others in any way.
fn hostile(mut stream: TcpStream) -> Result<()> {
    static ANSWERS: AtomicU64 = AtomicU64::new(1);
    stream.set_read_timeout(Some(PATIENCE))?;
    loop {
        let Ok(head) = until(&mut stream, "\r\n\r\n") else {
            return Ok(()); // it has been closed
        };
        let (fields, body) = head.split_once("\r\n\r\n").unwrap_or_default();
        let mut body = body.as_bytes().to_vec();
        let length = fields.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.parse::<usize>().ok())?
        });
        let missing = length.unwrap_or(0).saturating_sub(body.len());
        let mut rest = vec![0; missing];
        stream.read_exact(&mut rest)?;
        body.extend(rest);
        let text = String::from_utf8_lossy(&body);
        if text.contains("\"calm") {
            let (id, result) = match text.contains("initialize") {
                true => (
                    "calm-1",
                    r#"{"protocolVersion":"2025-06-18","capabilities":{},"serverInfo":{"name":"x","version":"0"}}"#,
                ),
                false => (
                    "calm",
                    r#"{"content":[{"type":"text","text":"{\"n\": 7}"}]}"#,
                ),
            };
            let answer = format!(r#"{{"jsonrpc":"2.0","id":"{id}","result":{result}}}"#);
            let length = answer.len();
            let number = ANSWERS.fetch_add(1, Ordering::Relaxed);
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nMcp-Session-Id: s{number}\r\nContent-Length: {length}\r\n\r\n{answer}"
            )?;
            continue;
        }
        if fields.starts_with("DELETE") {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        }
        let id = text
            .split("\"id\":")
            .nth(1)
            .and_then(|rest| rest.split([',', '}']).next());
        let mut dice = Dice::new(0x5eed_0000 + ANSWERS.fetch_add(1, Ordering::Relaxed));
        let answer = mangle::response(&mut dice, id.unwrap_or("1"));
        send(&mut dice, &mut stream, &answer);
        return Ok(());
    }
}
