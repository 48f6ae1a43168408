//! The policies in `policies/`, held against what their servers' tools are: `tests/shapes` has their names and
//! arguments, as `tests/scripts/shape.py` wrote them down.

use std::{collections::BTreeSet, fs};

use super::{
    super::{
        argument::Argument,
        condition::Subject,
        model::{Action, Step, ToolRule},
        operator::Operator,
        predicate::Predicate,
        usage::Amount,
    },
    shipped::{SHIPPED, directory, shipped},
    *,
};

/// The tools of a server, by name: their input schemas.
struct Shape(Map<String, Value>);

impl Shape {
    fn read(name: &str) -> Self {
        let path = directory().join(format!("../tests/shapes/{name}.json"));
        let text = fs::read_to_string(&path).unwrap();
        let tools: Vec<Map<String, Value>> = serde_json::from_str(&text).unwrap();
        let named = tools.into_iter().map(|mut tool| {
            let name = tool["name"].as_str().unwrap().to_owned();
            (name, tool.remove("inputSchema").unwrap())
        });
        Self(named.collect())
    }

    fn names(&self) -> BTreeSet<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// The schema of an argument; null, by which everything is valid, in an object that says nothing of what is
    /// in it; none if there is no such argument.
    fn argument(&self, tool: &str, argument: &Argument) -> Option<&Value> {
        let mut schema = &self.0[tool];
        for part in argument.name().split('.') {
            schema = match schema.get("properties") {
                Some(properties) => properties.get(part)?,
                None if schema["additionalProperties"] == true => &Value::Null,
                None => return None,
            };
        }
        Some(schema)
    }
}

/// The types of a schema's values; none if they may be of any.
fn types(schema: &Value) -> Option<BTreeSet<&str>> {
    if let Some(any) = schema.get("anyOf").and_then(Value::as_array) {
        let each: Option<Vec<_>> = any.iter().map(types).collect();
        return Some(each?.into_iter().flatten().collect());
    }
    match schema.get("type")? {
        Value::String(one) => Some([one.as_str()].into()),
        Value::Array(list) => Some(list.iter().filter_map(Value::as_str).collect()),
        other => panic!("a type that is {other}"),
    }
}

const TEXT: &[&str] = &["string"];
const TEXTS: &[&str] = &["string", "array"];
const NUMBER: &[&str] = &["integer", "number"];

fn types_of(value: &Value) -> &'static [&'static str] {
    match value {
        Value::Null => &["null"],
        Value::Bool(_) => &["boolean"],
        Value::Number(number) if number.is_f64() => &["number"],
        Value::Number(_) => NUMBER,
        Value::String(_) => TEXT,
        Value::Array(_) => &["array"],
        Value::Object(_) => &["object"],
    }
}

/// What a rule names: an argument, the types of which it may be one, and values that are among what it may be.
type Named<'a> = (&'a Argument, &'a [&'a str], Vec<&'a Value>);

fn named(rule: &ToolRule) -> Vec<Named<'_>> {
    let mut all: Vec<Named<'_>> = Vec::new();
    for step in &rule.rules.0 {
        match step {
            Step::Argument(rule) => {
                for check in &rule.checks {
                    let (types, values) = wants(&check.predicate);
                    all.push((&rule.argument, types, values));
                }
            }
            Step::Clause(clause) => {
                all.extend(clause.conditions.iter().filter_map(|condition| {
                    let Subject::Argument(argument) = &condition.subject else {
                        return None;
                    };
                    let (types, values) = operands(&condition.operator);
                    Some((argument, types, values))
                }));
            }
            Step::Limit(limit) => match &limit.amount {
                Amount::From(argument) => all.push((argument, NUMBER, Vec::new())),
                Amount::Fixed(_) => {}
            },
            Step::Record(record) => {
                let each = record.arguments.iter();
                all.extend(each.map(|argument| (argument, &[][..], Vec::new())));
            }
            Step::RequiredBySchema(_) | Step::Schema(_) | Step::Pinned(_) | Step::Approve(_) => {}
        }
    }
    let from = match &rule.action {
        Action::Capture(capture) => vec![
            (&capture.from.interface, TEXTS),
            (&capture.from.filter, TEXT),
            (&capture.from.packets, NUMBER),
            (&capture.from.bytes, NUMBER),
            (&capture.from.seconds, NUMBER),
        ],
        Action::Proxy(proxy) => vec![
            (&proxy.from.host, TEXT),
            (&proxy.from.port, NUMBER),
            (&proxy.from.seconds, NUMBER),
        ],
        Action::Allow
        | Action::Deny(_)
        | Action::EndCapture
        | Action::EndProxy
        | Action::EndProgram
        | Action::Program(_) => Vec::new(),
    };
    let from = from.into_iter().filter_map(|(named, types)| {
        let named = named.as_ref()?;
        Some((&named.argument, types, Vec::new()))
    });
    all.extend(from);
    all
}

