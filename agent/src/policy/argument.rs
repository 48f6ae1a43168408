//! Arguments of a call: how a policy names them and what it may ask of them.

use std::path::{Component, Path};

use regex::Regex;
use serde_json::{Map, Value};

use super::{RuleRef, source::quoted};

/// An argument's name, with dots that reach into objects: `config.interface`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Argument(String);

impl Argument {
    pub(super) fn parse(name: &str) -> Result<Self, &'static str> {
        if name.split('.').any(str::is_empty) || name.chars().any(char::is_control) {
            Err("an argument's name is not empty, and neither is what stands between its dots")
        } else {
            Ok(Self(name.to_owned()))
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.0
    }

    /// The argument's value; an error sentence if the name reaches into what is no object, which
    /// a server might read in some way of its own.
    pub(super) fn find<'a>(
        &self,
        arguments: &'a Map<String, Value>,
    ) -> Result<Option<&'a Value>, String> {
        let mut parts = self.0.split('.');
        let mut value = parts.next().and_then(|part| arguments.get(part));
        for part in parts {
            value = match value {
                None | Some(Value::Null) => return Ok(None),
                Some(Value::Object(object)) => object.get(part),
                Some(_) => {
                    return Err(format!(
                        "`{}` cannot be found: what stands before `.{part}` is no object.",
                        self.0
                    ));
                }
            };
        }
        Ok(value)
    }
}

/// Writes a value where a dotted name points, making the objects on the way.
pub(super) fn write(arguments: &mut Map<String, Value>, name: &str, value: Value) {
    match name.split_once('.') {
        None => {
            arguments.insert(name.to_owned(), value);
        }
        Some((first, rest)) => {
            let inner = arguments.entry(first).or_insert(Value::Null);
            if !inner.is_object() {
                *inner = Value::Object(Map::new());
            }
            if let Value::Object(inner) = inner {
                write(inner, rest, value);
            }
        }
    }
}

/// What `args:` asks of one argument.
#[derive(Clone, Debug)]
pub(super) struct ArgumentRule {
    pub(super) argument: Argument,
    pub(super) checks: Vec<Check>,
}

/// One predicate, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Check {
    pub(super) predicate: Predicate,
    pub(super) rule: RuleRef,
}

/// What an argument's value must be. All but [`Predicate::Absent`] and [`Predicate::Present`] hold
/// for an argument that is not there, or is null: they say what may be sent, not that it must.
#[derive(Clone, Debug)]
pub(super) enum Predicate {
    /// Not there, not even as null.
    Absent,
    /// There, and not null.
    Present,
    /// A string that the regular expression matches from its first to its last character.
    Pattern { written: String, regex: Regex },
    /// One of these scalars.
    OneOf(Vec<Value>),
    /// A number from 0 to this.
    AtMost { number: f64, written: String },
    /// An absolute path in this directory, or a list of them. Symbolic links are not followed:
    /// that part is the kernel's.
    Under(String),
}

impl ArgumentRule {
    /// The first check that the call fails: the rule, the reason and what would be allowed.
    pub(super) fn refuse(
        &self,
        arguments: &Map<String, Value>,
    ) -> Option<(RuleRef, String, Option<String>)> {
        let name = self.argument.name();
        let value = match self.argument.find(arguments) {
            Ok(value) => value,
            Err(reason) => {
                let rule = self.checks.first()?.rule.clone();
                return Some((rule, reason, None));
            }
        };
        self.checks.iter().find_map(|check| {
            check
                .predicate
                .refuse(name, value)
                .map(|(reason, instead)| (check.rule.clone(), reason, instead))
        })
    }
}

impl Predicate {
    fn refuse(&self, name: &str, value: Option<&Value>) -> Option<(String, Option<String>)> {
        let there = value.filter(|value| !value.is_null());
        match self {
            Self::Absent => value.map(|_| {
                (
                    format!("The argument `{name}` is not allowed."),
                    Some(format!("Call again without `{name}`.")),
                )
            }),
            Self::Present => there.is_none().then(|| {
                (
                    format!("The argument `{name}` is required."),
                    Some(format!("Call again with `{name}`.")),
                )
            }),
            Self::Pattern { written, regex } => {
                let value = there?;
                let instead = || {
                    Some(format!(
                        "Send a `{name}` that matches {} as a whole.",
                        written.replace(char::is_control, " ")
                    ))
                };
                match value.as_str() {
                    Some(text) if regex.is_match(text) => None,
                    Some(_) => Some((
                        format!(
                            "The argument `{name}` has characters or words that are not allowed."
                        ),
                        instead(),
                    )),
                    None => Some((
                        format!(
                            "The argument `{name}` must be a string, but is {}.",
                            kind(value)
                        ),
                        instead(),
                    )),
                }
            }
            Self::OneOf(allowed) => {
                let value = there?;
                if allowed.iter().any(|one| same(one, value)) {
                    return None;
                }
                let words: Vec<String> = allowed.iter().map(ToString::to_string).collect();
                Some((
                    format!("The argument `{name}` has a value that is not allowed."),
                    Some(format!(
                        "Send {} as `{name}`.",
                        super::units::either(&words, "or")
                    )),
                ))
            }
            Self::AtMost { number, written } => {
                let value = there?;
                let instead = Some(format!("Send a number from 0 to {written} as `{name}`."));
                match value.as_f64() {
                    Some(n) if (0.0..=*number).contains(&n) => None,
                    Some(_) => Some((
                        format!("The argument `{name}` is not between 0 and {written}."),
                        instead,
                    )),
                    None => Some((
                        format!(
                            "The argument `{name}` must be a number, but is {}.",
                            kind(value)
                        ),
                        instead,
                    )),
                }
            }
            Self::Under(directory) => {
                let value = there?;
                let paths = match value {
                    Value::Array(items) => items.iter().collect(),
                    other => vec![other],
                };
                let reason = paths
                    .into_iter()
                    .find_map(|path| outside(name, path, directory))?;
                Some((
                    reason,
                    Some(format!(
                        "Send an absolute path under {directory} as `{name}`."
                    )),
                ))
            }
        }
    }
}

