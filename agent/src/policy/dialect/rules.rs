//! What Intercept and its catalogue have in common.

use std::{collections::BTreeMap, sync::Arc};

use crate::policy::{
    Dialect, Policy, Replies, Unit,
    error::Source,
    load::{Field, Gather, Loaded, Node, Section, Tree, digest, effect, hide, unit},
    model::{Action, Rules, Step, ToolRule, Unnamed},
};

/// Keys at the top.
const POLICY: &[&str] = &["version", "description", "default", "hide", "tools"];

/// Keys of a tool's rule.
const TOOL: &[&str] = &["rules", "capture", "ends"];

/// The scope of the counters of the rules for all tools, in a path.
pub(super) const GLOBAL: &str = "_global";

/// How a dialect of rules is read.
pub(super) struct Reader<R> {
    pub(super) dialect: Dialect,
    /// Whether `version` must be there.
    pub(super) versioned: bool,
    /// Whether tools that are not named are allowed where there is no `default`.
    pub(super) allow: bool,
    /// Reads the rules of a tool, or of all (`*`).
    pub(super) rules: R,
}

impl<R: Fn(&Field<'_>, &str) -> Loaded<Vec<Step>>> Reader<R> {
    /// Reads a policy.
    pub(super) fn read(&self, source: &Source, root: &Node) -> Loaded<Policy> {
        let (section, mut gather) = Section::open(source, root, "", "a policy", POLICY)?;
        if self.versioned || section.field("version").is_some() {
            gather.keep(version(&section));
        }
        gather.keep(section.read("description", |field| match &field.node.tree {
            Tree::Text(_) | Tree::Null => Ok(()),
            _ => Err(field.wrong("a string", "Write what the policy is for.")),
        }));
        let default = match section.field("default") {
            Some(field) => gather.keep(posture(&field)),
            None => Some(Unnamed {
                allow: self.allow,
                rule: source.rule(section.place, "default"),
            }),
        };
        let hide = gather.keep(section.read("hide", hide)).flatten();
        let tools = gather.keep(match section.field("tools") {
            Some(field) => self.tools(&field),
            None if gather.is_clean() => {
                Err(section.missing("tools", "Write a map from each tool's name to its rules."))
            }
            None => Ok(BTreeMap::new()),
        });
        let (default, mut tools) = gather.done(default.zip(tools))?;
        let all_tools = tools.remove("*").map(|tool| tool.rules);
        Ok(Policy {
            file: Arc::clone(&source.file),
            digest: digest(&source.text),
            dialect: self.dialect,
            replies: Replies::Ours,
            default,
            hide: hide.unwrap_or_default(),
            tools,
            all_tools: all_tools.unwrap_or_default(),
            exec: None,
            baseline: None,
        })
    }

    fn tools(&self, field: &Field<'_>) -> Loaded<BTreeMap<String, ToolRule>> {
        const HELP: &str = "Write a map from each tool's name to its rules.";
        let tools = field.entries("a map", HELP)?;
        let rules = Gather::all(tools.iter().map(|field| {
            // The scope of the rules for all tools would be this tool's as well.
            if field.key.is_empty() || field.key == GLOBAL {
                return Err(field.key_fault(
                    format!("`{}` is no tool's name", field.key),
                    "What holds for all tools stands under `\"*\"`.",
                ));
            }
            Ok((field.key.to_owned(), self.tool(field)?))
        }))?;
        Ok(rules.into_iter().collect())
    }

    fn tool(&self, field: &Field<'_>) -> Loaded<ToolRule> {
        let mut tool = ToolRule {
            rule: field.rule(),
            rules: Rules::default(),
            action: Action::Allow,
        };
        if matches!(field.node.tree, Tree::Null) {
            return Ok(tool);
        }
        let (section, mut gather) = field.open("a map with `rules`", TOOL)?;
        let rules = section.read("rules", |rules| (self.rules)(rules, field.key));
        tool.rules = Rules(gather.keep(rules).flatten().unwrap_or_default());
        let action = gather.keep(effect(&section));
        if field.key == "*" && action.as_ref().is_some_and(|one| *one != Action::Allow) {
            gather.add(field.key_fault(
                "captures cannot be started or ended by all tools".to_owned(),
                "Write it under the tool that does.",
            ));
        }
        tool.action = gather.done(action)?;
        Ok(tool)
    }
}

/// `version: "1"`.
pub(super) fn version(section: &Section<'_>) -> Loaded<()> {
    const HELP: &str = "Write `version: \"1\"`, the only version there is.";
    match section.field("version") {
        None => Err(section.missing("version", HELP)),
        Some(field) => match &field.node.tree {
            Tree::Text(text) if text == "1" => Ok(()),
            Tree::Integer(1) => Ok(()),
            Tree::Text(_) | Tree::Integer(_) => {
                Err(field.fault("is not a version of this dialect", HELP))
            }
            _ => Err(field.wrong("\"1\"", HELP)),
        },
    }
}

/// `allow` or `deny`.
pub(super) fn posture(field: &Field<'_>) -> Loaded<Unnamed> {
    const HELP: &str = "Write `allow` or `deny`: what holds for tools that are not named.";
    let allow = match field.text("`allow` or `deny`", HELP)? {
        "allow" => true,
        "deny" => false,
        _ => return Err(field.fault("is neither `allow` nor `deny`", HELP)),
    };
    Ok(Unnamed {
        allow,
        rule: field.rule(),
    })
}

/// `5/hour`.
pub(super) fn rate(field: &Field<'_>) -> Loaded<(u64, Unit)> {
    const HELP: &str = "Write how many calls in which window: `5/minute`, `5/hour` or `5/day`.";
    let text = field.text("a rate", HELP)?;
    let rate = text.split_once('/').and_then(|(count, window)| {
        // `parse` would take `+5`.
        let plain = count.bytes().all(|byte| byte.is_ascii_digit());
        let count: u64 = count.parse().ok().filter(|count| plain && *count > 0)?;
        Some((count, unit(window)?))
    });
    match rate {
        Some((count, _)) if count > crate::policy::capture::MAX_EXACT => {
            Err(field.fault("is more than 2^53 calls", HELP))
        }
        Some(rate) => Ok(rate),
        None => Err(field.fault("is no rate", HELP)),
    }
}

/// A unit's name.
pub(super) fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::Minute => "minute",
        Unit::Hour => "hour",
        Unit::Day => "day",
    }
}
