//! A policy's rules, written in our language.

use std::{fmt::Write as _, time::Duration};

use super::{Reading, cannot, yaml};
use crate::policy::{
    Dialect, Policy, Refund, RuleRef, Scope, Unit, Window,
    condition::{Condition, Demand, Subject},
    error::Source,
    load::{Loaded, Node, child, is_counter},
    model::{ApprovalRule, Rules, Step, ToolRule},
    operator::Equality,
    usage::{Amount, LimitRule},
};

/// Writes a policy, with what is said of it in comments.
pub(super) fn write(
    source: &Source,
    root: &Node,
    policy: &Policy,
    readings: &[Reading],
) -> Loaded<String> {
    let mut out = Writer {
        text: String::new(),
        source,
        readings,
    };
    out.head(policy);
    out.line(0, "version: 1");
    if policy.default.allow {
        let why = match child(root, "default") {
            Some(_) => "the policy that this was imported from says so",
            None => "Intercept allows what its policies do not name",
        };
        out.line(0, &format!("default: {{ allow: {} }}", yaml::quoted(why)));
    } else {
        out.line(0, "default: deny");
    }
    let words = match policy.dialect {
        Dialect::PolicyLayer => "policylayer",
        Dialect::Capwarden | Dialect::Catalogue | Dialect::Intercept => "intercept",
    };
    out.line(
        0,
        &format!("# replies: {words}    # to deny in its words, not in capwarden's"),
    );
    let all = policy.hide.all.as_ref().map(|_| "*");
    let hidden = policy.hide.tools.keys().map(String::as_str).chain(all);
    let hidden = yaml::list(hidden.map(yaml::string));
    if hidden != "[]" {
        out.line(0, &format!("hide: {hidden}"));
    }
    if !policy.all_tools.0.is_empty() {
        out.line(0, "all_tools:");
        out.rules(1, &policy.all_tools)?;
    }
    let mut tools: Vec<(&String, &ToolRule)> = policy.tools.iter().collect();
    tools.sort_by_key(|(_, tool)| (tool.rule.line, tool.rule.column));
    out.line(
        0,
        if tools.is_empty() {
            "tools: {}"
        } else {
            "tools:"
        },
    );
    for (name, tool) in tools {
        out.tool(
            child(root, "tools").and_then(|tools| child(tools, name)),
            name,
            tool,
        )?;
    }
    Ok(out.text)
}

struct Writer<'a> {
    text: String,
    source: &'a Source,
    readings: &'a [Reading],
}

