//! What schemas take and refuse, in which words, and what becomes of hostile ones.

use std::time::Instant;

use serde_json::{Map, json};

use super::*;

mod second;
mod suite;

/// What is wrong with a value, as it is told; empty if nothing is.
fn told(schema: &Value, value: &Value) -> String {
    let schema = Schema::read(schema).unwrap_or_else(|why| panic!("{schema}: {why}"));
    match schema.check(value) {
        Ok(()) => String::new(),
        Err(Fault::Wrong { at, why, .. }) => format!("{at}: {why}"),
        Err(Fault::TooMuch) => "too much".to_owned(),
        Err(Fault::Unsure) => "unsure".to_owned(),
    }
}

/// Schema, then values with what is told of them.
type Row = (Value, Vec<(Value, &'static str)>);

fn check(rows: Vec<Row>) {
    for (schema, values) in rows {
        for (value, wanted) in values {
            assert_eq!(told(&schema, &value), wanted, "{schema} {value}");
        }
    }
}

#[test]
fn values_are_held_to_types_and_bounds() {
    let filters = json!({ "type": "object", "properties": { "filters": { "type": "array", "items": {
        "type": "object", "properties": { "port": { "type": "integer", "maximum": 65535 } },
        "required": ["port"], "additionalProperties": false } } } });
    check(vec![
        (
            filters,
            vec![
                (json!({ "filters": [{ "port": 80 }] }), ""),
                (
                    json!({ "filters": [{ "port": 70000 }] }),
                    "/filters/0/port: 70000 is more than 65535",
                ),
                (json!({ "filters": [{}] }), "/filters/0: lacks `port`"),
                (
                    json!({ "filters": [{ "port": 1, "x": 1 }] }),
                    "/filters/0/x: is not known to the tool, as `port` would be",
                ),
                (
                    json!({ "filters": { "port": 1 } }),
                    "/filters: is an object, not a list",
                ),
                (
                    json!({ "filters": [{ "port": "80" }] }),
                    "/filters/0/port: is a string, not a whole number",
                ),
                (
                    json!({ "filters": [{ "port": 80.5 }] }),
                    "/filters/0/port: is a number, not a whole number",
                ),
                (json!({ "filters": [{ "port": 80.0 }] }), ""),
                (json!([]), ": is a list, not an object"),
            ],
        ),
        (
            json!({ "properties": { "a/b": { "exclusiveMinimum": 0, "exclusiveMaximum": 1, "multipleOf": 0.1 } } }),
            vec![
                (json!({ "a/b": 0.3 }), ""),
                (json!({ "a/b": 0 }), "/a~1b: 0 is not more than 0"),
                (json!({ "a/b": 1.0 }), "/a~1b: 1.0 is not less than 1"),
                (json!({ "a/b": 0.25 }), "/a~1b: 0.25 is no multiple of 0.1"),
            ],
        ),
        (
            json!({ "maximum": 9_007_199_254_740_993_u64 }),
            vec![
                (json!(9_007_199_254_740_993_u64), ""),
                (
                    json!(9_007_199_254_740_994_u64),
                    ": 9007199254740994 is more than 9007199254740993",
                ),
            ],
        ),
        (
            json!({ "minLength": 2, "maxLength": 3, "pattern": "^é" }),
            vec![
                (json!("éé"), ""),
                (json!("é"), ": has 1 characters, not at least 2"),
                (json!("éééé"), ": has 4 characters, and at most 3 may be"),
                (json!("secret"), ": has 6 characters, and at most 3 may be"),
                (json!("abc"), ": does not match ^é"),
                (json!(5), ""),
            ],
        ),
        (
            json!({ "enum": ["a", 1, null, { "x": [1.0] }] }),
            vec![
                (json!("a"), ""),
                (json!(1.0), ""),
                (json!(null), ""),
                (json!({ "x": [1] }), ""),
                (json!("A"), ": is not `a`, 1, null or an object"),
                (json!(true), ": is not `a`, 1, null or an object"),
            ],
        ),
        (
            json!({ "type": ["string", "null"] }),
            vec![
                (json!(null), ""),
                (json!(1), ": is a number, not a string or null"),
            ],
        ),
        (
            json!({ "const": 5 }),
            vec![(json!(5.0), ""), (json!("5"), ": is not 5")],
        ),
        (
            json!({ "uniqueItems": true, "minItems": 1, "maxItems": 2, "contains": { "minimum": 5 } }),
            vec![
                (json!([5, 1]), ""),
                (json!([5, 5.0]), ": has the same item at 0 and 1"),
                (json!([]), ": has 0 items, not at least 1"),
                (
                    json!([1]),
                    ": has 0 items of a kind of which there must be 1",
                ),
            ],
        ),
        (
            json!({ "patternProperties": { "^x-": { "type": "integer" } }, "additionalProperties": { "type": "string" }, "propertyNames": { "maxLength": 3 } }),
            vec![
                (json!({ "x-a": 1, "b": "" }), ""),
                (
                    json!({ "x-a": "" }),
                    "/x-a: is a string, not a whole number",
                ),
                (json!({ "b": 1 }), "/b: is a number, not a string"),
                (
                    json!({ "long": "" }),
                    "/long: has 4 characters, and at most 3 may be",
                ),
            ],
        ),
        (
            json!({ "dependentRequired": { "a": ["b", "c"] }, "dependentSchemas": { "d": { "required": ["e"] } }, "minProperties": 1, "maxProperties": 2 }),
            vec![
                (json!({ "b": 1 }), ""),
                (json!({ "a": 1 }), ": has `a` and lacks `b` and `c`"),
                (json!({ "d": 1 }), ": lacks `e`"),
                (json!({}), ": has 0 members, not at least 1"),
            ],
        ),
        (json!(true), vec![(json!(1), "")]),
        (json!(false), vec![(json!(1), ": is not allowed")]),
    ]);
}

#[test]
fn alternatives_tell_of_the_one_that_was_meant() {
    let optional = json!({ "anyOf": [{ "type": "integer", "maximum": 10 }, { "type": "null" }] });
    check(vec![
        (
            optional,
            vec![
                (json!(null), ""),
                (json!(11), ": 11 is more than 10"),
                (json!("x"), ": fits none of the 2 alternatives"),
            ],
        ),
        (
            json!({ "oneOf": [{ "minimum": 5 }, { "multipleOf": 2 }] }),
            vec![
                (json!(5), ""),
                (json!(2), ""),
                (
                    json!(6),
                    ": fits 2 of the alternatives, of which it must fit one",
                ),
                (json!(3), ": fits none of the 2 alternatives"),
            ],
        ),
        (
            json!({ "not": { "required": ["config"] } }),
            vec![
                (json!({}), ""),
                (json!({ "config": 1 }), ": is what it must not be"),
            ],
        ),
        (
            json!({ "if": { "required": ["a"] }, "then": { "required": ["b"] }, "else": { "required": ["c"] } }),
            vec![
                (json!({ "a": 1 }), ": lacks `b`"),
                (json!({}), ": lacks `c`"),
                (json!({ "c": 1 }), ""),
            ],
        ),
        // A branch that was left half-way does not move the place of the next fault.
        (
            json!({ "anyOf": [{ "additionalProperties": false }, true], "properties": { "n": { "maximum": 1 } } }),
            vec![
                (json!({ "n": 2 }), "/n: 2 is more than 1"),
                (json!({ "n": 1, "m": 1 }), ""),
            ],
        ),
        (
            json!({ "allOf": [{ "properties": { "a": true } }], "properties": { "b": true }, "unevaluatedProperties": false }),
            vec![
                (json!({ "a": 1, "b": 2 }), ""),
                (json!({ "c": 1 }), "/c: is not allowed"),
            ],
        ),
        (
            json!({ "prefixItems": [true], "contains": { "const": 7 }, "unevaluatedItems": { "type": "string" } }),
            vec![
                (json!([1, 7, "a"]), ""),
                (json!([1, 7, 8]), "/2: is a number, not a string"),
            ],
        ),
    ]);
}

#[test]
fn references_and_revisions() {
    let tree = json!({ "$defs": { "node": { "$anchor": "n", "properties": {
        "next": { "$ref": "#n" }, "value": { "type": "integer" } } } }, "$ref": "#/$defs/node" });
    let seven = json!({ "$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#/definitions/a%20b",
        "type": "null", "definitions": { "a b": { "$id": "#x", "type": "object",
        "properties": { "p": { "items": [{ "type": "string" }], "additionalItems": false } },
        "dependencies": { "p": ["q"] }, "unevaluatedProperties": false } } });
    check(vec![
        (
            tree,
            vec![
                (json!({ "next": { "next": { "value": 1 } } }), ""),
                (
                    json!({ "next": { "next": { "value": "" } } }),
                    "/next/next/value: is a string, not a whole number",
                ),
            ],
        ),
        (
            seven,
            vec![
                // What stands beside `$ref` does not count, and neither does a keyword of later ones.
                (json!({ "z": 1 }), ""),
                (json!({ "p": ["", 1], "q": 1 }), "/p/1: is not allowed"),
                (json!({ "p": [] }), ": has `p` and lacks `q`"),
            ],
        ),
        (
            json!({ "$id": "https://t.example/s", "$ref": "https://t.example/s#/x/y", "x": { "y": { "type": "string" } } }),
            vec![(json!(1), ": is a number, not a string")],
        ),
        (
            json!({ "$schema": "https://json-schema.org/draft/2019-09/schema", "properties": { "c": { "$recursiveRef": "#" } }, "maxProperties": 1 }),
            vec![(
                json!({ "c": { "c": 1, "d": 1 } }),
                "/c: has 2 members, and at most 1 may be",
            )],
        ),
        (
            json!({ "prefixItems": [{ "type": "string" }], "items": { "type": "integer" } }),
            vec![
                (json!(["", 1]), ""),
                (json!(["", ""]), "/1: is a string, not a whole number"),
            ],
        ),
    ]);
}

#[test]
fn schema_that_cannot_be_used_is_refused_whole() {
    let mut deep = json!({});
    for _ in 0..80 {
        deep = json!({ "not": deep });
    }
    let many: Vec<Value> = (0..6000).map(|_| json!({})).collect();
    for (schema, why) in [
        (json!(5), "is no schema"),
        (json!({ "type": "integr" }), "`type` names no type"),
        (
            json!({ "$schema": "http://json-schema.org/draft-04/schema#" }),
            "is not known here",
        ),
        (
            json!({ "$ref": "https://elsewhere.example/s.json" }),
            "leads nowhere",
        ),
        (json!({ "$ref": "#/nowhere" }), "leads nowhere"),
        (
            json!({ "properties": { "a": { "$id": "b" } } }),
            "`$id` stands inside",
        ),
        (json!({ "pattern": "^(?!a)" }), "looks ahead"),
        (
            json!({ "patternProperties": { "(": {} } }),
            "cannot be used",
        ),
        (json!({ "items": [{}] }), "is no schema"),
        (json!({ "minimum": "5" }), "is no number"),
        (json!({ "maxLength": -1 }), "is no whole number"),
        (json!({ "multipleOf": 0 }), "is no number above 0"),
        (json!({ "required": "a" }), "is no list of strings"),
        (json!({ "allOf": [] }), "is no list of schemas"),
        (
            json!({ "x": { "y": { "type": 5 } }, "$ref": "#/x/y" }),
            "names no type",
        ),
        (deep, "deep"),
        (
            json!({ "properties": { ("n".repeat(5_000)): { "not": {} } } }),
            "names in it are too long",
        ),
        (json!({ "anyOf": many }), "more than 5000"),
    ] {
        let found = Schema::read(&schema).expect_err("it was taken");
        assert!(found.contains(why), "{schema}: {found}");
    }
}

#[test]
fn hostile_schema_ends_soon() {
    // Doubling, each reference twice, in place and by members; loops; long lists against long lists.
    let mut defs = Map::new();
    for n in 0..60 {
        let next = json!({ "$ref": format!("#/$defs/d{}", n + 1) });
        defs.insert(format!("d{n}"), json!({ "allOf": [next, next] }));
    }
    defs.insert("d60".to_owned(), json!({}));
    let mut nested = json!(1);
    for _ in 0..100 {
        nested = json!({ "x": nested });
    }
    let twice = json!({ "properties": { "x": { "$ref": "#" } } });
    let long: Vec<Value> = (0..5000).map(|n| json!([n, "x".repeat(20)])).collect();
    let equal = "[".to_owned() + &["1"; 1000].join(",") + "]";
    let equal: Value = serde_json::from_str(&equal).unwrap();
    let name = "x".repeat(4_000);
    let far = format!("#/{name}");
    let twenty_thousand = json!(vec![json!({}); 20_000]);
    let absent: Map<String, Value> = (0..1_000).map(|n| (n.to_string(), json!({}))).collect();
    let mut types = vec!["null"; 1_000];
    types.push("object");
    let begun = Instant::now();
    for (schema, value) in [
        (json!({ "$defs": defs, "$ref": "#/$defs/d0" }), json!({})),
        (json!({ "allOf": [{ "$ref": "#" }] }), json!({})),
        (json!({ "$ref": "#" }), json!({})),
        (json!({ "allOf": [twice, twice] }), nested),
        (json!({ "uniqueItems": true }), Value::from(long)),
        (
            json!({ "items": { "enum": [equal, [equal]] } }),
            json!(vec![equal.clone(); 300]),
        ),
        (
            json!({ "pattern": "^(a|a|ab|b)*c$" }),
            json!("ab".repeat(2_000_000)),
        ),
        // The larger a pattern is, the less text it is held against.
        (
            json!({ "pattern": "^(a?b?){120}c$" }),
            json!("ab".repeat(60_000)),
        ),
        // What costs little is asked often: long references, long lists of what is not there.
        (
            json!({ "items": { "$ref": far }, (name): {} }),
            twenty_thousand.clone(),
        ),
        (
            json!({ "items": { "dependentSchemas": absent } }),
            twenty_thousand.clone(),
        ),
        (json!({ "items": { "type": types } }), twenty_thousand),
    ] {
        assert_eq!(
            told(&schema, &value),
            "too much",
            "{}",
            schema.to_string().len()
        );
    }
    // No more than a guard against hours; it takes a fraction of a second.
    assert!(begun.elapsed().as_secs() < 60);
}
