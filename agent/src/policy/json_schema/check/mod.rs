//! Checking a value: every look costs a step, and there are only so many.
//!
//! | file | has the keywords |
//! |---|---|
//! | `values` | of values of all types, of numbers and of texts |
//! | `lists` | of lists |
//! | `objects` | of objects |
//! | `combined` | that put schemas together, and those that ask what the others have left |
//! | `numbers` | none: numbers, compared by what they are |

mod combined;
mod lists;
mod numbers;
mod objects;
mod values;

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{Draft, Fault, Schema, load::is_known};

pub(super) use numbers::count;

/// Steps of one check: some milliseconds.
const STEPS: usize = 200_000;
/// Schemas that wait for one another, references that lead to themselves among them.
const DEEPEST: usize = 200;
/// Bytes of a pointer that is told.
const LONGEST: usize = 160;
/// Names and values that are told.
const TOLD: usize = 8;

/// What schemas have looked at, for those that ask what is left.
#[derive(Clone, Debug, Default)]
struct Notes {
    members: BTreeSet<String>,
    all_members: bool,
    items: BTreeSet<usize>,
    all_items: bool,
}

struct Check<'a> {
    schema: &'a Schema,
    left: usize,
    depth: usize,
    at: Vec<String>,
}

type Checked = Result<Notes, Fault>;

pub(super) fn check(schema: &Schema, value: &Value) -> Result<(), Fault> {
    let mut check = Check {
        schema,
        left: STEPS,
        depth: 0,
        at: Vec::new(),
    };
    check.value(&schema.root, value).map(|_| ())
}

impl Check<'_> {
    fn spend(&mut self, steps: usize) -> Result<(), Fault> {
        self.left = self.left.checked_sub(steps).ok_or(Fault::TooMuch)?;
        Ok(())
    }

    fn wrong<T>(&self, why: String) -> Result<T, Fault> {
        self.fault(why, false)
    }

    fn fault<T>(&self, why: String, of_type: bool) -> Result<T, Fault> {
        let mut at = String::new();
        for key in &self.at {
            if at.len() > LONGEST {
                break;
            }
            let key: String = key.chars().take(LONGEST).collect();
            let key = key.replace('~', "~0").replace('/', "~1");
            at.push('/');
            at.extend(key.chars().flat_map(|c| match c.is_control() {
                true => c.escape_default().collect::<Vec<_>>(),
                false => vec![c],
            }));
        }
        if at.len() > LONGEST {
            at.truncate(at.floor_char_boundary(LONGEST));
            at.push('…');
        }
        Err(Fault::Wrong { at, why, of_type })
    }

    /// A member is wrong as such.
    fn inner_fault<T>(&mut self, key: &str, why: String) -> Result<T, Fault> {
        self.at.push(key.to_owned());
        let fault = self.wrong(why);
        self.at.pop();
        fault
    }

    /// A member or an item, by its name or number.
    fn inner(&mut self, key: String, schema: &Value, value: &Value) -> Result<(), Fault> {
        self.at.push(key);
        let checked = self.value(schema, value);
        self.at.pop();
        checked.map(|_| ())
    }

    fn value(&mut self, schema: &Value, value: &Value) -> Checked {
        self.spend(1)?;
        let schema = match schema {
            Value::Object(schema) => schema,
            Value::Bool(false) => return self.wrong("is not allowed".to_owned()),
            _ => return Ok(Notes::default()),
        };
        if self.depth >= DEEPEST {
            return Err(Fault::TooMuch);
        }
        self.depth += 1;
        let checked = self.schema(schema, value);
        self.depth -= 1;
        checked
    }

    /// Whether a value fits, with what was looked at if it does; an error if that cannot be found out.
    fn tried(&mut self, schema: &Value, value: &Value) -> Result<Checked, Fault> {
        match self.value(schema, value) {
            Err(Fault::TooMuch) => Err(Fault::TooMuch),
            Err(Fault::Unsure) => Err(Fault::Unsure),
            found => Ok(found),
        }
    }

    /// Adds what another schema has looked at.
    fn note(&mut self, notes: &mut Notes, mut more: Notes) -> Result<(), Fault> {
        if more.members.len() + more.items.len() > notes.members.len() + notes.items.len() {
            std::mem::swap(notes, &mut more);
        }
        self.spend(more.members.len() + more.items.len())?;
        notes.members.extend(more.members);
        notes.all_members |= more.all_members;
        notes.items.extend(more.items);
        notes.all_items |= more.all_items;
        Ok(())
    }

    fn schema(&mut self, schema: &Map<String, Value>, value: &Value) -> Checked {
        let draft = self.schema.draft;
        if draft < Draft::Of2019
            && let Some(reference) = schema.get("$ref")
        {
            return self.reference(reference, value);
        }
        let mut notes = Notes::default();
        for key in ["$ref", "$dynamicRef", "$recursiveRef"] {
            if let Some(reference) = schema.get(key).filter(|_| is_known(draft, key)) {
                let more = self.reference(reference, value)?;
                self.note(&mut notes, more)?;
            }
        }
        self.simple(schema, value)?;
        match value {
            Value::Object(object) => {
                self.object(schema, object, &mut notes)?;
                self.depending(schema, value, &mut notes)?;
            }
            Value::Array(items) => self.array(schema, items, &mut notes)?,
            Value::String(text) => self.string(schema, text)?,
            Value::Number(number) => self.number(schema, number)?,
            Value::Null | Value::Bool(_) => {}
        }
        self.combined(schema, value, &mut notes)?;
        self.unevaluated(schema, value, &mut notes)?;
        Ok(notes)
    }

    fn reference(&mut self, reference: &Value, value: &Value) -> Checked {
        let whole = self.schema;
        let reference = reference.as_str().unwrap_or_default();
        self.spend(reference.len() / 16)?;
        let target = whole.resolve(reference);
        match target {
            Some(target) => self.value(target, value),
            // Loading has seen to it.
            None => Err(Fault::TooMuch),
        }
    }
}

fn number_of(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// A name of the schema's or the call's, harmless.
fn printable(name: &str) -> String {
    crate::policy::source::quoted(name)
}
