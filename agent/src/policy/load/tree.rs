//! A policy file as a tree in which every key and value knows where it stands.
//!
//! The loaders read this tree rather than deserializing into their types, so that each error can
//! name the key, the place and what was expected there.

/// Where something stands in a policy file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Line, from 1; 0 if unknown.
    pub(crate) line: u64,
    /// Column in characters, from 1; 0 if unknown.
    pub(crate) column: u64,
    /// Bytes from the start of the file.
    pub(crate) offset: usize,
    /// Length in bytes.
    pub(crate) length: usize,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) tree: Tree,
    pub(crate) place: Place,
}

/// A YAML value.
#[derive(Clone, Debug)]
pub(crate) enum Tree {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) value: Node,
}

impl Tree {
    /// What this is, with its article.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a decimal number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

/// The value of a map's key.
pub(crate) fn child<'a>(node: &'a Node, key: &str) -> Option<&'a Node> {
    match &node.tree {
        Tree::Map(entries) => entries
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.value),
        _ => None,
    }
}
