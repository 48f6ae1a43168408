//! One strict pass over a client's line: what the gate reads must be what the server will read.

use std::borrow::Cow;

use serde_json::{Map, Number, Value};

use super::{
    json::{self, Members},
    question::elicits,
    trace::TraceParent,
};
use crate::{
    policy::Call,
    spelling::{fold, folds},
};

/// How deep a message may nest: as deep as serde_json reads one.
const DEPTH: usize = 127;

/// How long an id may be: it is kept until it is answered.
const ID: usize = 4096;

/// The keys that decide what a message is.
const ENVELOPE: [&str; 6] = ["jsonrpc", "id", "method", "params", "result", "error"];

/// The keys that decide which tool is called, and how; and what its client's user said to that.
const CALL: [&str; 4] = ["name", "arguments", "requestState", "inputResponses"];

/// Why a line is not let through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("the line is not valid UTF-8")]
    NotUtf8,
    #[error("the line is not one JSON value: {0}")]
    NotJson(String),
    #[error("a carriage return inside a message is refused: some servers end the line there")]
    CarriageReturn,
    #[error("the message nests deeper than {DEPTH} levels")]
    TooDeep,
    #[error("batches are refused: send one message a line")]
    Batch,
    #[error("a message is a JSON object")]
    NotAnObject,
    #[error("the key {0:?} stands twice: servers differ in which one they read")]
    Repeated(String),
    #[error("the key {found:?} is refused: some servers read it as {meant:?}")]
    Folded { found: String, meant: &'static str },
    #[error("an id is a string or a number, of at most {ID} bytes")]
    BadId,
    #[error("a method is a string")]
    BadMethod,
    #[error("the method {0:?} is refused: some servers read it as \"tools/call\"")]
    FoldedMethod(String),
    #[error("params of tools/call is an object")]
    BadParams,
    #[error("the name of a tool is a string without control characters")]
    BadName,
    #[error("arguments of tools/call is an object")]
    BadArguments,
    #[error("arguments are refused: {0}")]
    AmbiguousArguments(String),
}

impl Fault {
    /// JSON-RPC's code for it.
    pub(super) fn code(&self) -> i32 {
        match self {
            Self::NotUtf8 | Self::NotJson(_) => -32700,
            Self::BadParams | Self::BadName | Self::BadArguments | Self::AmbiguousArguments(_) => {
                -32602
            }
            _ => -32600,
        }
    }
}

/// A fault, and the request that is to be told; none if that is not certain.
#[derive(Debug)]
pub(super) struct Refused<'a> {
    pub(super) fault: Fault,
    pub(super) id: Option<&'a str>,
}

/// An id in a form in which the client's and the server's spelling compare equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Id {
    Null,
    Text(String),
    Number(String),
}

impl Id {
    /// Reads an id; none if it is neither a string nor a number nor null, or too long.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() > ID {
            return None;
        }
        // A whole number that a double has is already in its one spelling.
        if (1..=15).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Some(Self::Number(text.to_owned()));
        }
        if text.starts_with('"') {
            return Some(Self::Text(json::string(text)?.into_owned()));
        }
        if text == "null" {
            return Some(Self::Null);
        }
        let number: Number = serde_json::from_str(text).ok()?;
        // A server that reads numbers as doubles answers `1.0` and `1e0` with 1, `-0` with 0 and
        // 9007199254740993 with 9007199254740992. Adding zero takes its sign away.
        let double = number.as_f64()? + 0.0;
        Some(Self::Number(double.to_string()))
    }

    /// The id as JSON.
    pub(super) fn as_json(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Text(text) => Value::from(text.as_str()).to_string(),
            Self::Number(number) => number.clone(),
        }
    }
}

/// What the gate needs to know of one message, borrowed from its line.
#[derive(Debug)]
pub(super) struct Envelope<'a> {
    /// The id, and how it was written.
    pub(super) id: Option<(Id, &'a str)>,
    pub(super) method: Option<Cow<'a, str>>,
    pub(super) params: Option<&'a str>,
    /// The span of the caller's that the transport says it is a part of.
    pub(super) parent: Option<TraceParent>,
}

