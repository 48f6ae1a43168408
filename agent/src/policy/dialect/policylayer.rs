//! PolicyLayer's `policy.json`.
//!
//! What its documents leave open is read so:
//!
//! * `require` is asked before `deny_if`, each in the order of the file.
//! * A path that leads nowhere, or to null, fails every demand but `exists: false`. In a `deny_if`
//!   it does not hold, except that what is not there is `neq` and `not_in` anything: leaving an
//!   argument out is no way around either.
//! * A value of a type that the operator does not compare fails a demand, and holds in a
//!   `deny_if`: a server might read `"500"` as 500.
//! * The limits of the tool come before those of `all_tools`. The same counter in both is counted
//!   once, against the smaller one.
//! * A bearer grant is whom limits count by, in full minutes, hours and days of UTC; a use is
//!   given back when the call failed in whatever way.
//!
//! Rules go by PolicyLayer's own names for them: `/tools/x/deny_if/args.amount-gt`.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    condition::{argument, conditions},
    rules::{posture, version},
};
use crate::policy::{
    Dialect, Policy, Refund, Replies, Scope, Window,
    capture::MAX_EXACT,
    condition::{Clause, Demand, Subject},
    error::Source,
    load::{
        Field, Gather, Loaded, Node, Place, Section, child, counter, digest, effect, hide,
        once_each, unit,
    },
    model::{Rules, Step, ToolRule, Unnamed},
    operator::Equality,
    usage::{Amount, LimitRule},
};

/// Keys at the top.
const POLICY: &[&str] = &["version", "default", "hide", "all_tools", "tools"];
/// Keys of a tool's rule.
const TOOL: &[&str] = &["require", "deny_if", "limits", "capture", "ends"];
/// Keys of an entry of `require` or `deny_if`.
const CLAUSE: &[&str] = &["conditions", "on_deny"];
/// Keys of a limit.
const LIMIT: &[&str] = &["counter", "window", "max", "scope", "on_deny"];

/// Reads a policy.
pub(in crate::policy) fn policylayer(source: &Source, root: &Node) -> Loaded<Policy> {
    if is_fragment(root) {
        return Err(source.fault(
            root.place,
            "this is a part of a PolicyLayer policy, and says nothing of other tools",
            "here",
            Some(
                "Put it in `{\"version\": \"1\", \"default\": \"deny\", \"tools\": …}`, or take what `capwarden policy import` makes of it."
                    .to_owned(),
            ),
        ));
    }
    let (section, mut gather) = Section::open(source, root, "", "a policy", POLICY)?;
    gather.keep(version(&section));
    let default = match section.field("default") {
        Some(field) => gather.keep(posture(&field)),
        None => {
            if gather.is_clean() {
                const HELP: &str = "Write `\"default\": \"deny\"`, or \"allow\".";
                gather.add(section.missing("default", HELP));
            }
            None
        }
    };
    let mut hide = gather.keep(section.read("hide", hide)).flatten();
    for rule in hide.iter_mut().flat_map(|hide| {
        let tools = hide.tools.values_mut();
        tools.chain(hide.all.as_mut())
    }) {
        rule.path = "(hidden)".to_owned();
    }
    let all_tools = gather.keep(section.read("all_tools", |field| {
        let (section, mut gather) = field.open("a map with `limits`", &["limits"])?;
        let limits = section.read("limits", |field| limits(field, "/all_tools/limits"));
        let steps = gather.keep(limits).flatten().unwrap_or_default();
        gather.done(Some(Rules(steps)))
    }));
    let tools = gather.keep(section.read("tools", tools));
    let mut default: Unnamed = gather.done(default)?;
    if !default.allow {
        default.rule.path = "(default deny)".to_owned();
    }
    Ok(Policy {
        file: Arc::clone(&source.file),
        digest: digest(&source.text),
        dialect: Dialect::PolicyLayer,
        replies: Replies::Ours,
        default,
        hide: hide.unwrap_or_default(),
        tools: tools.flatten().unwrap_or_default(),
        all_tools: all_tools.flatten().unwrap_or_default(),
        exec: None,
        baseline: None,
    })
}

/// Whether there is nothing of a policy but what may be its tools.
pub(in crate::policy) fn is_fragment(root: &Node) -> bool {
    POLICY.iter().all(|key| child(root, key).is_none())
}

fn tools(field: &Field<'_>) -> Loaded<BTreeMap<String, ToolRule>> {
    const HELP: &str = "Write an object from each tool's name to its rule; `{}` allows it.";
    let tools = field.entries("an object", HELP)?;
    let rules = Gather::all(tools.iter().map(|field| {
        if field.key.is_empty() || field.key == "*" {
            return Err(field.key_fault(
                format!("`{}` is no tool's name", field.key),
                "What holds for all tools stands in `all_tools`.",
            ));
        }
        Ok((field.key.to_owned(), tool(field)?))
    }))?;
    Ok(rules.into_iter().collect())
}

