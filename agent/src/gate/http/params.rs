//! The headers in which a client repeats arguments of its call (2026-07-28): `Mcp-Param-NAME`, for what a
//! tool's schema marks with `x-mcp-header: NAME`. Who is on the way acts by them, so they must say what the
//! call says. A server that speaks HTTP sees to that itself; one on pipes cannot.

use std::{collections::HashMap, sync::Arc};

use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};
use serde_json::{Number, Value};

use super::{
    base64,
    headers::{id_of, single},
    refusal::Refusal,
};
use crate::{
    gate::{
        envelope::Envelope,
        json::{self, Members},
    },
    policy::{Change, LONGEST_DEFINITION},
};

/// What all these headers begin with.
const PREFIX: &str = "mcp-param-";
/// How a schema marks an argument.
const MARK: &str = "x-mcp-header";

/// Tools of which is known what they mark.
const TOOLS: usize = 1024;
/// Arguments that a tool marks; of one with more, none is known.
const MOST: usize = 64;

/// An argument that a tool wants repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Marked {
    header: HeaderName,
    /// Its name, after those of the objects that it is in.
    path: Vec<String>,
}

/// What the tools of a server mark, as far as they were listed.
#[derive(Debug, Default)]
pub(super) struct Declared(HashMap<String, Arc<[Marked]>>);

impl Declared {
    /// Takes up what a list of tools says.
    pub(super) fn learn(&mut self, tools: Vec<(String, Vec<Marked>)>) {
        for (tool, marked) in tools {
            if marked.is_empty() {
                self.0.remove(&tool);
            } else if self.0.len() < TOOLS || self.0.contains_key(&tool) {
                self.0.insert(tool, marked.into());
            }
        }
    }

    /// What a tool marks.
    pub(super) fn of(&self, tool: &str) -> Arc<[Marked]> {
        self.0.get(tool).map_or_else(Arc::default, Arc::clone)
    }
}

/// What each tool marks in the result of `tools/list`.
pub(super) fn marked(result: &str) -> Vec<(String, Vec<Marked>)> {
    let tools = Members::parse(result)
        .ok()
        .and_then(|result| json::elements(result.get("tools")?));
    let tools = tools.into_iter().flatten().take(TOOLS);
    let tool = |text| {
        let tool = Members::parse(text).ok()?;
        let name = json::string(tool.get("name")?)?.into_owned();
        let schema = tool
            .get("inputSchema")
            .filter(|schema| schema.contains(MARK) && schema.len() <= LONGEST_DEFINITION);
        let mut marked = Vec::new();
        if let Some(schema) = schema.and_then(|schema| json::strict(schema).ok()) {
            find(&schema, &mut Vec::new(), &mut marked);
        }
        if marked.len() > MOST {
            marked.clear();
        }
        Some((name, marked))
    };
    tools.filter_map(tool).collect()
}

fn find(schema: &Value, path: &mut Vec<String>, marked: &mut Vec<Marked>) {
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        path.push(name.clone());
        let mark = property.get(MARK).and_then(Value::as_str);
        let header = mark.and_then(|mark| HeaderName::try_from(format!("{PREFIX}{mark}")).ok());
        if let Some(header) = header.filter(|_| marked.len() <= MOST) {
            let path = path.clone();
            marked.push(Marked { header, path });
        }
        find(property, path, marked);
        path.pop();
    }
}

/// Checks that these headers say what the call says: those that its tool has marked are there when the
/// argument is, and what no tool is known to have marked repeats some argument all the same.
pub(super) fn agree(
    headers: &HeaderMap,
    envelope: &Envelope<'_>,
    marked: &[Marked],
) -> Result<(), Refusal> {
    agreement(headers, envelope, marked).map_err(|refusal| refusal.of(id_of(envelope)))
}

fn agreement(
    headers: &HeaderMap,
    envelope: &Envelope<'_>,
    marked: &[Marked],
) -> Result<(), Refusal> {
    let repeats = |name: &&HeaderName| name.as_str().starts_with(PREFIX);
    if marked.is_empty() && headers.keys().find(repeats).is_none() {
        return Ok(());
    }
    let params = envelope
        .params
        .filter(|_| envelope.method.as_deref() == Some("tools/call"))
        .and_then(|params| Members::parse(params).ok());
    let arguments = params.as_ref().and_then(|params| params.get("arguments"));
    let arguments = arguments.and_then(|arguments| json::strict(arguments).ok());
    for Marked { header, path } in marked {
        let argument = arguments.as_ref().and_then(|arguments| {
            path.iter()
                .try_fold(arguments, |value, name| value.get(name))
        });
        let argument = argument.filter(|argument| !argument.is_null());
        match (single(headers, header)?, argument) {
            (None, None) => {}
            (Some(said), Some(argument)) if says(said, argument) => {}
            (None, Some(_)) => {
                return Err(Refusal::mismatch(format!(
                    "the header {header} is missing: the tool wants `{}` repeated in it",
                    path.join(".")
                )));
            }
            (Some(_), _) => return Err(lies(header)),
        }
    }
    for header in headers.keys().filter(repeats) {
        if marked.iter().any(|marked| marked.header == *header) {
            continue;
        }
        let said = single(headers, header)?.unwrap_or_default();
        if !arguments
            .as_ref()
            .is_some_and(|arguments| stands_in(said, arguments))
        {
            return Err(lies(header));
        }
    }
    Ok(())
}

