//! A policy, and what it says about calls.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use super::{
    Call, CaptureVerdict, Decision, Denial, Knowledge, PolicyError, Request, RuleRef, Verdict,
    argument::ArgumentRule, capture::CaptureRule, load, source::quoted,
};

/// A loaded policy. Nothing about it changes: the same call gets the same verdict.
#[derive(Clone, Debug)]
pub struct Policy {
    pub(super) file: Arc<str>,
    pub(super) digest: String,
    /// Where the policy says what holds for all that it does not name.
    pub(super) default: RuleRef,
    pub(super) tools: BTreeMap<String, ToolRule>,
    pub(super) exec: Option<CaptureRule>,
}

/// The rule for one tool.
#[derive(Clone, Debug)]
pub(super) struct ToolRule {
    pub(super) rule: RuleRef,
    pub(super) args: Vec<ArgumentRule>,
    pub(super) action: Action,
}

/// What a rule does with a call that passes its `args`.
#[derive(Clone, Debug)]
pub(super) enum Action {
    Allow,
    Deny(String),
    EndCapture,
    Capture(Box<CaptureRule>),
}

impl Policy {
    /// Reads a policy from a file of at most 1 MiB.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is no policy; the error points at the place.
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        load::file(path)
    }

    /// Reads a policy from text; `file` is the name that errors and rules carry.
    ///
    /// # Errors
    ///
    /// The text is no policy; the error points at the place.
    pub fn parse(file: &str, text: &str) -> Result<Self, PolicyError> {
        load::text(file, text)
    }

    /// Whether a client should see the tool: whether any call of it could be allowed.
    #[must_use]
    pub fn visible(&self, tool: &str) -> bool {
        self.tools
            .get(tool)
            .is_some_and(|rule| !matches!(rule.action, Action::Deny(_)))
    }

    /// What the policy says about a call.
    #[must_use]
    pub fn decide(&self, call: &Call, _known: &dyn Knowledge) -> Decision {
        self.verdict(call).into()
    }

    fn verdict(&self, call: &Call) -> Verdict {
        let Some(tool) = self.tools.get(&call.tool) else {
            return Verdict::Deny(Denial {
                reason: format!("The tool {} is not in the policy.", quoted(&call.tool)),
                instead: self.alternatives(),
                rule: self.default.clone(),
                text: None,
                allowed: None,
            });
        };
        if let Action::Deny(why) = &tool.action {
            return Verdict::Deny(Denial {
                reason: format!("The tool {} is denied: {why}.", quoted(&call.tool)),
                instead: None,
                rule: tool.rule.clone(),
                text: None,
                allowed: None,
            });
        }
        for argument in &tool.args {
            if let Some((rule, reason, instead)) = argument.refuse(&call.arguments) {
                return Verdict::Deny(Denial {
                    reason,
                    instead,
                    rule,
                    text: None,
                    allowed: None,
                });
            }
        }
        match &tool.action {
            Action::Allow | Action::Deny(_) => Verdict::Forward,
            Action::EndCapture => Verdict::EndCapture,
            Action::Capture(capture) => match capture.decide(&call.arguments) {
                Ok(verdict) => Verdict::Capture(Box::new(verdict)),
                Err(denial) => Verdict::Deny(*denial),
            },
        }
    }

    /// What the `exec:` section grants to a command.
    ///
    /// # Errors
    ///
    /// There is no such section, or what is asked goes beyond it.
    pub fn exec_verdict(&self, request: &Request) -> Result<CaptureVerdict, Box<Denial>> {
        match &self.exec {
            Some(rule) => rule.decide_request(request),
            None => Err(Box::new(Denial {
                reason: "The policy has no `exec` section, so no command may capture under it."
                    .to_owned(),
                instead: Some(
                    "Add `exec:` with `interfaces` and a cap to it, or leave out --policy."
                        .to_owned(),
                ),
                rule: self.default.clone(),
                text: None,
                allowed: None,
            })),
        }
    }

    /// The policy's own capture filters, each with the place where it is written: for libpcap and
    /// the prover to check.
    pub fn filters(&self) -> impl Iterator<Item = PolicyFilter<'_>> {
        let captures = self.tools.values().filter_map(|tool| match &tool.action {
            Action::Capture(capture) => Some(&**capture),
            Action::Allow | Action::Deny(_) | Action::EndCapture => None,
        });
        let captures = captures.chain(&self.exec);
        captures.filter_map(|capture| {
            let within = capture.within.as_ref()?;
            Some(PolicyFilter {
                expression: &within.expression,
                rule: &within.rule,
                on_any: capture.interfaces.any,
            })
        })
    }

    /// SHA-256 of the file's bytes, in 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The file, as it was named.
    #[must_use]
    pub fn file(&self) -> &Arc<str> {
        &self.file
    }

    /// What the policy comes to.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let count =
            |is: fn(&Action) -> bool| self.tools.values().filter(|rule| is(&rule.action)).count();
        Summary {
            file: Arc::clone(&self.file),
            digest: self.digest.clone(),
            allowed: count(|action| matches!(action, Action::Allow)),
            capturing: count(|action| matches!(action, Action::Capture(_))),
            ending: count(|action| matches!(action, Action::EndCapture)),
            denied: count(|action| matches!(action, Action::Deny(_))),
            exec: self.exec.is_some(),
        }
    }

    fn alternatives(&self) -> Option<String> {
        const SHOWN: usize = 8;
        let mut names: Vec<String> = self
            .tools
            .keys()
            .filter(|name| self.visible(name))
            .map(|name| quoted(name))
            .collect();
        let all = names.len();
        names.truncate(SHOWN);
        match (all, all - names.len()) {
            (0, _) => None,
            (_, 0) => Some(format!("Use {}.", super::units::either(&names, "or"))),
            (_, more) => Some(format!("Use {} or one of {more} others.", names.join(", "))),
        }
    }
}

/// A capture filter of the policy's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyFilter<'a> {
    /// The filter, in libpcap's language.
    pub expression: &'a str,
    /// Where it is written.
    pub rule: &'a RuleRef,
    /// Whether `any` is among the rule's interfaces, on which tools open cooked sockets.
    pub on_any: bool,
}

/// What a policy comes to, for `capwarden policy check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// SHA-256 of the file's bytes, in hexadecimal digits.
    pub digest: String,
    /// Tools that are forwarded as they are.
    pub allowed: usize,
    /// Tools that start captures.
    pub capturing: usize,
    /// Tools that end captures.
    pub ending: usize,
    /// Tools that are denied with a reason of their own, beside all that the policy does not name.
    pub denied: usize,
    /// Whether `capwarden exec` may use the policy.
    pub exec: bool,
}

/// `policy.yaml: 12 tools allowed, 1 capturing, 1 ending captures, 3 denied; no exec section`.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            allowed,
            capturing,
            ending,
            denied,
            ..
        } = self;
        let exec = if self.exec {
            "with an exec section"
        } else {
            "no exec section"
        };
        write!(
            f,
            "{file}: {allowed} tools allowed, {capturing} capturing, {ending} ending captures, \
             {denied} denied; {exec}"
        )
    }
}
