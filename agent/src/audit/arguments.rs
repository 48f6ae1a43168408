//! What is recorded of a call's arguments beside their names.

use std::{collections::BTreeMap, fmt::Write as _};

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::{
    error::AuditError,
    hash::{Hash, Hasher},
    text::{MAX_TEXT, Text},
};

/// Values of one call that are recorded: as many as a tool's rule and `all_tools` can name.
const MAX_VALUES: usize = 32;
/// Bytes of a name that a value is recorded under: no policy's is longer.
const MAX_NAME: usize = 256;

/// A digest of arguments with the salt that it was made with, as the module's documentation
/// describes it: who suspects certain arguments can tell whether it was these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ArgumentsDigest {
    salt: Salt,
    sha256: Hash,
    /// Where values are recorded: that of the arguments without them.
    #[serde(skip_serializing_if = "Option::is_none")]
    rest: Option<Hash>,
    /// The digests of the values that were cut short.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    cut: BTreeMap<String, Hash>,
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
        Ok(Self::salted(random()?, arguments))
    }

    fn salted(salt: Salt, arguments: &Map<String, Value>) -> Self {
        Self {
            salt,
            sha256: salt.object(arguments),
            rest: None,
            cut: BTreeMap::new(),
        }
    }

    /// Reads one from a record; none if the record has none, or no whole one.
    pub(super) fn from_json(value: Option<&Value>) -> Option<Self> {
        let text = |field| value?.get(field)?.as_str();
        let digits = text("salt").filter(|digits| digits.len() == 32)?;
        let salt = u128::from_str_radix(digits, 16).ok()?;
        let rest = match value?.get("rest") {
            None => None,
            Some(rest) => Some(rest.as_str()?.parse().ok()?),
        };
        let cut = match value?.get("cut") {
            None => BTreeMap::new(),
            Some(cut) => {
                let each = cut.as_object()?.iter();
                let each =
                    each.map(|(name, hash)| Some((name.clone(), hash.as_str()?.parse().ok()?)));
                each.collect::<Option<_>>()?
            }
        };
        Some(Self {
            salt: Salt(salt.to_be_bytes()),
            sha256: text("sha256")?.parse().ok()?,
            rest,
            cut,
        })
    }

    /// Whether it is that of these arguments; `names` are those whose values the record has.
    #[must_use]
    pub fn matches(
        &self,
        arguments: &Map<String, Value>,
        names: impl Iterator<Item: AsRef<str>>,
    ) -> bool {
        let Some(rest) = self.rest else {
            return self.salt.object(arguments) == self.sha256;
        };
        let mut left = arguments.clone();
        let mut values = Map::new();
        for name in names {
            let name = name.as_ref();
            let Some(value) = find(arguments, name) else {
                return false;
            };
            values.insert(name.to_owned(), self.salt.value(value).to_string().into());
            remove(&mut left, name);
        }
        self.salt.object(&left) == rest && self.salt.joined(rest, values) == self.sha256
    }

    /// Whether the values of a record are those that the digest was made of. Of a record without
    /// values there is nothing to be held against it.
    pub(super) fn holds(&self, recorded: &Map<String, Value>) -> bool {
        let Some(rest) = self.rest else {
            return recorded.is_empty();
        };
        if self.cut.keys().any(|name| !recorded.contains_key(name)) {
            return false;
        }
        let values = recorded.iter().map(|(name, value)| {
            let hash = self.cut.get(name).copied();
            let hash = hash.unwrap_or_else(|| self.salt.value(value));
            (name.clone(), hash.to_string().into())
        });
        self.salt.joined(rest, values.collect()) == self.sha256
    }
}

fn random() -> Result<Salt, AuditError> {
    let mut salt = [0; 16];
    // The kernel hands out this few bytes in one piece.
    getrandom(&mut salt, GetRandomFlags::empty())
        .map_err(|error| AuditError::Random(error.into()))?;
    Ok(Salt(salt))
}