fn lies(header: &HeaderName) -> Refusal {
    Refusal::mismatch(format!(
        "the header {header} says something else than the call's arguments"
    ))
}

/// Whether a header says a value: a text as it is, a number by what it is.
fn says(said: &str, value: &Value) -> bool {
    let Some(said) = base64::header_value(said) else {
        return false;
    };
    match value {
        Value::String(text) => said == *text,
        Value::Bool(value) => said == value.to_string(),
        Value::Number(number) => serde_json::from_str::<Number>(&said).is_ok_and(|said| {
            let whole = |number: &Number| number.is_i64() || number.is_u64();
            match whole(&said) && whole(number) {
                true => said == *number,
                false => said.as_f64() == number.as_f64(),
            }
        }),
        _ => false,
    }
}

/// Whether a header says one of the values that there are in another.
fn stands_in(said: &str, value: &Value) -> bool {
    match value {
        Value::Object(members) => members.values().any(|value| stands_in(said, value)),
        Value::Array(items) => items.iter().any(|value| stands_in(said, value)),
        value => says(said, value),
    }
}

/// Makes the headers that repeat arguments say what the call says now. Which header repeats which
/// argument only the tool's schema knows, so they are found by their value. Should one be taken for
/// another, it disagrees with the body, and the server refuses the call.
pub(super) fn repeat(headers: &mut HeaderMap, changes: &[Change]) {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    for (name, header) in headers.iter_mut() {
        let Some(said) = header
            .to_str()
            .ok()
            .filter(|_| name.as_str().starts_with(PREFIX))
            .and_then(base64::header_value)
        else {
            continue;
        };
        let changed = changes
            .iter()
            .find(|change| change.asked.as_ref().map(text).as_ref() == Some(&said));
        let now = changed.map(|change| text(&change.forwarded));
        // One that cannot stand in a header as it is stays wrong, and is refused.
        if let Some(now) = now.and_then(|now| HeaderValue::from_str(&now).ok()) {
            *header = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"tools":[{"name":"plain","inputSchema":{}},{"name":"t","inputSchema":{"properties":{
        "region":{"type":"string","x-mcp-header":"Region"},
        "of":{"type":"object","properties":{"n":{"type":"integer","x-mcp-header":"N"}}},
        "flag":{"type":"boolean","x-mcp-header":"Flag"},
        "bad":{"type":"string","x-mcp-header":"not a name"}}}}]}"#;

    fn of(tool: &str, sent: &[(&str, &str)], arguments: &str) -> Result<(), String> {
        let mut declared = Declared::default();
        declared.learn(marked(LIST));
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        let call = format!(
            r#"{{"id":1,"method":"tools/call","params":{{"name":"t","arguments":{arguments}}}}}"#
        );
        let envelope = Envelope::parse(call.as_bytes()).unwrap();
        agree(&headers, &envelope, &declared.of(tool)).map_err(|refusal| {
            assert_eq!((refusal.code, refusal.id.as_deref()), (-32020, Some("1")));
            refusal.why
        })
    }

    #[test]
    fn marked_arguments_are_repeated_as_they_are() {
        const ALL: &str = r#"{"region":"us","of":{"n":42},"flag":true,"other":"x"}"#;
        let good = [
            ("mcp-param-region", "us"),
            ("mcp-param-n", "42.0"),
            ("mcp-param-flag", "true"),
        ];
        assert_eq!(of("t", &good, ALL), Ok(()));
        for n in 0..good.len() {
            let mut fewer = good.to_vec();
            let (name, _) = fewer.remove(n);
            let why = of("t", &fewer, ALL).unwrap_err();
            assert!(why.contains(name) && why.contains("missing"), "{why}");
            let mut other = good;
            other[n].1 = "43";
            let why = of("t", &other, ALL).unwrap_err();
            assert!(
                why.contains(name) && why.contains("something else"),
                "{why}"
            );
        }
        // What is not sent is not repeated, and nothing stands twice.
        assert_eq!(of("t", &[], r#"{"region":null}"#), Ok(()));
        assert!(of("t", &good[..1], r#"{"region":null,"x":"us"}"#).is_err());
        assert!(of("t", &good[..1], r#"{"region":["us"]}"#).is_err());
        let twice = [good[0], ("mcp-param-region", "eu")];
        assert!(of("t", &twice, r#"{"region":"us"}"#).is_err());
        let wrapped = [("mcp-param-region", "=?base64?w6k=?=")];
        assert_eq!(of("t", &wrapped, r#"{"region":"é"}"#), Ok(()));
    }

    #[test]
    fn headers_that_no_tool_is_known_to_want_repeat_something_all_the_same() {
        let sent = [("mcp-param-x", "us")];
        for tool in ["plain", "unknown"] {
            assert_eq!(of(tool, &sent, r#"{"a":{"b":["us"]}}"#), Ok(()));
            assert!(of(tool, &sent, r#"{"us":"eu"}"#).is_err());
            assert!(of(tool, &sent, "{}").is_err());
            assert_eq!(of(tool, &[], r#"{"region":"us"}"#), Ok(()));
        }
    }
}