fn wants(predicate: &Predicate) -> (&[&str], Vec<&Value>) {
    let nothing = Vec::new();
    match predicate {
        Predicate::Absent | Predicate::Present => (&[], nothing),
        Predicate::Whole(_) | Predicate::Filter(_) => (TEXT, nothing),
        Predicate::OneOf(values) => (&[], values.iter().collect()),
        Predicate::UpTo { .. } => (NUMBER, nothing),
        Predicate::Operator(operator) => operands(operator),
        Predicate::Under(_) | Predicate::InCidr(_) | Predicate::Interface(_) => (TEXTS, nothing),
    }
}

fn operands(operator: &Operator) -> (&[&str], Vec<&Value>) {
    let nothing = Vec::new();
    match operator {
        Operator::Exists(_) => (&[], nothing),
        Operator::Equal(value) | Operator::Unequal(value) => (&[], vec![value]),
        Operator::OneOf(values) | Operator::NoneOf(values) => (&[], values.iter().collect()),
        Operator::Less(_) | Operator::AtMost(_) | Operator::More(_) | Operator::AtLeast(_) => {
            (NUMBER, nothing)
        }
        Operator::Matches(_) => (TEXT, nothing),
        Operator::Contains(_) => (TEXTS, nothing),
    }
}

/// Why what a rule says of an argument does not fit the tool, if it does not.
fn unfit(shape: &Shape, tool: &str, (argument, wanted, values): &Named<'_>) -> Option<String> {
    let Some(schema) = shape.argument(tool, argument) else {
        return Some("there is none".to_owned());
    };
    let types = types(schema)?;
    if !wanted.is_empty() && !wanted.iter().any(|wanted| types.contains(wanted)) {
        return Some(format!("{types:?}, not {wanted:?}"));
    }
    let choices = schema.get("enum").and_then(Value::as_array);
    let stranger = values.iter().find(|value| {
        !types_of(value).iter().any(|kind| types.contains(kind))
            || choices.is_some_and(|choices| !choices.contains(value))
    });
    stranger.map(|value| format!("{value} is none of its values"))
}

/// Policies in our language of servers whose tools are known.
fn with_shapes() -> impl Iterator<Item = (&'static str, Policy, Shape)> {
    let known = SHIPPED.iter().filter_map(|(file, shape)| {
        let shape = Shape::read((*shape)?);
        Some((*file, shipped(file), shape))
    });
    known.filter(|(_, policy, _)| policy.dialect() == Dialect::Capwarden)
}

#[test]
fn every_tool_of_a_server_is_named_by_its_policy_and_no_other() {
    for (file, policy, shape) in with_shapes() {
        let hidden = policy.hide.tools.keys();
        let named = policy.tools.keys().chain(hidden).map(String::as_str);
        let named: BTreeSet<&str> = named.collect();
        let unnamed: Vec<_> = shape.names().difference(&named).copied().collect();
        assert_eq!(unnamed, [""; 0], "{file} says nothing of these");
        let unknown: Vec<_> = named.difference(&shape.names()).copied().collect();
        assert_eq!(unknown, [""; 0], "{file}: the server has none of these");
        assert!(!policy.default.allow, "{file}");
        for (name, rule) in &policy.tools {
            if let Action::Deny(reason) = &rule.action {
                assert!(reason.len() > 20, "{file}: {name} is denied for {reason:?}");
            }
        }
    }
}

#[test]
fn arguments_that_policies_name_are_the_tools_own() {
    let mut found = 0;
    for (file, shape) in SHIPPED {
        let Some(shape) = shape.map(Shape::read) else {
            continue;
        };
        let policy = shipped(file);
        for (name, rule) in &policy.tools {
            assert!(
                shape.0.contains_key(name),
                "{file}: the server has no {name}"
            );
            for named in named(rule) {
                let unfit = unfit(&shape, name, &named);
                assert_eq!(unfit, None, "{file}: {name}, {}", named.0.name());
                found += 1;
            }
            let Action::Proxy(proxy) = &rule.action else {
                continue;
            };
            // What the server takes by itself is what the policy says that it takes.
            let default = |named: &Option<capture::Named>| {
                let schema = shape.argument(name, &named.as_ref()?.argument)?;
                schema.get("default").cloned()
            };
            let port = proxy.defaults.port.map(Value::from);
            assert_eq!(default(&proxy.from.port), port, "{file}: {name}");
            if proxy.from.host.is_some() {
                let host = proxy.defaults.host.clone().map(Value::from);
                assert_eq!(default(&proxy.from.host), host, "{file}: {name}");
            }
        }
    }
    assert!(found > 100, "{found}");
}

