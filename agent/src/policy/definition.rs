//! A tool, as its server defines it in `tools/list`.

use std::{collections::BTreeMap, fmt, sync::OnceLock};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value, json};

use super::{
    json_schema::{Fault, Schema},
    load,
};
use crate::spelling::folds;

/// What a definition consists of, in the order in which it is told. Other members of a tool, such as its
/// icons, say nothing to a model.
pub const PARTS: [&str; 6] = [
    "name",
    "title",
    "description",
    "inputSchema",
    "outputSchema",
    "annotations",
];

/// Bytes of a definition that is looked at.
pub const LONGEST_DEFINITION: usize = 128 << 10;

/// What a server says of one tool.
#[derive(Debug)]
pub struct Definition {
    name: String,
    parts: Map<String, Value>,
    digest: String,
    /// Why it cannot be read; then it has no parts.
    fault: Option<String>,
    /// Read when it is first asked for.
    schema: OnceLock<Result<Schema, String>>,
}

/// Why arguments cannot be let through by a tool's own schema.
#[derive(Debug)]
pub(super) enum Unfit {
    /// There is no schema that could be used, for this reason.
    Unusable(String),
    /// They are not valid.
    Arguments(Fault),
}

impl Definition {
    /// Reads the element of a list of tools that is called `name`. What could be read in two ways is
    /// kept as what cannot be read: [`Self::fault`].
    #[must_use]
    pub fn read(name: &str, text: &str) -> Self {
        match Self::parts_of(name, text) {
            Ok(parts) => Self::new(name, parts),
            Err(fault) => Self::unfit(name, fault),
        }
    }

    /// One that cannot be used, for a reason in a phrase.
    #[must_use]
    pub fn unfit(name: &str, why: String) -> Self {
        Self {
            fault: Some(why),
            digest: String::new(),
            ..Self::new(name, Map::new())
        }
    }

    fn parts_of(name: &str, text: &str) -> Result<Map<String, Value>, String> {
        if text.len() > LONGEST_DEFINITION {
            return Err(format!(
                "its definition is longer than {LONGEST_DEFINITION} bytes"
            ));
        }
        let read = serde_json::from_str::<Sorted>(text);
        let Sorted(tool) =
            read.map_err(|error| format!("its definition cannot be read: {error}"))?;
        let Value::Object(mut tool) = tool else {
            return Err("its definition is no object".to_owned());
        };
        let twice = tool.keys().find_map(|key| {
            let part = PARTS.iter().find(|part| folds(key, part))?;
            (key != part).then_some(part)
        });
        if let Some(part) = twice {
            return Err(format!(
                "its definition has a key that could be read as `{part}`"
            ));
        }
        if tool.get("name").and_then(Value::as_str) != Some(name) {
            return Err("its definition has another name".to_owned());
        }
        let parts = PARTS.iter().filter_map(|part| {
            let value = tool.remove(*part).filter(|value| !value.is_null())?;
            Some(((*part).to_owned(), value))
        });
        Ok(parts.collect())
    }

    fn new(name: &str, parts: Map<String, Value>) -> Self {
        Self {
            name: name.to_owned(),
            digest: load::digest(&Value::Object(parts.clone()).to_string()),
            parts,
            fault: None,
            schema: OnceLock::new(),
        }
    }

    /// One whose schema requires these arguments and says nothing else.
    #[must_use]
    pub fn requiring(name: &str, arguments: &[String]) -> Self {
        let schema = json!({ "type": "object", "required": arguments });
        let parts = [
            ("name".to_owned(), Value::from(name)),
            ("inputSchema".to_owned(), schema),
        ];
        Self::new(name, parts.into_iter().collect())
    }

    /// Reads what a server answered to `tools/list`: a result, a whole answer, or the list alone; several
    /// of them, such as its pages, one after the other.
    ///
    /// # Errors
    ///
    /// There is something else; the sentence says what.
    pub fn recorded(text: &str) -> Result<Vec<Self>, String> {
        let mut all = Vec::new();
        let mut server = None;
        for page in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
            let page = page.map_err(|error| format!("it is not JSON: {error}"))?;
            let tools = page.pointer("/result/tools").or_else(|| page.get("tools"));
            let tools = tools.unwrap_or(&page).as_array();
            for tool in tools.ok_or("it has no list of tools")? {
                let tool = match tool.get("standing") {
                    None => tool,
                    Some(_) => known(tool, &mut server)?,
                };
                let name = tool.get("name").and_then(Value::as_str);
                let name = name.ok_or("a tool in it has no name")?;
                all.push(Self::read(name, &tool.to_string()));
            }
        }
        Ok(all)
    }

    /// The tool's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Those of [`PARTS`] that there are; the keys of all objects in them are in the order of their bytes.
    #[must_use]
    pub fn parts(&self) -> &Map<String, Value> {
        &self.parts
    }

    /// SHA-256 of the parts as JSON without white space, in hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Why it cannot be read, in a phrase.
    #[must_use]
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// The arguments that the schema requires.
    pub(super) fn required(&self) -> Vec<&str> {
        let schema = self.parts.get("inputSchema");
        let names = schema.and_then(|schema| schema.get("required")?.as_array());
        let names = names.into_iter().flatten();
        names.filter_map(Value::as_str).collect()
    }

    /// Holds arguments against the schema.
    pub(super) fn check(&self, arguments: &Map<String, Value>) -> Result<(), Unfit> {
        let schema =
            self.schema
                .get_or_init(|| match (&self.fault, self.parts.get("inputSchema")) {
                    (Some(fault), _) => Err(fault.clone()),
                    (None, None) => Err("there is none".to_owned()),
                    (None, Some(schema)) => Schema::read(schema),
                });
        let schema = schema
            .as_ref()
            .map_err(|why| Unfit::Unusable(why.clone()))?;
        let arguments = Value::Object(arguments.clone());
        schema.check(&arguments).map_err(Unfit::Arguments)
    }
}

