//! `approve`: somebody must say yes before the call is made.

use std::time::Duration;

use super::{Field, Loaded, Tree, checks::conditions, limits::duration};
use crate::policy::model::ApprovalRule;

/// How long a call waits for its approval where the policy does not say.
pub(in crate::policy) const TIMEOUT: Duration = Duration::from_secs(600);

/// The longest that it may wait.
pub(in crate::policy) const LONGEST: Duration = Duration::from_secs(7 * 86_400);

/// Keys of `approve`.
const APPROVE: &[&str] = &["by", "timeout", "why", "if"];

/// Reads `operator`, or a map that says more.
pub(super) fn approve(field: &Field<'_>) -> Loaded<ApprovalRule> {
    const HELP: &str = "Write `approve: operator`, or `{ by: operator, timeout: \"10 min\", why: \"it restarts the probe\" }`.";
    let mut rule = ApprovalRule {
        conditions: Vec::new(),
        timeout: TIMEOUT,
        why: None,
        rule: field.rule(),
    };
    if !matches!(field.node.tree, Tree::Map(_)) {
        by(field, HELP)?;
        return Ok(rule);
    }
    let (section, mut gather) = field.open("who approves", APPROVE)?;
    match section.field("by") {
        Some(field) => drop(gather.keep(by(&field, HELP))),
        None if gather.is_clean() => gather.add(section.missing("by", HELP)),
        None => {}
    }
    if let Some(time) = gather.keep(section.read("timeout", timeout)).flatten() {
        rule.timeout = time;
    }
    let why = section.read("why", |field| {
        field.words("why, in words", "Write it for the operator who reads it.")
    });
    rule.why = gather.keep(why).flatten();
    let conditions = gather.keep(section.read("if", conditions)).flatten();
    rule.conditions = conditions.unwrap_or_default();
    gather.done(Some(rule))
}

fn by(field: &Field<'_>, help: &str) -> Loaded<()> {
    match field.text("`operator`", help)? {
        "operator" => Ok(()),
        _ => Err(field.fault("is nobody who can approve", help)),
    }
}

/// How long a call waits.
pub(in crate::policy) fn timeout(field: &Field<'_>) -> Loaded<Duration> {
    const HELP: &str = "Write a time such as \"10 min\", of at most a week.";
    let time = duration(field, HELP)?;
    if time > LONGEST {
        return Err(field.fault("is longer than a week", HELP));
    }
    Ok(time)
}
