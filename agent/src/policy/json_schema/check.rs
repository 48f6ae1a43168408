//! Checking a value: every look costs a step, and there are only so many.

use std::{cmp::Ordering, collections::BTreeSet};

use serde_json::{Map, Number, Value};

use super::{Draft, Fault, Schema, load::is_known};
use crate::policy::{argument::kind, units};

/// Steps of one check: some milliseconds.
const STEPS: usize = 200_000;
/// Schemas that wait for one another, references that lead to themselves among them.
const DEEPEST: usize = 200;
/// Bytes of a pointer that is told.
const LONGEST: usize = 160;
/// Values of an `enum` that are told.
const TOLD: usize = 8;

/// What schemas have looked at, for those that ask what is left.
#[derive(Clone, Debug, Default)]
struct Notes {
    members: BTreeSet<String>,
    all_members: bool,
    items: BTreeSet<usize>,
    all_items: bool,
}

impl Notes {
    fn add(&mut self, other: Self) {
        self.members.extend(other.members);
        self.all_members |= other.all_members;
        self.items.extend(other.items);
        self.all_items |= other.all_items;
    }
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

/// A whole number from 0 on.
pub(super) fn count(value: &Value) -> Option<u64> {
    let whole = |number: f64| number >= 0.0 && number.fract() == 0.0 && number < 1e15;
    value.as_u64().or_else(|| {
        let number = value.as_f64().filter(|number| whole(*number))?;
        format!("{number:.0}").parse().ok()
    })
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
                notes.add(self.reference(reference, value)?);
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
        let target = reference.as_str().and_then(|it| whole.resolve(it));
        match target {
            Some(target) => self.value(target, value),
            // Loading has seen to it.
            None => Err(Fault::TooMuch),
        }
    }

    /// What is asked of values of all types.
    fn simple(&mut self, schema: &Map<String, Value>, value: &Value) -> Result<(), Fault> {
        match schema.get("type") {
            Some(Value::String(name)) if !is_of(name, value) => {
                let why = format!("is {}, not {}", kind(value), with_article(name));
                return self.fault(why, true);
            }
            Some(Value::Array(names)) => {
                let names = || names.iter().filter_map(Value::as_str);
                if !names().any(|name| is_of(name, value)) {
                    let names: Vec<String> = names().map(with_article).collect();
                    let why = format!("is {}, not {}", kind(value), units::either(&names, "or"));
                    return self.fault(why, true);
                }
            }
            _ => {}
        }
        if let Some(Value::Array(values)) = schema.get("enum") {
            let mut found = false;
            for one in values {
                found = found || self.same(one, value)?;
            }
            if !found {
                let told: Vec<String> = values.iter().take(TOLD).map(told).collect();
                let why = match values.len().checked_sub(TOLD) {
                    None | Some(0) => format!("is not {}", units::either(&told, "or")),
                    Some(more) => format!("is not {} or one of {more} more", told.join(", ")),
                };
                return self.wrong(why);
            }
        }
        if let Some(one) = schema.get("const")
            && !self.same(one, value)?
        {
            return self.wrong(format!("is not {}", told(one)));
        }
        Ok(())
    }

    fn number(&mut self, schema: &Map<String, Value>, number: &Number) -> Result<(), Fault> {
        let bound = |key: &str| match schema.get(key) {
            Some(Value::Number(bound)) => Some((compare(number, bound), bound)),
            _ => None,
        };
        let bad = [
            ("minimum", &[Ordering::Less][..], "is less than"),
            ("maximum", &[Ordering::Greater], "is more than"),
            (
                "exclusiveMinimum",
                &[Ordering::Less, Ordering::Equal],
                "is not more than",
            ),
            (
                "exclusiveMaximum",
                &[Ordering::Greater, Ordering::Equal],
                "is not less than",
            ),
        ];
        for (key, wrong, words) in bad {
            if let Some((order, bound)) = bound(key)
                && order.is_none_or(|order| wrong.contains(&order))
            {
                return self.wrong(format!("{number} {words} {bound}"));
            }
        }
        if let Some(Value::Number(step)) = schema.get("multipleOf")
            && !is_multiple(number, step)
        {
            return self.wrong(format!("{number} is no multiple of {step}"));
        }
        Ok(())
    }

