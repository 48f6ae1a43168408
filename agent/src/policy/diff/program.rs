//! What two rules for programs grant.

use super::{Found, capture, proxy};
use crate::policy::{RuleRef, program::ProgramRule, units};

/// What is different between two rules for programs.
pub(super) fn compare(before: &ProgramRule, after: &ProgramRule) -> Vec<Found> {
    let rules = (&before.rule, &after.rule);
    let (was, is) = (before.terms(), after.terms());
    let place = |rule: &'_ ProgramRule| -> RuleRef {
        let list = rule.connect.as_ref();
        list.map_or(&rule.rule, |list| &list.rule).clone()
    };
    let mut found = proxy::endpoints(
        "programs connecting to",
        (&was.connect, &is.connect),
        (&place(before), &place(after)),
    );
    let mut cap = |what: &str, one, other, words: fn(&u64) -> String| {
        found.extend(capture::cap(what, one, other, rules, words));
    };
    let (one, other) = (before, after);
    cap(
        "processes",
        one.processes.as_ref(),
        other.processes.as_ref(),
        |n| format!("{n} processes"),
    );
    cap("memory", one.memory.as_ref(), other.memory.as_ref(), |n| {
        format!("{} of memory", units::bytes(*n))
    });
    cap(
        "packets",
        one.packets.as_ref(),
        other.packets.as_ref(),
        |n| units::packets(*n),
    );
    cap("bytes", one.bytes.as_ref(), other.bytes.as_ref(), |n| {
        format!("{} each way", units::bytes(*n))
    });
    cap(
        "connections",
        one.connections.as_ref(),
        other.connections.as_ref(),
        |n| format!("{n} connections"),
    );
    let seconds = (Some(&before.seconds), Some(&after.seconds));
    found.extend(capture::cap(
        "seconds",
        seconds.0,
        seconds.1,
        rules,
        |time| crate::words::time(*time),
    ));
    found
}
