//! What client and server have said to begin with, kept so that it can be said to the next server.

use serde_json::Value;

use super::json::Members;

/// What is kept of one message, in bytes. It must fit into a pipe that nobody reads yet.
const KEPT: usize = 32 << 10;

/// The id of an `initialize` that is said again. No client uses it: it would have to know.
pub(super) const AGAIN: &str = "\"capwarden:initialize-again\"";

/// The beginning of a conversation.
#[derive(Debug, Default)]
pub(super) struct Handshake {
    /// The parameters of the client's `initialize`.
    asked: Option<Kept>,
    /// The server's result.
    agreed: Option<Kept>,
    /// The client has said `notifications/initialized`.
    confirmed: bool,
}

#[derive(Clone, Debug)]
enum Kept {
    Text(String),
    TooLong,
}

/// What is said to the next server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Again {
    /// A line, whose answer has the id [`AGAIN`].
    pub(super) initialize: String,
    /// The line after its answer.
    pub(super) initialized: Option<&'static str>,
    agreed: String,
}

impl Kept {
    fn of(text: Option<&str>) -> Self {
        match text.unwrap_or("{}") {
            text if text.len() <= KEPT => Self::Text(text.to_owned()),
            _ => Self::TooLong,
        }
    }
}

impl Handshake {
    /// The client sent an `initialize`.
    pub(super) fn asked(&mut self, params: Option<&str>) {
        *self = Self {
            asked: Some(Kept::of(params)),
            ..Self::default()
        };
    }

    /// The server answered it; none if with an error.
    pub(super) fn agreed(&mut self, result: Option<&str>) {
        self.agreed = result.map(|result| Kept::of(Some(result)));
    }

    /// The client has taken note of the answer.
    pub(super) fn confirmed(&mut self) {
        self.confirmed = self.agreed.is_some();
    }

    /// What is to be said again; none if nothing was agreed on. The error is in words.
    pub(super) fn again(&self) -> Result<Option<Again>, &'static str> {
        let (params, agreed) = match (&self.asked, &self.agreed) {
            (Some(Kept::Text(params)), Some(Kept::Text(agreed))) => (params, agreed),
            (Some(_), Some(_)) => {
                return Err("the client's handshake is too long to be said again");
            }
            _ => return Ok(None),
        };
        // A line of the client may end inside of its parameters' white space, but not ours.
        let params = params.replace(['\n', '\r'], " ");
        Ok(Some(Again {
            initialize: format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":{AGAIN},\"method\":\"initialize\",\"params\":{params}}}\n"
            ),
            initialized: self
                .confirmed
                .then_some("{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n"),
            agreed: agreed.clone(),
        }))
    }
}

impl Again {
    /// The result in a message, if that is the answer; the error if the server will not.
    pub(super) fn answered<'a>(&self, message: &'a str) -> Option<Result<&'a str, String>> {
        let members = Members::parse(message).ok()?;
        if members.get("id") != Some(AGAIN) || members.get("method").is_some() {
            return None;
        }
        Some(match members.get("result") {
            Some(result) => Ok(result),
            None => {
                let error: String = message.chars().take(200).collect();
                Err(format!(
                    "the new server does not take the client's handshake: {}",
                    error.escape_debug()
                ))
            }
        })
    }

    /// What the servers differ in, of what a client has been told: `protocolVersion`, and members of
    /// `capabilities`.
    pub(super) fn differences(&self, result: &str) -> Vec<String> {
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
        let (before, now) = (read(&self.agreed), read(result));
        let mut different = Vec::new();
        if before.get("protocolVersion") != now.get("protocolVersion") {
            different.push("protocolVersion".to_owned());
        }
        let members = |value: &Value| {
            let capabilities = value.get("capabilities").and_then(Value::as_object);
            capabilities.cloned().unwrap_or_default()
        };
        let (before, now) = (members(&before), members(&now));
        let mut names: Vec<&String> = before.keys().chain(now.keys()).collect();
        names.sort_unstable();
        names.dedup();
        let changed = names
            .into_iter()
            .filter(|name| before.get(*name) != now.get(*name));
        different.extend(changed.cloned());
        different
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shaken() -> Handshake {
        let mut handshake = Handshake::default();
        handshake.asked(Some(
            "{\"protocolVersion\":\"2025-06-18\",\n\"capabilities\":{}}",
        ));
        handshake.agreed(Some(
            r#"{"protocolVersion":"2025-06-18","capabilities":{"tools":{},"prompts":{"listChanged":true}}}"#,
        ));
        handshake
    }

    #[test]
    fn handshake_is_said_again_as_far_as_it_went() {
        assert_eq!(Handshake::default().again(), Ok(None));
        let mut begun = Handshake::default();
        begun.asked(None);
        assert_eq!(
            begun.again(),
            Ok(None),
            "the client is told of the end instead"
        );
        let mut shaken = shaken();
        let again = shaken.again().unwrap().unwrap();
        assert_eq!(again.initialize.matches('\n').count(), 1, "one line");
        assert!(again.initialize.contains("2025-06-18"));
        assert_eq!(again.initialized, None);
        shaken.confirmed();
        assert!(shaken.again().unwrap().unwrap().initialized.is_some());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut handshake = shaken();
        handshake.asked(Some(&format!("{{\"x\":\"{}\"}}", "x".repeat(KEPT))));
        handshake.agreed(Some("{}"));
        assert!(handshake.again().is_err());
    }

    #[test]
    fn the_answer_is_told_from_other_messages() {
        let again = shaken().again().unwrap().unwrap();
        for other in [
            r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":"capwarden:initialize-again","method":"ping"}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/message"}"#,
        ] {
            assert_eq!(again.answered(other), None, "{other}");
        }
        let answer = format!(r#"{{"jsonrpc":"2.0","id":{AGAIN},"result":{{"a":1}}}}"#);
        assert_eq!(again.answered(&answer), Some(Ok(r#"{"a":1}"#)));
        let error = format!(r#"{{"jsonrpc":"2.0","id":{AGAIN},"error":{{"code":1}}}}"#);
        assert!(again.answered(&error).unwrap().is_err());
    }

    #[test]
    fn differences_are_named() {
        let again = shaken().again().unwrap().unwrap();
        let same = r#"{"capabilities":{"prompts":{"listChanged":true},"tools":{}},"protocolVersion":"2025-06-18"}"#;
        assert!(again.differences(same).is_empty());
        let other = r#"{"protocolVersion":"2024-11-05","capabilities":{"tools":{},"logging":{}}}"#;
        let found = again.differences(other);
        assert_eq!(found, ["protocolVersion", "logging", "prompts"]);
    }
}
