//! Keys and values of a policy file, with what can be said of them where they are wrong.

use super::{
    Loaded,
    gather::Gather,
    tree::{Entry, Node, Place, Tree},
};
use crate::policy::{PolicyError, RuleRef, error::Source, units};

/// What to write in place of Intercept's spend limits.
const SPEND: &str = "Calls and amounts are counted, not money: limit the amount itself, with \
     `increment_from` in Intercept's rules or `amount_from` in ours.";

/// A map whose keys are known.
pub(crate) struct Section<'a> {
    pub(crate) source: &'a Source,
    pub(crate) path: String,
    pub(crate) place: Place,
    pub(crate) entries: &'a [Entry],
}

impl<'a> Section<'a> {
    /// Opens a map. Keys that are not known are in the gathering that comes with it.
    pub(crate) fn open(
        source: &'a Source,
        node: &'a Node,
        path: &str,
        expected: &str,
        keys: &[&str],
    ) -> Loaded<(Self, Gather)> {
        let subject = || match path {
            "" => "the file".to_owned(),
            path => format!("`{path}`"),
        };
        let known = || {
            let keys: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
            units::either(&keys, "and")
        };
        let Tree::Map(entries) = &node.tree else {
            return Err(source.fault(
                node.place,
                format!(
                    "{} must be {expected}, but is {}",
                    subject(),
                    node.tree.kind()
                ),
                format!("this is {}", node.tree.kind()),
                Some(format!("The keys here are {}.", known())),
            ));
        };
        let mut gather = Gather::default();
        for entry in entries {
            if entry.key.to_ascii_lowercase().contains("spend") && !keys.contains(&&*entry.key) {
                gather.add(source.fault(
                    entry.place,
                    format!(
                        "spend limits (`{}`) are not supported",
                        entry.key.escape_debug()
                    ),
                    "not known here",
                    Some(SPEND.to_owned()),
                ));
            } else if !keys.contains(&entry.key.as_str()) {
                let alike = closest(&entry.key, keys)
                    .map_or_else(String::new, |key| format!("Did you mean `{key}`? "));
                gather.add(source.fault(
                    entry.place,
                    format!(
                        "unknown key `{}` in {}",
                        entry.key.escape_debug(),
                        subject()
                    ),
                    "not known here",
                    Some(format!("{alike}The keys here are {}.", known())),
                ));
            }
        }
        let section = Self {
            source,
            path: path.to_owned(),
            place: node.place,
            entries,
        };
        Ok((section, gather))
    }

    /// What is made of a key's value; none where the key is not there.
    pub(crate) fn read<T>(
        &self,
        key: &str,
        read: impl FnOnce(&Field<'a>) -> Loaded<T>,
    ) -> Loaded<Option<T>> {
        self.field(key).map(|field| read(&field)).transpose()
    }

    pub(crate) fn field(&self, key: &str) -> Option<Field<'a>> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(Field::new(self.source, entry, &self.path))
    }

    pub(crate) fn missing(&self, key: &str, help: &str) -> PolicyError {
        let subject = match self.path.as_str() {
            "" => "the policy".to_owned(),
            path => format!("`{path}`"),
        };
        self.source.fault(
            self.place,
            format!("{subject} has no `{key}`"),
            "in this map",
            Some(help.to_owned()),
        )
    }
}

/// A key, its value and the path to it.
pub(crate) struct Field<'a> {
    pub(crate) source: &'a Source,
    pub(crate) key: &'a str,
    pub(crate) place: Place,
    pub(crate) node: &'a Node,
    pub(crate) path: String,
}

impl<'a> Field<'a> {
    pub(crate) fn new(source: &'a Source, entry: &'a Entry, parent: &str) -> Self {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let step = if !entry.key.is_empty() && entry.key.chars().all(plain) {
            entry.key.clone()
        } else {
            format!("{:?}", entry.key)
        };
        Self {
            source,
            key: &entry.key,
            place: entry.place,
            node: &entry.value,
            path: match parent {
                "" => step,
                parent => format!("{parent}.{step}"),
            },
        }
    }

    pub(crate) fn rule(&self) -> RuleRef {
        self.source.rule(self.place, self.path.as_str())
    }

    /// Opens the value, which is to be a map.
    pub(crate) fn open(&self, expected: &str, keys: &[&str]) -> Loaded<(Section<'a>, Gather)> {
        Section::open(self.source, self.node, &self.path, expected, keys)
    }

    /// The entries of the value, which is to be a map whose keys are names.
    pub(crate) fn entries(&self, expected: &str, help: &str) -> Loaded<Vec<Self>> {
        match &self.node.tree {
            Tree::Map(entries) => Ok(entries
                .iter()
                .map(|entry| Self::new(self.source, entry, &self.path))
                .collect()),
            _ => Err(self.wrong(expected, help)),
        }
    }

