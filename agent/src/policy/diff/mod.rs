//! What another policy allows and denies that this one does not.
//!
//! Models are compared, tool by tool and rule by rule, so that it does not matter in whose
//! language they are written, nor in which order. No difference means the same decisions; the
//! words of denials may differ. What cannot be ordered, such as two regular expressions, is
//! [`Effect::Changed`].

mod capture;
mod demands;
mod program;
mod proxy;

use std::collections::BTreeSet;

use super::{
    Policy, Request, RuleRef,
    model::{Action, Rules, ToolRule},
};

/// One difference between two policies.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyChange {
    /// What it is about.
    pub subject: Subject,
    /// What it does.
    pub effect: Effect,
    /// What is different, in a phrase.
    pub what: String,
    /// The rule of the first policy; none where it has no such.
    pub before: Option<RuleRef>,
    /// The rule of the second policy; none where it has no such.
    pub after: Option<RuleRef>,
    /// Two capture filters that are written differently, the first policy's and the second's: a
    /// prover can say which of them is wider.
    pub filters: Option<(String, String)>,
}

/// What a difference is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The calls of one tool.
    Tool(String),
    /// The calls of all tools.
    AllTools,
    /// The calls of tools that a policy does not name.
    OtherTools,
    /// What commands may capture.
    Exec,
    /// What servers may do with the network without a session.
    Baseline,
}

/// What a difference does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Something becomes allowed.
    Allows,
    /// Something becomes denied.
    Denies,
    /// Something is decided otherwise; which way cannot be told.
    Changed,
}

/// What is different in one rule.
struct Found {
    effect: Effect,
    what: String,
    before: Option<RuleRef>,
    after: Option<RuleRef>,
    filters: Option<(String, String)>,
}

impl Found {
    fn new(
        effect: Effect,
        what: impl Into<String>,
        before: Option<&RuleRef>,
        after: Option<&RuleRef>,
    ) -> Self {
        Self {
            effect,
            what: what.into(),
            before: before.cloned(),
            after: after.cloned(),
            filters: None,
        }
    }

    fn about(self, subject: &Subject) -> PolicyChange {
        PolicyChange {
            subject: subject.clone(),
            effect: self.effect,
            what: self.what,
            before: self.before,
            after: self.after,
            filters: self.filters,
        }
    }
}

impl Effect {
    /// Where `more` is more than before.
    fn of(more: bool) -> Self {
        if more { Self::Allows } else { Self::Denies }
    }
}

impl Policy {
    /// What becomes allowed, what becomes denied, and what else is different, if `after` takes the
    /// place of this one. In the order of the tools' names, then of the effects.
    #[must_use]
    pub fn changes(&self, after: &Self) -> Vec<PolicyChange> {
        let mut changes = Vec::new();
        for name in names(self, after) {
            let subject = Subject::Tool(name.clone());
            let found = tool(self, after, &name);
            changes.extend(found.into_iter().map(|found| found.about(&subject)));
        }
        let found = demands::compare(&self.all_tools, &after.all_tools);
        changes.extend(
            found
                .into_iter()
                .map(|found| found.about(&Subject::AllTools)),
        );
        changes.extend(others(self, after).map(|found| found.about(&Subject::OtherTools)));
        let found = exec(self, after);
        changes.extend(found.into_iter().map(|found| found.about(&Subject::Exec)));
        let found = proxy::baseline(self, after);
        changes.extend(
            found
                .into_iter()
                .map(|found| found.about(&Subject::Baseline)),
        );
        changes.sort_by(|a, b| (&a.subject, a.effect).cmp(&(&b.subject, b.effect)));
        changes
    }
}

/// All tools that either of them names.
fn names(before: &Policy, after: &Policy) -> BTreeSet<String> {
    let named = |policy: &Policy| -> Vec<String> {
        policy
            .tools
            .keys()
            .chain(policy.hide.tools.keys())
            .cloned()
            .collect()
    };
    named(before).into_iter().chain(named(after)).collect()
}

fn tool(before: &Policy, after: &Policy, name: &str) -> Vec<Found> {
    let rules = Some((before.rule(name), after.rule(name)));
    let ends = |effect, what: String| {
        let (before, after) = rules.unzip();
        vec![Found::new(effect, what, before, after)]
    };
    match (before.visible(name), after.visible(name)) {
        (false, false) => Vec::new(),
        (true, false) => ends(
            Effect::Denies,
            "the tool, whatever its arguments".to_owned(),
        ),
        (false, true) => ends(Effect::Allows, opened(after, name)),
        (true, true) => {
            let none = Rules::default();
            let own = |policy: &'_ Policy| -> Rules {
                policy
                    .tools
                    .get(name)
                    .map_or(&none, |tool| &tool.rules)
                    .clone()
            };
            let mut found = demands::compare(&own(before), &own(after));
            found.extend(action(before.tools.get(name), after.tools.get(name), rules));
            found
        }
    }
}

