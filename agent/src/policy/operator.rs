//! The operators that conditions and arguments are held to.

use std::cmp::Ordering;

use regex::Regex;
use serde_json::{Number, Value, json};

use super::{
    argument::{kind, same},
    number, units,
};

/// What a value is compared with.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Operator {
    /// There and not null, or not.
    Exists(bool),
    Equal(Value),
    Unequal(Value),
    OneOf(Vec<Value>),
    NoneOf(Vec<Value>),
    Less(Bound),
    AtMost(Bound),
    More(Bound),
    AtLeast(Bound),
    /// A string in which the regular expression matches somewhere.
    Matches(Pattern),
    /// A string with this part, or a list with this item.
    Contains(Value),
}

/// A number that others are compared with. Whole numbers stay whole, so that the comparison is
/// exact where a decimal's would not be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bound {
    Whole(i64),
    Decimal(f64),
}

/// A regular expression, as written and compiled.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    pub(super) written: String,
    pub(super) regex: Regex,
}

/// Equal if they match the same; what is written may be another vendor's spelling of it.
impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str()
    }
}

/// What can be said of a comparison. A rule that demands something needs [`Truth::Yes`], one that
/// denies is satisfied with whatever is not [`Truth::No`]: what is open is never a way through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Truth {
    Yes,
    No,
    /// The value is of a type that the operator does not compare, and a server might read it as
    /// one that it does: `"5"` as 5.
    Open,
}

/// When a string and what is no string are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Equality {
    /// Never, but where their texts are the same it is open.
    ByType,
    /// Where their texts are the same: `"5"` is 5, `"true"` is true.
    ByText,
}

impl From<bool> for Truth {
    fn from(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

impl Truth {
    fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Open => Self::Open,
        }
    }

    /// Yes if any is, and open if any of the others is.
    fn any(each: impl Iterator<Item = Self>) -> Self {
        each.fold(Self::No, |all, one| match (all, one) {
            (Self::Yes, _) | (_, Self::Yes) => Self::Yes,
            (Self::Open, _) | (_, Self::Open) => Self::Open,
            (Self::No, Self::No) => Self::No,
        })
    }
}

impl Operator {
    /// What can be said of a value; null is no value, as in most servers' languages.
    ///
    /// Of no value, what asks for something is not so; what asks for something else is open, as
    /// the server may put in the very value that is not wanted.
    pub(super) fn compare(&self, value: Option<&Value>, equality: Equality) -> Truth {
        let value = value.filter(|value| !value.is_null());
        if let Self::Exists(wanted) = self {
            return (value.is_some() == *wanted).into();
        }
        let Some(value) = value else {
            return match self {
                Self::Unequal(_) | Self::NoneOf(_) => Truth::Open,
                _ => Truth::No,
            };
        };
        let order = |bound: &Bound, wanted: fn(Ordering) -> bool| match bound.order(value) {
            Some(order) => wanted(order).into(),
            None => Truth::Open,
        };
        match self {
            Self::Exists(wanted) => (*wanted).into(),
            Self::Equal(other) => equal(value, other, equality),
            Self::Unequal(other) => equal(value, other, equality).not(),
            Self::OneOf(list) => Truth::any(list.iter().map(|one| equal(value, one, equality))),
            Self::NoneOf(list) => {
                Truth::any(list.iter().map(|one| equal(value, one, equality))).not()
            }
            Self::Less(bound) => order(bound, Ordering::is_lt),
            Self::AtMost(bound) => order(bound, Ordering::is_le),
            Self::More(bound) => order(bound, Ordering::is_gt),
            Self::AtLeast(bound) => order(bound, Ordering::is_ge),
            Self::Matches(pattern) => match value {
                Value::String(text) => pattern.regex.is_match(text).into(),
                _ => Truth::Open,
            },
            Self::Contains(part) => match (value, part) {
                (Value::String(text), Value::String(part)) => text.contains(part).into(),
                (Value::Array(items), part) => {
                    Truth::any(items.iter().map(|item| equal(item, part, equality)))
                }
                _ => Truth::Open,
            },
        }
    }

    /// Whether it asks if values are equal, so that it matters when they are.
    pub(super) fn compares_values(&self) -> bool {
        match self {
            Self::Equal(_)
            | Self::Unequal(_)
            | Self::OneOf(_)
            | Self::NoneOf(_)
            | Self::Contains(_) => true,
            Self::Exists(_)
            | Self::Less(_)
            | Self::AtMost(_)
            | Self::More(_)
            | Self::AtLeast(_)
            | Self::Matches(_) => false,
        }
    }

