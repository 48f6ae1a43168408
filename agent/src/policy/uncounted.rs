//! Conditions on counters in which nothing counts.
//!
//! A counter is told by its name, its scope and its window, with the window's kind. A condition in which one of them is
//! another looks at a counter that stays empty, and what requires less than something of it always holds. It is no
//! error, as the policy of another server may count in it, so whoever writes such a policy is told.

use super::{
    Policy, RuleRef, Scope, Window,
    condition::Subject,
    model::{Rules, Step},
    usage::LimitRule,
};

/// A condition on a counter in which no limit of its policy counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Uncounted<'a> {
    /// The rule with the condition.
    pub rule: &'a RuleRef,
    /// What the counter is called.
    pub counter: &'a str,
    /// A limit that counts in another counter of that name.
    pub other: Option<&'a RuleRef>,
}

impl Uncounted<'_> {
    /// What follows from it, in a sentence.
    #[must_use]
    pub fn message(&self) -> String {
        let counter = self.counter;
        match self.other {
            Some(other) => format!(
                "nothing counts in this counter `{counter}`: that of {other} has another scope, window or kind, so it is another one"
            ),
            None => format!(
                "no limit of this policy counts in the counter `{counter}`, so it stays 0 unless another policy counts in it"
            ),
        }
    }
}

impl Policy {
    /// Each such condition.
    #[must_use]
    pub fn uncounted(&self) -> Vec<Uncounted<'_>> {
        let all: Vec<&LimitRule> = self
            .tools
            .values()
            .map(|tool| &tool.rules)
            .chain([&self.all_tools])
            .flat_map(limits)
            .collect();
        let of_tools = self.tools.values().flat_map(|tool| {
            let its: Vec<_> = limits(&tool.rules).chain(limits(&self.all_tools)).collect();
            conditions(&tool.rules).filter_map({
                let all = &all;
                move |condition| match condition.scope {
                    // A tool's own, in which other tools' calls do not count.
                    Scope::Tool => condition.uncounted(&its),
                    _ => condition.uncounted(all),
                }
            })
        });
        let of_all = conditions(&self.all_tools).filter_map(|condition| condition.uncounted(&all));
        of_tools.chain(of_all).collect()
    }
}

/// A condition on a counter.
struct OnCounter<'a> {
    rule: &'a RuleRef,
    counter: &'a str,
    scope: Scope,
    window: Window,
}

impl<'a> OnCounter<'a> {
    fn uncounted(&self, limits: &[&'a LimitRule]) -> Option<Uncounted<'a>> {
        let mut named = limits.iter().filter(|limit| limit.counter == self.counter);
        let counts = |limit: &&LimitRule| (limit.scope, limit.window) == (self.scope, self.window);
        if named.clone().any(counts) {
            return None;
        }
        Some(Uncounted {
            rule: self.rule,
            counter: self.counter,
            other: named.next().map(|limit| &limit.rule),
        })
    }
}

fn limits(rules: &Rules) -> impl Iterator<Item = &LimitRule> {
    rules.0.iter().filter_map(|step| match step {
        Step::Limit(limit) => Some(limit),
        _ => None,
    })
}

fn conditions(rules: &Rules) -> impl Iterator<Item = OnCounter<'_>> {
    let clauses = rules.0.iter().filter_map(|step| match step {
        Step::Clause(clause) => Some(clause),
        _ => None,
    });
    clauses.flat_map(|clause| {
        let conditions = clause.conditions.iter();
        conditions.filter_map(|condition| match &condition.subject {
            Subject::Argument(_) => None,
            Subject::Counter {
                counter,
                scope,
                window,
            } => Some(OnCounter {
                rule: &clause.rule,
                counter,
                scope: *scope,
                window: *window,
            }),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a condition on the counter `c` beside this limit, at the same tool or at another.
    fn said(condition: &str, at_tool: &str, limit: &str) -> Option<String> {
        let text = format!(
            "version: 1\ntools:\n  a:\n    checks:\n      - require: [ {{ counter: c, {condition}, less_than: 5 }} ]\n  \
             b: allow\n  {at_tool}:\n    limits: [ {{ counter: c, max: 9, {limit} }} ]\n"
        );
        let policy = Policy::parse("p.yaml", &text).unwrap();
        let found = policy.uncounted();
        assert!(found.len() < 2, "{found:?}");
        found.first().map(Uncounted::message)
    }

    #[test]
    fn counters_in_which_nothing_counts_are_told_of() {
        for (condition, limit) in [
            ("window: hour", "window: hour"),
            (
                "window: 1 h, scope: global",
                "window: 60 min, scope: global",
            ),
            ("window: hour, kind: sliding", "window: 1 h"),
        ] {
            assert_eq!(said(condition, "d", limit), None, "{condition} {limit}");
        }
        for (condition, limit) in [
            ("window: hour", "window: 1 h"),
            ("window: 1 h", "window: 1 h, kind: bucket"),
            ("window: hour, scope: server", "window: hour"),
            // It counts the calls of another tool.
            ("window: hour, scope: tool", "window: hour, scope: tool"),
        ] {
            let said = said(condition, "d", limit).unwrap_or_default();
            assert!(said.contains("counter `c`"), "{condition} {limit}: {said}");
        }
    }
}
