//! What two rules ask of calls.

use std::path::Path;

use serde_json::Value;

use super::{Effect, Found, capture};
use crate::policy::{
    Approver, RuleRef,
    argument::{Argument, same},
    condition::Clause,
    model::{ApprovalRule, Pinning, RecordRule, Rules, Step},
    operator::Operator,
    predicate::{Check, Predicate},
    units,
    usage::LimitRule,
};
use crate::words;

/// One thing that is asked.
enum Demand<'a> {
    Check(&'a str, &'a Check),
    Clause(&'a Clause),
    Required(&'a RuleRef),
    Schema(&'a RuleRef),
    Pinned(&'a Pinning),
    Record(&'a RecordRule),
    Approval(&'a ApprovalRule),
    Limit(&'a LimitRule),
}

/// What is different between what two rules ask.
pub(super) fn compare(before: &Rules, after: &Rules) -> Vec<Found> {
    let (before, mut after) = (demands(before), demands(after));
    let mut found = Vec::new();
    let mut gone = Vec::new();
    // First those that are the same, so that each is paired with its own.
    for demand in before {
        match after.iter().position(|other| demand.equals(other)) {
            Some(same) => drop(after.swap_remove(same)),
            None => gone.push(demand),
        }
    }
    for demand in gone {
        match after.iter().position(|other| demand.is_of_the_kind(other)) {
            Some(place) => found.extend(demand.against(&after.swap_remove(place))),
            None => found.push(demand.gone()),
        }
    }
    found.extend(after.iter().map(Demand::come));
    found
}

fn demands(rules: &Rules) -> Vec<Demand<'_>> {
    let mut all = Vec::new();
    for step in &rules.0 {
        match step {
            Step::Argument(argument) => {
                let name = argument.argument.name();
                all.extend(
                    argument
                        .checks
                        .iter()
                        .map(|check| Demand::Check(name, check)),
                );
            }
            Step::Clause(clause) => all.push(Demand::Clause(clause)),
            Step::RequiredBySchema(rule) => all.push(Demand::Required(rule)),
            Step::Schema(rule) => all.push(Demand::Schema(rule)),
            Step::Pinned(pinning) => all.push(Demand::Pinned(pinning)),
            Step::Record(record) => all.push(Demand::Record(record)),
            Step::Approve(approval) => all.push(Demand::Approval(approval)),
            Step::Limit(limit) => all.push(Demand::Limit(limit)),
        }
    }
    all
}

impl Demand<'_> {
    fn rule(&self) -> &RuleRef {
        match self {
            Self::Check(_, check) => &check.rule,
            Self::Clause(clause) => &clause.rule,
            Self::Required(rule) | Self::Schema(rule) => rule,
            Self::Pinned(pinning) => &pinning.rule,
            Self::Record(record) => &record.rule,
            Self::Approval(approval) => &approval.rule,
            Self::Limit(limit) => &limit.rule,
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Check(name, check) => format!("`{name}` is {}", predicate(&check.predicate)),
            Self::Clause(clause) => format!("the conditions of {}", clause.rule.path),
            Self::Required(_) => "what the tool's schema requires is there".to_owned(),
            Self::Schema(_) => "the arguments are valid by the tool's schema".to_owned(),
            Self::Pinned(pinning) => match pinning.strict {
                true => "the tool's definition was accepted by an operator".to_owned(),
                false => "the tool's definition is the accepted one".to_owned(),
            },
            Self::Record(record) => recorded(&record.arguments),
            Self::Approval(approval) => format!(
                "{} approves{} within {}",
                approval.by,
                match approval.conditions.is_empty() {
                    true => "",
                    false => ", of calls that `if` is about,",
                },
                words::time(approval.timeout)
            ),
            Self::Limit(limit) => format!("the limit of {} in `{}`", limit.max, limit.counter),
        }
    }

    /// Nothing like it is asked any more.
    fn gone(&self) -> Found {
        let (effect, what) = match self {
            Self::Record(_) => (
                Effect::Changed,
                format!("no longer recorded: {}", self.words()),
            ),
            _ => (
                Effect::Allows,
                format!("calls no longer have to pass: {}", self.words()),
            ),
        };
        Found::new(effect, what, Some(self.rule()), None)
    }

    /// Nothing like it was asked before.
    fn come(&self) -> Found {
        let (effect, what) = match self {
            Self::Record(_) => (Effect::Changed, format!("recorded: {}", self.words())),
            _ => (
                Effect::Denies,
                format!("calls that do not pass: {}", self.words()),
            ),
        };
        Found::new(effect, what, None, Some(self.rule()))
    }

    /// The same, wherever it stands.
    fn equals(&self, other: &Demand<'_>) -> bool {
        match (self, other) {
            (Self::Check(name, one), Demand::Check(of, other)) => {
                name == of && alike(&one.predicate, &other.predicate)
            }
            (Self::Clause(one), Demand::Clause(other)) => {
                one.demand == other.demand && one.conditions == other.conditions
            }
            (Self::Required(_), Demand::Required(_)) | (Self::Schema(_), Demand::Schema(_)) => true,
            (Self::Pinned(one), Demand::Pinned(other)) => one.strict == other.strict,
            (Self::Record(one), Demand::Record(other)) => {
                unnamed(one, other).is_empty() && unnamed(other, one).is_empty()
            }
            (Self::Approval(one), Demand::Approval(other)) => {
                one.by == other.by
                    && one.timeout == other.timeout
                    && one.conditions == other.conditions
            }
            (Self::Limit(one), Demand::Limit(other)) => {
                is_one_counter(one, other)
                    && one.max == other.max
                    && one.amount == other.amount
                    && one.refund == other.refund
            }
            _ => false,
        }
    }

    /// Something that can be compared with it.
    fn is_of_the_kind(&self, other: &Demand<'_>) -> bool {
        match (self, other) {
            (Self::Check(name, one), Demand::Check(of, other)) => {
                name == of && key(&one.predicate) == key(&other.predicate)
            }
            (Self::Approval(_), Demand::Approval(_)) | (Self::Record(_), Demand::Record(_)) => true,
            (Self::Limit(one), Demand::Limit(other)) => is_one_counter(one, other),
            _ => false,
        }
    }

    /// What is different in another of its kind.
    fn against(&self, other: &Demand<'_>) -> Vec<Found> {
        let rules = (self.rule(), other.rule());
        let found = |effect, what: String| Found::new(effect, what, Some(rules.0), Some(rules.1));
        match (self, other) {
            (Self::Check(name, one), Demand::Check(_, other)) => {
                checks(name, (&one.predicate, &other.predicate), rules)
            }
            (Self::Limit(one), Demand::Limit(other)) => {
                let mut all = Vec::new();
                if one.max != other.max {
                    let what = format!(
                        "up to {} in `{}`, not {}",
                        other.max, other.counter, one.max
                    );
                    all.push(found(Effect::of(other.max > one.max), what));
                }
                if one.amount != other.amount || one.refund != other.refund {
                    let what = format!(
                        "how much a call uses of `{}`, or when that is given back",
                        one.counter
                    );
                    all.push(found(Effect::Changed, what));
                }
                all
            }
            (Self::Record(one), Demand::Record(other)) => {
                let sides = [
                    ("recorded: ", unnamed(one, other)),
                    ("no longer recorded: ", unnamed(other, one)),
                ];
                let sides = sides.into_iter().filter(|(_, names)| !names.is_empty());
                sides
                    .map(|(word, names)| {
                        found(Effect::Changed, format!("{word}{}", recorded(&names)))
                    })
                    .collect()
            }
            (Self::Approval(one), Demand::Approval(other)) => {
                let mut all = Vec::new();
                if one.by != other.by {
                    // What a client says of its user is its own word.
                    let effect = Effect::of(other.by == Approver::User);
                    all.push(found(
                        effect,
                        format!("{} approves, not {}", other.by, one.by),
                    ));
                }
                if one.conditions != other.conditions {
                    let effect = match (one.conditions.is_empty(), other.conditions.is_empty()) {
                        // Without conditions, all calls are asked about.
                        (true, false) => Effect::Allows,
                        (false, true) => Effect::Denies,
                        _ => Effect::Changed,
                    };
                    all.push(found(
                        effect,
                        format!("which calls {} is asked about", other.by),
                    ));
                }
                if one.timeout != other.timeout {
                    let (was, is) = (words::time(one.timeout), words::time(other.timeout));
                    let what = format!("{} is asked for {is}, not {was}", other.by);
                    all.push(found(Effect::Changed, what));
                }
                all
            }
            _ => vec![found(Effect::Changed, other.words())],
        }
    }
}

/// The arguments of the second rule whose values the first does not have recorded.
fn unnamed(these: &RecordRule, those: &RecordRule) -> Vec<Argument> {
    let those = those.arguments.iter();
    let new = those.filter(|argument| !these.arguments.contains(argument));
    new.cloned().collect()
}

/// ``the values of `a` and `b` ``.
fn recorded(arguments: &[Argument]) -> String {
    let names = arguments
        .iter()
        .map(|argument| format!("`{}`", argument.name()));
    let names: Vec<String> = names.collect();
    let word = if names.len() == 1 { "value" } else { "values" };
    format!("the {word} of {}", units::either(&names, "and"))
}

fn is_one_counter(one: &LimitRule, other: &LimitRule) -> bool {
    one.counter == other.counter && one.scope == other.scope && one.window == other.window
}

/// A predicate's key in our language.
fn key(predicate: &Predicate) -> &'static str {
    match predicate {
        Predicate::Absent | Predicate::Present => "absent",
        Predicate::Whole(_) => "pattern",
        Predicate::OneOf(_) => "one_of",
        Predicate::UpTo { .. } => "at_most",
        Predicate::Operator(operator) => operator.data().0,
        Predicate::Under(_) => "under",
        Predicate::InCidr(_) => "in_cidr",
        Predicate::Interface(_) => "interface",
        Predicate::Filter(_) => "capture_filter",
    }
}

fn predicate(predicate: &Predicate) -> String {
    let list = |words: Vec<String>| units::either(&words, "or");
    match predicate {
        Predicate::Absent => "not sent".to_owned(),
        Predicate::Present => "sent".to_owned(),
        Predicate::Whole(pattern) => format!("matched by {:?} as a whole", pattern.written),
        Predicate::OneOf(values) => format!(
            "one of {}",
            list(values.iter().map(Value::to_string).collect())
        ),
        Predicate::UpTo { written, .. } => format!("from 0 to {written}"),
        Predicate::Operator(operator) => operator.words(),
        Predicate::Under(directory) => format!("under {directory}"),
        Predicate::InCidr(networks) => format!(
            "within {}",
            list(networks.iter().map(ToString::to_string).collect())
        ),
        Predicate::Interface(interfaces) => interfaces.words(),
        Predicate::Filter(within) => format!("a capture filter within {:?}", within.expression),
    }
}

/// The same demand on a value.
fn alike(one: &Predicate, other: &Predicate) -> bool {
    match (one, other) {
        (Predicate::Interface(one), Predicate::Interface(other)) => {
            capture::interfaces(one, other).is_empty()
        }
        (Predicate::Filter(one), Predicate::Filter(other)) => one.expression == other.expression,
        (Predicate::UpTo { number: one, .. }, Predicate::UpTo { number: other, .. }) => {
            one == other
        }
        (Predicate::OneOf(one), Predicate::OneOf(other)) => {
            lacks(one, other).is_empty() && lacks(other, one).is_empty()
        }
        (one, other) => one == other,
    }
}

/// The values of the second list that are not in the first.
fn lacks(these: &[Value], those: &[Value]) -> Vec<String> {
    let has = |value: &Value| these.iter().any(|one| same(one, value));
    those
        .iter()
        .filter(|value| !has(value))
        .map(Value::to_string)
        .collect()
}

fn checks(
    name: &str,
    (before, after): (&Predicate, &Predicate),
    (one, other): (&RuleRef, &RuleRef),
) -> Vec<Found> {
    let found = |effect, what: String| Found::new(effect, what, Some(one), Some(other));
    let turned = |effect| {
        vec![found(
            effect,
            format!(
                "`{name}` is to be {}, not {}",
                predicate(after),
                predicate(before)
            ),
        )]
    };
    match (before, after) {
        (Predicate::OneOf(was), Predicate::OneOf(is)) => {
            let sides = [
                (Effect::Allows, lacks(was, is)),
                (Effect::Denies, lacks(is, was)),
            ];
            let sides = sides.into_iter().filter(|(_, values)| !values.is_empty());
            sides
                .map(|(effect, values)| {
                    found(
                        effect,
                        format!("{} as `{name}`", units::either(&values, "or")),
                    )
                })
                .collect()
        }
        (Predicate::UpTo { number: was, .. }, Predicate::UpTo { number: is, .. }) => {
            turned(Effect::of(is > was))
        }
        (Predicate::Operator(was), Predicate::Operator(is)) => turned(operators(was, is)),
        (Predicate::Under(was), Predicate::Under(is)) => {
            turned(if Path::new(is).starts_with(was) {
                Effect::Denies
            } else if Path::new(was).starts_with(is) {
                Effect::Allows
            } else {
                Effect::Changed
            })
        }
        (Predicate::Interface(was), Predicate::Interface(is)) => {
            let all = capture::interfaces(was, is).into_iter();
            all.map(|change| Found {
                what: format!("{} by `{name}`", change.what),
                ..change
            })
            .collect()
        }
        (Predicate::Filter(was), Predicate::Filter(is)) => {
            capture::within(Some(was), Some(is), (one, other))
                .into_iter()
                .collect()
        }
        _ => turned(Effect::Changed),
    }
}

/// What it does that a comparison is with another value.
fn operators(before: &Operator, after: &Operator) -> Effect {
    let more = match (before, after) {
        (Operator::Less(was), Operator::Less(is))
        | (Operator::AtMost(was), Operator::AtMost(is)) => is.decimal() > was.decimal(),
        (Operator::More(was), Operator::More(is))
        | (Operator::AtLeast(was), Operator::AtLeast(is)) => is.decimal() < was.decimal(),
        (Operator::NoneOf(was), Operator::NoneOf(is)) => {
            return match (lacks(was, is).is_empty(), lacks(is, was).is_empty()) {
                (true, _) => Effect::Allows,
                (false, true) => Effect::Denies,
                (false, false) => Effect::Changed,
            };
        }
        _ => return Effect::Changed,
    };
    Effect::of(more)
}
