//! Reading a schema: everything that a check will come across is looked at once, beforehand.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::{Draft, Schema, pattern::Pattern, step};
use crate::policy::source::quoted;

/// Schemas in one document.
const MOST: usize = 5_000;
/// Schemas in one another.
const DEEPEST: usize = 64;
/// Bytes of the path to a schema: there are as many paths as schemas.
const LONGEST: usize = 4 << 10;
/// Regular expressions in one document.
const MOST_PATTERNS: usize = 200;

const TYPES: [&str; 7] = [
    "null", "boolean", "object", "array", "number", "string", "integer",
];

struct Load<'a> {
    draft: Draft,
    id: Option<String>,
    anchors: HashMap<String, String>,
    patterns: HashMap<String, Pattern>,
    notes: bool,
    /// Schemas to be looked at: where they are, and how deep.
    open: Vec<(String, &'a Value, usize)>,
    /// Those that were, by their addresses in the document.
    seen: HashSet<*const Value>,
    references: Vec<String>,
}

pub(super) fn load(root: &Value) -> Result<Schema, String> {
    let draft = draft(root)?;
    let mut load = Load {
        draft,
        id: None,
        anchors: HashMap::new(),
        patterns: HashMap::new(),
        notes: false,
        open: vec![(String::new(), root, 0)],
        seen: HashSet::new(),
        references: Vec::new(),
    };
    load.all()?;
    let mut schema = Schema {
        root: root.clone(),
        draft,
        id: load.id.take(),
        anchors: std::mem::take(&mut load.anchors),
        patterns: HashMap::new(),
        notes: false,
    };
    // What is only referred to, from where no schema is expected otherwise, may refer to more.
    let mut followed = HashSet::new();
    while let Some(reference) = load.references.pop() {
        if followed.contains(&reference) {
            continue;
        }
        let nowhere = || {
            let reference = quoted(&reference);
            format!("the reference {reference} leads nowhere in it")
        };
        // The same place, in the document that outlives this.
        schema.resolve(&reference).ok_or_else(nowhere)?;
        let pointer = pointer_to(&schema, &reference);
        let here = root.pointer(&pointer).ok_or_else(nowhere)?;
        load.open.push((pointer, here, 1));
        load.all()?;
        schema.anchors.extend(std::mem::take(&mut load.anchors));
        followed.insert(reference);
    }
    schema.patterns = load.patterns;
    schema.notes = load.notes;
    Ok(schema)
}

/// Where a reference that resolves leads to.
fn pointer_to(schema: &Schema, reference: &str) -> String {
    let fragment = reference
        .split_once('#')
        .map_or("", |(_, fragment)| fragment);
    let fragment = super::percent_decoded(fragment).unwrap_or_default();
    match fragment.is_empty() || fragment.starts_with('/') {
        true => fragment,
        false => schema.anchors.get(&fragment).cloned().unwrap_or_default(),
    }
}

fn draft(root: &Value) -> Result<Draft, String> {
    let Some(name) = root.get("$schema") else {
        return Ok(Draft::Of2020);
    };
    let name = name.as_str().ok_or("its `$schema` is no string")?;
    let known = name.trim_end_matches('#');
    let known = known
        .strip_prefix("https://")
        .or_else(|| known.strip_prefix("http://"));
    match known {
        Some("json-schema.org/draft/2020-12/schema") => Ok(Draft::Of2020),
        Some("json-schema.org/draft/2019-09/schema") => Ok(Draft::Of2019),
        Some("json-schema.org/draft-07/schema") => Ok(Draft::Seven),
        Some("json-schema.org/draft-06/schema") => Ok(Draft::Six),
        _ => Err(format!("its `$schema` {} is not known here", quoted(name))),
    }
}

impl<'a> Load<'a> {
    fn all(&mut self) -> Result<(), String> {
        while let Some((pointer, schema, depth)) = self.open.pop() {
            if !self.seen.insert(std::ptr::from_ref(schema)) {
                continue;
            }
            if self.seen.len() > MOST {
                return Err(format!("it has more than {MOST} schemas in it"));
            }
            if pointer.len() > LONGEST {
                return Err("names in it are too long".to_owned());
            }
            if depth > DEEPEST {
                return Err(format!("it is nested more than {DEEPEST} deep"));
            }
            match schema {
                Value::Bool(_) => {}
                Value::Object(schema) => {
                    self.schema(&pointer, schema, depth).map_err(|why| {
                        match pointer.is_empty() {
                            true => why,
                            false => format!("{}: {why}", quoted(&pointer)),
                        }
                    })?;
                }
                _ => return Err(format!("{} is no schema", quoted(&pointer))),
            }
        }
        Ok(())
    }

    fn schema(
        &mut self,
        pointer: &str,
        schema: &'a Map<String, Value>,
        depth: usize,
    ) -> Result<(), String> {
        // Before 2019-09, nothing beside a reference counted.
        let alone = self.draft < Draft::Of2019 && schema.contains_key("$ref");
        for (key, value) in schema {
            if alone && key != "$ref" {
                continue;
            }
            if is_known(self.draft, key) {
                self.keyword(pointer, key, value, depth)
                    .map_err(|why| format!("`{key}` {why}"))?;
            }
        }
        Ok(())
    }