impl Writer<'_> {
    /// Writes a line, `level` steps in.
    fn line(&mut self, level: usize, text: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{:1$}{text}", "", level * 2);
    }

    /// Where it comes from, and what holds for all of it.
    fn head(&mut self, policy: &Policy) {
        let from = yaml::comment(&policy.file);
        let of = policy.dialect.name();
        self.line(0, &format!("# Imported from {from}, in {of}"));
        self.line(0, &format!("# (SHA-256 {}).", policy.digest));
        let readings = self.readings;
        let mut whole = readings.iter().filter(|one| one.rule.is_none()).peekable();
        if whole.peek().is_some() {
            self.line(0, "# What that leaves open is read so:");
        }
        for reading in whole {
            self.line(0, &format!("# * {}", yaml::comment(&reading.says)));
        }
    }

    /// Where a rule comes from, and what is to be said of it.
    fn origin(&mut self, level: usize, rule: &RuleRef) {
        let RuleRef {
            line, column, path, ..
        } = rule;
        self.line(level, &format!("# {line}:{column} {}", yaml::comment(path)));
        let readings = self.readings;
        for reading in readings
            .iter()
            .filter(|one| one.rule.as_ref() == Some(rule))
        {
            self.line(level, &format!("# {}", yaml::comment(&reading.says)));
        }
    }

    fn tool(&mut self, written: Option<&Node>, name: &str, tool: &ToolRule) -> Loaded<()> {
        if name.contains(['*', '?']) {
            return Err(cannot(
                self.source,
                &tool.rule,
                format!(
                    "the tool {} cannot be named in capwarden's language",
                    yaml::quoted(name)
                ),
                "There, a name with `*` or `?` is taken for a glob, which names no tool.",
            ));
        }
        let of_ours: Vec<(&str, &Node)> = ["capture", "ends"]
            .into_iter()
            .filter_map(|key| Some((key, child(written?, key)?)))
            .collect();
        let name = yaml::string(name);
        if tool.rules.0.is_empty() && of_ours.is_empty() {
            self.line(1, &format!("{name}: allow"));
            return Ok(());
        }
        self.line(1, &format!("{name}:"));
        self.rules(2, &tool.rules)?;
        for (key, node) in of_ours {
            self.line(2, &format!("{key}: {}", yaml::node(node)));
        }
        Ok(())
    }

    /// What is asked, in its order, and then the limits.
    fn rules(&mut self, level: usize, rules: &Rules) -> Loaded<()> {
        let is_limit = |step: &&Step| matches!(step, Step::Limit(_));
        let mut checks = rules.0.iter().filter(|step| !is_limit(step)).peekable();
        if checks.peek().is_some() {
            self.line(level, "checks:");
        }
        for step in checks {
            self.check(level + 1, step)?;
        }
        let mut limits = rules.0.iter().filter(is_limit).peekable();
        if limits.peek().is_some() {
            self.line(level, "limits:");
        }
        for step in limits {
            if let Step::Limit(one) = step {
                self.origin(level + 1, &one.rule);
                let limit = self.limit(one)?;
                self.line(level + 1, &format!("- {limit}"));
            }
        }
        Ok(())
    }

    fn check(&mut self, level: usize, step: &Step) -> Loaded<()> {
        match step {
            Step::Clause(clause) => {
                self.origin(level, &clause.rule);
                let key = match clause.demand {
                    Demand::Require => "require",
                    Demand::DenyIf => "deny_if",
                };
                let conditions = self.conditions(&clause.conditions, &clause.rule)?;
                self.line(level, &format!("- {key}: {conditions}"));
                for (key, words) in [("name", &clause.name), ("on_deny", &clause.on_deny)] {
                    if let Some(words) = words {
                        self.line(level + 1, &format!("{key}: {}", yaml::string(words)));
                    }
                }
            }
            Step::RequiredBySchema(rule) => {
                self.origin(level, rule);
                self.line(level, "- required_by_schema: true");
            }
            Step::Approve(approval) => {
                self.origin(level, &approval.rule);
                let approve = self.approve(approval)?;
                self.line(level, &format!("- approve: {approve}"));
            }
            // No other language has these, and limits stand elsewhere.
            Step::Argument(_)
            | Step::Schema(_)
            | Step::Pinned(_)
            | Step::Record(_)
            | Step::Limit(_) => {}
        }
        Ok(())
    }

    fn approve(&self, approval: &ApprovalRule) -> Loaded<String> {
        let mut entries = vec![
            "by: operator".to_owned(),
            format!("timeout: {}", approval.timeout.as_secs()),
        ];
        if let Some(why) = &approval.why {
            entries.push(format!("why: {}", yaml::string(why)));
        }
        if !approval.conditions.is_empty() {
            let conditions = self.conditions(&approval.conditions, &approval.rule)?;
            entries.push(format!("if: {conditions}"));
        }
        Ok(yaml::map(entries.into_iter()))
    }

    fn conditions(&self, conditions: &[Condition], rule: &RuleRef) -> Loaded<String> {
        let each: Loaded<Vec<String>> = conditions
            .iter()
            .map(|one| self.condition(one, rule))
            .collect();
        Ok(yaml::list(each?.into_iter()))
    }

    fn condition(&self, condition: &Condition, rule: &RuleRef) -> Loaded<String> {
        let mut entries = match &condition.subject {
            Subject::Argument(argument) => {
                vec![format!("argument: {}", yaml::string(argument.name()))]
            }
            Subject::Counter {
                counter,
                scope,
                window,
            } => {
                let mut entries = vec![
                    format!("counter: {}", self.counter(counter, rule)?),
                    format!("scope: {}", scope_word(*scope)),
                ];
                entries.extend(window_words(*window));
                entries
            }
        };
        let (key, value) = match &condition.operator {
            // As it is compiled, which may not be as it is written there.
            crate::policy::operator::Operator::Matches(pattern) => {
                ("matches", yaml::quoted(pattern.regex.as_str()))
            }
            operator => {
                let (key, value) = operator.data();
                (key, yaml::value(&value))
            }
        };
        entries.push(format!("{key}: {value}"));
        if condition.equality == Equality::ByText {
            entries.push("compare: text".to_owned());
        }
        Ok(yaml::map(entries.into_iter()))
    }

    fn limit(&self, limit: &LimitRule) -> Loaded<String> {
        let mut entries = vec![format!("max: {}", limit.max)];
        entries.extend(window_words(limit.window));
        entries.push(format!("scope: {}", scope_word(limit.scope)));
        entries.push(format!(
            "counter: {}",
            self.counter(&limit.counter, &limit.rule)?
        ));
        match &limit.amount {
            Amount::Fixed(1) => {}
            Amount::Fixed(n) => entries.push(format!("amount: {n}")),
            Amount::From(argument) => {
                entries.push(format!("amount_from: {}", yaml::string(argument.name())));
            }
        }
        let refund = match limit.refund {
            Refund::OnFailure => "failure",
            Refund::OnRpcError => "rpc_error",
            Refund::Never => "never",
        };
        entries.push(format!("refund: {refund}"));
        for (key, words) in [("name", &limit.name), ("on_deny", &limit.on_deny)] {
            if let Some(words) = words {
                entries.push(format!("{key}: {}", yaml::string(words)));
            }
        }
        Ok(yaml::map(entries.into_iter()))
    }

    /// A counter's name, which other languages put together from a tool's and one of its own.
    fn counter(&self, name: &str, rule: &RuleRef) -> Loaded<String> {
        if is_counter(name) {
            return Ok(yaml::string(name));
        }
        Err(cannot(
            self.source,
            rule,
            format!(
                "the counter {} cannot be named in capwarden's language",
                yaml::quoted(name)
            ),
            "There, its name has at most 128 bytes, the tool's name included, and no control characters.",
        ))
    }
}

fn scope_word(scope: Scope) -> &'static str {
    match scope {
        Scope::Grant => "grant",
        Scope::Principal => "principal",
        Scope::Connection => "connection",
        Scope::Server => "server",
        Scope::Tool => "tool",
        Scope::Global => "global",
    }
}

/// `window`, and `kind` where that is not told by it.
fn window_words(window: Window) -> Vec<String> {
    let seconds = |time: Duration| format!("window: {} s", time.as_secs());
    match window {
        Window::Calendar(Unit::Minute) => vec!["window: minute".to_owned()],
        Window::Calendar(Unit::Hour) => vec!["window: hour".to_owned()],
        Window::Calendar(Unit::Day) => vec!["window: day".to_owned()],
        Window::Sliding(time) => vec![seconds(time)],
        Window::Bucket(time) => vec![seconds(time), "kind: bucket".to_owned()],
    }
}