    /// What a value that satisfies this is, to go after `is` or `send`: `at most 5`.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Exists(true) => "sent".to_owned(),
            Self::Exists(false) => "not sent".to_owned(),
            Self::Equal(value) => plain(value),
            Self::Unequal(value) => format!("something other than {}", plain(value)),
            Self::OneOf(values) => format!("one of {}", either(values)),
            Self::NoneOf(values) => format!("something other than {}", either(values)),
            Self::Less(bound) => format!("less than {bound}"),
            Self::AtMost(bound) => format!("at most {bound}"),
            Self::More(bound) => format!("more than {bound}"),
            Self::AtLeast(bound) => format!("at least {bound}"),
            Self::Matches(pattern) => format!("something that {} matches", pattern.plain()),
            Self::Contains(part) => format!("something that contains {}", plain(part)),
        }
    }

    /// What a value that does not satisfy this is.
    pub(super) fn opposite(&self) -> String {
        match self {
            Self::Exists(wanted) => Self::Exists(!wanted).words(),
            Self::Equal(value) => Self::Unequal(value.clone()).words(),
            Self::Unequal(value) => plain(value),
            Self::OneOf(values) => format!("something other than {}", either(values)),
            Self::NoneOf(values) => format!("one of {}", either(values)),
            Self::Less(bound) => format!("at least {bound}"),
            Self::AtMost(bound) => format!("more than {bound}"),
            Self::More(bound) => format!("at most {bound}"),
            Self::AtLeast(bound) => format!("less than {bound}"),
            Self::Matches(pattern) => {
                format!("something that {} does not match", pattern.plain())
            }
            Self::Contains(part) => format!("something that does not contain {}", plain(part)),
        }
    }

    /// The same for programs: `{"at_most": 5}`, under the names of our own language.
    pub(super) fn data(&self) -> (&'static str, Value) {
        match self {
            Self::Exists(wanted) => ("absent", json!(!wanted)),
            Self::Equal(value) => ("equals", value.clone()),
            Self::Unequal(value) => ("not_equals", value.clone()),
            Self::OneOf(values) => ("one_of", json!(values)),
            Self::NoneOf(values) => ("none_of", json!(values)),
            Self::Less(bound) => ("less_than", bound.value()),
            Self::AtMost(bound) => ("no_more_than", bound.value()),
            Self::More(bound) => ("more_than", bound.value()),
            Self::AtLeast(bound) => ("at_least", bound.value()),
            Self::Matches(pattern) => ("matches", json!(pattern.written)),
            Self::Contains(part) => ("contains", part.clone()),
        }
    }

    /// Why a value that is there does not satisfy this, to go after the argument's name.
    pub(super) fn refusal(&self, value: Option<&Value>) -> String {
        match value.filter(|value| !value.is_null()) {
            None => "is missing".to_owned(),
            Some(value) if self.compare(Some(value), Equality::ByType) == Truth::Open => {
                format!("is {}, which cannot be compared", kind(value))
            }
            Some(_) => format!("is {}", self.opposite()),
        }
    }
}

impl Pattern {
    /// As written, on one line.
    fn plain(&self) -> String {
        self.written.replace(char::is_control, " ")
    }
}

impl Bound {
    /// How a value stands to this; none if it is no number, or so large that digits may be lost.
    fn order(self, value: &Value) -> Option<Ordering> {
        let Value::Number(number) = value else {
            return None;
        };
        let bound = match self {
            Self::Whole(n) => Number::from(n),
            Self::Decimal(n) => Number::from_f64(n)?,
        };
        number::compare(number, &bound)
    }

    pub(super) fn decimal(self) -> f64 {
        match self {
            // Through text, as this range has no lossless conversion; these are at most 2^53.
            Self::Whole(n) => n.to_string().parse().unwrap_or(f64::NAN),
            Self::Decimal(n) => n,
        }
    }

    pub(super) fn value(self) -> Value {
        match self {
            Self::Whole(n) => json!(n),
            Self::Decimal(n) => json!(n),
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(n) => write!(f, "{n}"),
            Self::Decimal(n) => write!(f, "{n}"),
        }
    }
}

/// Open where some servers read the one as the other: `" 022"` as 22, 1 or `"yes"` as true.
fn equal(value: &Value, other: &Value, equality: Equality) -> Truth {
    if same(value, other) {
        return Truth::Yes;
    }
    match (scalar_text(value), scalar_text(other)) {
        (Some(a), Some(b)) if a == b => match equality {
            Equality::ByType => Truth::Open,
            Equality::ByText => Truth::Yes,
        },
        _ if read_as(value, other) => Truth::Open,
        _ => Truth::No,
    }
}

/// Whether a lenient server could read what was sent as the value that a policy means.
fn read_as(sent: &Value, meant: &Value) -> bool {
    const WORDS: [&str; 13] = [
        "", "0", "1", "f", "false", "n", "no", "off", "on", "t", "true", "y", "yes",
    ];
    let is_word = |text: &str| WORDS.contains(&text.trim().to_ascii_lowercase().as_str());
    let truth = |yes: bool| if yes { 1.0 } else { 0.0 };
    match (sent, meant) {
        (Value::String(text), Value::Number(number))
        | (Value::Number(number), Value::String(text)) => {
            let text = text.trim();
            match text.parse::<f64>() {
                Ok(read) => number.as_f64() == Some(read),
                // In another base, with other digits, with separators; and nothing is 0 to some.
                Err(_) => text.is_empty() || text.chars().any(char::is_numeric),
            }
        }
        (Value::String(text), Value::Bool(_)) | (Value::Bool(_), Value::String(text)) => {
            is_word(text)
        }
        (Value::Number(number), Value::Bool(yes)) => number
            .as_f64()
            .is_some_and(|number| (number != 0.0) == *yes),
        (Value::Bool(yes), Value::Number(number)) => number.as_f64() == Some(truth(*yes)),
        _ => false,
    }
}

/// What a scalar looks like when it is written out; a whole number has no point.
fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Number(number) => Some(match number.as_f64() {
            Some(n) if number.is_f64() => n.to_string(),
            _ => number.to_string(),
        }),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn either(values: &[Value]) -> String {
    let words: Vec<String> = values.iter().map(plain).collect();
    units::either(&words, "or")
}

/// A value as a sentence may carry it: JSON, cut where it is long.
fn plain(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = value.to_string();
    if text.chars().nth(LONGEST).is_none() {
        return text;
    }
    text.chars().take(LONGEST).chain(['…']).collect()
}
