//! The `tools` section, and `all_tools`.

use std::collections::BTreeMap;

use super::{
    Field, Gather, Loaded, Section, Tree,
    approve::approve,
    args::args,
    capture,
    checks::{checks, required},
    limits::limits,
    program::program,
    proxy::proxy,
    record::record,
};
use crate::policy::{
    RuleRef,
    model::{Action, Pinning, Rules, Step, ToolRule},
};

/// Keys of a tool's rule.
const TOOL: &[&str] = &[
    "args",
    "required_by_schema",
    "schema",
    "definitions",
    "approve",
    "checks",
    "capture",
    "proxy",
    "program",
    "deny",
    "ends",
    "limits",
    "record",
];

/// Keys of `all_tools`.
const ALL_TOOLS: &[&str] = &[
    "args",
    "required_by_schema",
    "schema",
    "approve",
    "checks",
    "limits",
    "record",
];

pub(super) fn tools(field: &Field<'_>) -> Loaded<BTreeMap<String, ToolRule>> {
    const HELP: &str = "Write a map from each tool's name to its rule.";
    let tools = field.entries("a map", HELP)?;
    let rules = Gather::all(tools.iter().map(|field| {
        if field.key.is_empty() || field.key.contains(['*', '?']) {
            return Err(field.key_fault(
                format!("`{}` is no tool's name", field.key),
                "Tools are named one by one, as the server spells them: there are no globs, \
                 so that a new tool is denied until someone has looked at it.",
            ));
        }
        Ok((field.key.to_owned(), tool(field)?))
    }))?;
    Ok(rules.into_iter().collect())
}

/// What holds for all tools that the policy allows, beside what their own rules say.
pub(super) fn all_tools(field: &Field<'_>) -> Loaded<Rules> {
    let (section, mut gather) = field.open("a map of what all calls are asked", ALL_TOOLS)?;
    let rules = rules(&section, &mut gather, "*");
    gather.done(Some(rules))
}

fn tool(field: &Field<'_>) -> Loaded<ToolRule> {
    const HELP: &str = "Write `allow` or `{}`, `{ deny: \"reason\" }`, or a map of `args`, `checks`, `limits`, `approve`, `capture`, `proxy`, `program` and `ends`.";
    match &field.node.tree {
        Tree::Text(word) if word == "allow" => {
            return Ok(ToolRule {
                rule: field.rule(),
                rules: Rules::default(),
                action: Action::Allow,
            });
        }
        Tree::Text(word) if word == "deny" => {
            return Err(field.fault(
                "denies without a reason",
                "Write `{ deny: \"reason\" }`: the reason is for whoever reads the policy; the model is told that there is no such tool.",
            ));
        }
        Tree::Text(_) => return Err(field.fault("is no rule", HELP)),
        Tree::Map(_) => {}
        _ => return Err(field.wrong("a rule", HELP)),
    }
    let (section, mut gather) = field.open("a rule", TOOL)?;
    if let Some(deny) = section.field("deny") {
        if let Some(other) = TOOL
            .iter()
            .filter(|key| **key != "deny")
            .find_map(|key| section.field(key))
        {
            gather.add(other.key_fault(
                format!("`{}` cannot stand beside `deny`", other.key),
                "A denied tool has nothing else to decide: drop one of the two.",
            ));
        }
        let reason = gather.keep(reason(&deny));
        return Ok(ToolRule {
            rule: deny.rule(),
            rules: Rules::default(),
            action: Action::Deny(gather.done(reason)?),
        });
    }
    let rules = rules(&section, &mut gather, field.key);
    let action = gather.keep(effect(&section));
    Ok(ToolRule {
        rule: field.rule(),
        rules,
        action: gather.done(action)?,
    })
}

fn reason(deny: &Field<'_>) -> Loaded<String> {
    const HELP: &str = "Write the reason as a string: it is for whoever reads the policy.";
    let reason = deny.text("a reason", HELP)?.trim();
    let reason = reason.trim_end_matches('.');
    if reason.is_empty() || reason.chars().any(char::is_control) {
        return Err(deny.fault("is no reason", HELP));
    }
    Ok(reason.to_owned())
}

