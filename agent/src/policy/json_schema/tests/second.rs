//! Random schemas and values, the same in every run, and what Python's `jsonschema` says of them.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::{Map, Value, json};

use super::{super::Schema, suite::environment};

const SCHEMAS: usize = 250;
const VALUES: usize = 8;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) >> 33).unwrap() % sides
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    fn name(&mut self) -> String {
        self.of(&["a", "b", "c", "x-a", "x-b", "é", "a/b", ""])
            .to_owned()
    }

    fn number(&mut self) -> Value {
        self.of(&[
            json!(0),
            json!(1),
            json!(-1),
            json!(2),
            json!(3),
            json!(1.0),
            json!(0.5),
            json!(1.25),
            json!(-2.5),
            json!(1e3),
            json!(9_007_199_254_740_993_u64),
        ])
    }

    fn count(&mut self) -> Value {
        self.of(&[json!(0), json!(1), json!(2), json!(3), json!(1.0)])
    }

    fn pattern(&mut self) -> &'static str {
        self.of(&[
            "^a", "b$", "^x-", "[0-9]+", "^.{2}$", "a|é", "^(a|b)*$", r"^\d\w-?",
        ])
    }

    /// A value of few kinds, so that schemas made in the same way fit it now and then.
    fn value(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 8 } else { 14 }) {
            0 => Value::Null,
            1 => json!(self.below(2) == 0),
            2..=4 => self.number(),
            5..=7 => json!(self.of(&["", "a", "ab", "b", "é", "12-", "x-a", "\u{1f600}\u{1f600}"])),
            8..=10 => (0..self.below(5)).map(|_| self.value(depth - 1)).collect(),
            _ => {
                let members = (0..self.below(5)).map(|_| (self.name(), self.value(depth - 1)));
                Value::Object(members.collect())
            }
        }
    }

    fn schemas(&mut self, depth: usize, least: usize) -> Value {
        (0..least + self.below(3))
            .map(|_| self.schema(depth))
            .collect()
    }

    fn named(&mut self, depth: usize) -> Value {
        let members = (0..1 + self.below(3)).map(|_| (self.name(), self.schema(depth)));
        Value::Object(members.collect())
    }

    fn names(&mut self) -> Value {
        let mut names: Vec<String> = (0..self.below(3)).map(|_| self.name()).collect();
        names.sort();
        names.dedup();
        json!(names)
    }

    fn schema(&mut self, depth: usize) -> Value {
        if self.below(12) == 0 {
            return json!(self.below(3) > 0);
        }
        let mut schema = Map::new();
        for _ in 0..1 + self.below(3) {
            let (key, value) = self.keyword(depth);
            schema.insert(key.to_owned(), value);
        }
        Value::Object(schema)
    }

    fn keyword(&mut self, depth: usize) -> (&'static str, Value) {
        const TYPES: [&str; 7] = [
            "null", "boolean", "object", "array", "number", "string", "integer",
        ];
        if depth > 0 && self.below(3) > 0 {
            let depth = depth - 1;
            return match self.below(20) {
                0 => ("allOf", self.schemas(depth, 1)),
                1 => ("anyOf", self.schemas(depth, 1)),
                2 => ("oneOf", self.schemas(depth, 1)),
                3 => ("not", self.schema(depth)),
                4 => ("if", self.schema(depth)),
                5 => ("then", self.schema(depth)),
                6 => ("else", self.schema(depth)),
                7 => ("prefixItems", self.schemas(depth, 1)),
                8 => ("items", self.schema(depth)),
                9 => ("contains", self.schema(depth)),
                10 | 11 => ("properties", self.named(depth)),
                12 => ("additionalProperties", self.schema(depth)),
                13 => {
                    let patterns = (0..2).map(|_| (self.pattern().to_owned(), self.schema(depth)));
                    ("patternProperties", Value::Object(patterns.collect()))
                }
                14 => ("propertyNames", self.schema(depth)),
                15 => ("dependentSchemas", self.named(depth)),
                16 => ("unevaluatedItems", self.schema(depth)),
                17 => ("unevaluatedProperties", self.schema(depth)),
                18 => ("$ref", json!(self.of(&["#/$defs/a", "#/$defs/b", "#b"]))),
                _ => ("$dynamicRef", json!(self.of(&["#/$defs/a", "#b"]))),
            };
        }
        match self.below(19) {
            0 | 1 => ("type", json!(self.of(&TYPES))),
            2 => (
                "type",
                json!(["null", self.of(&TYPES[1..4]), self.of(&TYPES[4..])]),
            ),
            3 => ("enum", (0..3).map(|_| self.value(1)).collect()),
            4 => ("const", self.value(1)),
            5 => (
                "multipleOf",
                self.of(&[json!(1), json!(2), json!(0.5), json!(0.25)]),
            ),
            6 => ("minimum", self.number()),
            7 => ("maximum", self.number()),
            8 => ("exclusiveMinimum", self.number()),
            9 => ("exclusiveMaximum", self.number()),
            10 => (self.of(&["minLength", "maxLength"]), self.count()),
            11 => (self.of(&["minItems", "maxItems"]), self.count()),
            12 => (self.of(&["minProperties", "maxProperties"]), self.count()),
            13 => (self.of(&["minContains", "maxContains"]), self.count()),
            14 => ("uniqueItems", json!(true)),
            15 => ("pattern", json!(self.pattern())),
            16 | 17 => ("required", self.names()),
            _ => ("dependentRequired", json!({ self.name(): self.names() })),
        }
    }

    /// A schema with some to refer to, which refer to none.
    fn whole(&mut self) -> Value {
        let mut schema = match self.schema(3) {
            Value::Object(schema) => schema,
            other => Map::from_iter([("not".to_owned(), json!({ "not": other }))]),
        };
        let (a, mut b) = (self.schema(0), Map::from_iter([self.simple()]));
        b.insert("$dynamicAnchor".to_owned(), json!("b"));
        schema.insert("$defs".to_owned(), json!({ "a": a, "b": b }));
        Value::Object(schema)
    }

    fn simple(&mut self) -> (String, Value) {
        let (key, value) = self.keyword(0);
        (key.to_owned(), value)
    }
}

