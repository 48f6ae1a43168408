//! One spelling for equal JSON.

use serde_json::{Map, Number, Value};

/// A number that is not kept as it was sent, so that an approval of it could be used for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inexact;

/// The integers that a double has all of.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// An object without white space, its keys in the order of their bytes, at every depth.
///
/// Numbers are what the gate reads: a whole number that fits 64 bits as it is, any other as a double,
/// of which `1.0` and `1` are different. Whole numbers so large that a double does not have all of
/// them are refused: servers that read them exactly would take two for different that are one here.
pub(super) fn object(object: &Map<String, Value>) -> Result<String, Inexact> {
    let mut text = String::new();
    write_object(object, &mut text)?;
    Ok(text)
}

fn write_object(object: &Map<String, Value>, text: &mut String) -> Result<(), Inexact> {
    let mut members: Vec<(&String, &Value)> = object.iter().collect();
    members.sort_unstable_by_key(|(key, _)| *key);
    text.push('{');
    for (number, (key, value)) in members.into_iter().enumerate() {
        if number > 0 {
            text.push(',');
        }
        text.push_str(&Value::from(key.as_str()).to_string());
        text.push(':');
        write(value, text)?;
    }
    text.push('}');
    Ok(())
}

/// Goes as deep as the value, which the gate reads to a depth of 128 only.
fn write(value: &Value, text: &mut String) -> Result<(), Inexact> {
    match value {
        Value::Object(object) => return write_object(object, text),
        Value::Array(values) => {
            text.push('[');
            for (number, value) in values.iter().enumerate() {
                if number > 0 {
                    text.push(',');
                }
                write(value, text)?;
            }
            text.push(']');
        }
        Value::Number(number) if !is_exact(number) => return Err(Inexact),
        simple => text.push_str(&simple.to_string()),
    }
    Ok(())
}

fn is_exact(number: &Number) -> bool {
    let whole = number.is_i64() || number.is_u64();
    whole || number.as_f64().is_some_and(|value| value.abs() < EXACT)
}