impl<'a> Envelope<'a> {
    /// Reads one line of the client, with or without its line end.
    pub(super) fn parse(line: &'a [u8]) -> Result<Self, Refused<'a>> {
        let nameless = |fault| Refused { fault, id: None };
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = str::from_utf8(line).map_err(|_| nameless(Fault::NotUtf8))?;
        scan(line).map_err(nameless)?;
        match text.trim_start().bytes().next() {
            Some(b'{') => {}
            Some(b'[') => return Err(nameless(Fault::Batch)),
            _ => {
                return Err(nameless(
                    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
                        Ok(_) => Fault::NotAnObject,
                        Err(error) => Fault::NotJson(error.to_string()),
                    },
                ));
            }
        }
        let members =
            Members::parse(text).map_err(|error| nameless(Fault::NotJson(error.to_string())))?;

        let id = members.get("id").map(|text| (Id::parse(text), text));
        let method = members.get("method");
        // Only a request that certainly carries this id is told by it: the error must not be
        // taken for the answer to another.
        let certain =
            method.is_some() && members.iter().filter(|(key, _)| folds(key, "id")).count() == 1;
        let told = match &id {
            Some((Some(Id::Text(_) | Id::Number(_)), text)) if certain => Some(*text),
            _ => None,
        };
        let refused = |fault| Refused { fault, id: told };

        unambiguous(&members, &ENVELOPE).map_err(refused)?;
        let id = match id {
            Some((Some(id), text)) => Some((id, text)),
            Some((None, _)) => return Err(refused(Fault::BadId)),
            None => None,
        };
        let method = method
            .map(|text| json::string(text).ok_or_else(|| refused(Fault::BadMethod)))
            .transpose()?;
        if let Some(method) = &method
            && let meant = method.split('\0').next().unwrap_or_default().trim()
            && ["tools/call", "tools/list"]
                .iter()
                .any(|name| method != name && folds(meant, name))
        {
            return Err(refused(Fault::FoldedMethod(method.to_string())));
        }
        Ok(Self {
            id,
            method,
            params: members.get("params"),
            parent: None,
        })
    }
}

/// The parameters of a `tools/call`.
#[derive(Debug)]
pub(super) struct CallParams<'a> {
    pub(super) name: String,
    pub(super) arguments: Map<String, Value>,
    /// The client asked for the stateless protocol (2026-07-28 and later).
    pub(super) stateless: bool,
    /// The client says with the call that it can put forms to its user.
    pub(super) elicits: bool,
    /// What a client sends back that was asked for input: the state that it was given.
    pub(super) state: Option<Cow<'a, str>>,
    /// And the text of its answers.
    pub(super) responses: Option<&'a str>,
    /// The span of the caller's that the call is a part of.
    pub(super) parent: Option<TraceParent>,
    /// The text of the parameters.
    pub(super) text: &'a str,
    /// The text of the arguments: an object, `null`, or nothing.
    pub(super) arguments_text: Option<&'a str>,
}

impl<'a> CallParams<'a> {
    pub(super) fn parse(params: Option<&'a str>) -> Result<Self, Fault> {
        let text = params.ok_or(Fault::BadParams)?;
        let members = Members::parse(text).map_err(|_| Fault::BadParams)?;
        unambiguous(&members, &CALL)?;
        let name = members
            .get("name")
            .and_then(json::string)
            .filter(|name| !name.contains(char::is_control))
            .ok_or(Fault::BadName)?
            .into_owned();
        let arguments_text = members.get("arguments");
        let arguments = match arguments_text {
            // Clients whose language has no optional maps write null for none.
            None | Some("null") => Map::new(),
            Some(object) if object.starts_with('{') => match json::strict(object) {
                Ok(Value::Object(arguments)) => arguments,
                Ok(_) => return Err(Fault::BadArguments),
                Err(error) => return Err(Fault::AmbiguousArguments(error.to_string())),
            },
            Some(_) => return Err(Fault::BadArguments),
        };
        if let Some((one, other)) = folded_twins(&arguments) {
            return Err(Fault::AmbiguousArguments(format!(
                "some servers read {one:?} and {other:?} as the same key"
            )));
        }
        let meta = members.get("_meta");
        let meta = meta.and_then(|meta| Members::parse(meta).ok());
        let said = |what: &str| {
            let meta = meta.as_ref().filter(|meta| meta.repeated().is_none())?;
            meta.get(what)
        };
        let stateless = said("io.modelcontextprotocol/protocolVersion").is_some();
        let elicits = said("io.modelcontextprotocol/clientCapabilities").is_some_and(elicits);
        let parent = said("traceparent").and_then(json::string);
        Ok(Self {
            parent: parent.and_then(|parent| TraceParent::parse(&parent)),
            name,
            arguments,
            stateless,
            elicits,
            state: members.get("requestState").and_then(json::string),
            responses: members.get("inputResponses"),
            text,
            arguments_text,
        })
    }
}

