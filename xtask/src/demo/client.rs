//! A small MCP client: JSON-RPC, one message a line, over a child's stdin and stdout.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

/// A real server answers within two seconds of its start, a call within one.
const PATIENCE: Duration = Duration::from_secs(15);

/// A connection to one server.
pub(crate) struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    messages: Receiver<Value>,
    last_id: u64,
    notifications: Vec<Value>,
}

/// The answer to a `tools/call`.
pub(crate) struct Answer {
    /// What the model reads, one entry for each piece of text.
    pub(crate) texts: Vec<String>,
    /// Whether the answer says that the call failed.
    pub(crate) failed: bool,
}

impl Answer {
    /// What the model reads, in one line.
    pub(crate) fn text(&self) -> String {
        let words: Vec<&str> = self
            .texts
            .iter()
            .flat_map(|t| t.split_whitespace())
            .collect();
        words.join(" ")
    }

    /// A field of the JSON object that the server wrote as text.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        self.texts.iter().find_map(|text| {
            let object: Value = serde_json::from_str(text).ok()?;
            Some(object.get(name)?.as_str()?.to_owned())
        })
    }
}

impl Client {
    /// Starts the command and shakes hands with the server behind it.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        let stdout = child.stdout.take().ok_or_else(|| anyhow!("no stdout"))?;
        let (send, messages) = channel();
        thread::spawn(move || {
            // Servers print other things before their first message: those are no JSON objects.
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                if let Ok(message @ Value::Object(_)) = serde_json::from_slice(&line)
                    && send.send(message).is_err()
                {
                    break;
                }
            }
        });
        let mut client = Self {
            stdin: child.stdin.take(),
            child,
            messages,
            last_id: 0,
            notifications: Vec::new(),
        };
        client.request(
            "initialize",
            &json!({
                "protocolVersion": "2025-06-18",
                "capabilities": {},
                "clientInfo": { "name": "capwarden-demo", "version": env!("CARGO_PKG_VERSION") },
            }),
        )?;
        client.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))?;
        Ok(client)
    }

    /// Calls a tool.
    pub(crate) fn call(&mut self, tool: &str, arguments: &Value) -> Result<Answer> {
        let reply = self.request(
            "tools/call",
            &json!({ "name": tool, "arguments": arguments }),
        )?;
        // A gate may refuse with a JSON-RPC error, a server with a failed result.
        if let Some(error) = reply.get("error") {
            let message = error.get("message").and_then(Value::as_str);
            return Ok(Answer {
                texts: vec![message.unwrap_or("(no message)").to_owned()],
                failed: true,
            });
        }
        let content = reply.pointer("/result/content").and_then(Value::as_array);
        Ok(Answer {
            texts: content
                .into_iter()
                .flatten()
                .filter_map(|piece| Some(piece.get("text")?.as_str()?.to_owned()))
                .collect(),
            failed: reply.pointer("/result/isError") == Some(&Value::Bool(true)),
        })
    }

    /// What the client was told without asking, since this was asked last.
    pub(crate) fn told(&mut self) -> Vec<String> {
        self.notifications.extend(self.messages.try_iter());
        let told = self.notifications.drain(..).filter_map(|message| {
            let data = message.pointer("/params/data")?;
            let text = data.get("message").unwrap_or(data);
            Some(
                text.as_str()
                    .map_or_else(|| text.to_string(), str::to_owned),
            )
        });
        told.collect()
    }

    /// Ends the conversation as a client does, by closing it.
    pub(crate) fn close(mut self) -> Result<()> {
        drop(self.stdin.take());
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("capwarden did not end within {PATIENCE:?} of its client's goodbye")
    }

    fn request(&mut self, method: &str, params: &Value) -> Result<Value> {
        self.last_id += 1;
        let id = self.last_id;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))?;
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.messages.recv_timeout(left) {
                Ok(message) if message.get("id").and_then(Value::as_u64) == Some(id) => {
                    return Ok(message);
                }
                Ok(message) => self.notifications.push(message),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("no answer to {method} within {PATIENCE:?}")
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!("ended ({status}) instead of answering {method}")
                }
            }
        }
    }

    fn send(&mut self, message: &Value) -> Result<()> {
        let stdin = self.stdin.as_mut().ok_or_else(|| anyhow!("closed"))?;
        writeln!(stdin, "{message}").context("the server's input is closed")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