fn tool(field: &Field<'_>) -> Loaded<ToolRule> {
    let (section, mut gather) = field.open("a rule", TOOL)?;
    let id = |list: &str| format!("/tools/{}/{list}", field.key);
    let mut steps = Vec::new();
    for (key, demand) in [("require", Demand::Require), ("deny_if", Demand::DenyIf)] {
        let clauses = section.read(key, |field| {
            const HELP: &str = "Write a list of `{\"conditions\": […], \"on_deny\": \"…\"}`.";
            let items = field.items("a list of conditions", HELP)?;
            Gather::all(
                items
                    .iter()
                    .enumerate()
                    .map(|(n, item)| clause(item, demand, &id(key), n)),
            )
        });
        let clauses = gather.keep(clauses).flatten();
        steps.extend(clauses.into_iter().flatten().map(Step::Clause));
    }
    let limits = section.read("limits", |field| limits(field, &id("limits")));
    steps.extend(gather.keep(limits).flatten().into_iter().flatten());
    let action = gather.keep(effect(&section));
    let mut rule = field.rule();
    rule.path = format!("/tools/{}", field.key);
    Ok(ToolRule {
        rule,
        rules: Rules(steps),
        action: gather.done(action)?,
    })
}

fn clause(field: &Field<'_>, demand: Demand, id: &str, n: usize) -> Loaded<Clause> {
    const HELP: &str = "An empty list in a `deny_if` denies all calls.";
    let (section, mut gather) = field.open("an object of conditions", CLAUSE)?;
    let written = match section.field("conditions") {
        Some(field) => gather.keep(conditions(&field, Equality::ByType, |field, path| {
            const HELP: &str = "Write a path such as `args.amount`; dots reach into objects.";
            match argument(path) {
                Some(argument) => Ok(Subject::Argument(argument)),
                None => Err(field.fault("is no path into the arguments", HELP)),
            }
        })),
        None => {
            if gather.is_clean() {
                gather.add(section.missing("conditions", HELP));
            }
            None
        }
    };
    let on_deny = gather.keep(section.read("on_deny", on_deny)).flatten();
    let written = gather.done(written)?;
    let names: Vec<String> = written
        .iter()
        .map(|one| format!("{}-{}", one.path, one.op))
        .collect();
    let mut rule = field.rule();
    rule.path = if names.is_empty() {
        format!("{id}/{n}")
    } else {
        format!("{id}/{}", names.join("+"))
    };
    Ok(Clause {
        demand,
        conditions: written.into_iter().map(|one| one.condition).collect(),
        rule,
        on_deny,
        name: None,
    })
}

fn limits(field: &Field<'_>, id: &str) -> Loaded<Vec<Step>> {
    const HELP: &str = "Write a list of limits.";
    let items = field.items("a list of limits", HELP)?;
    let limits = Gather::all(items.iter().map(|item| limit(item, id)))?;
    Ok(once_each(field, limits)?
        .into_iter()
        .map(Step::Limit)
        .collect())
}

fn limit(field: &Field<'_>, id: &str) -> Loaded<(LimitRule, Place)> {
    let (section, mut gather) = field.open("a limit", LIMIT)?;
    if gather.is_clean()
        && let Some(missing) = ["counter", "window", "max", "scope"]
            .iter()
            .find(|key| section.field(key).is_none())
    {
        const HELP: &str = "A limit has `counter`, `window`, `max` and `scope`.";
        gather.add(section.missing(missing, HELP));
    }
    let counter = gather.keep(section.read("counter", counter)).flatten();
    let window = gather.keep(section.read("window", |field| {
        const HELP: &str = "Write \"minute\", \"hour\" or \"day\".";
        unit(field.text("a window", HELP)?).ok_or_else(|| field.fault("is no window", HELP))
    }));
    let max = gather.keep(section.read("max", |field| {
        const HELP: &str = "Write how many calls are let through in one window.";
        field.whole(0..=MAX_EXACT, "a whole number", HELP)
    }));
    gather.keep(section.read("scope", |field| {
        const HELP: &str = "Write \"grant\", the only scope that there is.";
        match field.text("a scope", HELP)? {
            "grant" => Ok(()),
            _ => Err(field.fault("is no scope", HELP)),
        }
    }));
    let on_deny = gather.keep(section.read("on_deny", on_deny)).flatten();
    let named = counter.zip(window.flatten().zip(max.flatten()));
    let (counter, (unit, max)) = gather.done(named)?;
    let mut rule = field.rule();
    rule.path = format!("{id}/{counter}");
    let limit = LimitRule {
        counter,
        scope: Scope::Grant,
        window: Window::Calendar(unit),
        max,
        amount: Amount::Fixed(1),
        refund: Refund::OnFailure,
        rule,
        on_deny,
        name: None,
    };
    Ok((limit, field.place))
}

fn on_deny(field: &Field<'_>) -> Loaded<String> {
    field.words("a sentence", "Write what the model gets to read.")
}
