//! The policy files of others, taken as they are.
//!
//! A file's dialect is told by its shape, never by its name. What a dialect leaves open is decided
//! at the head of its module; whatever is unknown to it is refused. A tool's map may have our own
//! `capture` or `ends` in every dialect.

mod catalogue;
mod condition;
mod intercept;
mod policylayer;
mod re2;
mod rules;

pub(super) use self::{
    catalogue::catalogue,
    condition::value,
    intercept::intercept,
    policylayer::{is_fragment, policylayer},
};
use super::{
    Dialect,
    load::{Node, Tree, child},
};

/// In which dialect a file is meant to be written. What fits none is ours, whose loader says what
/// is wrong with it.
///
/// * Tools with `rules`: the catalogue's if there is no `version`, or if a rule has what only it
///   has (`action: allow`, `validate`, `reason`, a map as `rate_limit`); else Intercept's.
/// * `all_tools`, or tools with `require`, `deny_if` or `limits`, under a `version` that is a
///   string or under none: PolicyLayer's.
/// * Nothing to tell by, but the version is a string: PolicyLayer's if it is JSON and has a
///   `default`, which is required there; Intercept's if it has a `description`.
pub(super) fn detect(root: &Node, json: bool) -> Dialect {
    let version = child(root, "version").map(|node| &node.tree);
    let ours = matches!(version, Some(Tree::Integer(_)));
    if child(root, "exec").is_some() {
        return Dialect::Capwarden;
    }
    let tools: Vec<&Node> = children(child(root, "tools")).collect();
    let ruled = |tool: &&Node| child(tool, "rules").is_some();
    if tools.iter().any(ruled) {
        let mut rules = tools.iter().flat_map(|tool| match child(tool, "rules") {
            Some(Node {
                tree: Tree::List(rules),
                ..
            }) => rules.as_slice(),
            _ => &[],
        });
        return if version.is_none() || rules.any(of_catalogue) {
            Dialect::Catalogue
        } else {
            Dialect::Intercept
        };
    }
    if ours {
        return Dialect::Capwarden;
    }
    let layered = |tool: &Node| {
        ["require", "deny_if", "limits"]
            .iter()
            .any(|key| child(tool, key).is_some())
    };
    let all_tools = child(root, "all_tools").is_some();
    if all_tools || tools.iter().any(|tool| layered(tool)) {
        return Dialect::PolicyLayer;
    }
    // A bare fragment, whose loader says what it lacks.
    if version.is_none() && json && children(Some(root)).any(layered) {
        return Dialect::PolicyLayer;
    }
    match version {
        Some(Tree::Text(_)) if json && child(root, "default").is_some() => Dialect::PolicyLayer,
        Some(Tree::Text(_)) if child(root, "description").is_some() => Dialect::Intercept,
        _ => Dialect::Capwarden,
    }
}

fn of_catalogue(rule: &Node) -> bool {
    let text = |key: &str, word: &str| matches!(child(rule, key), Some(Node { tree: Tree::Text(text), .. }) if text == word);
    let map = |key: &str| {
        matches!(
            child(rule, key),
            Some(Node {
                tree: Tree::Map(_),
                ..
            })
        )
    };
    text("action", "allow")
        || child(rule, "validate").is_some()
        || child(rule, "reason").is_some()
        || map("rate_limit")
}

fn children(node: Option<&Node>) -> impl Iterator<Item = &Node> {
    let entries = match node {
        Some(Node {
            tree: Tree::Map(entries),
            ..
        }) => entries.as_slice(),
        _ => &[],
    };
    entries.iter().map(|entry| &entry.value)
}
