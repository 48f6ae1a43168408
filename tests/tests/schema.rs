//! The policy language's JSON Schema and its loader agree: what the loader takes, the schema takes,
//! and what is of the wrong shape both refuse.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use capwarden::policy::{Dialect, Policy, SCHEMA};
use capwarden_tests::stage::python;
use serde_json::{Value, json};

const VALIDATOR: &str = include_str!("../scripts/schema.py");

/// All keys of the language, each with a value.
const ALL: &str = r#"{
  "version": 1, "default": { "allow": "a dialect says so" }, "replies": "intercept", "hide": ["a"],
  "definitions": { "pinned": "strict" },
  "all_tools": { "limits": [{ "max": 1000, "window": "day" }], "args": { "x": { "absent": true } },
                 "required_by_schema": true, "schema": true, "approve": "operator",
                 "checks": [ { "deny_if": [] } ], "record": { "values": ["a", "b.c"] } },
  "tools": {
    "allowed": "allow", "free": {}, "denied": { "deny": "no" },
    "asked": {
      "args": {
        "p": { "pattern": "a+", "matches": "b", "contains": "c", "absent": false },
        "q": { "equals": 1, "not_equals": true, "one_of": ["a", 1, 2.5], "none_of": ["b"] },
        "r.s": { "at_most": 3.5, "less_than": 4, "no_more_than": 5, "more_than": -1, "at_least": 0 },
        "u": { "under": "/var", "in_cidr": ["10.0.0.0/8", "fd00::/8"], "interface": ["lo", "any"] },
        "f": { "capture_filter": { "within": "tcp" } }
      },
      "required_by_schema": true, "schema": true, "definitions": "pinned", "record": { "values": ["p"] },
      "approve": { "by": "user", "timeout": "1h30m", "why": "it restarts" },
      "limits": [
        { "max": 3, "window": "90 s", "kind": "bucket", "scope": "server", "counter": "c", "amount": 2, "refund": "never" },
        { "max": 3, "window": 120, "kind": "sliding", "scope": "tool", "amount_from": "n.m", "refund": "failure" },
        { "max": 3, "window": "hour", "kind": "calendar", "scope": "global" }
      ]
    },
    "required": { "checks": [ { "require": [
        { "argument": "a.b", "absent": false }, { "argument": "a", "no_more_than": 5 } ],
      "name": "n", "on_deny": "no" } ] },
    "compared": { "checks": [ { "require": [
        { "argument": "a", "equals": { "x": [1, "y"] }, "compare": "text" }, { "argument": "a", "one_of": [[1], 2] } ] } ] },
    "counted": { "checks": [ { "deny_if": [
        { "counter": "c", "scope": "server", "window": "day", "kind": "calendar", "at_least": 3 } ] } ] },
    "approved": { "checks": [ { "required_by_schema": true },
        { "approve": { "by": "operator", "if": [ { "argument": "a", "contains": "x" } ] } } ] },
    "worded": { "limits": [ { "max": 3, "window": "day", "name": "n", "on_deny": "no" } ] },
    "start": { "capture": {
      "from": { "interface": "i", "filter": "f", "packets": "p", "bytes": "b", "seconds": "s" },
      "interfaces": ["lo", "veth*"], "within": "ip", "outside": "deny", "packets": 5,
      "bytes": "50 MiB", "seconds": 0.5, "snap": 128, "payload": "headers", "over": "deny" } },
    "stop": { "ends": "capture" },
    "relay": { "proxy": {
      "from": { "host": "h", "port": "p", "seconds": "s" }, "defaults": { "host": "::1", "port": 80 }, "answer_within": 5, "end": "restart",
      "listen": ["127.0.0.1:80-90,99", "udp:[fd00::/8]:*", "*:1"], "upstream": ["tcp:a.example:443"],
      "interfaces": ["lo"], "packets": 5, "bytes": "1MiB", "connections": 3, "seconds": 0.5, "over": "deny" } },
    "unrelay": { "ends": "proxy" },
    "browse": { "program": {
      "connect": ["udp:10.0.0.53:53", "a.example:443"], "processes": 5, "memory": "512MiB", "packets": 5,
      "bytes": "1MiB", "connections": 3, "seconds": 0.5 } },
    "close": { "ends": "program" }
  },
  "baseline": { "listen": ["127.0.0.1:80"], "connect": ["api.example:443", "10.0.0.0/8:*"] },
  "exec": { "interfaces": ["lo"], "within": "tcp", "outside": "narrow", "packets": 1, "bytes": 4096,
            "seconds": 1, "snap": "64KiB", "payload": 16, "over": "clamp" }
}"#;

