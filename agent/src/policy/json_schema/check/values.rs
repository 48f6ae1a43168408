//! What is asked of values of all types, of numbers and of texts.

use std::cmp::Ordering;

use serde_json::{Map, Number, Value};

use super::{
    Check, Fault, TOLD, count, number_of,
    numbers::{compare, is_multiple, is_whole},
    printable,
};
use crate::policy::{argument::kind, units};

impl Check<'_> {
    /// What is asked of values of all types.
    pub(super) fn simple(
        &mut self,
        schema: &Map<String, Value>,
        value: &Value,
    ) -> Result<(), Fault> {
        match schema.get("type") {
            Some(Value::String(name)) if !is_of(name, value) => {
                let why = format!("is {}, not {}", kind(value), with_article(name));
                return self.fault(why, true);
            }
            Some(Value::Array(names)) => {
                self.spend(names.len() / 8)?;
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

    pub(super) fn number(
        &mut self,
        schema: &Map<String, Value>,
        number: &Number,
    ) -> Result<(), Fault> {
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
            if let Some(Value::Number(bound)) = schema.get(key)
                && wrong.contains(&compare(number, bound)?)
            {
                return self.wrong(format!("{number} {words} {bound}"));
            }
        }
        if let Some(Value::Number(step)) = schema.get("multipleOf")
            && !is_multiple(number, step)?
        {
            return self.wrong(format!("{number} is no multiple of {step}"));
        }
        Ok(())
    }

    pub(super) fn string(&mut self, schema: &Map<String, Value>, text: &str) -> Result<(), Fault> {
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

    pub(super) fn matches(&mut self, pattern: &str, text: &str) -> Result<bool, Fault> {
        let regex = self.schema.patterns.get(pattern).ok_or(Fault::TooMuch)?;
        self.spend(1 + pattern.len() / 64 + regex.weight() * text.len() / 4)?;
        Ok(regex.is_match(text))
    }

    /// Equal as JSON Schema has it: numbers by value, objects in any order.
    pub(super) fn same(&mut self, a: &Value, b: &Value) -> Result<bool, Fault> {
        self.spend(1)?;
        Ok(match (a, b) {
            (Value::Number(a), Value::Number(b)) => compare(a, b)? == Ordering::Equal,
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

fn is_of(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "integer" => value.as_number().is_some_and(is_whole),
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

/// A value of the schema's.
fn told(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text),
        Value::Array(_) | Value::Object(_) => kind(value).to_owned(),
        simple => simple.to_string(),
    }
}
