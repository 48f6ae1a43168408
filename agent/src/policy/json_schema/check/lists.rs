//! What is asked of lists.

use serde_json::{Map, Value};

use super::{Check, Draft, Fault, Notes, count, is_known, number_of};

impl Check<'_> {
    pub(super) fn array(
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
            self.at.push(n.to_string());
            let tried = self.tried(wanted, item);
            self.at.pop();
            if tried?.is_ok() {
                found += 1;
                if self.schema.draft == Draft::Of2020 && self.schema.notes {
                    notes.items.insert(n);
                }
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
}