impl Salt {
    fn hash(self, text: &str) -> Hash {
        let mut hasher = Hasher::default();
        hasher.update(&self.0);
        hasher.update(text.as_bytes());
        hasher.finish()
    }

    fn object(self, object: &Map<String, Value>) -> Hash {
        let mut text = String::new();
        write_object(&mut text, object);
        self.hash(&text)
    }

    fn value(self, value: &Value) -> Hash {
        let mut text = String::new();
        write_value(&mut text, value);
        self.hash(&text)
    }

    /// The digest of a call of which values are recorded, from their digests and that of the rest.
    fn joined(self, rest: Hash, values: Map<String, Value>) -> Hash {
        let mut both = Map::new();
        both.insert("rest".to_owned(), rest.to_string().into());
        both.insert("values".to_owned(), Value::Object(values));
        self.object(&both)
    }
}

impl Serialize for Salt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:032x}", u128::from_be_bytes(self.0)))
    }
}

/// Arguments with their values, at most 32 of them; a long value is cut short like any text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values(Vec<(Text, Value)>);

impl Values {
    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is recorded of a call's arguments: the values of these, named with dots that reach into
    /// objects, and a digest of them all. Names that are not sent are left out.
    ///
    /// # Errors
    ///
    /// The system has no random numbers.
    pub fn taken<'a>(
        arguments: &'a Map<String, Value>,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<(Self, ArgumentsDigest), AuditError> {
        let names = names.into_iter().filter(|name| name.len() <= MAX_NAME);
        let found: BTreeMap<&str, &Value> = names
            .filter_map(|name| Some((name, find(arguments, name)?)))
            .take(MAX_VALUES)
            .collect();
        if found.is_empty() {
            return Ok((Self::default(), ArgumentsDigest::of(arguments)?));
        }
        let salt = random()?;
        let mut rest = arguments.clone();
        let (mut values, mut digests, mut cut) = (Vec::new(), Map::new(), BTreeMap::new());
        for (name, value) in found {
            let digest = salt.value(value);
            let (shown, whole) = shown(value);
            values.push((Text::new(name), shown));
            digests.insert(name.to_owned(), digest.to_string().into());
            if !whole {
                cut.insert(name.to_owned(), digest);
            }
            remove(&mut rest, name);
        }
        let rest = salt.object(&rest);
        let digest = ArgumentsDigest {
            salt,
            sha256: salt.joined(rest, digests),
            rest: Some(rest),
            cut,
        };
        Ok((Self(values), digest))
    }
}

/// A value as it is recorded, and whether that is all of it and comes back from the log as it is.
fn shown(value: &Value) -> (Value, bool) {
    let mut text = String::new();
    write_value(&mut text, value);
    let same = serde_json::from_str::<Value>(&text).is_ok_and(|read| {
        let mut again = String::new();
        write_value(&mut again, &read);
        again == text
    });
    match value {
        Value::String(string) => {
            let kept = Text::new(string.as_str());
            let whole = kept.as_str() == string;
            (kept.as_str().into(), whole && same)
        }
        value if text.len() <= MAX_TEXT => (value.clone(), same),
        _ => (Text::new(text).as_str().into(), false),
    }
}

/// The value that a dotted name points to.
fn find<'a>(arguments: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    match name.split_once('.') {
        None => arguments.get(name),
        Some((first, rest)) => find(arguments.get(first)?.as_object()?, rest),
    }
}