/// Why a path is not in a directory, in a sentence.
fn outside(name: &str, path: &Value, directory: &str) -> Option<String> {
    let Some(text) = path.as_str() else {
        return Some(format!(
            "The argument `{name}` must be a path, but is {}.",
            kind(path)
        ));
    };
    if text.chars().any(char::is_control) {
        return Some(format!("The path in `{name}` has control characters."));
    }
    let path = Path::new(text);
    if !path.is_absolute() {
        return Some(format!("The path in `{name}` is not absolute."));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Some(format!("The path in `{name}` goes up with `..`."));
    }
    // Compares component by component, so that `//`, `/./` and `/dir-else` are seen for what they are.
    if !path.starts_with(directory) {
        return Some(format!(
            "The path {} in `{name}` is not under {directory}.",
            quoted(text)
        ));
    }
    None
}

/// Equal as JSON is: 1 and 1.0 are one number.
fn same(a: &Value, b: &Value) -> bool {
    a == b
        || matches!((a, b), (Value::Number(a), Value::Number(b))
            if a.as_f64().is_some() && a.as_f64() == b.as_f64() && !(a.is_u64() && b.is_u64()))
}

/// What a JSON value is, with its article.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            _ => panic!("not an object"),
        }
    }

    #[test]
    fn dots_reach_into_objects() {
        let arguments = object(json!({"a": {"b": {"c": 1}}, "a.b": 2, "s": "x", "n": null}));
        let find = |name: &str| Argument::parse(name).unwrap().find(&arguments);
        assert_eq!(find("a.b.c"), Ok(Some(&json!(1))));
        assert_eq!(find("a.b.d"), Ok(None));
        assert_eq!(find("n.b"), Ok(None));
        assert_eq!(find("zz.b"), Ok(None));
        assert!(find("s.b").is_err());
        for bad in ["", ".", "a.", ".a", "a..b"] {
            assert!(Argument::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn writing_makes_the_objects() {
        let mut arguments = object(json!({"a": {"x": 1}, "n": null}));
        write(&mut arguments, "a.b.c", json!(7));
        write(&mut arguments, "n.m", json!(8));
        write(&mut arguments, "p", json!(9));
        assert_eq!(
            Value::Object(arguments),
            json!({"a": {"x": 1, "b": {"c": 7}}, "n": {"m": 8}, "p": 9})
        );
    }

    #[test]
    fn paths_stay_under_their_directory() {
        for (path, allowed) in [
            (json!("/cap/a.pcap"), true),
            (json!("/cap"), true),
            (json!("/cap//x/./y"), true),
            (json!("//cap/x"), true),
            (json!(["/cap/a", "/cap/b"]), true),
            (json!([]), true),
            (json!(["/cap/a", "/etc/shadow"]), false),
            (json!("/cap-else/a"), false),
            (json!("/cap/../etc/shadow"), false),
            (json!("/cap/.."), false),
            (json!("cap/a"), false),
            (json!("~/a"), false),
            (json!(""), false),
            (json!("/cap/a\0"), false),
            (json!("/cap/a\n/etc"), false),
            (json!("/"), false),
            (json!(4), false),
            (json!({"path": "/cap/a"}), false),
            (json!([["/cap/a"]]), false),
        ] {
            let refused = Predicate::Under("/cap".to_owned()).refuse("file", Some(&path));
            assert_eq!(refused.is_none(), allowed, "{path} {refused:?}");
        }
    }

    #[test]
    fn numbers_are_equal_by_value() {
        assert!(same(&json!(1), &json!(1.0)));
        assert!(!same(&json!(1), &json!("1")));
        assert!(!same(
            &json!(9_007_199_254_740_993_u64),
            &json!(9_007_199_254_740_992_u64)
        ));
    }
}
