//! What a policy comes to, for who has to know it at a glance.

use std::{fmt, sync::Arc};

use super::{
    Baseline, Dialect, Policy, Request, Window,
    model::{Action, Rules, Step, ToolRule},
    usage::LimitRule,
};

/// What a policy comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// SHA-256 of the file's bytes, in hexadecimal digits.
    pub digest: String,
    /// In whose language it is written.
    pub dialect: Dialect,
    /// The tools that it names, by name.
    pub tools: Vec<ToolSummary>,
    /// What every call is asked, beside what its tool's rule asks: as [`ToolSummary::asks`].
    pub all_tools: Vec<String>,
    /// What `capwarden exec` may capture under it, in a phrase; none if nothing.
    pub exec: Option<String>,
    /// What the server may do with the network without a session; none if that is not bounded.
    pub baseline: Option<Baseline>,
    /// Whether tools that the policy does not name are allowed.
    pub others_allowed: bool,
}

/// What a policy comes to for one tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolSummary {
    /// Its name.
    pub name: String,
    /// What becomes of a call that passes: `allow`, `capture`, `proxy`, `program`, `ends` or `deny`.
    pub verdict: &'static str,
    /// What a call is asked first, in words: `arguments checked`,
    /// `an operator asked`, `at most 10 a minute`.
    pub asks: Vec<String>,
    /// What a capture, a proxy or programs may have at most; none if the tool starts none.
    pub terms: Option<String>,
}

impl Policy {
    /// What the policy comes to.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let tools = self.tools.iter().map(|(name, rule)| self.tool(name, rule));
        let exec = self.exec.as_ref();
        Summary {
            file: Arc::clone(&self.file),
            digest: self.digest.clone(),
            dialect: self.dialect,
            tools: tools.collect(),
            all_tools: asks(&self.all_tools),
            exec: exec.map(|rule| match rule.decide_request(&Request::default()) {
                Ok(verdict) => verdict.terms.to_string(),
                Err(denial) => denial.reason,
            }),
            baseline: self.baseline(),
            others_allowed: self.default.allow
                && self.hide.all.is_none()
                && !self.all_tools.are_closed(),
        }
    }

    /// What it comes to for one tool, with what is asked of the calls of all tools.
    pub(super) fn tool_summary(&self, name: &str) -> ToolSummary {
        let mut summary = match self.tools.get(name) {
            Some(rule) => self.tool(name, rule),
            None => ToolSummary {
                name: name.to_owned(),
                verdict: "allow",
                asks: Vec::new(),
                terms: None,
            },
        };
        for ask in asks(&self.all_tools) {
            if !summary.asks.contains(&ask) {
                summary.asks.push(ask);
            }
        }
        summary
    }

    fn tool(&self, name: &str, rule: &ToolRule) -> ToolSummary {
        let verdict = match &rule.action {
            _ if !self.visible(name) => "deny",
            Action::Allow => "allow",
            Action::Deny(_) => "deny",
            Action::EndCapture | Action::EndProxy | Action::EndProgram => "ends",
            Action::Capture(_) => "capture",
            Action::Proxy(_) => "proxy",
            Action::Program(_) => "program",
        };
        let terms = match &rule.action {
            Action::Capture(rule) => rule
                .decide_request(&Request::default())
                .ok()
                .map(|verdict| verdict.terms.to_string()),
            Action::Proxy(rule) => Some(rule.widest().to_string()),
            Action::Program(rule) => Some(rule.terms().to_string()),
            Action::Allow
            | Action::Deny(_)
            | Action::EndCapture
            | Action::EndProxy
            | Action::EndProgram => None,
        };
        ToolSummary {
            name: name.to_owned(),
            verdict,
            asks: if verdict == "deny" {
                Vec::new()
            } else {
                asks(&rule.rules)
            },
            terms,
        }
    }
}

impl Summary {
    /// The tools with this verdict.
    pub fn with(&self, verdict: &str) -> impl Iterator<Item = &ToolSummary> {
        self.tools
            .iter()
            .filter(move |tool| tool.verdict == verdict)
    }

    /// How many tools have this verdict.
    #[must_use]
    pub fn count(&self, verdict: &str) -> usize {
        self.with(verdict).count()
    }
}

/// What is asked, each kind of thing once; limits each.
fn asks(rules: &Rules) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for step in &rules.0 {
        let word = match step {
            Step::Argument(_) | Step::RequiredBySchema(_) | Step::Schema(_) => {
                "arguments checked".to_owned()
            }
            Step::Pinned(_) => "definition pinned".to_owned(),
            Step::Clause(_) => "conditions checked".to_owned(),
            Step::Approve(approval) if approval.conditions.is_empty() => {
                format!("{} asked", approval.by)
            }
            Step::Approve(approval) => format!("{} asked about some calls", approval.by),
            Step::Record(_) => "values recorded".to_owned(),
            Step::Limit(limit) => limit_words(limit),
        };
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words
}

/// `at most 10 a minute`.
fn limit_words(limit: &LimitRule) -> String {
    use super::Unit::{Day, Hour, Minute};
    let max = limit.max;
    match limit.window {
        Window::Calendar(Minute) => format!("at most {max} a minute"),
        Window::Calendar(Hour) => format!("at most {max} an hour"),
        Window::Calendar(Day) => format!("at most {max} a day"),
        Window::Sliding(time) | Window::Bucket(time) => {
            format!("at most {max} in {}", crate::words::time(time))
        }
    }
}

/// `policy.yaml, in capwarden's language: tools: 1 capture, 1 ends, 12 allow, 3 deny, others deny; exec: no`.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, in {}: tools: ", self.file, self.dialect.name())?;
        for verdict in ["capture", "proxy", "program", "ends", "allow", "deny"] {
            let count = self.count(verdict);
            if count > 0 || !matches!(verdict, "proxy" | "program") {
                write!(f, "{count} {verdict}, ")?;
            }
        }
        let others = if self.others_allowed { "allow" } else { "deny" };
        let exec = if self.exec.is_some() { "yes" } else { "no" };
        write!(f, "others {others}; exec: {exec}")?;
        match &self.baseline {
            Some(baseline) => write!(f, "; without a session, the server {baseline}"),
            None => Ok(()),
        }
    }
}
