//! Intercept's YAML, versions 1.1 to 1.4.
//!
//! What its documents leave open, and where it is not followed:
//!
//! * Without `default`, tools that are not named are allowed.
//! * A missing path fails every condition but `exists: false`. So does null, with which Intercept
//!   itself satisfies `neq` and `not_in`.
//! * What is no number is compared by its text, so that `"5"` equals 5; a number's text is its
//!   decimal form, where Intercept's own takes exponents from a million on.
//! * Counters are the governed server's, in full minutes, hours and days of UTC, under the names
//!   `tool.counter` and `_global.counter`. A use is given back when the server answers with a
//!   JSON-RPC error.
//! * The first `lte` or `lt` on a rule's own counter is its limit. A `state` without one counts
//!   nothing in Intercept, so that conditions on it always hold: that is refused here, as are
//!   negative increments, which would reset a counter.
//! * `action: require_approval` asks for approval where the rule's conditions hold, and always if
//!   it has none.
//! * Spend limits are refused.

use std::collections::BTreeMap;

use super::{
    condition::{Written, argument, conditions},
    rules::{GLOBAL, Reader, rate, unit_name},
};
use crate::policy::{
    Dialect, Policy, Refund, Scope, Unit, Window,
    argument::Argument,
    capture::MAX_EXACT,
    condition::{Clause, Condition, Demand, Subject},
    error::Source,
    load::{
        Field, Gather, Loaded, Node, Section, TIMEOUT, Tree, child, counter, once_each, timeout,
        unit,
    },
    model::{ApprovalRule, Step},
    operator::{Bound, Equality, Operator},
    usage::{Amount, LimitRule},
};

/// Keys of a rule.
const RULE: &[&str] = &[
    "name",
    "action",
    "conditions",
    "on_deny",
    "rate_limit",
    "state",
    "approval_timeout",
];

/// Keys of `state`.
const STATE: &[&str] = &["counter", "window", "increment", "increment_from"];

/// The windows of all counters, by scope (a tool or `_global`) and name.
type Counters<'a> = BTreeMap<(&'a str, &'a str), Unit>;

/// Reads a policy.
pub(in crate::policy) fn intercept(source: &Source, root: &Node) -> Loaded<Policy> {
    let counters = counters(root);
    let reader = Reader {
        dialect: Dialect::Intercept,
        versioned: true,
        allow: true,
        rules: |field: &Field<'_>, tool: &str| {
            let scope = if tool == "*" { GLOBAL } else { tool };
            rules(field, scope, &counters)
        },
    };
    reader.read(source, root)
}

/// The counters that there are, before their rules are read: a condition may look at any.
fn counters(root: &Node) -> Counters<'_> {
    let mut counters = Counters::new();
    let Some(Node {
        tree: Tree::Map(tools),
        ..
    }) = child(root, "tools")
    else {
        return counters;
    };
    for tool in tools {
        let scope = if tool.key == "*" { GLOBAL } else { &tool.key };
        let Some(Node {
            tree: Tree::List(rules),
            ..
        }) = child(&tool.value, "rules")
        else {
            continue;
        };
        for rule in rules {
            let Some(state) = child(rule, "state") else {
                continue;
            };
            let text = |key| match child(state, key).map(|node| &node.tree) {
                Some(Tree::Text(text)) => Some(text.as_str()),
                _ => None,
            };
            if let (Some(name), Some(unit)) = (text("counter"), text("window").and_then(unit)) {
                counters.insert((scope, name), unit);
            }
        }
    }
    counters
}

fn rules(field: &Field<'_>, scope: &str, counters: &Counters<'_>) -> Loaded<Vec<Step>> {
    const HELP: &str = "Write a list of rules, or `[]`.";
    if matches!(field.node.tree, Tree::Null) {
        return Ok(Vec::new());
    }
    let items = field.items("a list of rules", HELP)?;
    let steps = Gather::all(items.iter().map(|item| rule(item, scope, counters)))?;
    let limits = steps.iter().zip(&items).flat_map(|(steps, item)| {
        steps.iter().filter_map(|step| match step {
            Step::Limit(limit) => Some((limit.clone(), item.place)),
            _ => None,
        })
    });
    once_each(field, limits.collect())?;
    Ok(steps.into_iter().flatten().collect())
}

/// What a rule does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    Evaluate,
    Deny,
    Approve,
}