    fn keyword(
        &mut self,
        pointer: &str,
        key: &str,
        value: &'a Value,
        depth: usize,
    ) -> Result<(), String> {
        let at = step(pointer, key);
        match key {
            "$schema" if pointer.is_empty() => {}
            "$schema" => return Err("stands inside".to_owned()),
            "$id" => {
                let id = value.as_str().ok_or("is no string")?;
                match (id.strip_prefix('#'), pointer.is_empty()) {
                    (Some(name), _) if self.draft < Draft::Of2019 => {
                        self.anchors.insert(name.to_owned(), pointer.to_owned());
                    }
                    (_, true) => self.id = Some(id.trim_end_matches('#').to_owned()),
                    (_, false) => return Err("stands inside".to_owned()),
                }
            }
            "$anchor" | "$dynamicAnchor" => {
                let name = value.as_str().ok_or("is no string")?;
                let other = self.anchors.insert(name.to_owned(), pointer.to_owned());
                if other.is_some_and(|other| other != pointer) {
                    return Err("stands twice".to_owned());
                }
            }
            "$ref" | "$dynamicRef" | "$recursiveRef" => {
                let reference = value.as_str().ok_or("is no string")?;
                self.references.push(reference.to_owned());
            }
            "allOf" | "anyOf" | "oneOf" | "prefixItems" => self.list(&at, value, depth)?,
            "items" if value.is_array() && self.draft < Draft::Of2020 => {
                for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                    self.find(step(&at, &n.to_string()), item, depth)?;
                }
            }
            "not"
            | "if"
            | "then"
            | "else"
            | "items"
            | "additionalItems"
            | "contains"
            | "additionalProperties"
            | "propertyNames" => self.find(at, value, depth)?,
            "unevaluatedItems" | "unevaluatedProperties" => {
                self.notes = true;
                self.find(at, value, depth)?;
            }
            "properties" | "$defs" | "definitions" | "dependentSchemas" => {
                self.map(&at, value, depth)?;
            }
            "patternProperties" => {
                self.map(&at, value, depth)?;
                for pattern in value.as_object().into_iter().flat_map(Map::keys) {
                    self.pattern(pattern)?;
                }
            }
            "dependencies" => {
                for (name, one) in value.as_object().ok_or("is no object")? {
                    match one {
                        Value::Array(_) => drop(strings(one)?),
                        one => self.find(step(&at, name), one, depth)?,
                    }
                }
            }
            "dependentRequired" => {
                for one in value.as_object().ok_or("is no object")?.values() {
                    strings(one)?;
                }
            }
            "pattern" => self.pattern(value.as_str().ok_or("is no string")?)?,
            _ => assertion(key, value)?,
        }
        Ok(())
    }

    /// A schema was found in another one.
    fn find(&mut self, at: String, schema: &'a Value, depth: usize) -> Result<(), String> {
        if self.open.len() > MOST {
            return Err(format!("is one of more than {MOST} schemas"));
        }
        self.open.push((at, schema, depth + 1));
        Ok(())
    }

    fn list(&mut self, at: &str, value: &'a Value, depth: usize) -> Result<(), String> {
        let items = value.as_array().filter(|items| !items.is_empty());
        for (n, item) in items.ok_or("is no list of schemas")?.iter().enumerate() {
            self.find(step(at, &n.to_string()), item, depth)?;
        }
        Ok(())
    }

    fn map(&mut self, at: &str, value: &'a Value, depth: usize) -> Result<(), String> {
        for (name, one) in value.as_object().ok_or("is no object")? {
            self.find(step(at, name), one, depth)?;
        }
        Ok(())
    }

    fn pattern(&mut self, pattern: &str) -> Result<(), String> {
        if self.patterns.contains_key(pattern) {
            return Ok(());
        }
        if self.patterns.len() >= MOST_PATTERNS {
            return Err(format!("is one of more than {MOST_PATTERNS} patterns"));
        }
        let read = Pattern::read(pattern)
            .map_err(|why| format!("has a regular expression that cannot be used: {why}"))?;
        self.patterns.insert(pattern.to_owned(), read);
        Ok(())
    }
}

/// A keyword with no schema in it.
fn assertion(key: &str, value: &Value) -> Result<(), String> {
    match key {
        "type" => {
            let known = |name: &Value| name.as_str().is_some_and(|name| TYPES.contains(&name));
            let fits = match value {
                Value::Array(names) => !names.is_empty() && names.iter().all(known),
                name => known(name),
            };
            fits.then_some(()).ok_or("names no type")?;
        }
        "enum" => drop(value.as_array().ok_or("is no list")?),
        "required" => drop(strings(value)?),
        "uniqueItems" => drop(value.as_bool().ok_or("is neither true nor false")?),
        "multipleOf" => {
            let number = value.as_f64().filter(|number| *number > 0.0);
            number.ok_or("is no number above 0")?;
        }
        "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
            value.as_f64().ok_or("is no number")?;
        }
        "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties"
        | "minContains" | "maxContains" => {
            super::check::count(value).ok_or("is no whole number from 0 on")?;
        }
        _ => {}
    }
    Ok(())
}

fn strings(value: &Value) -> Result<Vec<&str>, String> {
    let names = value.as_array().and_then(|names| {
        let names = names.iter().map(Value::as_str);
        names.collect::<Option<Vec<&str>>>()
    });
    names.ok_or_else(|| "is no list of strings".to_owned())
}

/// Whether the revision has the keyword; what it has not is no more than a note. (`dependencies`, which
/// later ones have not, they let a reader understand all the same.)
pub(super) fn is_known(draft: Draft, key: &str) -> bool {
    match key {
        "prefixItems" | "$dynamicRef" | "$dynamicAnchor" => draft == Draft::Of2020,
        "$recursiveRef" => draft == Draft::Of2019,
        "additionalItems" => draft < Draft::Of2020,
        "dependentSchemas"
        | "dependentRequired"
        | "unevaluatedItems"
        | "unevaluatedProperties"
        | "minContains"
        | "maxContains"
        | "$anchor" => draft >= Draft::Of2019,
        "if" | "then" | "else" => draft >= Draft::Seven,
        _ => true,
    }
}
