//! Schemas that are put together, and those that ask what the others have left.

use serde_json::{Map, Value};

use super::{Check, Fault, Notes, is_known};

impl Check<'_> {
    pub(super) fn combined(
        &mut self,
        schema: &Map<String, Value>,
        value: &Value,
        notes: &mut Notes,
    ) -> Result<(), Fault> {
        let list = |key: &str| schema.get(key).and_then(Value::as_array);
        for one in list("allOf").into_iter().flatten() {
            let more = self.value(one, value)?;
            self.note(notes, more)?;
        }
        if let Some(all) = list("anyOf") {
            let mut faults = Vec::new();
            let mut fits = false;
            for one in all {
                match self.tried(one, value)? {
                    Ok(more) => {
                        self.note(notes, more)?;
                        fits = true;
                        if !self.schema.notes {
                            break;
                        }
                    }
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
                match self.tried(one, value)? {
                    Ok(more) => {
                        self.note(notes, more)?;
                        fits += 1;
                    }
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
        if let Some(not) = schema.get("not")
            && self.tried(not, value)?.is_ok()
        {
            return self.wrong("is what it must not be".to_owned());
        }
        if let Some(condition) = schema
            .get("if")
            .filter(|_| is_known(self.schema.draft, "if"))
        {
            let next = match self.tried(condition, value)? {
                Ok(more) => {
                    self.note(notes, more)?;
                    "then"
                }
                Err(_) => "else",
            };
            if let Some(next) = schema.get(next) {
                let more = self.value(next, value)?;
                self.note(notes, more)?;
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

    pub(super) fn unevaluated(
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
}
