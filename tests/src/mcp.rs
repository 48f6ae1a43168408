//! A small MCP client over a child's standard input and output. It keeps the lines as they came,
//! and waits for nothing without end.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// How long an answer may take; hosts that do many things at once are slow.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A line that came.
#[derive(Clone, Debug)]
pub struct Message {
    /// As it came, without its end.
    pub line: String,
    /// The same, read.
    pub value: Value,
}

impl Message {
    /// All text that a call's result shows.
    pub fn text(&self) -> String {
        let content = self.value.pointer("/result/content");
        let pieces = content.and_then(Value::as_array).into_iter().flatten();
        let texts = pieces.filter_map(|piece| piece.get("text")?.as_str());
        texts.collect::<Vec<_>>().join("\n")
    }

    /// The first text that a call's result shows: the server's own.
    pub fn own_text(&self) -> &str {
        let text = self.value.pointer("/result/content/0/text");
        text.and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether it is an error, of the protocol or of the tool.
    pub fn failed(&self) -> bool {
        self.value.get("error").is_some()
            || self.value.pointer("/result/isError") == Some(&Value::Bool(true))
    }
}

/// A connection to one server.
#[derive(Debug)]
pub struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Vec<u8>>,
    next_id: u64,
    /// What came and was not waited for: answers, requests and notifications.
    inbox: Vec<Message>,
    /// Lines that are no JSON.
    noise: Vec<String>,
}

impl Client {
    /// Starts the command, without a word to the server. Its standard error goes to the file.
    pub fn start(command: &mut Command, stderr: &Path) -> Result<Self> {
        let stderr = std::fs::File::create(stderr)?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let stdout = child.stdout.take().ok_or_else(|| anyhow!("no stdout"))?;
        let (send, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            stdin: child.stdin.take(),
            child,
            lines,
            next_id: 1,
            inbox: Vec::new(),
            noise: Vec::new(),
        })
    }

    /// Shakes hands with the server.
    pub fn shake_hands(&mut self) -> Result<Message> {
        let params = json!({
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": { "name": "capwarden-tests", "version": "1" },
        });
        let answer = self.request("initialize", &params)?;
        self.notify("notifications/initialized", &json!({}))?;
        Ok(answer)
    }

    /// The process that was started.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let stdin = self.stdin.as_mut().ok_or_else(|| anyhow!("closed"))?;
        stdin.write_all(bytes)?;
        stdin.flush().context("the server's input is closed")
    }

    /// Sends a notification.
    pub fn notify(&mut self, method: &str, params: &Value) -> Result<()> {
        let line = json!({ "jsonrpc": "2.0", "method": method, "params": params });
        self.send(format!("{line}\n").as_bytes())
    }

    /// Sends a request, and returns its id.
    pub fn ask(&mut self, method: &str, params: &Value) -> Result<Value> {
        let id = json!(self.next_id);
        self.next_id += 1;
        let line = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        self.send(format!("{line}\n").as_bytes())?;
        Ok(id)
    }

    /// Sends the request to call a tool, and returns its id.
    pub fn ask_call(&mut self, tool: &str, arguments: &Value) -> Result<Value> {
        self.ask(
            "tools/call",
            &json!({ "name": tool, "arguments": arguments }),
        )
    }

    /// Sends a request and waits for its answer.
    pub fn request(&mut self, method: &str, params: &Value) -> Result<Message> {
        let id = self.ask(method, params)?;
        self.answer(&id).context(method.to_owned())
    }

    /// Calls a tool and waits for the answer.
    pub fn call(&mut self, tool: &str, arguments: &Value) -> Result<Message> {
        let id = self.ask_call(tool, arguments)?;
        self.answer(&id).context(tool.to_owned())
    }

    /// Waits for the answer to a request.
    pub fn answer(&mut self, id: &Value) -> Result<Message> {
        self.wait(PATIENCE, |message| {
            let answers = message.get("result").or_else(|| message.get("error"));
            answers.is_some() && message.get("id") == Some(id)
        })
        .with_context(|| format!("the answer to request {id}"))
    }

    /// Waits for the answer to a request, and leaves it with the rest.
    pub fn answered(&mut self, id: &Value) -> Result<()> {
        let answer = self.answer(id)?;
        self.inbox.push(answer);
        Ok(())
    }

    /// Waits for capwarden's word that a session ended.
    pub fn session_end(&mut self, session: &str) -> Result<Value> {
        let end = self.wait(PATIENCE, |message| {
            message.pointer("/params/data/session") == Some(&json!(session))
                && message.pointer("/params/data/reason").is_some()
        });
        let end = end.with_context(|| format!("the end of {session}"))?;
        ensure!(end.value.get("method") == Some(&json!("notifications/message")));
        ensure!(end.value.pointer("/params/logger") == Some(&json!("capwarden")));
        let data = end.value.pointer("/params/data").cloned();
        data.ok_or_else(|| anyhow!("no data"))
    }

    /// Waits for a message of this kind.
    pub fn wait(&mut self, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Message> {
        let until = Instant::now() + limit;
        loop {
            if let Some(at) = self.inbox.iter().position(|m| wanted(&m.value)) {
                return Ok(self.inbox.remove(at));
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.take(&line),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("nothing within {limit:?}; there is: {:.2000?}", self.inbox)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.try_wait()?;
                    bail!("closed ({status:?}); there is: {:.2000?}", self.inbox)
                }
            }
        }
    }

    fn take(&mut self, line: &[u8]) {
        let line = String::from_utf8_lossy(line).into_owned();
        match serde_json::from_str(&line) {
            Ok(value) => self.inbox.push(Message { line, value }),
            Err(_) => self.noise.push(line),
        }
    }

    /// Everything that came and was not waited for.
    pub fn rest(&mut self) -> &mut Vec<Message> {
        while let Ok(line) = self.lines.try_recv() {
            self.take(&line);
        }
        &mut self.inbox
    }

    /// Lines that came and are no JSON.
    pub fn noise(&mut self) -> &[String] {
        self.rest();
        &self.noise
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid())?;
        let pid = Pid::from_raw(pid).ok_or_else(|| anyhow!("no process"))?;
        Ok(kill_process(pid, signal)?)
    }

    /// Closes the server's input, as a client does that goes.
    pub fn close_input(&mut self) {
        drop(self.stdin.take());
    }

    /// Waits for the process to end.
    pub fn exit(&mut self) -> Result<ExitStatus> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("it did not end within {PATIENCE:?}")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let start = Instant::now();
        while start.elapsed() < PATIENCE / 2 {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
