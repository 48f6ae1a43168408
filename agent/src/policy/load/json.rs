//! JSON, read into a [`Tree`]: exactly JSON, as YAML readers take more than that and some of it
//! otherwise (half of a surrogate pair, a tab, a comma too many).

use std::collections::HashSet;

use serde::de::IgnoredAny;
use serde_json::Number;

use super::{
    Loaded,
    tree::{Entry, Node, Place, Tree},
};
use crate::policy::error::Source;

/// Nested lists and objects at most, as for YAML.
const MAX_DEPTH: usize = 16;

/// Values at most, as for YAML.
const MAX_NODES: usize = 100_000;

/// Whether the text is JSON, whatever it says.
pub(super) fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(bare(text)).is_ok()
}

/// Reads one JSON value.
pub(super) fn read(source: &Source) -> Loaded<Node> {
    let text = bare(&source.text);
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        return Err(refusal(source, &error));
    }
    let mut reader = Reader {
        source,
        text,
        at: 0,
        line: 1,
        column: 1,
        nodes: 0,
    };
    reader.value(0)
}

/// Why the text is no JSON.
pub(super) fn refusal(source: &Source, error: &serde_json::Error) -> crate::policy::PolicyError {
    let place = Place {
        line: u64::try_from(error.line()).unwrap_or(1),
        column: u64::try_from(error.column()).unwrap_or(1),
        ..Place::default()
    };
    let text = error.to_string();
    let why = text
        .rsplit_once(" at line ")
        .map_or(text.as_str(), |(why, _)| why);
    source.fault(
        place,
        format!("this is not JSON: {why}"),
        "here",
        Some("JSON has no comments and no comma after the last item.".to_owned()),
    )
}

/// The error of a text that should be JSON; none if it is.
pub(super) fn check(source: &Source) -> Loaded<()> {
    match serde_json::from_str::<IgnoredAny>(bare(&source.text)) {
        Ok(_) => Ok(()),
        Err(error) => Err(refusal(source, &error)),
    }
}

fn bare(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// Walks over text that is known to be JSON, so that only what JSON leaves open can go wrong.
struct Reader<'a> {
    source: &'a Source,
    text: &'a str,
    at: usize,
    line: u64,
    column: u64,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Loaded<Node> {
        self.blank();
        let place = self.place();
        self.nodes += 1;
        if depth > MAX_DEPTH || self.nodes > MAX_NODES {
            return Err(self.source.fault(
                place,
                "the file goes beyond what a policy may need",
                "here",
                Some("A policy is at most 1 MiB and 16 levels deep.".to_owned()),
            ));
        }
        let tree = match self.peek() {
            Some('{') => self.object(depth)?,
            Some('[') => self.array(depth)?,
            Some('"') => Tree::Text(self.string(place)?),
            Some('t') => self.word("true", Tree::Bool(true)),
            Some('f') => self.word("false", Tree::Bool(false)),
            Some('n') => self.word("null", Tree::Null),
            _ => self.number(place)?,
        };
        Ok(Node {
            tree,
            place: self.spanned(place),
        })
    }

    fn object(&mut self, depth: usize) -> Loaded<Tree> {
        let mut entries = Vec::new();
        let mut keys = HashSet::new();
        self.step();
        loop {
            self.blank();
            match self.peek() {
                Some('}') | None => break,
                Some(',') => {
                    self.step();
                    continue;
                }
                Some(_) => {}
            }
            let place = self.place();
            let key = self.string(place)?;
            let place = self.spanned(place);
            if !keys.insert(key.clone()) {
                return Err(self.source.twice(place, Some(&key)));
            }
            self.blank();
            // The colon.
            self.step();
            let value = self.value(depth + 1)?;
            entries.push(Entry { key, place, value });
        }
        self.step();
        Ok(Tree::Map(entries))
    }

    fn array(&mut self, depth: usize) -> Loaded<Tree> {
        let mut items = Vec::new();
        self.step();
        loop {
            self.blank();
            match self.peek() {
                Some(']') | None => break,
                Some(',') => self.step(),
                Some(_) => items.push(self.value(depth + 1)?),
            }
        }
        self.step();
        Ok(Tree::List(items))
    }

    fn string(&mut self, place: Place) -> Loaded<String> {
        let from = self.at;
        self.step();
        loop {
            match self.peek() {
                None => break,
                Some('\\') => {
                    self.step();
                    self.step();
                }
                Some('"') => {
                    self.step();
                    break;
                }
                Some(_) => self.step(),
            }
        }
        let written = self.since(from);
        serde_json::from_str(written).map_err(|_| {
            self.source.fault(
                place,
                "this string has half of a surrogate pair in it",
                "here",
                Some("Write the character itself.".to_owned()),
            )
        })
    }

    fn number(&mut self, place: Place) -> Loaded<Tree> {
        let from = self.at;
        while self
            .peek()
            .is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.'))
        {
            self.step();
        }
        let written = self.since(from);
        if let Ok(whole) = written.parse::<i128>() {
            return Ok(Tree::Integer(whole));
        }
        serde_json::from_str::<Number>(written)
            .ok()
            .and_then(|number| number.as_f64())
            .map(Tree::Float)
            .ok_or_else(|| {
                self.source.fault(
                    place,
                    format!("`{written}` is not a number that can be counted to"),
                    "here",
                    Some("Write a finite number.".to_owned()),
                )
            })
    }

    fn word(&mut self, word: &str, tree: Tree) -> Tree {
        for _ in word.chars() {
            self.step();
        }
        tree
    }

    fn blank(&mut self) {
        while self.peek().is_some_and(|c| c.is_ascii_whitespace()) {
            self.step();
        }
    }

    fn peek(&self) -> Option<char> {
        self.text.get(self.at..)?.chars().next()
    }

    fn step(&mut self) {
        let Some(c) = self.peek() else {
            return;
        };
        self.at += c.len_utf8();
        if c == '\n' {
            self.line += 1;
            self.column = 1;
        } else {
            self.column += 1;
        }
    }

    fn since(&self, from: usize) -> &'a str {
        self.text.get(from..self.at).unwrap_or_default()
    }

    fn place(&self) -> Place {
        Place {
            line: self.line,
            column: self.column,
            offset: self.at,
            length: 1,
        }
    }

    fn spanned(&self, from: Place) -> Place {
        Place {
            length: self.at.saturating_sub(from.offset),
            ..from
        }
    }
}