fn rule(field: &Field<'_>, scope: &str, counters: &Counters<'_>) -> Loaded<Vec<Step>> {
    let (section, mut gather) = field.open("a rule", RULE)?;
    let name = match section.field("name") {
        Some(field) => gather.keep(field.words("a name", "Name the rule in some words.")),
        None => {
            if gather.is_clean() {
                gather.add(section.missing("name", "Each rule has a name."));
            }
            None
        }
    };
    let does = gather.keep(section.read("action", action));
    let does = does.flatten().unwrap_or(Does::Evaluate);
    let on_deny = gather.keep(section.read("on_deny", |field| {
        match &field.node.tree {
            // As if it were not there.
            Tree::Text(text) if text.is_empty() => Ok(None),
            _ => field
                .words("a sentence", "Write what the model gets to read.")
                .map(Some),
        }
    }));
    let on_deny = on_deny.flatten().flatten();
    let written = gather.keep(section.read("conditions", |field| {
        conditions(field, Equality::ByText, |field, path| {
            subject(field, path, counters)
        })
    }));
    let written = written.flatten().unwrap_or_default();
    let rate = gather.keep(section.read("rate_limit", rate)).flatten();
    let state = gather.keep(section.read("state", state)).flatten();
    let waits = gather
        .keep(section.read("approval_timeout", timeout))
        .flatten();
    shape(&section, &mut gather, does);
    let name = gather.done(name)?;

    let mut limit = LimitRule {
        counter: String::new(),
        scope: Scope::Server,
        window: Window::Calendar(Unit::Minute),
        max: 0,
        amount: Amount::Fixed(1),
        refund: Refund::OnRpcError,
        rule: field.rule(),
        on_deny: on_deny.clone(),
        name: None,
    };
    let mut limits = None;
    let mut conditions: Vec<Written<'_>> = written;
    if let Some((max, unit)) = rate {
        let window = unit_name(unit);
        limit.counter = format!("{scope}._rate_{window}");
        limit.window = Window::Calendar(unit);
        limit.max = max;
        limits = Some(limit);
    } else if let Some(state) = state {
        limit.counter = format!("{scope}.{}", state.counter);
        limit.window = Window::Calendar(state.unit);
        limit.amount = state.amount;
        limit.max = own_limit(&section, &mut conditions, &limit.counter)?;
        limit.name = Some(name.clone());
        limits = Some(limit);
    }
    let conditions: Vec<Condition> = conditions.into_iter().map(|one| one.condition).collect();
    let mut steps = Vec::new();
    match does {
        Does::Approve => steps.push(Step::Approve(ApprovalRule {
            conditions,
            timeout: waits.unwrap_or(TIMEOUT),
            why: Some(on_deny.unwrap_or(name)),
            rule: field.rule(),
        })),
        Does::Evaluate if conditions.is_empty() => {}
        Does::Evaluate | Does::Deny => steps.push(Step::Clause(Clause {
            demand: if does == Does::Deny {
                Demand::DenyIf
            } else {
                Demand::Require
            },
            conditions,
            rule: field.rule(),
            on_deny,
            name: Some(name),
        })),
    }
    steps.extend(limits.map(Step::Limit));
    Ok(steps)
}

fn action(field: &Field<'_>) -> Loaded<Does> {
    const HELP: &str = "Write `evaluate`, `deny` or `require_approval`.";
    match field.text("an action", HELP)? {
        "evaluate" => Ok(Does::Evaluate),
        "deny" => Ok(Does::Deny),
        "require_approval" => Ok(Does::Approve),
        _ => Err(field.fault("is no action", HELP)),
    }
}

/// What may stand beside what.
fn shape(section: &Section<'_>, gather: &mut Gather, does: Does) {
    let listed = section
        .field("conditions")
        .filter(|field| matches!(&field.node.tree, Tree::List(items) if !items.is_empty()));
    let rate = section.field("rate_limit");
    let state = section.field("state");
    if let Some(other) = rate.as_ref().and(listed.as_ref().or(state.as_ref())) {
        gather.add(other.key_fault(
            format!("`{}` cannot stand beside `rate_limit`", other.key),
            "Write a rule of its own for one of the two.",
        ));
    }
    if does == Does::Deny {
        for other in [&listed, &rate, &state].into_iter().flatten() {
            gather.add(other.key_fault(
                format!("`{}` cannot stand in a rule that denies", other.key),
                "A denied call has nothing else to decide: drop one of the two.",
            ));
        }
    }
    if does == Does::Evaluate && gather.is_clean() && listed.is_none() && rate.is_none() {
        gather.add(section.missing(
            "conditions",
            "A rule that evaluates has at least one condition, or a `rate_limit`.",
        ));
    }
    if let Some(other) = section.field("approval_timeout")
        && does != Does::Approve
    {
        gather.add(other.key_fault(
            "`approval_timeout` stands in a rule that asks for no approval".to_owned(),
            "Write `action: require_approval`, or leave it out.",
        ));
    }
}

