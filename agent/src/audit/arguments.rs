//! What is recorded of a call's arguments beside their names.

use std::fmt::Write as _;

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::{
    error::AuditError,
    hash::{Hash, Hasher},
    text::{MAX_TEXT, Text},
};

/// Values of one call that are recorded.
const MAX_VALUES: usize = 16;

/// A digest of arguments with the salt that it was made with, as the module's documentation
/// describes it: who suspects certain arguments can tell whether it was these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ArgumentsDigest {
    salt: Salt,
    sha256: Hash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Salt([u8; 16]);

impl ArgumentsDigest {
    /// The digest with a salt of its own.
    ///
    /// # Errors
    ///
    /// The system has no random numbers.
    pub fn of(arguments: &Map<String, Value>) -> Result<Self, AuditError> {
        let mut salt = [0; 16];
        // The kernel hands out this few bytes in one piece.
        getrandom(&mut salt, GetRandomFlags::empty())
            .map_err(|error| AuditError::Random(error.into()))?;
        Ok(Self::salted(Salt(salt), arguments))
    }

    fn salted(salt: Salt, arguments: &Map<String, Value>) -> Self {
        let mut text = String::new();
        write_object(&mut text, arguments);
        let mut hasher = Hasher::default();
        hasher.update(&salt.0);
        hasher.update(text.as_bytes());
        Self {
            salt,
            sha256: hasher.finish(),
        }
    }

    /// Reads one from a record; none if the record has none, or no whole one.
    pub(super) fn from_json(value: Option<&Value>) -> Option<Self> {
        let text = |field| value?.get(field)?.as_str();
        let digits = text("salt").filter(|digits| digits.len() == 32)?;
        let salt = u128::from_str_radix(digits, 16).ok()?;
        Some(Self {
            salt: Salt(salt.to_be_bytes()),
            sha256: text("sha256")?.parse().ok()?,
        })
    }

    /// Whether it is that of these arguments.
    #[must_use]
    pub fn matches(&self, arguments: &Map<String, Value>) -> bool {
        Self::salted(self.salt, arguments) == *self
    }
}

impl Serialize for Salt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:032x}", u128::from_be_bytes(self.0)))
    }
}

/// Arguments with their values, at most 16 of them; a long value is cut short like any text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values(Vec<(Text, Value)>);

impl Values {
    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&Map<String, Value>> for Values {
    fn from(values: &Map<String, Value>) -> Self {
        let capped = values.iter().take(MAX_VALUES).map(|(name, value)| {
            let value = match value {
                Value::String(text) => text.clone(),
                value => match value.to_string() {
                    text if text.len() > MAX_TEXT => text,
                    _ => return (Text::new(name), value.clone()),
                },
            };
            (Text::new(name), Text::new(value).as_str().into())
        });
        Self(capped.collect())
    }
}

impl Serialize for Values {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// JSON without white space, the keys of objects in order.
fn write_object(text: &mut String, object: &Map<String, Value>) {
    let mut members: Vec<_> = object.iter().collect();
    members.sort_unstable_by_key(|(name, _)| *name);
    text.push('{');
    for (n, (name, value)) in members.into_iter().enumerate() {
        if n > 0 {
            text.push(',');
        }
        write_string(text, name);
        text.push(':');
        write_value(text, value);
    }
    text.push('}');
}

/// No deeper than the gate lets objects be.
fn write_value(text: &mut String, value: &Value) {
    match value {
        Value::Object(object) => write_object(text, object),
        Value::Array(items) => {
            text.push('[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    text.push(',');
                }
                write_value(text, item);
            }
            text.push(']');
        }
        Value::String(string) => write_string(text, string),
        // Writing to a string cannot fail.
        plain => _ = write!(text, "{plain}"),
    }
}

fn write_string(text: &mut String, string: &str) {
    // Nor can text fail to be JSON.
    text.push_str(&serde_json::to_string(string).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(object) => object,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn digest_is_what_the_documentation_says() {
        let arguments = json!({ "b": [1, { "z": null, "a": 1.0 }], "a": "é\n", "B": true });
        let salt = Salt(*b"0123456789abcdef");
        let digest = ArgumentsDigest::salted(salt, &object(arguments));
        let text = "0123456789abcdef{\"B\":true,\"a\":\"é\\n\",\"b\":[1,{\"a\":1.0,\"z\":null}]}";
        assert_eq!(digest.sha256, Hash::of(text.as_bytes()));
        let json = serde_json::to_value(digest).unwrap();
        assert_eq!(json["salt"], "30313233343536373839616263646566");
        assert_eq!(ArgumentsDigest::from_json(Some(&json)), Some(digest));
    }

    #[test]
    fn digest_tells_arguments_apart_and_records_of_equal_ones_too() {
        let (one, other) = (json!({ "a": 1, "b": 2 }), json!({ "b": 2, "a": 1 }));
        let (one, other) = (object(one), object(other));
        let first = ArgumentsDigest::of(&one).unwrap();
        assert!(first.matches(&other), "the order of keys means nothing");
        assert!(!first.matches(&object(json!({ "a": 1, "b": 3 }))));
        assert!(!first.matches(&object(json!({ "a": 1, "b": "2" }))));
        assert_ne!(first, ArgumentsDigest::of(&one).unwrap());
    }

    #[test]
    fn digest_that_is_damaged_matches_nothing() {
        let good = serde_json::to_value(ArgumentsDigest::of(&Map::new()).unwrap()).unwrap();
        assert!(ArgumentsDigest::from_json(Some(&good)).is_some());
        assert_eq!(ArgumentsDigest::from_json(None), None);
        for field in ["salt", "sha256"] {
            for bad in [json!("00"), json!(7), json!("+".repeat(32)), Value::Null] {
                let mut damaged = good.clone();
                damaged[field] = bad;
                assert_eq!(
                    ArgumentsDigest::from_json(Some(&damaged)),
                    None,
                    "{damaged}"
                );
            }
        }
    }

    #[test]
    fn values_are_capped_in_number_and_length() {
        let mut many: Map<String, Value> = (0..40)
            .map(|n| (n.to_string(), json!("\u{1b}".repeat(9_000))))
            .collect();
        many.insert("0".into(), json!({ "port": 80 }));
        many.insert("1".into(), json!(vec![7; 9_000]));
        let values = serde_json::to_value(Values::from(&many)).unwrap();
        assert_eq!(values.as_object().unwrap().len(), MAX_VALUES);
        assert_eq!(values["0"], json!({ "port": 80 }));
        assert!(values["1"].as_str().unwrap().starts_with("[7,7,"));
        assert!(values["2"].as_str().unwrap().len() < 2 * MAX_TEXT);
    }
}
