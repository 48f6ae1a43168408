//! `args`: what a tool's arguments must be.

use std::path::{Component, Path};

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::{
    Field, Gather, Loaded, Node, Tree,
    capture::{interfaces, within},
};
use crate::policy::{
    argument::Argument,
    capture::MAX_EXACT,
    network::Network,
    operator::{Bound, Operator, Pattern},
    predicate::{ArgumentRule, Check, Predicate},
};

/// Bytes of a compiled regular expression at most; the default of 10 MiB is for trusted writers
/// of long alternations.
const MAX_REGEX: usize = 1 << 20;

/// Predicates on an argument.
const PREDICATES: &[&str] = &[
    "absent",
    "pattern",
    "matches",
    "contains",
    "equals",
    "not_equals",
    "one_of",
    "none_of",
    "at_most",
    "less_than",
    "no_more_than",
    "more_than",
    "at_least",
    "under",
    "in_cidr",
    "interface",
    "capture_filter",
];

/// Values in a list that an argument is compared with at most.
const MAX_VALUES: usize = 10_000;

pub(super) fn args(field: &Field<'_>) -> Loaded<Vec<ArgumentRule>> {
    const HELP: &str = "Write a map from each argument's name to what it must be.";
    let arguments = field.entries("a map", HELP)?;
    Gather::all(arguments.iter().map(|field| {
        let argument = Argument::parse(field.key).map_err(|why| {
            const HELP: &str = "Dots reach into objects: `config.interface`.";
            field.key_fault(why.to_owned(), HELP)
        })?;
        let checks = checks(field)?;
        Ok(ArgumentRule { argument, checks })
    }))
}

