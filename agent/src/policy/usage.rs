//! A limit as a rule states it, and what one call uses of it.

use serde_json::{Map, Value};

use super::{
    LimitUse, Refund, RuleRef, Scope, Window,
    argument::{Argument, kind},
    capture::MAX_EXACT,
};

/// A limit on the calls of a tool, or of all tools.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LimitRule {
    pub(super) counter: String,
    pub(super) scope: Scope,
    pub(super) window: Window,
    pub(super) max: u64,
    pub(super) amount: Amount,
    pub(super) refund: Refund,
    pub(super) rule: RuleRef,
    pub(super) on_deny: Option<String>,
    /// The rule's name, where rules have one: by it, denials go in Intercept's words that have
    /// none of their own.
    pub(super) name: Option<String>,
}

/// How much of a limit a call uses.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Amount {
    Fixed(u64),
    /// What an argument says.
    From(Argument),
}

impl LimitRule {
    /// What the call uses, or why that cannot be told.
    pub(super) fn uses(&self, arguments: &Map<String, Value>) -> Result<LimitUse, String> {
        let amount = match &self.amount {
            Amount::Fixed(amount) => *amount,
            Amount::From(argument) => {
                let value = argument.find(arguments)?;
                amount(value).map_err(|what| {
                    let name = argument.name();
                    format!("`{name}` counts towards a limit, but {what}.")
                })?
            }
        };
        Ok(LimitUse {
            counter: self.counter.clone(),
            scope: self.scope,
            window: self.window,
            max: self.max,
            amount,
            refund: self.refund,
            rule: self.rule.clone(),
            on_deny: self.on_deny.clone(),
        })
    }
}

/// Puts together what a call uses of one counter by several limits: it is counted once, with the
/// largest amount, and the smallest limit holds.
pub(super) fn merge(uses: &mut Vec<LimitUse>, one: LimitUse) {
    let same = uses.iter_mut().find(|other| {
        other.counter == one.counter && other.scope == one.scope && other.window == one.window
    });
    match same {
        None => uses.push(one),
        Some(other) => {
            let amount = other.amount.max(one.amount);
            if one.max < other.max {
                *other = one;
            }
            other.amount = amount;
        }
    }
}

/// Reads an amount; the error goes after `but`.
fn amount(value: Option<&Value>) -> Result<u64, String> {
    let number = match value {
        None | Some(Value::Null) => return Err("is missing".to_owned()),
        Some(Value::Number(number)) => number,
        Some(other) => return Err(format!("is {}", kind(other))),
    };
    let n = match (number.as_u64(), number.as_f64()) {
        (Some(n), _) => n,
        (None, Some(f)) if f < 0.0 => return Err("is negative".to_owned()),
        (None, Some(f)) if f >= 9_007_199_254_740_992.0 => u64::MAX,
        // Through text, as this range has no lossless conversion.
        (None, Some(f)) if f.fract() == 0.0 => format!("{:.0}", f.abs())
            .parse()
            .map_err(|_| "is not a whole number".to_owned())?,
        _ => return Err("is not a whole number".to_owned()),
    };
    if n > MAX_EXACT {
        return Err("is more than can be counted exactly".to_owned());
    }
    Ok(n)
}
