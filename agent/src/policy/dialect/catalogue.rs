//! The YAML of the ready policies on Intercept's catalogue pages, which Intercept itself rejects.
//!
//! It is described by examples alone. It is read so:
//!
//! * Tools that are not named are denied unless `default: allow` says otherwise.
//! * All rules of a tool are asked, and those of `"*"` after them, as in Intercept: `allow` adds
//!   its rate and its validation, `deny` denies. Rules have no names, and go by their numbers.
//! * A rate's window is in seconds, and counts over the time before the call; `30/hour` counts in
//!   full hours of UTC. Both count by connection (an agent's session).
//! * `required_args` is what the tool's advertised schema requires: each is there and not null.
//!   Calls are denied until the server has listed the tool.
//! * A use is given back when the server answers with a JSON-RPC error, and texts are Intercept's.

use std::time::Duration;

use super::rules::{GLOBAL, Reader, rate};
use crate::policy::{
    Dialect, Policy, Refund, Scope, Window,
    capture::MAX_EXACT,
    condition::{Clause, Demand},
    error::Source,
    load::{Field, Gather, Loaded, Node, Tree},
    model::Step,
    usage::{Amount, LimitRule},
};

/// Keys of a rule.
const RULE: &[&str] = &["action", "reason", "rate_limit", "validate"];

/// The longest window, in seconds: a year.
const MAX_WINDOW: u64 = 365 * 86_400;

/// Reads a policy.
pub(in crate::policy) fn catalogue(source: &Source, root: &Node) -> Loaded<Policy> {
    let reader = Reader {
        dialect: Dialect::Catalogue,
        versioned: false,
        allow: false,
        rules: |field: &Field<'_>, tool: &str| {
            const HELP: &str = "Write a list of rules.";
            let items = field.items("a list of rules", HELP)?;
            let rules = items.iter().enumerate();
            let steps = Gather::all(rules.map(|(n, item)| rule(item, tool, n + 1)))?;
            Ok(steps.into_iter().flatten().collect())
        },
    };
    reader.read(source, root)
}

fn rule(field: &Field<'_>, tool: &str, number: usize) -> Loaded<Vec<Step>> {
    const ACTION: &str = "Write `action: allow`, or `action: deny` with a `reason`.";
    let (section, mut gather) = field.open("a rule", RULE)?;
    let denies = match section.field("action") {
        Some(field) => gather.keep(match field.text("an action", ACTION)? {
            "allow" => Ok(false),
            "deny" => Ok(true),
            _ => Err(field.fault("is no action", ACTION)),
        }),
        None => {
            if gather.is_clean() {
                gather.add(section.missing("action", ACTION));
            }
            None
        }
    };
    let reason = gather.keep(section.read("reason", |field| {
        field.words("a reason", "Write what the model gets to read.")
    }));
    let limit = gather.keep(section.read("rate_limit", |rate| limit(rate, field, tool, number)));
    let validate = gather.keep(section.read("validate", validate)).flatten();
    if let (Some(false), Some(reason)) = (denies, section.field("reason")) {
        gather.add(reason.key_fault(
            "`reason` stands in a rule that allows".to_owned(),
            "Drop it, or write `action: deny`.",
        ));
    }
    if denies == Some(true) {
        for key in ["rate_limit", "validate"] {
            if let Some(other) = section.field(key) {
                gather.add(other.key_fault(
                    format!("`{key}` cannot stand in a rule that denies"),
                    "A denied call has nothing else to decide: drop one of the two.",
                ));
            }
        }
    }
    let denies = gather.done(denies)?;
    let mut steps = Vec::new();
    if denies {
        steps.push(Step::Clause(Clause {
            demand: Demand::DenyIf,
            conditions: Vec::new(),
            rule: field.rule(),
            on_deny: reason.flatten(),
            name: Some(number.to_string()),
        }));
    }
    steps.extend(validate.flatten());
    steps.extend(limit.flatten().map(Step::Limit));
    Ok(steps)
}

fn validate(field: &Field<'_>) -> Loaded<Option<Step>> {
    const HELP: &str = "Write `validate: { required_args: true }`.";
    let (section, mut gather) = field.open("a map with `required_args`", &["required_args"])?;
    let required = gather.keep(
        section.read("required_args", |field| match field.node.tree {
            Tree::Bool(true) => Ok(Some(Step::RequiredBySchema(field.rule()))),
            Tree::Bool(false) => Ok(None),
            _ => Err(field.wrong("true or false", HELP)),
        }),
    );
    gather.done(Some(required.flatten().flatten()))
}

fn limit(field: &Field<'_>, rule: &Field<'_>, tool: &str, number: usize) -> Loaded<LimitRule> {
    let (max, window) = match &field.node.tree {
        Tree::Text(_) => {
            let (max, unit) = rate(field)?;
            (max, Window::Calendar(unit))
        }
        _ => {
            const HELP: &str =
                "Write `{ max: 10, window: 60 }`, the window in seconds, or `10/minute`.";
            let (section, mut gather) = field.open("a rate", &["max", "window"])?;
            if gather.is_clean()
                && let Some(missing) = ["max", "window"]
                    .iter()
                    .find(|key| section.field(key).is_none())
            {
                gather.add(section.missing(missing, HELP));
            }
            let max = gather.keep(section.read("max", |field| {
                field.whole(1..=MAX_EXACT, "a number of calls", HELP)
            }));
            let window = gather.keep(section.read("window", |field| {
                field.whole(1..=MAX_WINDOW, "a number of seconds", HELP)
            }));
            let (max, seconds) = gather.done(max.flatten().zip(window.flatten()))?;
            (max, Window::Sliding(Duration::from_secs(seconds)))
        }
    };
    let scope = if tool == "*" { GLOBAL } else { tool };
    Ok(LimitRule {
        counter: format!("{scope}._rate_{number}"),
        scope: Scope::Connection,
        window,
        max,
        amount: Amount::Fixed(1),
        refund: Refund::OnRpcError,
        rule: rule.rule(),
        on_deny: None,
        name: None,
    })
}
