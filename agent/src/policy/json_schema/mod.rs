//! A tool's own schema, held against the arguments of a call.
//!
//! The schema comes from a server that nobody has reason to trust, so reading it and checking with it are
//! bounded, whatever it says: in size, in depth, and in steps. A schema with `allOf` of two references to
//! the next of thirty definitions takes a validator that has no such bound hours for one call. What cannot
//! be used (another dialect, a reference to elsewhere, a regular expression that needs backtracking) is
//! not skipped: the schema as a whole is refused, with the reason.
//!
//! # What is understood
//!
//! JSON Schema 2020-12, which is MCP's own, and by `$schema` 2019-09, draft-07 and draft-06: all keywords
//! that assert something but `format` and those about contents, which these revisions leave to the reader.
//! References lead into the same document: `#`, `#/a/pointer`, `#anchor`. An `$id` inside of it, which
//! would give them another base, is refused. Regular expressions are ECMA-262's as far as they can be
//! matched in linear time. Numbers are whole numbers of 64 bits, or doubles: where it would take the
//! digits of larger ones to decide, nothing is decided.

mod check;
mod load;
mod pattern;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use serde_json::Value;

use self::pattern::Pattern;

/// A schema that can be used.
#[derive(Debug)]
pub(super) struct Schema {
    root: Value,
    draft: Draft,
    /// `$id` of the root, without a fragment.
    id: Option<String>,
    /// Where the schemas are that have a name, as JSON pointers.
    anchors: HashMap<String, String>,
    patterns: HashMap<String, Pattern>,
    /// Whether a keyword asks what others have looked at.
    notes: bool,
}

/// In which revision a schema is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Draft {
    Six,
    Seven,
    Of2019,
    Of2020,
}

/// Why arguments are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Something in them is not as the schema says.
    Wrong {
        /// Where, as a JSON pointer; empty for all of them.
        at: String,
        /// What, in a phrase: `70000 is more than 65535`. Texts of the arguments are not in it.
        why: String,
        /// Only the type is wrong.
        of_type: bool,
    },
    /// It would take too long to find out.
    TooMuch,
    /// It cannot be found out: numbers of more than 64 bits read alike, and may differ.
    Unsure,
}

impl Schema {
    /// Reads a schema; an error says in a phrase why it cannot be used.
    pub(super) fn read(schema: &Value) -> Result<Self, String> {
        load::load(schema)
    }

    /// Whether a value is valid; the first thing that is wrong if it is not.
    pub(super) fn check(&self, value: &Value) -> Result<(), Fault> {
        check::check(self, value)
    }

    /// The schema that a reference leads to.
    fn resolve(&self, reference: &str) -> Option<&Value> {
        let (document, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        if !document.is_empty() && self.id.as_deref() != Some(document) {
            return None;
        }
        let fragment = percent_decoded(fragment)?;
        if fragment.is_empty() {
            return Some(&self.root);
        }
        match fragment.starts_with('/') {
            true => self.root.pointer(&fragment),
            false => self.root.pointer(self.anchors.get(&fragment)?),
        }
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = rest.get(2..)?;
    }
    String::from_utf8(bytes).ok()
}

/// A JSON pointer one step further.
fn step(pointer: &str, key: &str) -> String {
    format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"))
}
