//! What is different between two definitions of a tool, for people.

use serde_json::{Map, Value};

use crate::policy::PARTS;

/// Words or lines of one text that are compared at most: the time grows with the square.
const MOST: usize = 2_000;
/// Differences that are told.
const MOST_TOLD: usize = 1_000;

/// One thing that is different.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Where: `description`, `inputSchema.properties.filter.maxLength`, `inputSchema.required[2]`.
    pub path: String,
    /// What.
    pub edit: Edit,
}

/// A difference between two values.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// There was nothing.
    Added(Value),
    /// There is nothing any more.
    Gone(Value),
    /// There is something else.
    Changed(Value, Value),
    /// A text was edited: its pieces in order.
    Text(Vec<Piece>),
}

/// A piece of an edited text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// In both.
    Same(String),
    /// In the first only.
    Gone(String),
    /// In the second only.
    Added(String),
}

/// What is different in the parts of two definitions, in their order.
#[must_use]
pub fn differences(before: &Map<String, Value>, after: &Map<String, Value>) -> Vec<Difference> {
    let mut all = Vec::new();
    for part in PARTS {
        compare(part, before.get(part), after.get(part), &mut all);
    }
    all
}

fn compare(path: &str, before: Option<&Value>, after: Option<&Value>, all: &mut Vec<Difference>) {
    if before == after || all.len() >= MOST_TOLD {
        return;
    }
    let edit = match (before, after) {
        (Some(Value::Object(before)), Some(Value::Object(after))) => {
            let new = after.keys().filter(|key| !before.contains_key(*key));
            for key in before.keys().chain(new) {
                compare(&member(path, key), before.get(key), after.get(key), all);
            }
            return;
        }
        (Some(Value::Array(before)), Some(Value::Array(after))) => {
            arrays(path, before, after, all);
            return;
        }
        (Some(Value::String(before)), Some(Value::String(after))) => {
            if before.len().min(after.len()) < 12 {
                Edit::Changed(before.as_str().into(), after.as_str().into())
            } else {
                Edit::Text(text(before, after))
            }
        }
        (Some(before), Some(after)) => Edit::Changed(before.clone(), after.clone()),
        (Some(before), None) => Edit::Gone(before.clone()),
        (None, Some(after)) => Edit::Added(after.clone()),
        (None, None) => return,
    };
    all.push(Difference {
        path: path.to_owned(),
        edit,
    });
}

/// Lists of simple values as sets with an order, others item by item.
fn arrays(path: &str, before: &[Value], after: &[Value], all: &mut Vec<Difference>) {
    let simple = |values: &[Value]| values.iter().all(|it| !it.is_object() && !it.is_array());
    let known = |values: &[Value], value: &Value| values.contains(value);
    let short = before.len().max(after.len()) <= MOST;
    if simple(before) && simple(after) && short {
        let gone = before
            .iter()
            .enumerate()
            .filter(|(_, it)| !known(after, it));
        let new = after
            .iter()
            .enumerate()
            .filter(|(_, it)| !known(before, it));
        let count = all.len();
        all.extend(gone.map(|(n, it)| Difference {
            path: format!("{path}[{n}]"),
            edit: Edit::Gone(it.clone()),
        }));
        all.extend(new.map(|(n, it)| Difference {
            path: format!("{path}[{n}]"),
            edit: Edit::Added(it.clone()),
        }));
        if all.len() == count {
            // The same values in another order, or another number of times.
            all.push(Difference {
                path: path.to_owned(),
                edit: Edit::Changed(before.into(), after.into()),
            });
        }
        return;
    }
    for n in 0..before.len().max(after.len()) {
        compare(&format!("{path}[{n}]"), before.get(n), after.get(n), all);
    }
}

fn member(path: &str, key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '$');
    if !key.is_empty() && key.chars().all(plain) {
        format!("{path}.{key}")
    } else {
        format!("{path}[{}]", Value::from(key))
    }
}

