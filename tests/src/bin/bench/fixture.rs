//! The plain side over HTTP: an MCP server that answers tool calls as fast as it can, in a process of
//! its own, which is this program with another first argument.

use std::{net::SocketAddr, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
};

use crate::Running;

/// The first argument for a process that is to be the server.
pub(crate) const ROLE: &str = "serve-echo";

/// Starts it at a port of loopback, and waits until it listens.
pub(crate) fn start(port: u16) -> Result<Running> {
    let mut command = Command::new(std::env::current_exe()?);
    let server = Running::start(command.args([ROLE, &port.to_string()]))?;
    listening(port)?;
    Ok(server)
}

/// Waits until somebody listens at a port of loopback.
pub(crate) fn listening(port: u16) -> Result<()> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    for _ in 0..600 {
        if std::net::TcpStream::connect(address).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("nobody listens at {address}")
}

/// What the process does that was started so.
pub(crate) fn serve(port: &str) -> Result<()> {
    let address = SocketAddr::from(([127, 0, 0, 1], port.parse()?));
    runtime()?.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener: TcpListener = socket.listen(4_096)?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(converse(stream));
        }
    })
}

pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().context("no runtime")
}

async fn converse(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some(message) = message(&mut stream, &mut buffer).await? {
        let message: Value = serde_json::from_slice(&message)?;
        let head = match message.get("id") {
            None => "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n".to_owned(),
            Some(id) => {
                let body = json!({ "jsonrpc": "2.0", "id": id, "result": answer(&message) });
                let body = body.to_string();
                let length = body.len();
                format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
                )
            }
        };
        stream.write_all(head.as_bytes()).await?;
    }
    Ok(())
}

fn answer(message: &Value) -> Value {
    match message.get("method").and_then(Value::as_str) {
        Some("initialize") => json!({
            "protocolVersion": "2025-06-18",
            "capabilities": { "tools": {} },
            "serverInfo": { "name": "echo", "version": "1" },
        }),
        Some("tools/list") => json!({ "tools": [{
            "name": "echo", "description": "says it again",
            "inputSchema": { "type": "object", "properties": { "text": { "type": "string" } } },
        }] }),
        _ => {
            let text = message.pointer("/params/arguments/text");
            json!({ "content": [{ "type": "text", "text": text }] })
        }
    }
}

/// The body of the next message on a connection, whose length is announced; none at its end.
pub(crate) async fn message(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
) -> Result<Option<Vec<u8>>> {
    const END: &[u8] = b"\r\n\r\n";
    loop {
        let end = buffer.windows(END.len()).position(|bytes| bytes == END);
        if let Some(end) = end {
            let body = end + END.len();
            let head = buffer.get(..end).unwrap_or_default();
            let whole = body + announced(&String::from_utf8_lossy(head));
            if buffer.len() >= whole {
                let message = buffer.get(body..whole).unwrap_or_default().to_vec();
                buffer.drain(..whole);
                return Ok(Some(message));
            }
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

fn announced(head: &str) -> usize {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines
        .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .find_map(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}
