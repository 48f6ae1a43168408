//! What is asked of objects.

use serde_json::{Map, Value};

use super::{Check, Fault, Notes, TOLD, count, is_known, number_of, printable};
use crate::policy::units;

impl Check<'_> {
    pub(super) fn object(
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
    pub(super) fn depending(
        &mut self,
        schema: &Map<String, Value>,
        value: &Value,
        notes: &mut Notes,
    ) -> Result<(), Fault> {
        for key in ["dependentSchemas", "dependencies"] {
            let map = schema.get(key).filter(|_| is_known(self.schema.draft, key));
            for (name, one) in map.and_then(Value::as_object).into_iter().flatten() {
                self.spend(1 + name.len() / 64)?;
                if value.get(name).is_some() && !one.is_array() {
                    let more = self.value(one, value)?;
                    self.note(notes, more)?;
                }
            }
        }
        Ok(())
    }
}
