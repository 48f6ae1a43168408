//! Numbers, compared by what they are: a fraction is the decimal that stands in the text, which a double
//! is read from.
//!
//! What is too large for 64 bits has been read as a double too, though it may have had more digits. Of
//! two of those that read alike, nobody knows here whether they are.

use std::cmp::Ordering;

use serde_json::{Number, Value};

use super::Fault;
use crate::policy::number::{self, LOST, exact};

/// A number as digits and a power of ten.
struct Decimal {
    digits: u128,
    power: i32,
}

/// A whole number from 0 on.
pub(in crate::policy::json_schema) fn count(value: &Value) -> Option<u64> {
    let whole = |number: f64| number >= 0.0 && number.fract() == 0.0 && number < 1e15;
    value.as_u64().or_else(|| {
        let number = value.as_f64().filter(|number| whole(*number))?;
        format!("{number:.0}").parse().ok()
    })
}

/// Whether a number has no fraction.
pub(super) fn is_whole(number: &Number) -> bool {
    number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|it| it.fract() == 0.0)
}

/// Which of two numbers is the larger.
pub(super) fn compare(a: &Number, b: &Number) -> Result<Ordering, Fault> {
    number::compare(a, b).ok_or(Fault::Unsure)
}

/// Whether a number is a multiple of a step above 0.
pub(super) fn is_multiple(number: &Number, step: &Number) -> Result<bool, Fault> {
    if lost(number) || lost(step) {
        return Err(Fault::Unsure);
    }
    let (Some(number), Some(step)) = (decimal(number), decimal(step)) else {
        return Err(Fault::Unsure);
    };
    if number.digits == 0 || step.digits == 0 {
        return Ok(number.digits == 0);
    }
    let apart = number.power.abs_diff(step.power);
    if number.power < step.power {
        let step = 10_u128
            .checked_pow(apart)
            .and_then(|power| step.digits.checked_mul(power));
        // A step that is larger than any number here.
        return Ok(step.is_some_and(|step| number.digits % step == 0));
    }
    // Ten times what is left over, again and again; both fit 64 bits.
    let mut left = number.digits % step.digits;
    for _ in 0..apart {
        left = left * 10 % step.digits;
    }
    Ok(left == 0)
}

fn lost(number: &Number) -> bool {
    exact(number).is_none() && number.as_f64().is_none_or(|number| number.abs() >= LOST)
}

/// The shortest decimal that reads as this number, without its sign: at most 20 digits.
fn decimal(number: &Number) -> Option<Decimal> {
    if let Some(number) = exact(number) {
        return Some(Decimal {
            digits: number.unsigned_abs(),
            power: 0,
        });
    }
    let text = format!("{:e}", number.as_f64()?.abs());
    let (digits, power) = text.split_once('e')?;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let places = i32::try_from(fraction.len()).ok()?;
    Some(Decimal {
        digits: format!("{whole}{fraction}").parse().ok()?,
        power: power.parse::<i32>().ok()? - places,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Number {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn multiples_are_of_decimals() {
        for (value, step, wanted) in [
            ("0.3", "0.1", true),
            ("0.30000000001", "0.1", false),
            ("1e-8", "1e-9", true),
            ("1e-9", "1e-8", false),
            ("12391239123", "1e-8", true),
            ("1.5e300", "2", true),
            ("0", "0.7", true),
            ("-4.5", "1.5", true),
            ("18446744073709551615", "5", true),
            ("18446744073709551615", "18446744073709551614", false),
            ("5e-324", "0.1", false),
            ("18446744073709551615", "5e-324", true),
        ] {
            let found = is_multiple(&number(value), &number(step));
            match value.contains("e300") {
                // It may have been written with other digits at its end.
                true => assert_eq!(found, Err(Fault::Unsure)),
                false => assert_eq!(found, Ok(wanted), "{value} {step}"),
            }
        }
    }

    #[test]
    fn numbers_with_lost_digits_are_not_said_to_be_equal() {
        let one = "100000000000000000000000000001";
        for (a, b, wanted) in [
            ("1", "1.0", Ok(Ordering::Equal)),
            (
                "9007199254740993",
                "9007199254740992.0",
                Ok(Ordering::Greater),
            ),
            (
                "18446744073709551615",
                "18446744073709551616",
                Err(Fault::Unsure),
            ),
            (one, "100000000000000000000000000000", Err(Fault::Unsure)),
            (one, "2e29", Ok(Ordering::Less)),
            (one, "-1", Ok(Ordering::Greater)),
        ] {
            assert_eq!(compare(&number(a), &number(b)), wanted, "{a} {b}");
        }
    }
}