impl CallParams<'_> {
    /// The call, with the arguments taken out of here.
    pub(super) fn call(&mut self) -> Call {
        Call {
            tool: self.name.clone(),
            arguments: std::mem::take(&mut self.arguments),
        }
    }
}

/// No key stands twice, and no key is one of `known` to a parser that ignores case.
fn unambiguous(members: &Members<'_>, known: &[&'static str]) -> Result<(), Fault> {
    if let Some(key) = members.repeated() {
        return Err(Fault::Repeated(key.to_owned()));
    }
    for (key, _) in members.iter() {
        if let Some(meant) = known.iter().find(|name| key != **name && folds(key, name)) {
            return Err(Fault::Folded {
                found: key.to_owned(),
                meant,
            });
        }
    }
    Ok(())
}

/// Two keys that are one to a parser that ignores case.
fn folded_twins(arguments: &Map<String, Value>) -> Option<(&str, &str)> {
    let mut seen = std::collections::HashMap::with_capacity(arguments.len());
    for key in arguments.keys() {
        let folded: String = key.chars().map(fold).collect();
        if let Some(other) = seen.insert(folded, key.as_str()) {
            return Some((other, key));
        }
    }
    None
}

/// Depth, and carriage returns, which are white space to JSON and a line's end to Python and Node.
fn scan(line: &[u8]) -> Result<(), Fault> {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for &byte in line {
        if escaped {
            escaped = false;
            continue;
        }
        match byte {
            b'\r' => return Err(Fault::CarriageReturn),
            b'"' => quoted = !quoted,
            b'\\' if quoted => escaped = true,
            b'{' | b'[' if !quoted => {
                depth = depth.saturating_add(1);
                if depth > DEPTH {
                    return Err(Fault::TooDeep);
                }
            }
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(line: &str) -> Fault {
        Envelope::parse(line.as_bytes()).unwrap_err().fault
    }

    fn call_fault(params: &str) -> Fault {
        CallParams::parse(Some(params)).unwrap_err()
    }

    #[test]
    fn envelope_plain_request_is_borrowed() {
        let envelope = Envelope::parse(
            b" {\"id\": \"a\\u0062\", \"method\":\"tools\\/call\",\"params\":{ }}\r\n",
        )
        .unwrap();
        assert_eq!(envelope.id, Some((Id::Text("ab".into()), "\"a\\u0062\"")));
        assert_eq!(envelope.method.as_deref(), Some("tools/call"));
        assert_eq!(envelope.params, Some("{ }"));
    }

    #[test]
    fn envelope_id_spellings_compare_equal() {
        for same in ["5", "5.0", "5e0", "0.5e1"] {
            assert_eq!(Id::parse(same), Some(Id::Number("5".into())), "{same}");
        }
        for (one, other) in [
            ("-0", "0"),
            ("-7", "-7.0"),
            ("9007199254740993", "9007199254740992"),
            ("-9007199254740993", "-9007199254740992"),
            ("100000000000000000000000", "1e23"),
            ("0.12742843956276229477723", "0.12742843956276229"),
        ] {
            assert_eq!(Id::parse(one), Id::parse(other), "{one}");
        }
        assert_ne!(Id::parse("5"), Id::parse("\"5\""));
        assert_eq!(Id::parse("null"), Some(Id::Null));
        for wrong in [
            "{}",
            "[]",
            "true",
            "",
            "1e400",
            &"9".repeat(400),
            &"9".repeat(ID + 1),
        ] {
            assert_eq!(Id::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn envelope_batch_is_refused() {
        assert_eq!(fault(r#"[{"id":1,"method":"tools/call"}]"#), Fault::Batch);
        assert_eq!(fault("  []"), Fault::Batch);
    }

    #[test]
    fn envelope_ambiguous_keys_are_refused() {
        for line in [
            r#"{"id":1,"method":"ping","method":"tools/call"}"#,
            r#"{"id":1,"method":"ping","m\u0065thod":"tools/call"}"#,
            r#"{"id":1,"id":2,"method":"ping"}"#,
            r#"{"id":1,"method":"ping","x":1,"x":2}"#,
        ] {
            assert!(matches!(fault(line), Fault::Repeated(_)), "{line}");
        }
        for line in [
            r#"{"id":1,"method":"ping","METHOD":"tools/call"}"#,
            r#"{"id":1,"Method":"tools/call"}"#,
            r#"{"id":1,"method":"ping","method\u0000":"tools/call"}"#,
            "{\"id\":1,\"method\":\"ping\",\"param\u{17f}\":{}}",
        ] {
            assert!(matches!(fault(line), Fault::Folded { .. }), "{line}");
        }
    }

    #[test]
    fn envelope_repeated_key_among_many_is_refused() {
        let many: String = (0..40).map(|n| format!("\"k{n}\":0,")).collect();
        let line = format!("{{{many}\"k7\":1}}");
        assert_eq!(fault(&line), Fault::Repeated("k7".into()));
    }

    #[test]
    fn envelope_carriage_return_inside_is_refused() {
        let line = "{\"id\":1,\"method\":\"ping\",\"params\":\r{\"method\":\"tools/call\"}\r}\n";
        assert_eq!(fault(line), Fault::CarriageReturn);
    }

    #[test]
    fn envelope_folded_method_is_refused() {
        for method in [
            "Tools/Call",
            "tools/call ",
            "TOOLS/CALL",
            "tools/call\\u0000x",
        ] {
            let line = format!(r#"{{"id":1,"method":"{method}"}}"#);
            assert!(matches!(fault(&line), Fault::FoldedMethod(_)), "{method}");
        }
    }

    #[test]
    fn envelope_depth_is_bounded() {
        let deep = |n| format!("{{\"params\":{}{}}}", "[".repeat(n), "]".repeat(n));
        assert!(Envelope::parse(deep(126).as_bytes()).is_ok());
        assert!(serde_json::from_str::<Value>(&deep(126)).is_ok());
        assert_eq!(fault(&deep(127)), Fault::TooDeep);
        let text = format!("{{\"params\":\"{}\"}}", "[".repeat(1000));
        assert!(Envelope::parse(text.as_bytes()).is_ok());
    }

    #[test]
    fn envelope_refusal_names_a_certain_id_only() {
        let id = |line: &'static str| Envelope::parse(line.as_bytes()).unwrap_err().id;
        assert_eq!(id(r#"{"id":7,"method":"a","METHOD":"b"}"#), Some("7"));
        assert_eq!(id(r#"{"id":7,"id":8,"method":"a"}"#), None);
        assert_eq!(id(r#"{"id":7,"ID":8,"method":"a"}"#), None);
        assert_eq!(id(r#"{"id":7,"result":1,"result":2}"#), None);
        assert_eq!(id(r#"{"id":{},"method":"a"}"#), None);
    }

    #[test]
    fn envelope_not_json_is_refused() {
        for line in ["", "x", "{", "{}{}", "{\"a\":NaN}", "\u{feff}{}"] {
            assert!(matches!(fault(line), Fault::NotJson(_)), "{line}");
        }
        assert_eq!(fault("1"), Fault::NotAnObject);
        assert!(Envelope::parse(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn call_arguments_absent_or_null_are_empty() {
        for params in [r#"{"name":"t"}"#, r#"{"name":"t","arguments":null}"#] {
            assert!(
                CallParams::parse(Some(params))
                    .unwrap()
                    .arguments
                    .is_empty()
            );
        }
    }

    #[test]
    fn call_ambiguous_params_are_refused() {
        assert!(matches!(
            call_fault(r#"{"name":"a","name":"b"}"#),
            Fault::Repeated(_)
        ));
        assert!(matches!(
            call_fault(r#"{"name":"a","Name":"b"}"#),
            Fault::Folded { .. }
        ));
        assert!(matches!(
            call_fault(r#"{"name":"a","ARGUMENTS":{}}"#),
            Fault::Folded { .. }
        ));
        for arguments in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":{"b":[{"c":1,"\u0063":2}]}}"#,
            r#"{"interface":"lo","Interface":"eth0"}"#,
            r#"{"configName\u0000":"x"}"#,
            r#"{"a":1e999}"#,
            r#"{"a":"\ud800"}"#,
        ] {
            let params = format!(r#"{{"name":"t","arguments":{arguments}}}"#);
            assert!(
                matches!(call_fault(&params), Fault::AmbiguousArguments(_)),
                "{arguments}"
            );
        }
        for arguments in ["[]", "\"{}\"", "1", "true"] {
            let params = format!(r#"{{"name":"t","arguments":{arguments}}}"#);
            assert_eq!(call_fault(&params), Fault::BadArguments);
        }
        assert_eq!(call_fault(r#"{"name":1}"#), Fault::BadName);
        assert_eq!(call_fault(r#"{"name":"deny\u0000"}"#), Fault::BadName);
        assert_eq!(call_fault("[]"), Fault::BadParams);
    }
}