/// 47 tools of this server take options for the programs that they run.
#[test]
fn no_tool_of_kali_that_is_allowed_takes_options() {
    let (policy, shape) = (
        shipped("kali-security-mcp.yaml"),
        Shape::read("kali-security-mcp"),
    );
    assert_eq!(shape.0.len(), 249);
    let options = Argument::parse("additional_args").unwrap();
    let tools = policy.tools.iter();
    let takers: Vec<_> = tools
        .filter(|(name, _)| shape.argument(name, &options).is_some())
        .collect();
    assert_eq!(takers.len(), 47);
    for (name, rule) in takers {
        let absent = rule.rules.0.iter().any(|step| match step {
            Step::Argument(rule) => {
                let mut checks = rule.checks.iter();
                rule.argument == options && checks.any(|it| it.predicate == Predicate::Absent)
            }
            _ => false,
        });
        assert!(absent || matches!(rule.action, Action::Deny(_)), "{name}");
    }
}

#[test]
fn what_does_not_fit_a_tool_is_found() {
    let shape = Shape::read("sharkmcp");
    let policy = |args: &str| {
        let text =
            format!("version: 1\ntools: {{ start_capture_session: {{ args: {{ {args} }} }} }}\n");
        Policy::parse("p.yaml", &text).unwrap()
    };
    for (args, why) in [
        ("timeout: { at_most: 5 }", None),
        ("configname: { absent: true }", Some("there is none")),
        ("sessionName.x: { absent: true }", Some("there is none")),
        (
            "interface: { at_most: 5 }",
            Some("not [\"integer\", \"number\"]"),
        ),
        (
            "interface: { one_of: [ lo, 5 ] }",
            Some("5 is none of its values"),
        ),
        (
            "timeout: { under: /x }",
            Some("not [\"string\", \"array\"]"),
        ),
    ] {
        let policy = policy(args);
        let rule = &policy.tools["start_capture_session"];
        let found: Vec<_> = named(rule)
            .iter()
            .filter_map(|named| unfit(&shape, "start_capture_session", named))
            .collect();
        match why {
            None => assert_eq!(found, [""; 0], "{args}"),
            Some(why) => assert!(
                found.len() == 1 && found[0].contains(why),
                "{args}: {found:?}"
            ),
        }
    }
}

/// Each tool that is allowed has a case beside its policy, each reason for a denial has one, and so has each
/// thing that is asked of an argument: a case that it denies.
#[test]
fn every_rule_has_a_case() {
    for (file, policy, shape) in with_shapes() {
        let cases = Case::load(&directory().join(file).with_extension("test.yaml")).unwrap();
        let mut called = BTreeSet::new();
        let mut denied = BTreeSet::new();
        for case in &cases {
            let tool = case.call.tool.as_str();
            let (_, outcome) = case.run(&policy);
            match &outcome.decision.verdict {
                Verdict::Deny(denial) => {
                    denied.insert((denial.rule.line, denial.rule.column));
                    if let Some(Action::Deny(reason)) = policy.tools.get(tool).map(|it| &it.action)
                    {
                        called.insert(reason.as_str());
                    }
                }
                _ => {
                    called.insert(tool);
                }
            }
            if let Some(schema) = shape.0.get(tool) {
                let known = schema["properties"].as_object();
                let unknown = case.call.arguments.keys();
                let unknown: Vec<_> = unknown
                    .filter(|key| known.is_none_or(|known| !known.contains_key(*key)))
                    .collect();
                assert_eq!(unknown, [""; 0], "{file}: {}", case.name);
            }
        }
        let mut wanting = BTreeSet::new();
        for (name, rule) in &policy.tools {
            match &rule.action {
                Action::Deny(reason) if called.contains(reason.as_str()) => {}
                _ if called.contains(name.as_str()) => {}
                _ => {
                    wanting.insert(name.clone());
                }
            }
            for step in &rule.rules.0 {
                let Step::Argument(argument) = step else {
                    continue;
                };
                let checks = argument.checks.iter().map(|check| &check.rule);
                // Rules that are repeated by aliases stand in one place.
                let untried = checks.filter(|rule| !denied.contains(&(rule.line, rule.column)));
                wanting.extend(untried.map(ToString::to_string));
            }
        }
        assert!(wanting.is_empty(), "{file}: without a case: {wanting:#?}");
    }
}