    fn string(&mut self, schema: &Map<String, Value>, text: &str) -> Result<(), Fault> {
        self.spend(text.len() / 64)?;
        let most = schema.get("maxLength").and_then(count);
        let least = schema.get("minLength").and_then(count);
        if most.is_some() || least.is_some() {
            let length = number_of(text.chars().count());
            if let Some(most) = most.filter(|most| length > *most) {
                return self.wrong(format!(
                    "has {length} characters, and at most {most} may be"
                ));
            }
            if let Some(least) = least.filter(|least| length < *least) {
                return self.wrong(format!("has {length} characters, not at least {least}"));
            }
        }
        if let Some(Value::String(pattern)) = schema.get("pattern")
            && !self.matches(pattern, text)?
        {
            let pattern = pattern.replace(char::is_control, " ");
            return self.wrong(format!("does not match {pattern}"));
        }
        Ok(())
    }

    fn matches(&mut self, pattern: &str, text: &str) -> Result<bool, Fault> {
        self.spend(1 + text.len() / 8)?;
        let regex = self.schema.patterns.get(pattern).ok_or(Fault::TooMuch)?;
        Ok(regex.is_match(text))
    }

    fn array(
        &mut self,
        schema: &Map<String, Value>,
        items: &[Value],
        notes: &mut Notes,
    ) -> Result<(), Fault> {
        let length = number_of(items.len());
        if let Some(most) = schema.get("maxItems").and_then(count)
            && length > most
        {
            return self.wrong(format!("has {length} items, and at most {most} may be"));
        }
        if let Some(least) = schema.get("minItems").and_then(count)
            && length < least
        {
            return self.wrong(format!("has {length} items, not at least {least}"));
        }
        let draft = self.schema.draft;
        let (first, rest) = match (draft, schema.get("items")) {
            (Draft::Of2020, rest) => (schema.get("prefixItems"), rest),
            (_, Some(first @ Value::Array(_))) => (Some(first), schema.get("additionalItems")),
            (_, rest) => (None, rest),
        };
        let first: &[Value] = first.and_then(Value::as_array).map_or(&[], Vec::as_slice);
        for (n, item) in items.iter().enumerate() {
            let Some(schema) = first.get(n).or(rest) else {
                break;
            };
            self.inner(n.to_string(), schema, item)?;
            if self.schema.notes {
                notes.items.insert(n);
            }
        }
        notes.all_items |= rest.is_some();
        if schema.get("uniqueItems") == Some(&Value::Bool(true)) {
            self.unique(items)?;
        }
        self.contains(schema, items, notes)
    }

    fn unique(&mut self, items: &[Value]) -> Result<(), Fault> {
        for (n, item) in items.iter().enumerate() {
            for (other, before) in items.iter().take(n).enumerate() {
                if self.same(item, before)? {
                    return self.wrong(format!("has the same item at {other} and {n}"));
                }
            }
        }
        Ok(())
    }

    fn contains(
        &mut self,
        schema: &Map<String, Value>,
        items: &[Value],
        notes: &mut Notes,
    ) -> Result<(), Fault> {
        let Some(wanted) = schema.get("contains") else {
            return Ok(());
        };
        let bound = |key: &str| {
            let value = schema.get(key).filter(|_| is_known(self.schema.draft, key));
            value.and_then(count)
        };
        let (least, most) = (bound("minContains").unwrap_or(1), bound("maxContains"));
        let mut found = 0_u64;
        for (n, item) in items.iter().enumerate() {
            match self.inner(n.to_string(), wanted, item) {
                Ok(()) => {
                    found += 1;
                    if self.schema.draft == Draft::Of2020 && self.schema.notes {
                        notes.items.insert(n);
                    }
                }
                Err(Fault::TooMuch) => return Err(Fault::TooMuch),
                Err(Fault::Wrong { .. }) => {}
            }
        }
        if found < least {
            return self.wrong(format!(
                "has {found} items of a kind of which there must be {least}"
            ));
        }
        if let Some(most) = most.filter(|most| found > *most) {
            return self.wrong(format!(
                "has {found} items of a kind of which at most {most} may be"
            ));
        }
        Ok(())
    }

