//! An MCP server that answers just enough, and starts a holder of capture sockets when it is called.

use std::{
    env,
    io::{self, BufRead as _, Write as _},
    process::{Child, Command, Stdio},
};

use anyhow::Result;
use serde_json::{Value, json};

pub(crate) fn serve(control: &str) -> Result<()> {
    let mut started: Vec<Child> = Vec::new();
    let mut output = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let message: Value = serde_json::from_str(&line?)?;
        let (Some(id), Some(method)) = (message.get("id"), message.get("method")) else {
            continue;
        };
        let result = match method.as_str() {
            Some("initialize") => json!({
                "protocolVersion": "2025-06-18",
                "capabilities": { "tools": {} },
                "serverInfo": { "name": "captive", "version": "1" },
            }),
            Some("tools/list") => json!({ "tools": [{ "name": "capture", "inputSchema": {} }] }),
            Some("tools/call") => {
                let verb = match message.pointer("/params/name").and_then(Value::as_str) {
                    Some("flood") => "flood",
                    _ => "hold",
                };
                let mut holder = Command::new(env::current_exe()?);
                holder.args([verb, control]).stdin(Stdio::null());
                started.push(holder.stdout(Stdio::null()).spawn()?);
                json!({ "content": [{ "type": "text", "text": "started" }] })
            }
            _ => json!({}),
        };
        let answer = json!({ "jsonrpc": "2.0", "id": id, "result": result });
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    // What it has started goes on, as a server's captures do.
    Ok(())
}
