//! `checks`: what is asked of a call one after the other, under conditions on its arguments and on
//! counters. `args` says what an argument may be; a check says when a call is denied.

use super::{
    Field, Gather, Loaded, Section, Tree,
    approve::approve,
    args::{bound, pattern},
    limits::{self, counter},
    values,
};
use crate::policy::{
    argument::Argument,
    condition::{Clause, Condition, Demand, Subject},
    dialect::value,
    model::Step,
    operator::{Equality, Operator},
};

/// What a check may do; it does one of these.
const DOES: &[&str] = &["require", "deny_if", "required_by_schema", "approve"];

/// Keys of a check.
const CHECK: &[&str] = &[
    "require",
    "deny_if",
    "required_by_schema",
    "approve",
    "name",
    "on_deny",
];

/// What a condition compares by; it has one of these.
const OPERATORS: &[&str] = &[
    "absent",
    "equals",
    "not_equals",
    "one_of",
    "none_of",
    "less_than",
    "no_more_than",
    "more_than",
    "at_least",
    "matches",
    "contains",
];

/// Keys of a condition.
const CONDITION: &[&str] = &[
    "argument",
    "counter",
    "scope",
    "window",
    "kind",
    "compare",
    "absent",
    "equals",
    "not_equals",
    "one_of",
    "none_of",
    "less_than",
    "no_more_than",
    "more_than",
    "at_least",
    "matches",
    "contains",
];

/// Reads the checks of a tool, or of all.
pub(super) fn checks(field: &Field<'_>) -> Loaded<Vec<Step>> {
    const HELP: &str =
        "List checks: `[ { require: [ { argument: amount, no_more_than: 500 } ] } ]`.";
    field.list("a list of checks", HELP)?;
    let items = field.items("a list of checks", HELP)?;
    Gather::all(items.iter().map(check))
}

fn check(field: &Field<'_>) -> Loaded<Step> {
    const HELP: &str =
        "A check has one of `require`, `deny_if`, `required_by_schema` and `approve`.";
    let (section, mut gather) = field.open("a check", CHECK)?;
    let name = gather.keep(section.read("name", |field| {
        field.words("a name", "Name the check in some words.")
    }));
    let on_deny = gather.keep(section.read("on_deny", on_deny));
    let mut does = DOES.iter().filter_map(|key| section.field(key));
    let Some(first) = does.next() else {
        if gather.is_clean() {
            gather.add(section.missing("require", HELP));
        }
        return gather.done(None);
    };
    if let Some(second) = does.next() {
        let message = format!("`{}` cannot stand beside `{}`", second.key, first.key);
        gather.add(second.key_fault(message, "Write a check of its own for one of the two."));
    }
    let clause = |demand| {
        Ok(Step::Clause(Clause {
            demand,
            conditions: conditions(&first)?,
            rule: field.rule(),
            on_deny: on_deny.clone().flatten(),
            name: name.clone().flatten(),
        }))
    };
    let step = gather.keep(match first.key {
        "require" => clause(Demand::Require),
        "deny_if" => clause(Demand::DenyIf),
        "approve" => approve(&first).map(Step::Approve),
        _ => required(&first),
    });
    if !matches!(first.key, "require" | "deny_if") {
        for key in ["name", "on_deny"] {
            if let Some(other) = section.field(key) {
                let message = format!("`{key}` cannot stand beside `{}`", first.key);
                gather.add(other.key_fault(message, "Leave it out."));
            }
        }
    }
    gather.done(step)
}

/// `required_by_schema: true`.
pub(super) fn required(field: &Field<'_>) -> Loaded<Step> {
    const HELP: &str = "Write `required_by_schema: true`, or leave it out.";
    match field.node.tree {
        Tree::Bool(true) => Ok(Step::RequiredBySchema(field.rule())),
        Tree::Bool(false) => Err(field.fault("demands nothing", HELP)),
        _ => Err(field.wrong("true", HELP)),
    }
}

/// What a denial says in place of our own words.
pub(super) fn on_deny(field: &Field<'_>) -> Loaded<String> {
    field.words("a sentence", "Write what the model gets to read.")
}

