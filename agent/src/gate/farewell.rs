//! What a client is told that waits for a server which has gone, or never came.

use std::{io::Read, thread, time::Duration};

use tokio::{sync::oneshot, time::timeout};

use super::{
    envelope::{Envelope, Id},
    lines::{Lines, Next},
    pump::Outgoing,
    reply,
};

/// How the server ended, or why its client has it no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    /// In a sentence or two, for a client that waits for an answer.
    pub words: String,
    /// Whether nothing more is carried, whatever the server has to say still.
    pub at_once: bool,
}

/// What is told where it is not known how the server ended.
pub(super) const CLOSED: &str =
    "The server has closed its output and ends, so this is not answered.";
/// How long a client that has asked for nothing yet may take to ask.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Outside the range that JSON-RPC and MCP keep for themselves.
pub(super) const GONE: i32 = -31002;

/// The id of a client's line that waits for an answer.
pub(super) fn request(line: &[u8]) -> Option<Id> {
    let envelope = Envelope::parse(line).ok()?;
    envelope.method?;
    envelope.id.map(|(id, _)| id)
}

/// The answer to a request that no server is there for.
pub(super) fn answer(id: &Id, words: &str) -> String {
    reply::error(Some(&id.as_json()), GONE, words)
}

/// Answers the first request of a client whose server could not be started, for which it is waited
/// a little. Whether there was one. Lines have at most `limit` bytes.
pub async fn apologise(
    client_in: impl Read + Send + 'static,
    mut client_out: impl Outgoing,
    limit: usize,
    words: &str,
) -> bool {
    let interrupt = client_out.interrupter();
    let (told, done) = oneshot::channel();
    let words = words.to_owned();
    let answering = move || {
        let mut lines = Lines::new(client_in, limit);
        loop {
            let line = match lines.next() {
                Ok(Next::Line(line)) => line,
                Ok(Next::TooLong { .. }) => continue,
                Ok(Next::End) | Err(_) => return,
            };
            if let Some(id) = request(lines.bytes(line)) {
                let written = client_out.write_all(answer(&id, &words).as_bytes());
                let _ = told.send(written.and_then(|()| client_out.flush()).is_ok());
                return;
            }
        }
    };
    // It cannot be called back from reading, and ends with the line that it reads then.
    let started = thread::Builder::new()
        .name("farewell".to_owned())
        .spawn(answering);
    let heard = match started {
        Ok(_) => timeout(PATIENCE, done).await,
        Err(_) => return false,
    };
    interrupt();
    matches!(heard, Ok(Ok(true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_and_nothing_else() {
        let id = |line: &str| request(line.as_bytes()).map(|id| id.as_json());
        let told = |line: &str, text: &str| assert_eq!(id(line).as_deref(), Some(text), "{line}");
        told(r#"{"jsonrpc":"2.0","id":7,"method":"initialize"}"#, "7");
        told(r#"{"jsonrpc":"2.0","id":"a\"b","method":"x"}"#, r#""a\"b""#);
        for silent in [
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            r#"{"jsonrpc":"2.0","id":7,"result":{}}"#,
            "[]",
            "",
        ] {
            assert_eq!(id(silent), None, "{silent}");
        }
        let text = answer(&Id::Number("7".to_owned()), "It \"ended\".");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["error"]["message"], "It \"ended\".");
        assert_eq!(line["id"], 7);
    }
}