    fn object(
        &mut self,
        schema: &Map<String, Value>,
        object: &Map<String, Value>,
        notes: &mut Notes,
    ) -> Result<(), Fault> {
        self.required(schema, object)?;
        let length = number_of(object.len());
        if let Some(most) = schema.get("maxProperties").and_then(count)
            && length > most
        {
            return self.wrong(format!("has {length} members, and at most {most} may be"));
        }
        if let Some(least) = schema.get("minProperties").and_then(count)
            && length < least
        {
            return self.wrong(format!("has {length} members, not at least {least}"));
        }
        let map = |key: &str| schema.get(key).and_then(Value::as_object);
        let (named, patterns) = (map("properties"), map("patternProperties"));
        let (others, names) = (
            schema.get("additionalProperties"),
            schema.get("propertyNames"),
        );
        for (name, value) in object {
            self.spend(1 + name.len() / 64)?;
            let mut known = false;
            if let Some(schema) = named.and_then(|named| named.get(name)) {
                known = true;
                self.inner(name.clone(), schema, value)?;
            }
            for (pattern, schema) in patterns.into_iter().flatten() {
                if self.matches(pattern, name)? {
                    known = true;
                    self.inner(name.clone(), schema, value)?;
                }
            }
            if let (false, Some(others)) = (known, others) {
                if *others == Value::Bool(false) {
                    let known = named.into_iter().flat_map(Map::keys).take(TOLD);
                    let known: Vec<String> = known.map(|name| printable(name)).collect();
                    let why = match known.is_empty() {
                        true => "is not known to the tool".to_owned(),
                        false => {
                            let known = units::either(&known, "or");
                            format!("is not known to the tool, as {known} would be")
                        }
                    };
                    return self.inner_fault(name, why);
                }
                known = true;
                self.inner(name.clone(), others, value)?;
            }
            if known && self.schema.notes {
                notes.members.insert(name.clone());
            }
            if let Some(names) = names {
                self.inner(name.clone(), names, &Value::from(name.as_str()))?;
            }
        }
        Ok(())
    }

    fn required(
        &mut self,
        schema: &Map<String, Value>,
        object: &Map<String, Value>,
    ) -> Result<(), Fault> {
        let missing = |names: &Value| -> Vec<String> {
            let names = names.as_array().into_iter().flatten();
            let names = names.filter_map(Value::as_str);
            let missing = names.filter(|name| !object.contains_key(*name));
            missing.take(TOLD).map(printable).collect()
        };
        if let Some(names) = schema.get("required") {
            self.spend(names.as_array().map_or(0, Vec::len))?;
            let missing = missing(names);
            if !missing.is_empty() {
                return self.wrong(format!("lacks {}", units::either(&missing, "and")));
            }
        }
        for key in ["dependentRequired", "dependencies"] {
            let map = schema.get(key).filter(|_| is_known(self.schema.draft, key));
            for (name, names) in map.and_then(Value::as_object).into_iter().flatten() {
                self.spend(1 + names.as_array().map_or(0, Vec::len))?;
                if !object.contains_key(name) {
                    continue;
                }
                let missing = missing(names);
                if !missing.is_empty() {
                    let list = units::either(&missing, "and");
                    return self.wrong(format!("has {} and lacks {list}", printable(name)));
                }
            }
        }
        Ok(())
    }

    /// Schemas that hold where a member is there.
    fn depending(
        &mut self,
        schema: &Map<String, Value>,
        value: &Value,
        notes: &mut Notes,
    ) -> Result<(), Fault> {
        for key in ["dependentSchemas", "dependencies"] {
            let map = schema.get(key).filter(|_| is_known(self.schema.draft, key));
            for (name, one) in map.and_then(Value::as_object).into_iter().flatten() {
                if value.get(name).is_some() && !one.is_array() {
                    notes.add(self.value(one, value)?);
                }
            }
        }
        Ok(())
    }

    fn combined(
        &mut self,
        schema: &Map<String, Value>,
        value: &Value,
        notes: &mut Notes,
    ) -> Result<(), Fault> {
        let list = |key: &str| schema.get(key).and_then(Value::as_array);
        for one in list("allOf").into_iter().flatten() {
            notes.add(self.value(one, value)?);
        }
        if let Some(all) = list("anyOf") {
            let mut faults = Vec::new();
            let mut fits = false;
            for one in all {
                match self.value(one, value) {
                    Ok(more) => {
                        notes.add(more);
                        fits = true;
                        if !self.schema.notes {
                            break;
                        }
                    }
                    Err(Fault::TooMuch) => return Err(Fault::TooMuch),
                    Err(fault) => faults.push(fault),
                }
            }
            if !fits {
                return self.none_of(&faults);
            }
        }
        if let Some(all) = list("oneOf") {
            let mut faults = Vec::new();
            let mut fits = 0;
            for one in all {
                match self.value(one, value) {
                    Ok(more) => {
                        notes.add(more);
                        fits += 1;
                    }
                    Err(Fault::TooMuch) => return Err(Fault::TooMuch),
                    Err(fault) => faults.push(fault),
                }
            }
            if fits == 0 {
                return self.none_of(&faults);
            }
            if fits > 1 {
                return self.wrong(format!(
                    "fits {fits} of the alternatives, of which it must fit one"
                ));
            }
        }
        if let Some(not) = schema.get("not") {
            match self.value(not, value) {
                Ok(_) => return self.wrong("is what it must not be".to_owned()),
                Err(Fault::TooMuch) => return Err(Fault::TooMuch),
                Err(Fault::Wrong { .. }) => {}
            }
        }
        if let Some(condition) = schema
            .get("if")
            .filter(|_| is_known(self.schema.draft, "if"))
        {
            let next = match self.value(condition, value) {
                Ok(more) => {
                    notes.add(more);
                    "then"
                }
                Err(Fault::TooMuch) => return Err(Fault::TooMuch),
                Err(Fault::Wrong { .. }) => "else",
            };
            if let Some(next) = schema.get(next) {
                notes.add(self.value(next, value)?);
            }
        }
        Ok(())
    }

