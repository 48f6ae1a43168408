//! A policy: what all four dialects come to.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use super::{
    Approver, Baseline, CaptureVerdict, Denial, PolicyError, Request, RuleRef,
    argument::Argument,
    capture::CaptureRule,
    condition::{Clause, Condition},
    load,
    predicate::{ArgumentRule, Predicate},
    program::ProgramRule,
    proxy::{ProxyEnd, ProxyRule},
    usage::LimitRule,
};

/// A loaded policy. Nothing about it changes: the same call, with the same knowledge, gets the
/// same decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub(super) file: Arc<str>,
    pub(super) digest: String,
    pub(super) dialect: Dialect,
    pub(super) replies: Replies,
    pub(super) default: Unnamed,
    pub(super) hide: Hide,
    pub(super) tools: BTreeMap<String, ToolRule>,
    /// What is asked of the calls of all tools, after what is asked of the tool's own.
    pub(super) all_tools: Rules,
    pub(super) exec: Option<CaptureRule>,
    pub(super) baseline: Option<BaselineRule>,
}

/// What the server may do with the network without a session, and where that is written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct BaselineRule {
    pub(super) baseline: Baseline,
    pub(super) rule: RuleRef,
}

/// In whose language a policy file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Our own YAML.
    Capwarden,
    /// PolicyLayer's `policy.json`.
    PolicyLayer,
    /// The YAML of Intercept's catalogue of ready policies, which Intercept itself does not read.
    Catalogue,
    /// Intercept's YAML, versions 1.1 to 1.4, without spend limits.
    Intercept,
}

impl Dialect {
    /// Its name for programs.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Capwarden => "capwarden",
            Self::PolicyLayer => "policylayer",
            Self::Catalogue => "intercept-catalogue",
            Self::Intercept => "intercept",
        }
    }

    /// Its name, after `a policy in`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Capwarden => "capwarden's language",
            Self::PolicyLayer => "PolicyLayer's JSON",
            Self::Catalogue => "the YAML of Intercept's catalogue",
            Self::Intercept => "Intercept's YAML",
        }
    }
}

/// In whose words a denial is told to the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Replies {
    /// Ours: what was refused, by which rule, and what would be allowed.
    #[default]
    Ours,
    /// As PolicyLayer answers: the policy's own `on_deny`, ours where it has none.
    PolicyLayer,
    /// As Intercept answers: `[INTERCEPT POLICY DENIED] Denied by rule "x"`.
    Intercept,
}

impl Replies {
    /// By the name that policies and command lines have for it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "ours" => Some(Self::Ours),
            "policylayer" => Some(Self::PolicyLayer),
            "intercept" => Some(Self::Intercept),
            _ => None,
        }
    }
}

/// What holds for tools that the policy does not name, and where it says so.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Unnamed {
    pub(super) allow: bool,
    pub(super) rule: RuleRef,
}

/// Tools that are hidden and denied.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Hide {
    pub(super) all: Option<RuleRef>,
    pub(super) tools: BTreeMap<String, RuleRef>,
}

/// The rule for one tool.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ToolRule {
    pub(super) rule: RuleRef,
    pub(super) rules: Rules,
    pub(super) action: Action,
}

/// What a rule does with a call that passes all that is asked of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    Allow,
    Deny(String),
    EndCapture,
    Capture(Box<CaptureRule>),
    EndProxy,
    Proxy(Box<ProxyRule>),
    EndProgram,
    Program(Box<ProgramRule>),
}

/// What is asked of a call, in the order in which it is asked; limits come after all the rest.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rules(pub(super) Vec<Step>);

