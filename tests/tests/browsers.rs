//! A browser that a real server starts, Playwright's with Debian's headless Chromium: whom it may
//! connect to, what it may use, and that all of it is gone when its session is over, while the server
//! lives on.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    path::Path,
};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    mcp::{Client, Message},
    stage::{Stage, granted, node, number, suite, text},
};
use serde_json::{Value, json};

/// The web server that the browser may reach, and one that it may not.
const GRANTED: u16 = 9_080;
const OTHER: u16 = 9_081;

const BROWSER: &str = "/usr/bin/chromium-headless-shell";

/// What is in the page's title, which only a browser that has got the page can tell.
const TITLE: &str = "The granted page";

fn policy(caps: &str) -> String {
    format!(
        r#"version: 1
tools:
  browser_navigate:
    program: &browser
      connect: [ "127.0.0.1:{GRANTED}" ]
      {caps}
  browser_evaluate: {{ program: *browser }}
  browser_close: {{ ends: program }}
"#
    )
}

fn respond(mut stream: TcpStream) -> Result<()> {
    for line in BufReader::new(stream.try_clone()?).lines() {
        if line?.is_empty() {
            break;
        }
    }
    let page = format!("<!doctype html><title>{TITLE}</title><p>Hello.");
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
        page.len()
    )?;
    Ok(())
}

struct Rig {
    stage: Stage,
    client: Client,
}

impl Rig {
    fn new(caps: &str) -> Result<Self> {
        let stage = Stage::new()?;
        stage.serve(GRANTED, respond)?;
        stage.serve(OTHER, respond)?;
        let (node, server) = (node()?, suite("node_modules/@playwright/mcp/cli.js")?);
        let words = [
            "--headless",
            "--no-sandbox",
            "--isolated",
            "--executable-path",
            BROWSER,
        ];
        // The server keeps things at home, and who it runs as here has none.
        let home = format!("HOME={}", stage.path("captures").display());
        let mut command = vec![Path::new("env"), Path::new(&home)];
        command.extend([node.as_path(), server.as_path()]);
        command.extend(words.iter().map(Path::new));
        let mut client = stage.run(&policy(caps), &command)?;
        let shaken = client.shake_hands();
        shaken.with_context(|| stage.stderr().unwrap_or_default())?;
        Ok(Self { stage, client })
    }

    fn open(&mut self, port: u16) -> Result<Message> {
        let url = format!("http://127.0.0.1:{port}/");
        self.client.call("browser_navigate", &json!({ "url": url }))
    }

    /// The session's record once it has ended for this reason, when nothing of the browser is left
    /// and its server still answers.
    fn is_over(&mut self, session: &str, reason: &str) -> Result<Value> {
        let end = self.stage.end_record(session)?;
        ensure!(text(&end, "reason") == reason, "{end}");
        ensure!(
            self.browsers()? == 0,
            "{} processes are left",
            self.browsers()?
        );
        let tools = self.client.request("tools/list", &json!({}))?;
        ensure!(tools.line.contains("browser_navigate"), "{}", tools.line);
        Ok(end)
    }

    fn browsers(&self) -> Result<usize> {
        let processes = self.stage.space.processes()?;
        let is_browser = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("headless")
                && !String::from_utf8_lossy(&line).contains("cli.js")
        };
        Ok(processes.iter().filter(|pid| is_browser(pid)).count())
    }

    fn close(self) -> Result<()> {
        let why = "the client closed the connection";
        self.stage.ends_with(self.client, why)
    }
}

#[test]
fn browser_opens_the_granted_page_and_reaches_nobody_else() -> Result<()> {
    let mut rig = Rig::new("processes: 40\n      memory: 2GiB\n      seconds: 60")?;
    let page = rig.open(GRANTED)?;
    ensure!(page.own_text().contains(TITLE), "{}", page.text());
    let session = granted(&page)?;
    ensure!(rig.browsers()? >= 2, "it runs");

    let refused = rig.open(OTHER)?;
    let what = format!("connect to 127.0.0.1:{OTHER} (tcp)");
    ensure!(!refused.own_text().contains(TITLE), "{}", refused.text());
    ensure!(refused.text().contains(&what), "{}", refused.text());
    ensure!(
        !refused.text().contains("granted"),
        "it joined: {}",
        refused.text()
    );

    let closed = rig.client.call("browser_close", &json!({}))?;
    ensure!(!closed.failed(), "{}", closed.text());
    let end = rig.is_over(&session, "stop-call")?;
    let processes = number(&end, "peak_processes").unwrap_or_default();
    ensure!((2..=40).contains(&processes), "{end}");
    ensure!(number(&end, "peak_memory") > Some(10 << 20), "{end}");
    ensure!(number(&end, "bytes_in") > Some(100), "{end}");
    ensure!(number(&end, "made") >= Some(1), "{end}");
    let opened = rig.stage.audited("program-opened", 1)?;
    ensure!(number(&opened[0], "processes") == Some(40), "{}", opened[0]);

    // The next call that needs a browser has another session.
    let again = rig.open(GRANTED)?;
    ensure!(again.own_text().contains(TITLE), "{}", again.text());
    ensure!(granted(&again)? != session);
    rig.close()
}

#[test]
fn browser_with_more_processes_than_its_cap_is_gone() -> Result<()> {
    let mut rig = Rig::new("processes: 3\n      seconds: 60")?;
    let answer = rig.open(GRANTED)?;
    ensure!(answer.failed(), "{}", answer.text());
    ensure!(
        answer.text().contains("the process cap was reached"),
        "{}",
        answer.text()
    );
    let end = rig.is_over("s1", "process-cap")?;
    ensure!(number(&end, "peak_processes") <= Some(5), "{end}");
    rig.close()
}

#[test]
fn browser_that_wants_more_memory_than_its_cap_is_gone() -> Result<()> {
    let mut rig = Rig::new("memory: 400MiB\n      seconds: 60")?;
    let page = rig.open(GRANTED)?;
    ensure!(page.own_text().contains(TITLE), "{}", page.text());
    let session = granted(&page)?;
    let hoard = "() => { const all = []; for (let i = 0; i < 64; i++) \
                 all.push(new Uint8Array(32 << 20).fill(i + 1)); return all.length; }";
    let answer = rig
        .client
        .call("browser_evaluate", &json!({ "function": hoard }))?;
    ensure!(answer.failed(), "{}", answer.text());
    let end = rig.is_over(&session, "memory-cap")?;
    ensure!(number(&end, "peak_memory") <= Some(400 << 20), "{end}");
    rig.close()
}

#[test]
fn browser_is_gone_at_its_deadline_and_the_client_is_told() -> Result<()> {
    let mut rig = Rig::new("seconds: 4")?;
    let page = rig.open(GRANTED)?;
    let session = granted(&page)?;
    let told = rig.client.session_end(&session)?;
    ensure!(text(&told, "reason") == "deadline", "{told}");
    let end = rig.is_over(&session, "deadline")?;
    ensure!(number(&end, "milliseconds") >= Some(4_000), "{end}");
    rig.close()
}
