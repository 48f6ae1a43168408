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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Map, Value};

    use super::*;

    fn source(text: &str) -> Source {
        Source {
            file: Arc::from("p.json"),
            text: Arc::from(text),
        }
    }

    /// The tree as serde_json would have it.
    fn value(tree: &Tree) -> Value {
        match tree {
            Tree::Null => Value::Null,
            Tree::Bool(yes) => Value::from(*yes),
            Tree::Integer(n) => serde_json::from_str(&n.to_string()).unwrap(),
            Tree::Float(n) => Value::from(*n),
            Tree::Text(text) => Value::from(text.as_str()),
            Tree::List(items) => items.iter().map(|item| value(&item.tree)).collect(),
            Tree::Map(entries) => {
                let entries = entries.iter();
                let map: Map<String, Value> = entries
                    .map(|entry| (entry.key.clone(), value(&entry.value.tree)))
                    .collect();
                Value::Object(map)
            }
        }
    }

    #[test]
    fn what_is_read_is_what_serde_json_reads() {
        const PIECES: &[&str] = &[
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"a\"",
            "\"b\"",
            "\"\\n\"",
            "\"\\u00e9\"",
            "\"\\ud83d\\ude00\"",
            "\"\\ud83d\"",
            "\"é\"",
            "\"\"",
            "0",
            "-1",
            "1.5",
            "1e3",
            "01",
            "1e999",
            "+1",
            ".5",
            "1.",
            "18446744073709551616",
            "true",
            "false",
            "null",
            "nul",
            " ",
            "\n",
            "\t",
            "\u{a0}",
            "#",
            "'x'",
            "{\"a\":1}",
            "[1,2]",
            "\"\\/\"",
            "\"\\x\"",
            "\"\t\"",
        ];
        let mut state = 0x15_u64;
        let mut next = |n: usize| {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            let bits = state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
            usize::try_from(bits).unwrap() % n
        };
        let mut read_both = 0;
        for _ in 0..60_000 {
            let inner: String = (0..next(6)).map(|_| PIECES[next(PIECES.len())]).collect();
            let text = match next(3) {
                0 => inner,
                1 => format!("[{inner}]"),
                _ => format!("{{\"k\":{inner}}}"),
            };
            let theirs = serde_json::from_str::<Value>(&text);
            match (read(&source(&text)), theirs) {
                (Ok(ours), Ok(theirs)) => {
                    read_both += 1;
                    assert_eq!(value(&ours.tree), theirs, "{text}");
                }
                (Err(_), Err(_)) => {}
                // They keep the last of two equal keys.
                (Err(error), Ok(_)) => {
                    assert!(error.message().contains("twice"), "{text}: {error}");
                }
                (Ok(_), Err(error)) => panic!("{text}: {error}"),
            }
        }
        assert!(read_both > 3_000, "{read_both}");
    }

    #[test]
    fn places_count_characters() {
        let text = "\u{feff}{\n  \"é\\u00e9\": [\t\"ü\", 12 ],\r\n\"b\": {}}";
        let Tree::Map(entries) = read(&source(text)).unwrap().tree else {
            panic!("not a map");
        };
        let places: Vec<_> = entries
            .iter()
            .map(|entry| (entry.place.line, entry.place.column))
            .collect();
        assert_eq!(places, [(2, 3), (3, 1)]);
        let Tree::List(items) = &entries[0].value.tree else {
            panic!("not a list");
        };
        let places: Vec<_> = items
            .iter()
            .map(|item| (item.place.line, item.place.column))
            .collect();
        assert_eq!(places, [(2, 16), (2, 21)]);
    }
}