/// Reads conditions that must all hold; none always do.
pub(super) fn conditions(field: &Field<'_>) -> Loaded<Vec<Condition>> {
    const HELP: &str = "Write a list of conditions: `[ { argument: amount, no_more_than: 500 } ]`.";
    let items = field.items("a list of conditions", HELP)?;
    Gather::all(items.iter().map(condition))
}

fn condition(field: &Field<'_>) -> Loaded<Condition> {
    const HELP: &str = "A condition has one comparison: `absent`, `equals`, `not_equals`, `one_of`, `none_of`, `less_than`, `no_more_than`, `more_than`, `at_least`, `matches` or `contains`.";
    let (section, mut gather) = field.open("a condition", CONDITION)?;
    let subject = gather.keep(subject(&section));
    let equality = gather.keep(section.read("compare", |field| {
        const HELP: &str = "Write `compare: text`, by which \"5\" is 5, or leave it out.";
        match field.text("how values are compared", HELP)? {
            "text" => Ok(Equality::ByText),
            "type" => Ok(Equality::ByType),
            _ => Err(field.fault("is no way to compare", HELP)),
        }
    }));
    let mut compared = OPERATORS.iter().filter_map(|key| section.field(key));
    let operator = match (compared.next(), compared.next()) {
        (Some(only), None) => gather.keep(operator(&only)),
        (Some(first), Some(second)) => {
            let message = format!("`{}` cannot stand beside `{}`", second.key, first.key);
            gather.add(second.key_fault(message, HELP));
            None
        }
        (None, _) => {
            if gather.is_clean() {
                gather.add(section.missing("equals", HELP));
            }
            None
        }
    };
    let (subject, operator) = gather.done(subject.zip(operator))?;
    Ok(Condition {
        subject,
        equality: match operator.compares_values() {
            true => equality.flatten().unwrap_or(Equality::ByType),
            false => Equality::ByType,
        },
        operator,
    })
}

/// An argument, or a counter.
fn subject(section: &Section<'_>) -> Loaded<Subject> {
    const HELP: &str = "Write `argument: amount`, or `counter` with its `scope` and `window`.";
    let Some(field) = section.field("counter") else {
        for key in ["scope", "window", "kind"] {
            if let Some(other) = section.field(key) {
                let message = format!("`{key}` says nothing of an argument");
                return Err(other.key_fault(message, HELP));
            }
        }
        let Some(field) = section.field("argument") else {
            return Err(section.missing("argument", HELP));
        };
        let name = field.text("an argument's name", HELP)?;
        return match Argument::parse(name) {
            Ok(argument) => Ok(Subject::Argument(argument)),
            Err(_) => Err(field.fault("is no argument's name", HELP)),
        };
    };
    if let Some(other) = section.field("argument") {
        let message = "`argument` cannot stand beside `counter`".to_owned();
        return Err(other.key_fault(message, HELP));
    }
    let mut gather = Gather::default();
    let name = gather.keep(counter(&field));
    let scope = gather.keep(limits::scope_of(section));
    let window = gather.keep(limits::window_of(section));
    let ((counter, scope), window) = gather.done(name.zip(scope).zip(window))?;
    Ok(Subject::Counter {
        counter,
        scope,
        window,
    })
}

fn operator(field: &Field<'_>) -> Loaded<Operator> {
    const MATCHES: &str =
        "Write a regular expression in quotes; it may match anywhere in the argument.";
    Ok(match field.key {
        "equals" => Operator::Equal(value(field, field.node)?),
        "not_equals" => Operator::Unequal(value(field, field.node)?),
        "one_of" => Operator::OneOf(values(field, value)?),
        "none_of" => Operator::NoneOf(values(field, value)?),
        "less_than" => Operator::Less(bound(field)?),
        "no_more_than" => Operator::AtMost(bound(field)?),
        "more_than" => Operator::More(bound(field)?),
        "at_least" => Operator::AtLeast(bound(field)?),
        "matches" => Operator::Matches(pattern(field, false, MATCHES)?),
        "contains" => Operator::Contains(super::scalar(field, field.node)?),
        _ => match field.node.tree {
            Tree::Bool(absent) => Operator::Exists(!absent),
            _ => {
                const HELP: &str =
                    "Write `true` for what must not be there, `false` for what must.";
                return Err(field.wrong("true or false", HELP));
            }
        },
    })
}