/// What was edited: lines, and words within lines that were.
fn text(before: &str, after: &str) -> Vec<Piece> {
    let lines =
        |text: &'_ str| -> Vec<String> { text.split_inclusive('\n').map(str::to_owned).collect() };
    let by_lines = pieces(&lines(before), &lines(after));
    let mut all: Vec<Piece> = Vec::new();
    let mut rest = by_lines.into_iter().peekable();
    while let Some(piece) = rest.next() {
        match piece {
            Piece::Gone(gone) => {
                if let Some(Piece::Added(added)) = rest.peek() {
                    let edited = pieces(&words(&gone), &words(added));
                    rest.next();
                    all.extend(edited);
                } else {
                    all.push(Piece::Gone(gone));
                }
            }
            other => all.push(other),
        }
    }
    all
}

/// Words with the white space after them, and what stands between words.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut last = None;
    for c in text.chars() {
        let kind = (c.is_alphanumeric(), c.is_whitespace());
        match words.last_mut() {
            Some(word) if last == Some(kind) && (kind.0 || kind.1) => word.push(c),
            _ => words.push(c.to_string()),
        }
        last = Some(kind);
    }
    words
}

/// The longest common subsequence of two lists, with what stands between; neighbours are joined.
fn pieces(before: &[String], after: &[String]) -> Vec<Piece> {
    let start = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let (head, before) = before.split_at(start);
    let after = after.get(start..).unwrap_or_default();
    let ends = before.iter().rev().zip(after.iter().rev());
    let end = ends.take_while(|(a, b)| a == b).count();
    let (before, tail) = before.split_at(before.len() - end);
    let after = after.get(..after.len() - end).unwrap_or_default();
    let mut all = Vec::new();
    push(&mut all, Piece::Same(head.concat()));
    if before.len() > MOST || after.len() > MOST {
        push(&mut all, Piece::Gone(before.concat()));
        push(&mut all, Piece::Added(after.concat()));
    } else {
        middle(before, after, &mut all);
    }
    push(&mut all, Piece::Same(tail.concat()));
    all
}

fn middle(before: &[String], after: &[String], all: &mut Vec<Piece>) {
    // How long what is common is, from here on.
    let width = after.len() + 1;
    let mut common = vec![0_u16; (before.len() + 1) * width];
    let at = |common: &[u16], i: usize, j: usize| common.get(i * width + j).copied().unwrap_or(0);
    for (i, a) in before.iter().enumerate().rev() {
        for (j, b) in after.iter().enumerate().rev() {
            let longest = match a == b {
                true => at(&common, i + 1, j + 1) + 1,
                false => at(&common, i + 1, j).max(at(&common, i, j + 1)),
            };
            if let Some(place) = common.get_mut(i * width + j) {
                *place = longest;
            }
        }
    }
    let (mut i, mut j) = (0, 0);
    loop {
        match (before.get(i), after.get(j)) {
            (Some(a), Some(b)) if a == b => {
                push(all, Piece::Same(a.clone()));
                (i, j) = (i + 1, j + 1);
            }
            (Some(a), b) if b.is_none() || at(&common, i + 1, j) >= at(&common, i, j + 1) => {
                push(all, Piece::Gone(a.clone()));
                i += 1;
            }
            (_, Some(b)) => {
                push(all, Piece::Added(b.clone()));
                j += 1;
            }
            (_, None) => break,
        }
    }
}

fn push(all: &mut Vec<Piece>, piece: Piece) {
    match (all.last_mut(), &piece) {
        (_, Piece::Same(text) | Piece::Gone(text) | Piece::Added(text)) if text.is_empty() => {}
        (Some(Piece::Same(before)), Piece::Same(text))
        | (Some(Piece::Gone(before)), Piece::Gone(text))
        | (Some(Piece::Added(before)), Piece::Added(text)) => before.push_str(text),
        _ => all.push(piece),
    }
}