/// One thing that is asked of a call.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Our own `args`.
    Argument(ArgumentRule),
    /// A dialect's conditions.
    Clause(Clause),
    /// The arguments that the tool's advertised schema requires are there.
    RequiredBySchema(RuleRef),
    /// The arguments are valid by the tool's advertised schema.
    Schema(RuleRef),
    /// The tool's definition is the one that was accepted, which is for others to know.
    Pinned(Pinning),
    /// Nothing is asked, but values are recorded, which is for others to do.
    Record(RecordRule),
    Approve(ApprovalRule),
    Limit(LimitRule),
}

/// Definitions of tools are to be those that were accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinning {
    /// Those that a server shows first are not accepted by that.
    pub strict: bool,
    /// The rule that asks for it.
    pub rule: RuleRef,
}

/// Arguments whose values are recorded.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RecordRule {
    pub(super) arguments: Vec<Argument>,
    pub(super) rule: RuleRef,
}

/// An approval that is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ApprovalRule {
    pub(super) by: Approver,
    /// It is asked for where all of these hold.
    pub(super) conditions: Vec<Condition>,
    pub(super) timeout: Duration,
    pub(super) why: Option<String>,
    pub(super) rule: RuleRef,
}

impl Hide {
    /// The rule that hides the tool.
    pub(super) fn find(&self, tool: &str) -> Option<&RuleRef> {
        self.tools.get(tool).or(self.all.as_ref())
    }
}