/// A tool that becomes allowed: what its calls do, and on which conditions.
fn opened(policy: &Policy, name: &str) -> String {
    let summary = policy.tool_summary(name);
    let mut words = match summary.verdict {
        "capture" => "the tool, which starts a capture".to_owned(),
        "proxy" => "the tool, which starts a proxy".to_owned(),
        "ends" => match policy.tools.get(name).map(|tool| &tool.action) {
            Some(Action::EndProxy) => "the tool, which ends proxies".to_owned(),
            _ => "the tool, which ends captures".to_owned(),
        },
        _ => "the tool".to_owned(),
    };
    if let Some(terms) = summary.terms {
        words += &format!(" ({terms})");
    }
    match summary.asks.as_slice() {
        [] => words + ", whatever its arguments",
        asks => format!("{words}, on these conditions: {}", asks.join(", ")),
    }
}

/// What calls of a tool do that both allow.
fn action(
    before: Option<&ToolRule>,
    after: Option<&ToolRule>,
    rules: Option<(&RuleRef, &RuleRef)>,
) -> Vec<Found> {
    let action = |tool: Option<&ToolRule>| tool.map_or(Action::Allow, |tool| tool.action.clone());
    let word = |action: &Action| match action {
        Action::Allow | Action::Deny(_) => "is forwarded and no more",
        Action::EndCapture => "ends captures",
        Action::Capture(_) => "starts a capture, held to its terms",
        Action::EndProxy => "ends proxies",
        Action::Proxy(_) => "starts a proxy, held to its terms",
        Action::EndProgram => "ends programs",
        Action::Program(_) => "starts programs, held to their terms",
    };
    match (action(before), action(after)) {
        (Action::Capture(before), Action::Capture(after)) => capture::compare(&before, &after),
        (Action::Proxy(before), Action::Proxy(after)) => proxy::compare(&before, &after),
        (Action::Program(before), Action::Program(after)) => program::compare(&before, &after),
        (before, after) if word(&before) == word(&after) => Vec::new(),
        (before, after) => {
            let what = format!(
                "a call {}, where it {}",
                word(&after),
                without_stop(word(&before))
            );
            let (one, other) = rules.unzip();
            vec![Found::new(Effect::Changed, what, one, other)]
        }
    }
}

/// `is forwarded` as it was.
fn without_stop(word: &str) -> String {
    let past = [
        ("is ", "was "),
        ("ends ", "ended "),
        ("starts ", "started "),
    ];
    let found = past
        .iter()
        .find_map(|(now, then)| Some((word.strip_prefix(now)?, then)));
    found.map_or_else(|| word.to_owned(), |(rest, then)| format!("{then}{rest}"))
}

/// Tools that neither names.
fn others(before: &Policy, after: &Policy) -> impl Iterator<Item = Found> {
    let open = |policy: &Policy| {
        policy.default.allow && policy.hide.all.is_none() && !policy.all_tools.are_closed()
    };
    let rule = |policy: &Policy| {
        policy
            .hide
            .all
            .as_ref()
            .unwrap_or(&policy.default.rule)
            .clone()
    };
    let (was, is) = (open(before), open(after));
    (was != is)
        .then(|| {
            let (before, after) = (rule(before), rule(after));
            let what = "tools that are not named";
            Found::new(Effect::of(is), what, Some(&before), Some(&after))
        })
        .into_iter()
}

fn exec(before: &Policy, after: &Policy) -> Vec<Found> {
    match (&before.exec, &after.exec) {
        (None, None) => Vec::new(),
        (Some(before), Some(after)) => capture::compare(before, after),
        (Some(before), None) => {
            vec![Found::new(
                Effect::Denies,
                "captures of commands",
                Some(&before.rule),
                None,
            )]
        }
        (None, Some(after)) => {
            vec![Found::new(
                Effect::Allows,
                match after.decide_request(&Request::default()) {
                    Ok(verdict) => format!("captures of commands ({})", verdict.terms),
                    Err(_) => "captures of commands".to_owned(),
                },
                None,
                Some(&after.rule),
            )]
        }
    }
}