/// A path: `args.…`, or `state.<tool or _global>.<counter>`.
fn subject(field: &Field<'_>, path: &str, counters: &Counters<'_>) -> Loaded<Subject> {
    if let Some(argument) = argument(path) {
        return Ok(Subject::Argument(argument));
    }
    let Some((scope, name)) = path
        .strip_prefix("state.")
        .and_then(|path| path.split_once('.'))
    else {
        return Err(field.fault(
            "is no path",
            "Write `args.amount`, `state.create_charge.daily` or `state._global.calls`.",
        ));
    };
    match counters.get(&(scope, name)) {
        Some(unit) => Ok(Subject::Counter {
            counter: format!("{scope}.{name}"),
            scope: Scope::Server,
            window: Window::Calendar(*unit),
        }),
        None => Err(field.fault(
            "is a counter that no rule keeps",
            "Add a `state` with this counter to a rule of the tool; those of `\"*\"` are `state._global.…`.",
        )),
    }
}

/// What a `state` says.
struct State {
    counter: String,
    unit: Unit,
    amount: Amount,
}

fn state(field: &Field<'_>) -> Loaded<State> {
    let (section, mut gather) = field.open("a map of a counter", STATE)?;
    if gather.is_clean()
        && let Some(missing) = ["counter", "window"]
            .iter()
            .find(|key| section.field(key).is_none())
    {
        gather.add(section.missing(missing, "A `state` has `counter` and `window`."));
    }
    let name = gather.keep(section.read("counter", |field| {
        let name = counter(field)?;
        if name.contains('.') {
            const HELP: &str = "Name it without dots, as they part the path to it.";
            return Err(field.fault("has a dot in it", HELP));
        }
        Ok(name)
    }));
    let window = gather.keep(section.read("window", |field| {
        const HELP: &str = "Write `minute`, `hour` or `day`.";
        unit(field.text("a window", HELP)?).ok_or_else(|| field.fault("is no window", HELP))
    }));
    let increment = gather.keep(section.read("increment", |field| {
        const HELP: &str = "Write how much one call counts: a whole number from 1.";
        // 0 is what Intercept takes for a number that is not there.
        let amount = field.whole(0..=MAX_EXACT, "a whole number", HELP)?;
        Ok(amount.max(1))
    }));
    let from = gather.keep(section.read("increment_from", |field| {
        const HELP: &str = "Write a path into the arguments, such as `args.amount`.";
        argument(field.text("a path", HELP)?)
            .ok_or_else(|| field.fault("is no path into the arguments", HELP))
    }));
    let (counter, unit) = gather.done(name.flatten().zip(window.flatten()))?;
    let from: Option<Argument> = from.flatten();
    Ok(State {
        counter,
        unit,
        // If both are there, the argument counts.
        amount: from.map_or(
            Amount::Fixed(increment.flatten().unwrap_or(1)),
            Amount::From,
        ),
    })
}

/// Takes the condition that limits a rule's own counter out of the conditions.
fn own_limit(
    section: &Section<'_>,
    conditions: &mut Vec<Written<'_>>,
    counter: &str,
) -> Loaded<u64> {
    let limits = |one: &Written<'_>| {
        matches!(&one.condition.subject, Subject::Counter { counter: name, .. } if name == counter)
            && matches!(
                one.condition.operator,
                Operator::Less(_) | Operator::AtMost(_)
            )
    };
    let fault = |message: &str, help: &str| match section.field("state") {
        Some(field) => field.key_fault(message.to_owned(), help),
        None => section.missing("state", help),
    };
    let Some(at) = conditions.iter().position(limits) else {
        return Err(fault(
            "this counter has no limit, and so Intercept would not count it",
            "Add a condition with `lte` or `lt` on the rule's own counter.",
        ));
    };
    let limit = match conditions.remove(at).condition.operator {
        Operator::AtMost(Bound::Whole(most)) => Some(most),
        Operator::Less(Bound::Whole(most)) => most.checked_sub(1),
        _ => None,
    };
    limit
        .and_then(|most| u64::try_from(most).ok())
        .ok_or_else(|| {
            fault(
                "the limit of this counter is no whole number that a call could keep",
                "Compare it with a whole number; to let nothing through, write `action: deny`.",
            )
        })
}
