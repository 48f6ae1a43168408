//! What our own language may ask of an argument.

use std::{
    cmp::Ordering,
    path::{Component, Path},
};

use serde_json::{Map, Number, Value, json};

use super::{
    FilterDemand, PathDemand, RuleRef,
    argument::{Argument, kind, same},
    capture::{Interfaces, Within, check_filter},
    network::Network,
    number,
    operator::{Equality, Operator, Pattern, Truth},
    source::quoted,
    units,
};

/// What `args:` asks of one argument.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ArgumentRule {
    pub(super) argument: Argument,
    pub(super) checks: Vec<Check>,
}

/// One predicate, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Check {
    pub(super) predicate: Predicate,
    pub(super) rule: RuleRef,
}

/// What an argument's value must be. All but [`Predicate::Absent`], [`Predicate::Present`] and
/// [`Predicate::Filter`] hold for an argument that is not there, or is null: they say what may be
/// sent, not that it must.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Predicate {
    /// Not there, not even as null.
    Absent,
    /// There, and not null.
    Present,
    /// A string that the regular expression matches from its first to its last character.
    Whole(Pattern),
    /// One of these scalars.
    OneOf(Vec<Value>),
    /// A number from 0 to this.
    UpTo { number: f64, written: String },
    /// Whatever an operator of the dialects takes, compared by type.
    Operator(Operator),
    /// An absolute path in this directory, or a list of them. It is read as text: nothing is
    /// looked up, so a symbolic link in the directory may lead out of it.
    Under(String),
    /// An address or a network within one of these, or a list of them.
    InCidr(Vec<Network>),
    /// An interface's name, or a list of them.
    Interface(Interfaces),
    /// A capture filter that stays within the policy's, which is for a prover to say. An empty
    /// one and none match every packet, so they are refused.
    Filter(Within),
}

/// Why an argument is refused, and what would be allowed.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reason: String,
    pub(super) instead: Option<String>,
    /// What `instead` says, under the predicate's name: `{"one_of": ["text"]}`.
    pub(super) allowed: Option<(&'static str, Value)>,
}

impl Refusal {
    fn new(reason: String, instead: String, key: &'static str, value: Value) -> Self {
        Self {
            reason,
            instead: Some(instead),
            allowed: Some((key, value)),
        }
    }
}

impl ArgumentRule {
    /// The first check that the call fails.
    pub(super) fn refuse(&self, arguments: &Map<String, Value>) -> Option<(&RuleRef, Refusal)> {
        let name = self.argument.name();
        let value = match self.argument.find(arguments) {
            Ok(value) => value,
            Err(reason) => {
                let refusal = Refusal {
                    reason,
                    instead: None,
                    allowed: None,
                };
                return Some((&self.checks.first()?.rule, refusal));
            }
        };
        self.checks.iter().find_map(|check| {
            let refusal = check.predicate.refuse(name, value)?;
            Some((&check.rule, refusal))
        })
    }

    /// The capture filters that must be proved, of a call that is not refused.
    pub(super) fn proofs(&self, arguments: &Map<String, Value>) -> Vec<FilterDemand> {
        let value = self.argument.find(arguments).ok().flatten();
        let demand = |check: &Check| match (&check.predicate, value) {
            (Predicate::Filter(within), Some(Value::String(text))) => Some(FilterDemand {
                argument: self.argument.name().to_owned(),
                expression: text.clone(),
                within: within.expression.clone(),
                rule: check.rule.clone(),
            }),
            _ => None,
        };
        self.checks.iter().filter_map(demand).collect()
    }

    /// The paths that must not lead out of their directories, of a call that is not refused.
    pub(super) fn paths(&self, arguments: &Map<String, Value>) -> Vec<PathDemand> {
        let value = self.argument.find(arguments).ok().flatten();
        let values = match value {
            Some(Value::Array(values)) => values.as_slice(),
            Some(one) => std::slice::from_ref(one),
            None => &[],
        };
        let demands = |check: &Check| match &check.predicate {
            Predicate::Under(directory) => values
                .iter()
                .filter_map(Value::as_str)
                .map(|path| PathDemand {
                    argument: self.argument.name().to_owned(),
                    path: path.to_owned(),
                    directory: directory.clone(),
                    rule: check.rule.clone(),
                })
                .collect(),
            _ => Vec::new(),
        };
        self.checks.iter().flat_map(demands).collect()
    }
}

