//! `capwarden host observe`: who captures on this host without being governed.

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{capwarden, exited, records, signal, text, workplace},
    netns::Net,
    tools::PYTHON,
};
use rustix::process::Signal;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);

/// Makes a packet socket, and keeps it until its input ends.
const CAPTURES: &str =
    "import socket, sys\ns = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3)\nsys.stdin.read()";

/// The lines of a stream, as they come.
fn lines(stream: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let _ = send.send(line);
        }
    });
    receive
}

/// What is told of a process.
fn told(lines: &mpsc::Receiver<String>, process: u32) -> Result<Value> {
    loop {
        let line = lines.recv_timeout(PATIENCE).context("nothing was told")?;
        let one: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        if one.get("pid").and_then(Value::as_u64) == Some(process.into()) {
            return Ok(one);
        }
    }
}

fn observe(log: &std::path::Path) -> Result<(Child, ChildStdout)> {
    let mut observer = Command::new(capwarden()?)
        .args(["host", "observe", "--json", "--audit"])
        .arg(log)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let errors = lines(observer.stderr.take().context("no stderr")?);
    loop {
        let line = errors
            .recv_timeout(PATIENCE)
            .context("it never said that it watches")?;
        if line.contains("watching: whoever gets a packet socket is told of") {
            break;
        }
    }
    let out = observer.stdout.take().context("no stdout")?;
    Ok((observer, out))
}

#[test]
fn who_captures_after_watching_was_said_is_told_of_in_the_words_of_the_record() -> Result<()> {
    let (net, place) = (Net::new()?, workplace()?);
    let log = place.path().join("audit.jsonl");
    let (mut observer, out) = observe(&log)?;
    let out = lines(out);
    let mut capturer = net
        .here
        .command(PYTHON)
        .args(["-c", CAPTURES])
        .stdin(Stdio::piped())
        .spawn()?;
    let seen = told(&out, capturer.id())?;
    assert_eq!(text(&seen, "became")?, "seen");
    drop(capturer.stdin.take());
    capturer.wait()?;
    signal(observer.id(), Signal::TERM)?;
    let status = exited(&mut observer, PATIENCE)?;
    ensure!(status.success(), "{status}");
    let records = records(&log)?;
    let record = records
        .iter()
        .find(|record| record.get("pid") == seen.get("pid"));
    let record = record.context("it is not recorded")?;
    for (name, value) in seen.as_object().context("no object")? {
        // A record leaves out what there is none of, and one time.
        if let Some(recorded) = record.get(name) {
            assert_eq!(recorded, value, "{name}");
        } else {
            assert!(name == "times" || value == &serde_json::json!([]), "{name}");
        }
    }
    assert!(record.get("comm").is_some() && record.get("user").is_some());
    Ok(())
}
