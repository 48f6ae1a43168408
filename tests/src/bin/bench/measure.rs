//! What a measurement is, on its way to `cargo xtask bench`: one JSON object a line.

use serde_json::{Value, json};

/// What samples are counted in. Times are in seconds.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    Time,
    Rate,
    Bytes,
    Count,
}

/// What is promised of the medians.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// At most this many times the plain one.
    Ratio(f64),
    /// At least this many times the plain one.
    AtLeast(f64),
    /// At most this much more than the plain one.
    Extra(f64),
    /// At most this, whatever the plain one is.
    Most(f64),
    /// Nothing: it is shown for comparison.
    None,
}

/// One thing, measured without and with capwarden, by turns.
pub(crate) struct Measurement {
    pub(crate) what: String,
    pub(crate) unit: Unit,
    pub(crate) plain: Vec<f64>,
    pub(crate) guarded: Vec<f64>,
    pub(crate) target: Target,
}

impl Measurement {
    pub(crate) fn to_json(&self) -> Value {
        let unit = match self.unit {
            Unit::Time => "s",
            Unit::Rate => "/s",
            Unit::Bytes => "B",
            Unit::Count => "",
        };
        let (kind, value) = match self.target {
            Target::Ratio(value) => ("ratio", value),
            Target::AtLeast(value) => ("at_least", value),
            Target::Extra(value) => ("extra", value),
            Target::Most(value) => ("most", value),
            Target::None => ("none", 0.0),
        };
        json!({
            "what": self.what,
            "unit": unit,
            "plain": self.plain,
            "guarded": self.guarded,
            "target": { "kind": kind, "value": value },
        })
    }
}