/// What the loader refuses and no schema can: a part of its message.
const BEYOND: &[&str] = &[
    "is not a regular expression",
    "is not an absolute directory",
    "is no network",
    "has bits beyond its length",
    "asks for `",
    "has two limits here",
    "is no interface",
    "is an interface's number",
    "would be read as an option",
    "reads packets from standard input",
    "is longer than a week",
    "is no time from a second",
    "is no number of bytes",
    "to 262144 bytes",
    "is not from 0 to 2^53",
    "is no address",
];

fn loads(document: &Value) -> Result<(), String> {
    match Policy::parse("p", &document.to_string()) {
        Ok(policy) if policy.dialect() == Dialect::Capwarden => Ok(()),
        Ok(_) => Err("it is in another language".to_owned()),
        Err(error) => Err(error.message().to_owned()),
    }
}

/// What the schema says of each.
fn validated(documents: &[Value]) -> Result<Vec<bool>> {
    let mut child = Command::new(python("python3")?)
        .args(["-c", VALIDATOR])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let schema: Value = serde_json::from_str(SCHEMA)?;
    let given = json!({ "schema": schema, "documents": documents }).to_string();
    child
        .stdin
        .take()
        .context("no input")?
        .write_all(given.as_bytes())?;
    let done = child.wait_with_output()?;
    ensure!(done.status.success(), "the schema is none");
    Ok(serde_json::from_slice(&done.stdout)?)
}

/// Paths to all values in a document.
fn places(value: &Value, path: &str, all: &mut Vec<String>) {
    all.push(path.to_owned());
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            let key = key.replace('~', "~0").replace('/', "~1");
            places(value, &format!("{path}/{key}"), all);
        }),
        Value::Array(items) => items.iter().enumerate().for_each(|(n, value)| {
            places(value, &format!("{path}/{n}"), all);
        }),
        _ => {}
    }
}

/// Every value replaced by others, every key left out, and one too many in every map.
fn mutants(document: &Value) -> Vec<Value> {
    let others = [
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(1_u64 << 60),
        json!(""),
        json!(" "),
        json!("x"),
        json!("*"),
        json!([]),
        json!(["x"]),
        json!([1]),
        json!({}),
        json!({ "x": 1 }),
        json!("deny"),
        json!("5 MB"),
        json!("5 min"),
        json!("\n"),
    ];
    let mut all = Vec::new();
    places(document, "", &mut all);
    let mut mutants = Vec::new();
    for path in all {
        let mut change = |change: &dyn Fn(&mut Value)| {
            let mut mutant = document.clone();
            if let Some(place) = mutant.pointer_mut(&path) {
                change(place);
                mutants.push(mutant);
            }
        };
        for other in &others {
            change(&|place| *place = other.clone());
        }
        if let Some(Value::Object(map)) = document.pointer(&path) {
            for key in map.keys() {
                change(&|place| drop(place.as_object_mut().and_then(|map| map.shift_remove(key))));
            }
            change(&|place| {
                if let Some(map) = place.as_object_mut() {
                    map.insert("x-y".to_owned(), json!(1));
                }
            });
        }
    }
    mutants
}