impl Predicate {
    fn refuse(&self, name: &str, value: Option<&Value>) -> Option<Refusal> {
        let there = value.filter(|value| !value.is_null());
        match self {
            Self::Absent => value.map(|_| {
                Refusal::new(
                    format!("The argument `{name}` is not allowed."),
                    format!("Call again without `{name}`."),
                    "absent",
                    json!(true),
                )
            }),
            Self::Present => there.is_none().then(|| {
                Refusal::new(
                    format!("The argument `{name}` is required."),
                    format!("Call again with `{name}`."),
                    "absent",
                    json!(false),
                )
            }),
            Self::Whole(pattern) => whole(name, there?, pattern),
            Self::OneOf(allowed) => one_of(name, there?, allowed),
            Self::UpTo { number, written } => up_to(name, there?, *number, written),
            Self::Operator(operator) => {
                let value = there?;
                if operator.compare(Some(value), Equality::ByType) == Truth::Yes {
                    return None;
                }
                let (key, data) = operator.data();
                Some(Refusal::new(
                    format!("The argument `{name}` {}.", operator.refusal(Some(value))),
                    format!("Send {} as `{name}`.", operator.words()),
                    key,
                    data,
                ))
            }
            Self::Under(directory) => {
                let reason = each(there?, |path| outside(name, path, directory))?;
                Some(Refusal::new(
                    reason,
                    format!("Send an absolute path under {directory} as `{name}`."),
                    "under",
                    json!(directory),
                ))
            }
            Self::InCidr(networks) => {
                let reason = each(there?, |value| elsewhere(name, value, networks))?;
                let words: Vec<String> = networks.iter().map(ToString::to_string).collect();
                let list = units::either(&words, "or");
                Some(Refusal::new(
                    reason,
                    format!("Send an address or a network within {list} as `{name}`."),
                    "in_cidr",
                    json!(words),
                ))
            }
            Self::Interface(interfaces) => {
                let reason = each(there?, |value| match value {
                    Value::String(text) => interfaces.admit(text).err(),
                    other => Some(format!(
                        "The argument `{name}` must be an interface's name, but is {}.",
                        kind(other)
                    )),
                })?;
                Some(Refusal::new(
                    reason,
                    format!("Send {} as `{name}`.", interfaces.words()),
                    "interface",
                    json!(interfaces.names()),
                ))
            }
            Self::Filter(within) => {
                let reason = match there {
                    None => format!("The argument `{name}` is missing, and so all packets match."),
                    Some(Value::String(text)) => match check_filter(text) {
                        Ok(()) if text.trim().is_empty() => {
                            format!("The argument `{name}` is empty, and so all packets match.")
                        }
                        Ok(()) => return None,
                        Err(reason) => reason,
                    },
                    Some(other) => format!(
                        "The argument `{name}` must be a capture filter, but is {}.",
                        kind(other)
                    ),
                };
                let within = &within.expression;
                Some(Refusal::new(
                    reason,
                    format!("Send a capture filter within \"{within}\" as `{name}`."),
                    "capture_filter",
                    json!({ "within": within }),
                ))
            }
        }
    }
}

/// The first reason among a list's items, or the one of what is no list.
fn each(value: &Value, refuse: impl Fn(&Value) -> Option<String>) -> Option<String> {
    match value {
        Value::Array(items) => items.iter().find_map(refuse),
        other => refuse(other),
    }
}

fn whole(name: &str, value: &Value, pattern: &Pattern) -> Option<Refusal> {
    let reason = match value.as_str() {
        Some(text) if pattern.regex.is_match(text) => return None,
        Some(_) => format!("The argument `{name}` has characters or words that are not allowed."),
        None => format!(
            "The argument `{name}` must be a string, but is {}.",
            kind(value)
        ),
    };
    let written = pattern.written.replace(char::is_control, " ");
    Some(Refusal::new(
        reason,
        format!("Send a `{name}` that matches {written} as a whole."),
        "pattern",
        json!(pattern.written),
    ))
}

fn one_of(name: &str, value: &Value, allowed: &[Value]) -> Option<Refusal> {
    if allowed.iter().any(|one| same(one, value)) {
        return None;
    }
    let words: Vec<String> = allowed.iter().map(ToString::to_string).collect();
    Some(Refusal::new(
        format!("The argument `{name}` has a value that is not allowed."),
        format!("Send {} as `{name}`.", units::either(&words, "or")),
        "one_of",
        json!(allowed),
    ))
}

fn up_to(name: &str, value: &Value, number: f64, written: &str) -> Option<Refusal> {
    let reason = match value {
        Value::Number(sent) if is_up_to(sent, number) => return None,
        Value::Number(_) => format!("The argument `{name}` is not between 0 and {written}."),
        other => format!(
            "The argument `{name}` must be a number, but is {}.",
            kind(other)
        ),
    };
    Some(Refusal::new(
        reason,
        format!("Send a number from 0 to {written} as `{name}`."),
        "at_most",
        json!(number),
    ))
}

fn is_up_to(sent: &Number, most: f64) -> bool {
    let order = |bound: f64| number::compare(sent, &Number::from_f64(bound)?);
    order(0.0).is_some_and(Ordering::is_ge) && order(most).is_some_and(Ordering::is_le)
}

/// Why an address or network is not in any of the networks, in a sentence.
fn elsewhere(name: &str, value: &Value, networks: &[Network]) -> Option<String> {
    let Some(text) = value.as_str() else {
        return Some(format!(
            "The argument `{name}` must be an address or a network, but is {}.",
            kind(value)
        ));
    };
    match Network::parse(text) {
        None => Some(format!(
            "{} in `{name}` is no address and no network.",
            quoted(text)
        )),
        Some(inner) if networks.iter().any(|network| network.contains(inner)) => None,
        Some(_) => Some(format!(
            "{} in `{name}` is not within the networks that the policy allows.",
            quoted(text)
        )),
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
}
