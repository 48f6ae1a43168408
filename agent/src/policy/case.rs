//! Cases: calls with what a policy is expected to decide on them, in a file beside it.
//!
//! ```yaml
//! - name: more packets than the cap are cut
//!   call: { tool: start_capture, arguments: { iface: lo, count: 50000 } }
//!   expect: capture             # or allow, proxy, program, ends, deny, hidden
//!   rule: tools.start_capture.capture         # the path of the rule that decides
//!   forwarded: { count: 10000 } # arguments as the server gets them; null: without it
//!   uses: { start_capture/minute: 1 }         # all that is counted, and how much
//! - name: any port but 22
//!   call: { tool: connect, arguments: { port: 22 } }
//!   expect: deny
//!   reason: something other than 22           # a part of what the model is told
//! ```
//!
//! `approval: operator`, or `user`, says who is asked first, `true` that somebody is; a case that says
//! none of these fails if anybody is.
//! `requires: [ port ]` are the arguments that the tool's schema requires, in place of all that the server's own
//! list of tools says ([`Case::list`]), and `counts: { a: 3 }` is what counters hold, for rules that look
//! at them. A tool that is `hidden` is denied and not shown; `deny` says nothing of whether it is shown.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use serde_json::{Map, Value};

use super::{
    Approver, Assumed, Call, Definition, Outcome, Policy, PolicyError, RuleRef, Verdict,
    argument::same, load,
};

/// A call, and what is expected of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// What it shows, in words.
    pub name: String,
    /// Where it stands.
    pub place: RuleRef,
    /// The call.
    pub call: Call,
    pub(super) assumed: Assumed,
    pub(super) expect: Expected,
    pub(super) rule: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) forwarded: Option<Map<String, Value>>,
    pub(super) uses: Option<BTreeMap<String, u64>>,
    pub(super) approval: ExpectedApproval,
}

/// An expected verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Forwarded, and no more.
    Allow,
    /// A session is opened, and the call forwarded.
    Capture,
    /// A session is opened for a proxy, and the call forwarded.
    Proxy,
    /// A session is opened for programs, or joined, and the call forwarded.
    Program,
    /// Forwarded; the tool ends captures, proxies or programs.
    Ends,
    /// Denied.
    Deny,
    /// Denied, as the tool is not shown.
    Hidden,
}

/// Who is expected to be asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExpectedApproval {
    Nobody,
    Somebody,
    By(Approver),
}

impl ExpectedApproval {
    fn is(self, found: Option<Approver>) -> bool {
        match self {
            Self::Nobody => found.is_none(),
            Self::Somebody => found.is_some(),
            Self::By(wanted) => found == Some(wanted),
        }
    }

    fn words(self) -> String {
        match self {
            Self::Nobody => "not asked for".to_owned(),
            Self::Somebody => "asked for".to_owned(),
            Self::By(approver) => format!("{approver}'s, asked for"),
        }
    }
}

/// One thing that is otherwise than expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Of what: `verdict`, `rule`, `reason`, `forwarded.count`, `uses`, `approval`.
    pub what: String,
    /// What was expected.
    pub expected: String,
    /// What is so.
    pub found: String,
}

impl Expected {
    /// The word in the file.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Capture => "capture",
            Self::Proxy => "proxy",
            Self::Program => "program",
            Self::Ends => "ends",
            Self::Deny => "deny",
            Self::Hidden => "hidden",
        }
    }
}

impl Case {
    /// Reads a file of cases, of at most 1 MiB.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or has something else in it; the error points at the place.
    pub fn load(path: &Path) -> Result<Vec<Self>, PolicyError> {
        load::cases(path)
    }

    /// Takes the server to have listed these tools.
    pub fn list(&mut self, definitions: &Arc<BTreeMap<String, Arc<Definition>>>) {
        self.assumed.definitions = Arc::clone(definitions);
    }

    /// What a policy decides otherwise than expected, and all that it decides.
    #[must_use]
    pub fn run(&self, policy: &Policy) -> (Vec<Difference>, Outcome) {
        let outcome = policy.outcome(&self.call, &self.assumed);
        let mut differences = Vec::new();
        let mut differs = |what: &str, expected: String, found: String| {
            differences.push(Difference {
                what: what.to_owned(),
                expected,
                found,
            });
        };
        let denial = match &outcome.decision.verdict {
            Verdict::Deny(denial) => Some(denial.to_string()),
            _ => None,
        };
        let verdict = match (outcome.word(), self.expect) {
            ("deny", Expected::Deny) => "deny",
            ("deny", _) if !outcome.visible => "hidden",
            (word, _) => word,
        };
        if verdict != self.expect.word() {
            let why = denial.as_ref().map(|why| format!(": {why}"));
            let found = format!("{verdict}{}", why.unwrap_or_default());
            differs("verdict", self.expect.word().to_owned(), found);
        }
        if let Some(rule) = &self.rule
            && *rule != outcome.rule.path
        {
            differs("rule", rule.clone(), outcome.rule.to_string());
        }
        if let Some(reason) = &self.reason {
            let found = denial.unwrap_or_else(|| "no denial".to_owned());
            if !found.contains(reason) {
                differs("reason", format!("…{reason}…"), found);
            }
        }
        for (name, wanted) in self.forwarded.iter().flatten() {
            let found = outcome.forwarded.as_ref().and_then(|all| all.get(name));
            let alike = found.map_or(wanted.is_null(), |found| alike(wanted, found));
            if !alike || outcome.forwarded.is_none() {
                let found = found.map_or_else(|| "nothing".to_owned(), Value::to_string);
                differs(&format!("forwarded.{name}"), wanted.to_string(), found);
            }
        }
        if let Some(wanted) = &self.uses {
            let mut found: BTreeMap<String, u64> = BTreeMap::new();
            for used in &outcome.decision.uses {
                *found.entry(used.counter.clone()).or_default() += used.amount;
            }
            if *wanted != found {
                differs("uses", amounts(wanted), amounts(&found));
            }
        }
        let found = outcome.decision.approval.as_ref();
        let found = found.map(|approval| approval.by);
        if !self.approval.is(found) {
            let found = found.map_or(ExpectedApproval::Nobody, ExpectedApproval::By);
            differs("approval", self.approval.words(), found.words());
        }
        (differences, outcome)
    }
}

/// Equal as JSON is, where numbers are equal by value.
fn alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let each = |(key, a): (&String, &Value)| b.get(key).is_some_and(|b| alike(a, b));
            a.len() == b.len() && a.iter().all(each)
        }
        (a, b) => same(a, b),
    }
}

/// `a: 1, b: 2`, or `nothing`.
fn amounts(uses: &BTreeMap<String, u64>) -> String {
    if uses.is_empty() {
        return "nothing".to_owned();
    }
    let words = uses
        .iter()
        .map(|(counter, amount)| format!("{counter}: {amount}"));
    words.collect::<Vec<_>>().join(", ")
}