/// Both say the same of each document; returns how many the loader refuses.
fn agree(documents: &[Value]) -> Result<usize> {
    let mut wrong = Vec::new();
    let mut refused = 0;
    for (document, valid) in documents.iter().zip(validated(documents)?) {
        match loads(document) {
            Ok(()) if valid => {}
            Ok(()) => wrong.push(format!("the schema refuses: {document}")),
            Err(why) => {
                refused += 1;
                if valid && !BEYOND.iter().any(|beyond| why.contains(beyond)) {
                    wrong.push(format!(
                        "the schema takes what the loader refuses, {why}: {document}"
                    ));
                }
            }
        }
    }
    let few: Vec<_> = wrong.iter().take(12).map(String::as_str).collect();
    ensure!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        few.join("\n")
    );
    Ok(refused)
}

/// Policies of one section each: a small one is read quickly.
fn parts(all: &Value) -> Vec<Value> {
    let mut head = all.clone();
    if let Some(head) = head.as_object_mut() {
        head.insert("tools".to_owned(), json!({ "free": {} }));
        head.remove("exec");
        head.remove("baseline");
    }
    let exec = json!({ "version": 1, "exec": all.get("exec") });
    let baseline =
        json!({ "version": 1, "tools": { "free": {} }, "baseline": all.get("baseline") });
    let tools = all.get("tools").and_then(Value::as_object);
    let tools = tools.into_iter().flatten();
    let tools = tools.map(|(name, rule)| json!({ "version": 1, "tools": { name: rule } }));
    tools.chain([head, exec, baseline]).collect()
}

#[test]
fn schema_takes_what_the_loader_takes_and_refuses_other_shapes() -> Result<()> {
    let all: Value = serde_json::from_str(ALL)?;
    ensure!(loads(&all) == Ok(()), "{:?}", loads(&all));
    let mut mutants = Vec::new();
    for part in parts(&all) {
        mutants.extend(self::mutants(&part));
    }
    let refused = agree(&mutants)?;
    ensure!(
        refused > 1000 && mutants.len() - refused > 200,
        "{refused} of {}",
        mutants.len()
    );

    // No key is in the one and not in the other: the loader lists its own where one is unknown.
    for mutant in &mutants {
        let Err(error) = Policy::parse("p", &mutant.to_string()) else {
            continue;
        };
        let help = error.help_text().unwrap_or_default();
        let Some((_, keys)) = help.split_once("The keys here are ") else {
            continue;
        };
        for key in keys.split('`').skip(1).step_by(2) {
            ensure!(
                SCHEMA.contains(&format!("\"{key}\": ")),
                "{key} is not in the schema"
            );
            ensure!(ALL.contains(&format!("\"{key}\": ")), "{key} is not tried");
        }
    }
    Ok(())
}

#[test]
fn schema_takes_policies_as_they_are_written() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut documents = Vec::new();
    for entry in fs::read_dir(root.join("policies"))? {
        let path = entry?.path();
        let own = Policy::load(&path).is_ok_and(|policy| policy.dialect() == Dialect::Capwarden);
        if own {
            documents.push(from_yaml(&fs::read_to_string(path)?)?);
        }
    }
    // Those that the decisions are tried with.
    let cases = fs::read_to_string(root.join("agent/src/policy/tests/cases/own.yaml"))?;
    let cases = from_yaml(&cases)?;
    for group in cases.as_array().context("no list")? {
        let policy = group
            .get("policy")
            .and_then(Value::as_str)
            .context("no policy")?;
        documents.push(from_yaml(policy)?);
    }
    ensure!(documents.len() >= 10, "{}", documents.len());
    for document in &documents {
        ensure!(
            loads(document) == Ok(()),
            "{:?}: {document}",
            loads(document)
        );
    }
    agree(&documents)?;
    let mut changed = Vec::new();
    documents
        .iter()
        .for_each(|document| changed.extend(mutants(document).into_iter().step_by(97)));
    agree(&changed).map(drop)
}

fn from_yaml(text: &str) -> Result<Value> {
    // As the loader has it: `n` is a word.
    // As there, too, one reason may stand for hundreds of tools.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { enforce_alias_anchor_ratio: false },
        strict_booleans: true,
    };
    Ok(serde_saphyr::from_str_with_options(text, options)?)
}
