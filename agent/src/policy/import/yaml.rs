//! Values as YAML.

use std::fmt::Write as _;

use serde_json::Value;

use crate::policy::load::{Node, Tree};

/// Words that YAML, of whatever version, may not take for strings.
const WORDS: [&str; 8] = ["true", "false", "null", "yes", "no", "on", "off", "y"];

/// A string: as it is where that is surely a string, else in quotes.
pub(super) fn string(text: &str) -> String {
    let first = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    let lower = text.to_ascii_lowercase();
    if first && text.chars().all(plain) && lower != "n" && !WORDS.contains(&lower.as_str()) {
        text.to_owned()
    } else {
        quoted(text)
    }
}

/// A string in double quotes, on one line and of characters that YAML can carry.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if needs_escape(c) => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\U{:08x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// What YAML does not carry as it is, or takes for the end of a line.
fn needs_escape(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
        )
}

/// A value on one line.
pub(super) fn value(value: &Value) -> String {
    match value {
        Value::String(text) => string(text),
        Value::Array(items) => list(items.iter().map(self::value)),
        Value::Object(map) => {
            let entries = map
                .iter()
                .map(|(key, one)| format!("{}: {}", string(key), self::value(one)));
            self::map(entries)
        }
        scalar => scalar.to_string(),
    }
}

/// A list on one line.
pub(super) fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    match items.is_empty() {
        true => "[]".to_owned(),
        false => format!("[ {} ]", items.join(", ")),
    }
}

/// A map on one line; each entry is `key: value`.
pub(super) fn map(entries: impl Iterator<Item = String>) -> String {
    let entries: Vec<String> = entries.collect();
    match entries.is_empty() {
        true => "{}".to_owned(),
        false => format!("{{ {} }}", entries.join(", ")),
    }
}

/// A part of a policy file on one line.
pub(super) fn node(part: &Node) -> String {
    match &part.tree {
        Tree::Null => "null".to_owned(),
        Tree::Bool(yes) => yes.to_string(),
        Tree::Integer(n) => n.to_string(),
        // As JSON writes it, so that a whole number keeps its point.
        Tree::Float(n) => Value::from(*n).to_string(),
        Tree::Text(text) => string(text),
        Tree::List(items) => list(items.iter().map(node)),
        Tree::Map(entries) => map(entries
            .iter()
            .map(|entry| format!("{}: {}", string(&entry.key), node(&entry.value)))),
    }
}

/// Words in a comment: on one line.
pub(super) fn comment(text: &str) -> String {
    let plain = |c: char| match needs_escape(c) {
        true => ' ',
        false => c,
    };
    text.chars().map(plain).collect()
}
