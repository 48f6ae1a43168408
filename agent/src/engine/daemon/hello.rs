//! What a client and the daemon say to each other before MCP: one line each way.
//!
//! ```text
//! → {"connect":"sharkmcp"}
//! ← {"connected":true,"server":"sharkmcp"}        from here on it is the server's pipe, both ways
//! ← {"error":"There is …","instead":"…"}          or it is closed
//!
//! → {"servers":true}
//! ← {"servers":[{"name":"sharkmcp","state":"ready","clients":2}]}
//! ```
//! Who the client is the kernel says; nothing that it could say here changes that.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream as Peer,
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};

/// Bytes of a client's line at most.
const LINE: usize = 4 << 10;
/// Bytes of the daemon's line at most.
const ANSWER: u64 = 1 << 20;
/// How long a client may take to say what it wants, and then to hear the answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How long the daemon may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// What a client wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// To be connected to this server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<String>,
    /// To know which servers there are for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub servers: bool,
}

/// What it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// It is connected.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub connected: bool,
    /// The server that it is connected to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Why it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it can do instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<String>,
    /// The servers that it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub servers: Option<Vec<Offer>>,
}

/// A server that a client may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// What it is called.
    pub name: String,
    /// `ready`, `full` (as many run as may) or `failing` (it is not started for a while).
    pub state: String,
    /// How many clients have one.
    pub clients: usize,
    /// Why it is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Where it is served over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// Whether it is served over HTTP only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub http_only: bool,
}

impl Answer {
    pub(super) fn connected(server: &str) -> Self {
        Self {
            connected: true,
            server: Some(server.to_owned()),
            ..Self::default()
        }
    }

    pub(super) fn refused(error: impl Into<String>, instead: impl Into<String>) -> Self {
        Self {
            error: Some(error.into()),
            instead: Some(instead.into()),
            ..Self::default()
        }
    }

    pub(super) fn servers(offers: Vec<Offer>) -> Self {
        Self {
            servers: Some(offers),
            ..Self::default()
        }
    }

    /// Sends it. Nobody is waited for longer than [`PATIENCE`].
    pub(super) async fn send(&self, client: &mut UnixStream) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        timeout(PATIENCE, client.write_all(&line)).await?
    }
}

/// Reads what a client wants, and nothing after it: what follows is for the server. An error is a
/// sentence for the client.
pub(super) async fn read(client: &mut UnixStream) -> Result<Hello, String> {
    match timeout(PATIENCE, line(client)).await {
        Ok(line) => parse(&line?),
        Err(_) => Err(format!(
            "Nothing was asked for within {} s.",
            PATIENCE.as_secs()
        )),
    }
}

async fn line(client: &mut UnixStream) -> Result<Vec<u8>, String> {
    let mut line = Vec::new();
    loop {
        match client.read_u8().await {
            Ok(b'\n') => return Ok(line),
            Ok(_) if line.len() >= LINE => {
                return Err(format!("The first line is longer than {LINE} bytes."));
            }
            Ok(byte) => line.push(byte),
            Err(_) => return Err("The connection was closed before its first line.".to_owned()),
        }
    }
}

fn parse(line: &[u8]) -> Result<Hello, String> {
    let forms = r#"the first line is {"connect":"NAME"} or {"servers":true}; `capwarden connect NAME` says it"#;
    let hello: Hello = serde_json::from_slice(line)
        .map_err(|error| format!("What is wanted cannot be read ({error}): {forms}."))?;
    match (&hello.connect, hello.servers) {
        (Some(_), false) | (None, true) => Ok(hello),
        _ => Err(format!("Nothing was asked for, or two things: {forms}.")),
    }
}

/// Says what is wanted to the daemon that listens at a path, and waits for its answer. After
/// `connected`, the stream is the server's pipe.
///
/// # Errors
///
/// Nobody listens there, one may not connect, or what listens speaks otherwise.
pub fn ask(socket: &Path, hello: &Hello) -> io::Result<(Peer, Answer)> {
    let mut stream = Peer::connect(socket)?;
    stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
    let mut line = serde_json::to_vec(hello)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut line = Vec::new();
    // No more than the line: what follows is the server's.
    let mut bytes = BufReader::with_capacity(1, (&stream).take(ANSWER));
    bytes.read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Err(io::Error::other("it was closed without an answer"));
    }
    stream.set_read_timeout(None)?;
    let answer = serde_json::from_slice(&line).map_err(|error| {
        io::Error::other(format!("it does not answer as capwarden does: {error}"))
    })?;
    Ok((stream, answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_ask_for_one_thing() {
        let hello = |text: &str| parse(text.as_bytes());
        assert_eq!(
            hello(r#"{"connect":"pcap"}"#).unwrap().connect.as_deref(),
            Some("pcap")
        );
        assert!(hello(r#"{"servers":true}"#).unwrap().servers);
        for wrong in [
            "",
            "{}",
            "[]",
            r#"{"connect":7}"#,
            r#"{"servers":false}"#,
            r#"{"connect":"a","servers":true}"#,
            r#"{"connect":"a","user":0}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"initialize"}"#,
        ] {
            let told = hello(wrong).unwrap_err();
            assert!(told.contains(r#"{"connect":"NAME"}"#), "{told}");
        }
    }

    #[tokio::test]
    async fn nothing_after_the_line_is_read() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs
            .write_all(b"{\"connect\":\"a\"}\n{\"jsonrpc\"")
            .await
            .unwrap();
        assert_eq!(read(&mut ours).await.unwrap().connect.as_deref(), Some("a"));
        let mut rest = [0; 10];
        ours.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"{\"jsonrpc\"");
    }

    #[tokio::test]
    async fn lines_without_end_and_silence_are_not_waited_for() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&[b'x'; LINE + 1]).await.unwrap();
        let told = read(&mut ours).await.unwrap_err();
        assert!(told.contains("longer than 4096 bytes"), "{told}");
        drop(theirs);
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(read(&mut ours).await.unwrap_err().contains("closed"));
    }
}