/// What is asked of calls, in the order in which it is asked.
fn rules(section: &Section<'_>, gather: &mut Gather, tool: &str) -> Rules {
    let mut steps = Vec::new();
    let arguments = gather.keep(section.read("args", args)).flatten();
    steps.extend(arguments.into_iter().flatten().map(Step::Argument));
    let pinning = gather.keep(section.read("definitions", pinning));
    steps.extend(pinning.flatten().map(Step::Pinned));
    let required_by_schema = gather.keep(section.read("required_by_schema", required));
    steps.extend(required_by_schema.flatten());
    let schema = gather.keep(section.read("schema", |field| {
        demanded(field, "Write `schema: true`, or leave it out.")
    }));
    steps.extend(schema.flatten().map(Step::Schema));
    let approval = gather.keep(section.read("approve", approve)).flatten();
    steps.extend(approval.map(Step::Approve));
    let checks = gather.keep(section.read("checks", checks)).flatten();
    steps.extend(checks.into_iter().flatten());
    let limits = gather.keep(section.read("limits", |field| limits(field, tool)));
    steps.extend(limits.flatten().into_iter().flatten().map(Step::Limit));
    let record = gather.keep(section.read("record", record)).flatten();
    steps.extend(record.map(Step::Record));
    Rules(steps)
}

/// Reads `true`, the only thing that can be said.
fn demanded(field: &Field<'_>, help: &str) -> Loaded<RuleRef> {
    match field.node.tree {
        Tree::Bool(true) => Ok(field.rule()),
        Tree::Bool(false) => Err(field.fault("demands nothing", help)),
        _ => Err(field.wrong("true", help)),
    }
}

/// Reads `pinned`, or `{ pinned: strict }`.
pub(super) fn pinning(field: &Field<'_>) -> Loaded<Pinning> {
    const HELP: &str = "Write `definitions: pinned`, or `{ pinned: strict }` where definitions that are seen first are held back, too.";
    let pinning = |strict| Pinning {
        strict,
        rule: field.rule(),
    };
    if !matches!(field.node.tree, Tree::Map(_)) {
        return match field.text("`pinned`", HELP)? {
            "pinned" => Ok(pinning(false)),
            _ => Err(field.fault("is nothing that definitions can be", HELP)),
        };
    }
    let (section, mut gather) = field.open("how definitions are pinned", &["pinned"])?;
    let strict = match section.field("pinned") {
        Some(field) => gather.keep(match field.text("`strict`", HELP)? {
            "strict" => Ok(()),
            _ => Err(field.fault("is no way to pin definitions", HELP)),
        }),
        None => gather.keep(Err(section.missing("pinned", HELP))),
    };
    gather.done(strict.map(|()| pinning(true)))
}

/// What a tool does for sessions, by its `capture`, `proxy`, `program` and `ends`, which the dialects' tools may
/// have as well.
pub(in crate::policy) fn effect(section: &Section<'_>) -> Loaded<Action> {
    const EFFECTS: [&str; 4] = ["capture", "proxy", "program", "ends"];
    let mut fields = EFFECTS.iter().filter_map(|key| section.field(key));
    let (Some(one), other) = (fields.next(), fields.next()) else {
        return Ok(Action::Allow);
    };
    if let Some(other) = other {
        return Err(other.key_fault(
            format!("`{}` cannot stand beside `{}`", other.key, one.key),
            "A tool starts a session or ends one: drop one of the two.",
        ));
    }
    Ok(match one.key {
        "capture" => Action::Capture(Box::new(capture::capture(&one, capture::CAPTURE)?)),
        "proxy" => Action::Proxy(Box::new(proxy(&one)?)),
        "program" => Action::Program(Box::new(program(&one)?)),
        _ => {
            const HELP: &str = "Write `ends: capture`, `ends: proxy` or `ends: program`, for a tool that stops what it names.";
            match one.text("`capture`, `proxy` or `program`", HELP)? {
                "capture" => Action::EndCapture,
                "proxy" => Action::EndProxy,
                "program" => Action::EndProgram,
                _ => return Err(one.fault("is nothing that a tool can end", HELP)),
            }
        }
    })
}
