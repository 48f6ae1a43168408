//! From a file's text to a [`Policy`], or to all that is wrong in it.
//!
//! [`text`] tells by the file's shape in which dialect it is written. Our own language is read
//! here, one module for each of its sections; the others are in [`super::dialect`].

mod approve;
mod args;
mod capture;
mod case;
mod checks;
mod gather;
mod json;
mod limits;
mod program;
mod proxy;
mod record;
mod section;
mod tools;
mod tree;
mod yaml;

use std::{fs::File, io::Read as _, path::Path, sync::Arc};

use sha2::{Digest as _, Sha256};

pub(super) use self::{
    approve::{TIMEOUT, timeout},
    args::{bound, compile, scalar, values},
    case::cases,
    limits::{counter, is_counter, once_each, unit},
    tools::effect,
    tree::{Entry, Node, child},
};
pub(crate) use self::{
    gather::Gather,
    section::{Field, Section},
    tree::{Place, Tree},
};
use super::{
    Dialect, Policy, PolicyError, Replies, dialect,
    error::Source,
    model::{Hide, Step, Unnamed},
};

/// Bytes of a policy file at most.
const MAX_FILE: u64 = 1 << 20;

/// Keys at the top of a policy.
const POLICY: &[&str] = &[
    "version",
    "default",
    "replies",
    "hide",
    "all_tools",
    "definitions",
    "tools",
    "exec",
    "baseline",
];

pub(crate) type Loaded<T> = Result<T, PolicyError>;

/// Reads a policy file.
pub(super) fn file(path: &Path) -> Loaded<Policy> {
    let (name, contents) = contents(path)?;
    text(&name, &contents)
}

/// The name and the text of a file.
pub(crate) fn contents(path: &Path) -> Loaded<(String, String)> {
    let name = path.display().to_string();
    let unreadable =
        |error: std::io::Error| Source::unreadable(&name, format!("cannot be read: {error}"), None);
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(too_large(&name));
    }
    match String::from_utf8(bytes) {
        Ok(contents) => Ok((name, contents)),
        Err(error) => Err(Source::unreadable(
            &name,
            format!(
                "is not UTF-8 text: byte {} is wrong",
                error.utf8_error().valid_up_to()
            ),
            Some("Save the policy as UTF-8.".to_owned()),
        )),
    }
}

fn too_large(name: &str) -> PolicyError {
    Source::unreadable(
        name,
        "is larger than 1 MiB".to_owned(),
        Some("Split the policy: one file for each server.".to_owned()),
    )
}

/// Reads a policy from text, in whatever dialect.
pub(super) fn text(file: &str, text: &str) -> Loaded<Policy> {
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(too_large(file));
    }
    let (source, root, json) = tree(file, text)?;
    tree_policy(&source, &root, json)
}

/// Reads a policy from a tree; `json` says in what it was written.
pub(super) fn tree_policy(source: &Source, root: &Node, json: bool) -> Loaded<Policy> {
    let dialect = dialect::detect(root, json);
    let loaded = match dialect {
        Dialect::Capwarden => return own(source, root),
        Dialect::PolicyLayer => {
            json::check(source).and_then(|()| dialect::policylayer(source, root))
        }
        Dialect::Catalogue => dialect::catalogue(source, root),
        Dialect::Intercept => dialect::intercept(source, root),
    };
    loaded.map_err(|error| error.read_as(dialect))
}

/// Whether this is a part of a PolicyLayer policy, its tools alone.
pub(super) fn is_fragment(root: &Node, json: bool) -> bool {
    dialect::detect(root, json) == Dialect::PolicyLayer && dialect::is_fragment(root)
}

/// A file's text as a tree; true if it is JSON.
pub(crate) fn tree(file: &str, text: &str) -> Loaded<(Source, Node, bool)> {
    let source = Source {
        file: Arc::from(file),
        text: Arc::from(text),
    };
    let json = json::is_json(text);
    let root = if json {
        json::read(&source)?
    } else {
        yaml::read(text).map_err(|error| source.yaml(&error))?
    };
    Ok((source, root, json))
}

