//! `record`: what of a call's arguments the audit log has besides their names and their digest.

use std::collections::BTreeSet;

use super::{Field, Gather, Loaded};
use crate::policy::{argument::Argument, model::RecordRule};

/// Arguments that one list names.
const MOST: usize = 16;
/// Bytes of an argument's name there.
const LONGEST: usize = 256;

/// Reads `{ values: [interface, capture_filter] }`.
pub(super) fn record(field: &Field<'_>) -> Loaded<RecordRule> {
    const HELP: &str = "Write `record: { values: [ interface, capture_filter ] }`: the audit log has the values of these arguments.";
    let (section, mut gather) = field.open("what is recorded", &["values"])?;
    let arguments = gather.keep(section.read("values", |field| values(field, HELP)));
    if matches!(arguments, Some(None)) && gather.is_clean() {
        gather.add(section.missing("values", HELP));
    }
    let arguments = gather.done(arguments.flatten())?;
    let rule = field.rule();
    Ok(RecordRule { arguments, rule })
}

fn values(field: &Field<'_>, help: &str) -> Loaded<Vec<Argument>> {
    let items = field.items("a list of arguments", help)?;
    if items.is_empty() {
        return Err(field.fault("is an empty list", help));
    }
    if items.len() > MOST {
        let help = "Name those that matter: at most 16.";
        return Err(field.fault("names more than 16 arguments", help));
    }
    let mut known = BTreeSet::new();
    Gather::all(items.iter().map(|item| {
        let name = item.text("an argument's name", help)?;
        let argument =
            Argument::parse(name).map_err(|why| item.fault("is no argument's name", why))?;
        if name.len() > LONGEST {
            return Err(item.fault("is longer than 256 bytes", help));
        }
        if !known.insert(name) {
            return Err(item.fault("is listed twice", "Keep one of them."));
        }
        Ok(argument)
    }))
}