fn checks(field: &Field<'_>) -> Loaded<Vec<Check>> {
    let (section, mut gather) = field.open("a map of predicates", PREDICATES)?;
    let fields = PREDICATES.iter().filter_map(|key| section.field(key));
    let checks: Vec<(Check, Field<'_>)> = fields
        .filter_map(|field| {
            let predicate = gather.keep(predicate(&field))?;
            let rule = field.rule();
            Some((Check { predicate, rule }, field))
        })
        .collect();
    match checks.as_slice() {
        [] if gather.is_clean() => gather.add(field.fault(
            "asks nothing of the argument",
            "Write at least one of `absent`, `pattern`, `equals`, `one_of`, `at_most`, `under`.",
        )),
        [(first, _), (_, other), ..] if first.predicate == Predicate::Absent => {
            gather.add(other.key_fault(
                "an argument that must be absent cannot be asked for anything else".to_owned(),
                "Drop `absent`, or all that stands beside it.",
            ));
        }
        _ => {}
    }
    gather.done(Some(checks.into_iter().map(|(check, _)| check).collect()))
}

fn predicate(field: &Field<'_>) -> Loaded<Predicate> {
    let operator = |operator: Loaded<Operator>| Ok(Predicate::Operator(operator?));
    match field.key {
        "absent" => match field.node.tree {
            Tree::Bool(true) => Ok(Predicate::Absent),
            Tree::Bool(false) => Ok(Predicate::Present),
            _ => Err(field.wrong(
                "true or false",
                "Write `absent: true` for an argument that must not be sent, `absent: false` for one that must.",
            )),
        },
        "pattern" => {
            const HELP: &str =
                "Write a regular expression in quotes; it must match the argument as a whole.";
            Ok(Predicate::Whole(pattern(field, true, HELP)?))
        }
        "matches" => {
            const HELP: &str =
                "Write a regular expression in quotes; it may match anywhere in the argument.";
            operator(pattern(field, false, HELP).map(Operator::Matches))
        }
        "contains" => operator(scalar(field, field.node).map(Operator::Contains)),
        "equals" => Ok(Predicate::OneOf(vec![scalar(field, field.node)?])),
        "not_equals" => operator(scalar(field, field.node).map(Operator::Unequal)),
        "one_of" => Ok(Predicate::OneOf(scalars(field)?)),
        "none_of" => operator(scalars(field).map(Operator::NoneOf)),
        "at_most" => up_to(field),
        "less_than" => operator(bound(field).map(Operator::Less)),
        "no_more_than" => operator(bound(field).map(Operator::AtMost)),
        "more_than" => operator(bound(field).map(Operator::More)),
        "at_least" => operator(bound(field).map(Operator::AtLeast)),
        "under" => under(field),
        "in_cidr" => in_cidr(field),
        "interface" => Ok(Predicate::Interface(interfaces(field)?)),
        _ => {
            const HELP: &str = "Write `capture_filter: { within: \"net 10.0.0.0/8\" }`.";
            let (section, mut gather) = field.open("a map with `within`", &["within"])?;
            let within = gather.keep(section.read("within", within)).flatten();
            if within.is_none() && gather.is_clean() {
                gather.add(section.missing("within", HELP));
            }
            Ok(Predicate::Filter(gather.done(within)?))
        }
    }
}

fn up_to(field: &Field<'_>) -> Loaded<Predicate> {
    const HELP: &str = "Write the largest number that is allowed, 0 or more.";
    let (number, written) = match &field.node.tree {
        Tree::Integer(n @ 0..) if *n <= i128::from(MAX_EXACT) => {
            // Through text, as this range has no lossless conversion.
            (n.to_string().parse().unwrap_or(0.0), n.to_string())
        }
        Tree::Float(n) if *n >= 0.0 && n.is_finite() => (*n, n.to_string()),
        Tree::Integer(_) | Tree::Float(_) => {
            return Err(field.fault("is not from 0 to 2^53", HELP));
        }
        _ => return Err(field.wrong("a number", HELP)),
    };
    Ok(Predicate::UpTo { number, written })
}

fn under(field: &Field<'_>) -> Loaded<Predicate> {
    const HELP: &str =
        "Write an absolute directory without `..`, such as /var/lib/capwarden/captures.";
    let written = field.text("a directory", HELP)?;
    let path = Path::new(written);
    if !path.is_absolute()
        || written.chars().any(char::is_control)
        || path.components().any(|part| part == Component::ParentDir)
    {
        return Err(field.fault("is not an absolute directory", HELP));
    }
    let directory: std::path::PathBuf = path.components().collect();
    Ok(Predicate::Under(directory.to_string_lossy().into_owned()))
}

fn in_cidr(field: &Field<'_>) -> Loaded<Predicate> {
    const HELP: &str = "List networks: `[ 10.0.0.0/8, \"fd00::/8\" ]`.";
    field.list("a list of networks", HELP)?;
    let items = field.items("a list of networks", HELP)?;
    let networks = Gather::all(items.iter().map(|item| {
        let text = item.text("a network in quotes", HELP)?;
        match Network::parse(text) {
            Some(_) if !Network::is_plain(text) => Err(item.fault(
                "has bits beyond its length",
                "Write the network's own address, such as 10.0.0.0/8.",
            )),
            Some(network) => Ok(network),
            None => Err(item.fault("is no network", HELP)),
        }
    }))?;
    Ok(Predicate::InCidr(networks))
}

/// A regular expression, which is to match from end to end or anywhere.
pub(super) fn pattern(field: &Field<'_>, whole: bool, help: &str) -> Loaded<Pattern> {
    let written = field.text("a regular expression", help)?;
    // First as it was written, for the error's words and so that it cannot reach out of the group.
    let regex = compile(field, written, help)?;
    Ok(Pattern {
        written: written.to_owned(),
        regex: if whole {
            compile(field, &format!(r"\A(?:{written})\z"), help)?
        } else {
            regex
        },
    })
}

/// Compiles a regular expression, bounded in size.
pub(in crate::policy) fn compile(field: &Field<'_>, regex: &str, help: &str) -> Loaded<Regex> {
    let regex = RegexBuilder::new(regex).size_limit(MAX_REGEX).build();
    regex.map_err(|error| {
        let error = error.to_string();
        let why = error
            .lines()
            .last()
            .unwrap_or_default()
            .trim_start_matches("error: ");
        field.fault(&format!("is not a regular expression: {why}"), help)
    })
}

/// A number to compare with, from -2^53 to 2^53.
pub(in crate::policy) fn bound(field: &Field<'_>) -> Loaded<Bound> {
    const HELP: &str = "Write a number to compare with, from -2^53 to 2^53.";
    let most = i128::from(MAX_EXACT);
    match &field.node.tree {
        Tree::Integer(n) if (-most..=most).contains(n) => i64::try_from(*n)
            .map(Bound::Whole)
            .map_err(|_| field.fault("is not from -2^53 to 2^53", HELP)),
        Tree::Float(n) if n.abs() <= 9_007_199_254_740_992.0 => Ok(Bound::Decimal(*n)),
        Tree::Integer(_) | Tree::Float(_) => Err(field.fault("is not from -2^53 to 2^53", HELP)),
        _ => Err(field.wrong("a number", HELP)),
    }
}

fn scalars(field: &Field<'_>) -> Loaded<Vec<Value>> {
    values(field, scalar)
}

/// The values of a list.
pub(in crate::policy) fn values(
    field: &Field<'_>,
    read: fn(&Field<'_>, &Node) -> Loaded<Value>,
) -> Loaded<Vec<Value>> {
    const HELP: &str = "Write the values in a list: `[ text, json ]`.";
    let items = field.list("a list of values", HELP)?;
    if items.len() > MAX_VALUES {
        return Err(field.fault("has more than 10000 values", HELP));
    }
    Gather::all(items.iter().map(|item| read(field, item)))
}

/// A string, a number or a boolean.
pub(in crate::policy) fn scalar(field: &Field<'_>, node: &Node) -> Loaded<Value> {
    match &node.tree {
        Tree::Bool(value) => Ok(Value::from(*value)),
        Tree::Text(value) => Ok(Value::from(value.as_str())),
        Tree::Float(value) => Ok(Value::from(*value)),
        Tree::Integer(value) => match (i64::try_from(*value), u64::try_from(*value)) {
            (Ok(value), _) => Ok(Value::from(value)),
            (_, Ok(value)) => Ok(Value::from(value)),
            _ => Err(field.wrong_at(node, "a number of 64 bits", "")),
        },
        _ => Err(field.wrong_at(
            node,
            "a string, a number or a boolean",
            "Lists and objects cannot be compared; reach into an object with a dotted name.",
        )),
    }
}