/// What Python says.
fn opinions(pairs: &[(Value, Vec<Value>)]) -> Option<Vec<Vec<bool>>> {
    let python = environment()?.join("bin/python3");
    let mut child = Command::new(python)
        .args(["-I", "-B", "-c", include_str!("second.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let given = json!(pairs).to_string();
    let mut input = child.stdin.take().unwrap();
    let writing = std::thread::spawn(move || input.write_all(given.as_bytes()));
    let done = child.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    assert!(
        done.status.success(),
        "{}; its words are above",
        done.status
    );
    Some(serde_json::from_slice(&done.stdout).unwrap())
}

#[test]
fn python_says_the_same_of_random_schemas() {
    let mut dice = Dice(20_260_728);
    let pairs: Vec<(Value, Vec<Value>)> = (0..SCHEMAS)
        .map(|_| (dice.whole(), (0..VALUES).map(|_| dice.value(2)).collect()))
        .collect();
    let Some(opinions) = opinions(&pairs) else {
        return;
    };
    let (mut valid, mut wrong) = (0, Vec::new());
    for ((schema, values), opinions) in pairs.iter().zip(opinions) {
        let read = Schema::read(schema).unwrap_or_else(|why| panic!("{schema}: {why}"));
        for (value, wanted) in values.iter().zip(opinions) {
            let found = read.check(value);
            valid += usize::from(wanted);
            if found.is_ok() != wanted {
                wrong.push(format!("{schema} {value}: wanted {wanted}: {found:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    // Each says yes and no often enough.
    let all = SCHEMAS * VALUES;
    assert!(valid > all / 5 && valid < all * 4 / 5, "{valid} of {all}");
}