/// Reads a policy in our own language.
fn own(source: &Source, root: &Node) -> Loaded<Policy> {
    let (section, mut gather) = Section::open(source, root, "", "a policy", POLICY)?;
    gather.keep(version(&section, gather.is_clean()));
    let default = gather.keep(default(&section));
    let replies = gather.keep(section.read("replies", replies));
    let hide = gather.keep(section.read("hide", hide));
    let all_tools = gather.keep(section.read("all_tools", tools::all_tools));
    let pinning = gather.keep(section.read("definitions", tools::pinning));
    let tools = gather.keep(section.read("tools", tools::tools));
    let exec = gather.keep(section.read("exec", |field| capture::capture(field, capture::EXEC)));
    let baseline = gather.keep(section.read("baseline", proxy::baseline));
    if gather.is_clean() && section.field("tools").is_none() && section.field("exec").is_none() {
        gather.add(source.fault(
            root.place,
            "the policy allows nothing: it has neither `tools` nor `exec`",
            "in this policy",
            Some("Add `tools:` with a rule for each MCP tool, or `exec:` for commands.".to_owned()),
        ));
    }
    let default = gather.done(default)?;
    let mut all_tools = all_tools.flatten().unwrap_or_default();
    all_tools.0.extend(pinning.flatten().map(Step::Pinned));
    Ok(Policy {
        file: Arc::clone(&source.file),
        digest: digest(&source.text),
        dialect: Dialect::Capwarden,
        replies: replies.flatten().unwrap_or_default(),
        default,
        hide: hide.flatten().unwrap_or_default(),
        tools: tools.flatten().unwrap_or_default(),
        all_tools,
        exec: exec.flatten(),
        baseline: baseline.flatten(),
    })
}

/// SHA-256, in hexadecimal digits.
pub(super) fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn version(section: &Section<'_>, needed: bool) -> Loaded<()> {
    const HELP: &str = "Write `version: 1`, the only version there is.";
    match section.field("version") {
        None if needed => Err(section.missing("version", HELP)),
        None => Ok(()),
        Some(field) => match field.node.tree {
            Tree::Integer(1) => Ok(()),
            Tree::Integer(_) => Err(field.fault("is not a version of this language", HELP)),
            _ => Err(field.wrong("the number 1", HELP)),
        },
    }
}

fn default(section: &Section<'_>) -> Loaded<Unnamed> {
    const HELP: &str = "Write `default: deny`: what a policy does not name is denied. If it must be allowed, say why: `default: { allow: \"reason\" }`.";
    let Some(field) = section.field("default") else {
        let rule = section.source.rule(section.place, "default");
        return Ok(Unnamed { allow: false, rule });
    };
    let rule = field.rule();
    match &field.node.tree {
        Tree::Map(_) => {
            let (section, mut gather) = field.open("`deny`, or why all is allowed", &["allow"])?;
            let why = gather.keep(section.read("allow", |field| field.words("a reason", HELP)));
            if matches!(why, Some(None)) && gather.is_clean() {
                gather.add(section.missing("allow", HELP));
            }
            gather.done(why.flatten())?;
            Ok(Unnamed { allow: true, rule })
        }
        _ if field.text("`deny`", HELP)? == "deny" => Ok(Unnamed { allow: false, rule }),
        _ => Err(field.fault("is not a default that this version accepts", HELP)),
    }
}

/// Reads in whose words denials are told.
fn replies(field: &Field<'_>) -> Loaded<Replies> {
    const HELP: &str = "Write `ours` (with what would be allowed), `policylayer` or `intercept`.";
    let name = field.text("in whose words denials are told", HELP)?;
    Replies::named(name).ok_or_else(|| field.fault("is nobody whose words are known", HELP))
}

/// Reads a list of tools to hide; `*` is all of them.
pub(super) fn hide(field: &Field<'_>) -> Loaded<Hide> {
    const HELP: &str = "List tools by name, `[ delete_all ]`, or `\"*\"` for all of them.";
    let mut hide = Hide::default();
    let mut gather = Gather::default();
    for item in field.items("a list of tools", HELP)? {
        let Some(name) = gather.keep(item.text("a tool's name", HELP)) else {
            continue;
        };
        if name.trim().is_empty() {
            gather.add(item.fault("is no tool's name", HELP));
        } else if name == "*" {
            if hide.all.replace(item.rule()).is_some() {
                gather.add(item.fault("is listed twice", "Keep one of them."));
            }
        } else if hide.tools.insert(name.to_owned(), item.rule()).is_some() {
            gather.add(item.fault("is listed twice", "Keep one of them."));
        }
    }
    gather.done(Some(hide))
}
