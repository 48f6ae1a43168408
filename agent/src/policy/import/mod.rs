//! Another vendor's policy in our own language, with the same meaning.
//!
//! What is written is loaded again and compared with what was read, so that nothing is handed out
//! that decides otherwise. What was left open there and is decided by us is in comments
//! ([`Reading`]), so that who takes the policy over can see what they take over.

mod readings;
mod rules;
mod yaml;

use std::path::Path;

use super::{
    Dialect, Policy, PolicyError, RuleRef,
    error::Source,
    load::{self, Entry, Loaded, Node, Place, Tree},
};

/// A policy in our language, made from one in another.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The policy, as YAML with comments.
    pub yaml: String,
    /// What it was made from, loaded.
    pub from: Policy,
    /// Whether that was a part of a policy, which says nothing of other tools: they are denied.
    pub fragment: bool,
    /// What the other language leaves open, and how it was read.
    pub readings: Vec<Reading>,
}

/// Something that the other language leaves open.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// How it is read, in a sentence.
    pub says: String,
    /// The rule that is read so; none if it holds for the whole file.
    pub rule: Option<RuleRef>,
}

impl Policy {
    /// Reads another vendor's policy, or a part of one, and writes it in our own language.
    ///
    /// # Errors
    ///
    /// The file is no policy, is in our own language already, or says what ours cannot say; the
    /// error points at the place.
    pub fn import(path: &Path) -> Result<Imported, PolicyError> {
        let (name, contents) = load::contents(path)?;
        text(&name, &contents)
    }
}

/// The same from text.
pub(super) fn text(file: &str, text: &str) -> Loaded<Imported> {
    let (source, root, json) = load::tree(file, text)?;
    let fragment = load::is_fragment(&root, json);
    let root = if fragment { whole(root) } else { root };
    let from = load::tree_policy(&source, &root, json)?;
    if from.dialect == Dialect::Capwarden {
        return Err(source.fault(
            root.place,
            "this is a policy in capwarden's own language",
            "here",
            Some("There is nothing to import: use it as it is.".to_owned()),
        ));
    }
    let readings = readings::readings(&from, &root, fragment);
    let yaml = rules::write(&source, &root, &from, &readings)?;
    let unlike = |why: String| {
        source.fault(
            root.place,
            format!("this policy cannot be said in capwarden's language: {why}"),
            "here",
            Some("Use it as it is: `capwarden run` takes it, too.".to_owned()),
        )
    };
    let again = load::text(file, &yaml).map_err(|error| unlike(error.message().to_owned()))?;
    match from.changes(&again).first() {
        None if again.shows_the_same(&from) => {}
        None => return Err(unlike("other tools would be shown".to_owned())),
        Some(change) => return Err(unlike(format!("{} would be otherwise", change.what))),
    }
    Ok(Imported {
        yaml,
        from,
        fragment,
        readings,
    })
}

/// A part of a PolicyLayer policy as a whole one, under which all other tools are denied.
fn whole(tools: Node) -> Node {
    let place = tools.place;
    let entry = |key: &str, tree| Entry {
        key: key.to_owned(),
        place,
        value: Node { tree, place },
    };
    let text = |text: &str| Tree::Text(text.to_owned());
    Node {
        place,
        tree: Tree::Map(vec![
            entry("version", text("1")),
            entry("default", text("deny")),
            entry("tools", tools.tree),
        ]),
    }
}

/// What our language cannot say, at a rule of the other.
fn cannot(source: &Source, rule: &RuleRef, what: String, help: &str) -> PolicyError {
    let place = Place {
        line: rule.line,
        column: rule.column,
        ..Place::default()
    };
    source.fault(place, what, "here", Some(help.to_owned()))
}