    /// The items of the value, which is to be a list; each is a field of its own, with the list's
    /// key and its number in the path.
    pub(crate) fn items(&self, expected: &str, help: &str) -> Loaded<Vec<Self>> {
        match &self.node.tree {
            Tree::List(items) => Ok(items
                .iter()
                .enumerate()
                .map(|(n, node)| Self {
                    source: self.source,
                    key: self.key,
                    place: node.place,
                    node,
                    path: format!("{}[{n}]", self.path),
                })
                .collect()),
            _ => Err(self.wrong(expected, help)),
        }
    }

    /// A sentence or a part of one, as a model or an operator gets to read it.
    pub(crate) fn words(&self, expected: &str, help: &str) -> Loaded<String> {
        let words = self.text(expected, help)?.trim();
        if words.is_empty() || words.chars().any(|c| c.is_control() && c != '\n') {
            return Err(self.fault("says nothing, or has control characters", help));
        }
        Ok(words.to_owned())
    }

    /// Something is wrong with the key.
    pub(crate) fn key_fault(&self, message: String, help: &str) -> PolicyError {
        self.source
            .fault(self.place, message, "here", Some(help.to_owned()))
    }

    /// The value is of the right type, but wrong.
    pub(crate) fn fault(&self, what: &str, help: &str) -> PolicyError {
        let written = match &self.node.tree {
            Tree::Text(text) => crate::policy::source::quoted(text),
            Tree::Integer(n) => format!("`{n}`"),
            Tree::Float(n) => format!("`{n}`"),
            _ => format!("`{}`", self.key.escape_debug()),
        };
        self.source.fault(
            self.node.place,
            format!("{written} {what}"),
            format!("at `{}`", self.path),
            Some(help.to_owned()),
        )
    }

    /// The value is of the wrong type.
    pub(crate) fn wrong(&self, expected: &str, help: &str) -> PolicyError {
        self.wrong_at(self.node, expected, help)
    }

    pub(crate) fn wrong_at(&self, node: &Node, expected: &str, help: &str) -> PolicyError {
        let kind = node.tree.kind();
        self.source.fault(
            node.place,
            format!("`{}` must be {expected}, but is {kind}", self.path),
            format!("this is {kind}"),
            (!help.is_empty()).then(|| help.to_owned()),
        )
    }

    pub(crate) fn text(&self, expected: &str, help: &str) -> Loaded<&'a str> {
        match &self.node.tree {
            Tree::Text(text) => Ok(text),
            _ => Err(self.wrong(expected, help)),
        }
    }

    pub(crate) fn list(&self, expected: &str, help: &str) -> Loaded<&'a [Node]> {
        match &self.node.tree {
            Tree::List(items) if items.is_empty() => Err(self.fault("is an empty list", help)),
            Tree::List(items) => Ok(items),
            _ => Err(self.wrong(expected, help)),
        }
    }

    pub(crate) fn whole(
        &self,
        range: std::ops::RangeInclusive<u64>,
        expected: &str,
        help: &str,
    ) -> Loaded<u64> {
        match &self.node.tree {
            Tree::Integer(n) => match u64::try_from(*n) {
                Ok(n) if range.contains(&n) => Ok(n),
                _ => Err(self.fault(
                    &format!("is not from {} to {}", range.start(), range.end()),
                    help,
                )),
            },
            _ => Err(self.wrong(expected, help)),
        }
    }

    pub(crate) fn bytes(&self, range: std::ops::RangeInclusive<u64>) -> Loaded<u64> {
        const HELP: &str = "Write a number of bytes such as 4096, 64KiB, 10MB or 50MiB.";
        match &self.node.tree {
            Tree::Text(text) => match units::parse_bytes(text) {
                Ok(n) if range.contains(&n) => Ok(n),
                Ok(_) => Err(self.fault(
                    &format!("is not from {} to {} bytes", range.start(), range.end()),
                    HELP,
                )),
                Err(why) => Err(self.fault("is no number of bytes", &why)),
            },
            _ => self.whole(range, "a number of bytes", HELP),
        }
    }
}

/// The known key that a slip of the fingers would turn into this one.
fn closest<'k>(key: &str, keys: &[&'k str]) -> Option<&'k str> {
    keys.iter()
        .map(|known| {
            (
                strsim::damerau_levenshtein(&key.to_lowercase(), known),
                *known,
            )
        })
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .min()
        .map(|(_, known)| known)
}

pub(crate) fn trim_stop(sentence: &str) -> &str {
    sentence.trim_end_matches('.')
}