impl Rules {
    /// Whether no call passes, whatever its arguments.
    pub(super) fn are_closed(&self) -> bool {
        self.0
            .iter()
            .any(|step| matches!(step, Step::Clause(clause) if clause.is_closed()))
    }
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
        if self.hide.find(tool).is_some() || self.all_tools.are_closed() {
            return false;
        }
        match self.tools.get(tool) {
            None => self.default.allow,
            Some(rule) => !matches!(rule.action, Action::Deny(_)) && !rule.rules.are_closed(),
        }
    }

    /// The tools that the policy names, denied ones included.
    pub fn tool_names(&self) -> impl Iterator<Item = &str> {
        self.tools.keys().map(String::as_str)
    }

    /// The rule that decides calls of the tool: its own, the one that hides it, or the one for tools
    /// that are not named.
    #[must_use]
    pub fn rule(&self, tool: &str) -> &RuleRef {
        let own = || self.tools.get(tool).map(|tool| &tool.rule);
        let rule = self.hide.find(tool).or_else(own);
        rule.unwrap_or(&self.default.rule)
    }

    /// Whether a client sees the same tools as under another policy, whatever tools there are.
    #[must_use]
    pub fn shows_the_same(&self, other: &Self) -> bool {
        let named = |policy: &'_ Self| -> Vec<String> {
            let hidden = policy.hide.tools.keys();
            policy.tools.keys().chain(hidden).cloned().collect()
        };
        let shows_others = |policy: &Self| {
            policy.hide.all.is_none() && !policy.all_tools.are_closed() && policy.default.allow
        };
        let names = named(self).into_iter().chain(named(other));
        shows_others(self) == shows_others(other)
            && names
                .into_iter()
                .all(|name| self.visible(&name) == other.visible(&name))
    }

    /// Whether the tool's definition must be the accepted one.
    #[must_use]
    pub fn pinning(&self, tool: &str) -> Option<&Pinning> {
        let own = self.tools.get(tool).map(|tool| &tool.rules.0);
        let steps = own.into_iter().flatten().chain(&self.all_tools.0);
        let mut pinned = steps.filter_map(|step| match step {
            Step::Pinned(pinning) => Some(pinning),
            _ => None,
        });
        pinned.next()
    }

    /// Whether any tool's definition must be the accepted one.
    #[must_use]
    pub fn pins(&self) -> bool {
        let steps = self.tools.values().flat_map(|tool| &tool.rules.0);
        let mut steps = steps.chain(&self.all_tools.0);
        steps.any(|step| matches!(step, Step::Pinned(_)))
    }

    /// The arguments of the tool's calls whose values are recorded, named with dots that reach into
    /// objects: those that its rule names, and then those that `all_tools` does.
    pub fn recorded(&self, tool: &str) -> impl Iterator<Item = &str> {
        let own = self.tools.get(tool).map(|tool| &tool.rules.0);
        let steps = own.into_iter().flatten().chain(&self.all_tools.0);
        steps
            .flat_map(|step| match step {
                Step::Record(record) => record.arguments.as_slice(),
                _ => &[],
            })
            .map(Argument::name)
    }

    /// The dialect that the file is written in.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// In whose words denials are told.
    #[must_use]
    pub fn replies(&self) -> Replies {
        self.replies
    }

    /// The same policy with denials in these words.
    #[must_use]
    pub fn replying(mut self, replies: Replies) -> Self {
        self.replies = replies;
        self
    }

    /// Whether any rule limits calls, so that counters are needed at all.
    #[must_use]
    pub fn has_limits(&self) -> bool {
        let steps = self.tools.values().flat_map(|tool| &tool.rules.0);
        let mut steps = steps.chain(&self.all_tools.0);
        steps.any(|step| matches!(step, Step::Limit(_)))
    }

    /// What the server may do with the network without a session: nothing, if the policy grants
    /// proxies or programs and does not say. None: its network is not bounded.
    #[must_use]
    pub fn baseline(&self) -> Option<Baseline> {
        let mut actions = self.tools.values().map(|tool| &tool.action);
        match &self.baseline {
            Some(rule) => Some(rule.baseline.clone()),
            None => actions
                .any(|action| matches!(action, Action::Proxy(_) | Action::Program(_)))
                .then(Baseline::default),
        }
    }

    /// The first rule at whose end the server is restarted, if there is one.
    #[must_use]
    pub fn restarting(&self) -> Option<&RuleRef> {
        let rules = self.tools.values().filter_map(|tool| match &tool.action {
            Action::Proxy(rule) if rule.end.0 == ProxyEnd::Restart => Some(&rule.end.1),
            _ => None,
        });
        rules.min_by_key(|rule| (rule.line, rule.column))
    }

    /// What the kernel must be able to hold programs to; none if the policy grants none.
    #[must_use]
    pub fn programs(&self) -> Option<ProgramNeeds> {
        let actions = self.tools.values().map(|tool| &tool.action);
        let rules = actions.filter_map(|action| match action {
            Action::Program(rule) => Some(rule),
            _ => None,
        });
        let needs = rules.map(|rule| rule.memory.is_some());
        needs
            .reduce(|one, other| one || other)
            .map(|memory| ProgramNeeds { memory })
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
                rule: self.default.rule.clone(),
                text: None,
                allowed: None,
                limit: false,
            })),
        }
    }

    /// The policy's own capture filters, each with the place where it is written: for libpcap and
    /// the prover to check.
    pub fn filters(&self) -> impl Iterator<Item = PolicyFilter<'_>> {
        let steps = self.tools.values().flat_map(|tool| &tool.rules.0);
        let arguments = steps.chain(&self.all_tools.0).flat_map(|step| match step {
            Step::Argument(argument) => argument.checks.as_slice(),
            _ => &[],
        });
        let arguments = arguments.filter_map(|check| match &check.predicate {
            Predicate::Filter(within) => Some(PolicyFilter {
                expression: &within.expression,
                rule: &within.rule,
                on_any: false,
            }),
            _ => None,
        });
        let captures = self.tools.values().filter_map(|tool| match &tool.action {
            Action::Capture(capture) => Some(&**capture),
            _ => None,
        });
        let captures = captures.chain(&self.exec);
        let captures = captures.filter_map(|capture| {
            let within = capture.within.as_ref()?;
            Some(PolicyFilter {
                expression: &within.expression,
                rule: &within.rule,
                on_any: capture.interfaces.any,
            })
        });
        captures.chain(arguments)
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
}

/// What a policy that grants programs asks of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramNeeds {
    /// Their memory is capped.
    pub memory: bool,
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
