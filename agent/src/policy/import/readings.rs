//! What the other languages leave open, of what a policy makes use of.

use super::{Reading, yaml};
use crate::policy::{
    Dialect, Policy, RuleRef, Window,
    condition::{Condition, Demand},
    load::{Node, child},
    model::Step,
    operator::Operator,
};

/// How a policy is read where its language says nothing: first what holds for all of it, then
/// rule by rule.
pub(super) fn readings(policy: &Policy, root: &Node, fragment: bool) -> Vec<Reading> {
    let used = Used::of(policy);
    let mut all = Vec::new();
    let mut say = |when: bool, says: &str| {
        if when {
            all.push(Reading {
                says: says.to_owned(),
                rule: None,
            });
        }
    };
    let unsaid = child(root, "default").is_none();
    match policy.dialect {
        Dialect::Capwarden => {}
        Dialect::PolicyLayer => {
            say(
                fragment,
                "It is a part of a policy and says nothing of other tools: they are denied.",
            );
            say(
                used.both,
                "`require` is asked before `deny_if`, each in the order of the file.",
            );
            say(
                used.conditions,
                "What is not sent, or is null, fails a `require` (but for `absent: true`), and is `not_equals` and `none_of` anything in a `deny_if`.",
            );
            say(
                used.conditions,
                "A value of a type that is not compared fails a `require` and holds in a `deny_if`, as a server might read \"500\" as 500.",
            );
            say(
                used.limits,
                "Windows are full minutes, hours and days of UTC; a use is given back when the call failed in whatever way.",
            );
            say(
                used.limits,
                "A counter that both a tool and all tools name is counted once, against the smaller limit.",
            );
        }
        Dialect::Catalogue => {
            say(unsaid, "Tools that are not named are denied.");
            say(
                used.sliding,
                "A window in seconds is the time before the call.",
            );
            say(
                used.limits,
                "Rates count by connection, which is an agent's session; a use is given back when the server answers with a JSON-RPC error.",
            );
            say(
                used.required,
                "`required_args` is what the tool's own schema requires; until the server has listed the tool, its calls are denied.",
            );
        }
        Dialect::Intercept => {
            say(
                unsaid,
                "Tools that are not named are allowed, as Intercept does where a policy has no `default`.",
            );
            say(
                used.conditions,
                "What is not sent, or is null, fails every condition but `absent: true`; Intercept itself lets null pass where something else is wanted.",
            );
            say(
                used.by_text,
                "`compare: text`: a string and a number are equal where they are written alike.",
            );
            say(
                used.limits,
                "Counters are the server's, in full minutes, hours and days of UTC; a use is given back when the server answers with a JSON-RPC error.",
            );
            say(
                used.counted,
                "The first upper bound on a rule's own counter is its limit: less than 5 is at most 4.",
            );
            say(
                used.approvals,
                "An approval is asked for where all conditions of its rule hold.",
            );
        }
    }
    all.extend(used.rewritten.into_iter().map(|(rule, written)| Reading {
        says: format!("Written for RE2 as {}.", yaml::quoted(&written)),
        rule: Some(rule),
    }));
    all
}

/// What a policy makes use of.
#[derive(Default)]
struct Used {
    conditions: bool,
    /// Both demands in one tool.
    both: bool,
    by_text: bool,
    limits: bool,
    sliding: bool,
    /// Limits on counters that have a name.
    counted: bool,
    required: bool,
    approvals: bool,
    /// Rules with a regular expression that is written otherwise here.
    rewritten: Vec<(RuleRef, String)>,
}

impl Used {
    fn of(policy: &Policy) -> Self {
        let mut used = Self::default();
        let tools = policy.tools.values().map(|tool| &tool.rules);
        for rules in tools.chain([&policy.all_tools]) {
            let asks = |demand| {
                let mut steps = rules.0.iter();
                steps.any(|step| matches!(step, Step::Clause(clause) if clause.demand == demand))
            };
            used.both |= asks(Demand::Require) && asks(Demand::DenyIf);
            for step in &rules.0 {
                match step {
                    Step::Argument(_) | Step::Schema(_) | Step::Pinned(_) | Step::Record(_) => {}
                    Step::Clause(clause) => used.look_at(&clause.conditions, &clause.rule),
                    Step::RequiredBySchema(_) => used.required = true,
                    Step::Approve(approval) => {
                        used.approvals = true;
                        used.look_at(&approval.conditions, &approval.rule);
                    }
                    Step::Limit(limit) => {
                        used.limits = true;
                        used.sliding |= matches!(limit.window, Window::Sliding(_));
                        used.counted |= limit.name.is_some();
                    }
                }
            }
        }
        used
    }

    fn look_at(&mut self, conditions: &[Condition], rule: &RuleRef) {
        for condition in conditions {
            self.conditions = true;
            self.by_text |= condition.equality == crate::policy::operator::Equality::ByText;
            if let Operator::Matches(pattern) = &condition.operator
                && pattern.written != pattern.regex.as_str()
            {
                let one = (rule.clone(), pattern.written.clone());
                self.rewritten.push(one);
            }
        }
    }
}