    /// What is wrong with a value that fits no alternative: with the one that was meant, if the others
    /// are for values of other types.
    fn none_of<T>(&self, faults: &[Fault]) -> Result<T, Fault> {
        let is_type = |fault: &Fault| matches!(fault, Fault::Wrong { of_type: true, .. });
        let mut meant = faults.iter().filter(|fault| !is_type(fault));
        match (meant.next(), meant.next()) {
            (Some(only), None) => Err(only.clone()),
            _ => self.wrong(match faults {
                [only] => return Err(only.clone()),
                all => format!("fits none of the {} alternatives", all.len()),
            }),
        }
    }

    fn unevaluated(
        &mut self,
        schema: &Map<String, Value>,
        value: &Value,
        notes: &mut Notes,
    ) -> Result<(), Fault> {
        if !self.schema.notes {
            return Ok(());
        }
        let asked = |key: &str| schema.get(key).filter(|_| is_known(self.schema.draft, key));
        if let (Value::Object(object), Some(rest)) = (value, asked("unevaluatedProperties")) {
            if !notes.all_members {
                for (name, value) in object {
                    if !notes.members.contains(name) {
                        self.inner(name.clone(), rest, value)?;
                    }
                }
            }
            notes.all_members = true;
        }
        if let (Value::Array(items), Some(rest)) = (value, asked("unevaluatedItems")) {
            if !notes.all_items {
                for (n, item) in items.iter().enumerate() {
                    if !notes.items.contains(&n) {
                        self.inner(n.to_string(), rest, item)?;
                    }
                }
            }
            notes.all_items = true;
        }
        Ok(())
    }

    /// Equal as JSON Schema has it: numbers by value, objects in any order.
    fn same(&mut self, a: &Value, b: &Value) -> Result<bool, Fault> {
        self.spend(1)?;
        Ok(match (a, b) {
            (Value::Number(a), Value::Number(b)) => compare(a, b) == Some(Ordering::Equal),
            (Value::String(a), Value::String(b)) => {
                self.spend(a.len().min(b.len()) / 64)?;
                a == b
            }
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                for (a, b) in a.iter().zip(b) {
                    if !self.same(a, b)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Value::Object(a), Value::Object(b)) if a.len() == b.len() => {
                for (key, a) in a {
                    match b.get(key) {
                        Some(b) if self.same(a, b)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Null, Value::Null) => true,
            _ => false,
        })
    }
}

fn number_of(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn is_of(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "integer" => value.as_number().is_some_and(|it| whole(it).is_some()),
        _ => false,
    }
}

fn with_article(name: &str) -> String {
    match name {
        "null" => "null".to_owned(),
        "array" => "a list".to_owned(),
        "integer" => "a whole number".to_owned(),
        "object" => "an object".to_owned(),
        name => format!("a {name}"),
    }
}

/// A number without a fraction, exactly.
fn whole(number: &Number) -> Option<i128> {
    if let Some(number) = number.as_i64() {
        return Some(number.into());
    }
    if let Some(number) = number.as_u64() {
        return Some(number.into());
    }
    let number = number.as_f64().filter(|number| number.fract() == 0.0)?;
    // Beyond this every double is whole, and none is compared exactly.
    (number.abs() < 1e30).then(|| format!("{number:.0}").parse().ok())?
}

fn compare(a: &Number, b: &Number) -> Option<Ordering> {
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}

fn is_multiple(number: &Number, step: &Number) -> bool {
    if let (Some(number), Some(step)) = (whole(number), whole(step)) {
        return step != 0 && number % step == 0;
    }
    let (Some(number), Some(step)) = (number.as_f64(), step.as_f64()) else {
        return false;
    };
    // 0.3 is a multiple of 0.1, though no double is.
    let times = number / step;
    times.is_finite() && (times - times.round()).abs() <= 1e-9 * times.abs().max(1.0)
}

/// A name of the schema's or the call's, harmless.
fn printable(name: &str) -> String {
    crate::policy::source::quoted(name)
}

/// A value of the schema's.
fn told(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text),
        Value::Array(_) | Value::Object(_) => kind(value).to_owned(),
        simple => simple.to_string(),
    }
}
