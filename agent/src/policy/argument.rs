//! Arguments of a call: how a policy names them, finds them and writes them.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use super::{number, source::quoted};
use crate::spelling::folds;

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

    /// The argument's value; an error sentence if a server might read it in some way of its own:
    /// the name reaches into what is no object, or a key is spelled almost like it.
    pub(super) fn find<'a>(
        &self,
        arguments: &'a Map<String, Value>,
    ) -> Result<Option<&'a Value>, String> {
        let mut parts = self.0.split('.');
        let mut value = match parts.next() {
            Some(part) => exactly(arguments, part)?,
            None => None,
        };
        for part in parts {
            value = match value {
                None | Some(Value::Null) => return Ok(None),
                Some(Value::Object(object)) => exactly(object, part)?,
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

/// The member of this name, if none has a name that some servers take for it.
fn exactly<'a>(object: &'a Map<String, Value>, name: &str) -> Result<Option<&'a Value>, String> {
    match object.keys().find(|key| *key != name && folds(key, name)) {
        Some(key) => Err(format!(
            "{} could be read as `{name}`; write it as the tool does.",
            quoted(key)
        )),
        None => Ok(object.get(name)),
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

/// Equal as JSON is: 1 and 1.0 are one number. Numbers of which digits may have been lost are not.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => number::compare(a, b) == Some(Ordering::Equal),
        (a, b) => a == b,
    }
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
        let sly = object(json!({"N": 1, "o": {"\u{212a}ey": 2}, "x\u{0}y": 3}));
        for name in ["n", "o.key", "x"] {
            let found = Argument::parse(name)
                .unwrap()
                .find(&sly)
                .map(|value| value.is_some());
            assert!(
                found.is_err_and(|why| why.contains("could be read as")),
                "{name}"
            );
        }
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
    fn numbers_are_equal_by_value() {
        assert!(same(&json!(1), &json!(1.0)));
        assert!(!same(&json!(1), &json!("1")));
        assert!(!same(
            &json!(9_007_199_254_740_993_u64),
            &json!(9_007_199_254_740_992_u64)
        ));
    }
}