/// Takes the value out that a dotted name points to, if it is still there.
fn remove(arguments: &mut Map<String, Value>, name: &str) {
    match name.split_once('.') {
        None => {
            arguments.remove(name);
        }
        Some((first, rest)) => {
            if let Some(Value::Object(inner)) = arguments.get_mut(first) {
                remove(inner, rest);
            }
        }
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
        let json = serde_json::to_value(&digest).unwrap();
        assert_eq!(json["salt"], "30313233343536373839616263646566");
        assert_eq!(ArgumentsDigest::from_json(Some(&json)), Some(digest));
    }

    #[test]
    fn digest_tells_arguments_apart_and_records_of_equal_ones_too() {
        let one = object(json!({ "a": 1, "b": 2 }));
        let first = ArgumentsDigest::of(&one).unwrap();
        let matches =
            |arguments: Value| first.matches(&object(arguments), std::iter::empty::<&str>());
        assert!(
            matches(json!({ "b": 2, "a": 1 })),
            "the order of keys means nothing"
        );
        assert!(!matches(json!({ "a": 1, "b": 3 })));
        assert!(!matches(json!({ "a": 1, "b": "2" })));
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
        let mut many: Map<String, Value> = (0..60)
            .map(|n| (n.to_string(), json!("\u{1b}".repeat(9_000))))
            .collect();
        many.insert("0".into(), json!({ "port": 80 }));
        many.insert("1".into(), json!(vec![7; 9_000]));
        let (values, digest) = Values::taken(&many, many.keys().map(String::as_str)).unwrap();
        let values = serde_json::to_value(values).unwrap();
        assert_eq!(values.as_object().unwrap().len(), MAX_VALUES);
        assert_eq!(values["0"], json!({ "port": 80 }));
        assert!(values["1"].as_str().unwrap().starts_with("[7,7,"));
        assert!(values["2"].as_str().unwrap().len() < 2 * MAX_TEXT);
        assert_eq!(digest.cut.len(), MAX_VALUES - 1);
    }

    #[test]
    fn recorded_values_are_held_against_the_digest() {
        let long = "tcp port 80 or ".repeat(200);
        let arguments = object(json!({
            "interface": "lo", "opts": { "bpf": long, "n": 1.5, "key": "hunter2" },
            "secret": "s3cret", "count": 7,
        }));
        let names = [
            "interface",
            "opts.bpf",
            "opts.n",
            "count",
            "absent",
            "opts.no.more",
        ];
        let (values, digest) = Values::taken(&arguments, names).unwrap();
        let json = serde_json::to_string(&(&values, &digest)).unwrap();
        assert!(
            !json.contains("hunter2") && !json.contains("s3cret"),
            "{json}"
        );
        // As it is read from the log.
        let (values, digest): (Map<String, Value>, Value) = serde_json::from_str(&json).unwrap();
        assert_eq!(
            values.keys().collect::<Vec<_>>(),
            ["count", "interface", "opts.bpf", "opts.n"]
        );
        assert!(values["opts.bpf"].as_str().unwrap().contains("… ["));
        let digest = ArgumentsDigest::from_json(Some(&digest)).unwrap();
        assert!(digest.holds(&values));
        for (name, other) in [
            ("interface", json!("eth0")),
            ("opts.n", json!(2)),
            ("count", json!("7")),
        ] {
            let mut changed = values.clone();
            changed.insert(name.to_owned(), other);
            assert!(!digest.holds(&changed), "{name}");
            changed.remove(name);
            assert!(!digest.holds(&changed), "{name}");
        }
        let mut more = values.clone();
        more.insert("secret".into(), json!("s3cret"));
        assert!(!digest.holds(&more));
        // Whoever suspects all of them can still tell, and of one that differs, too.
        let names = || values.keys().map(String::as_str);
        assert!(digest.matches(&arguments, names()));
        for name in ["interface", "secret", "count"] {
            let mut other = arguments.clone();
            other.insert(name.into(), json!("x"));
            assert!(!digest.matches(&other, names()), "{name}");
        }
        let mut other = arguments.clone();
        other["opts"]["bpf"] = json!("tcp");
        assert!(!digest.matches(&other, names()));
        assert!(!digest.matches(&Map::new(), names()));
    }

    #[test]
    fn what_is_not_sent_leaves_the_digest_as_it_is() {
        let arguments = object(json!({ "port": 80 }));
        let (values, digest) = Values::taken(&arguments, ["interface"]).unwrap();
        assert!(values.is_empty() && digest.rest.is_none());
        assert!(
            digest.matches(&arguments, std::iter::empty::<&str>()) && digest.holds(&Map::new())
        );
        assert!(!digest.holds(&arguments));
    }
}