/// Says the same.
impl PartialEq for Definition {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.parts, &self.fault) == (&other.name, &other.parts, &other.fault)
    }
}

impl Eq for Definition {}

/// JSON in which no key stands twice in an object, its objects in the order of their keys.
struct Sorted(Value);

impl<'de> Deserialize<'de> for Sorted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Sort).map(Self)
    }
}

struct Sort;

impl<'de> Visitor<'de> for Sort {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Sorted(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut sorted = BTreeMap::new();
        while let Some((key, Sorted(value))) = members.next_entry::<String, Sorted>()? {
            if sorted.contains_key(&key) {
                return Err(A::Error::custom("a key stands twice in an object"));
            }
            sorted.insert(key, value);
        }
        Ok(Value::Object(sorted.into_iter().collect()))
    }
}

/// The definition in an element of what `capwarden tools list --json` prints: the accepted one, or
/// the one that is offered where none is.
fn known<'a>(tool: &'a Value, server: &mut Option<String>) -> Result<&'a Value, String> {
    let of = tool.get("server").and_then(Value::as_str);
    let of = of.unwrap_or_default();
    if server.as_ref().is_some_and(|server| server != of) {
        return Err(
            "it has the tools of several servers: take `capwarden tools list SERVER --json`"
                .to_owned(),
        );
    }
    *server = Some(of.to_owned());
    let definition = |key| tool.get(key).and_then(|version| version.get("definition"));
    let found = definition("accepted").or_else(|| definition("offered"));
    found.ok_or_else(|| "a tool in it has no definition".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definition_is_its_parts_in_any_spelling() {
        let one = r#"{"name":"t","description":"d","inputSchema":{"b":1,"a":{"y":[1],"x":null}},"icons":[1]}"#;
        let other = r#" { "inputSchema": {"a":{"x":null,"y":[1]}, "b":1}, "title":null, "name":"\u0074","description":"d","_meta":{}}"#;
        let (one, other) = (Definition::read("t", one), Definition::read("t", other));
        assert_eq!(one.fault(), None);
        assert_eq!((one.digest(), &one), (other.digest(), &other));
        let changed = Definition::read(
            "t",
            r#"{"name":"t","description":"d ","inputSchema":{"a":{"x":null,"y":[1]},"b":1}}"#,
        );
        assert_ne!(one.digest(), changed.digest());
        assert_eq!(one.digest().len(), 64);
    }

    #[test]
    fn definition_that_readers_take_in_two_ways_is_not_read() {
        let long = format!(
            r#"{{"name":"t","description":"{}"}}"#,
            "x".repeat(LONGEST_DEFINITION)
        );
        for (text, why) in [
            (
                r#"{"name":"t","description":"a","description":"b"}"#,
                "twice",
            ),
            (r#"{"name":"t","inputSchema":{"a":{"x":1,"x":2}}}"#, "twice"),
            (r#"{"name":"t","Description":"b"}"#, "read as `description`"),
            (
                r#"{"name":"t","input\u017fchema":{}}"#,
                "read as `inputSchema`",
            ),
            (r#"{"name":"u"}"#, "another name"),
            ("[]", "no object"),
            ("{", "cannot be read"),
            (&long, "longer than"),
        ] {
            let definition = Definition::read("t", text);
            let fault = definition.fault().unwrap_or_default();
            assert!(fault.contains(why), "{text:.80}: {fault}");
            assert!(matches!(
                definition.check(&Map::new()),
                Err(Unfit::Unusable(_))
            ));
        }
    }

    #[test]
    fn recorded_lists_are_read_in_their_shapes() {
        let pages = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a"}]}} {"tools":[{"name":"b"}]} [{"name":"c"}]"#;
        let names: Vec<String> = Definition::recorded(pages)
            .unwrap()
            .iter()
            .map(|tool| tool.name().to_owned())
            .collect();
        assert_eq!(names, ["a", "b", "c"]);
        let known = r#"[
            {"server":"s","tool":"a","standing":"accepted","accepted":{"definition":{"name":"a"}},"offered":null},
            {"server":"s","tool":"b","standing":"new","accepted":null,"offered":{"definition":{"name":"b"}}}]"#;
        let names = Definition::recorded(known).unwrap();
        let names: Vec<&str> = names.iter().map(Definition::name).collect();
        assert_eq!(names, ["a", "b"]);
        let several = known.replacen(r#""server":"s""#, r#""server":"t""#, 1);
        let why = Definition::recorded(&several).unwrap_err();
        assert!(why.contains("several servers"), "{why}");
        for bad in ["{", "5", r#"{"tools":[{}]}"#, r#"[{"standing":"new"}]"#] {
            assert!(Definition::recorded(bad).is_err(), "{bad}");
        }
    }
}
