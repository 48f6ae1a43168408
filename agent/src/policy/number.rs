//! Numbers, compared by what they are.
//!
//! What is too large for 64 bits has been read as a double, though it may have had more digits, and a
//! server that reads them all gets another number than was looked at here. Of two of those that read
//! alike, nobody knows here whether they are.

use std::cmp::Ordering;

use serde_json::Number;

/// From here on, a whole number may have had digits that were lost.
pub(super) const LOST: f64 = 18_446_744_073_709_551_616.0;

/// Which of two numbers is the larger; none where that is not known.
pub(super) fn compare(a: &Number, b: &Number) -> Option<Ordering> {
    if let (Some(a), Some(b)) = (exact(a), exact(b)) {
        return Some(a.cmp(&b));
    }
    let (x, y) = (a.as_f64()?, b.as_f64()?);
    // Rounding keeps the order of numbers that it keeps apart.
    match x.partial_cmp(&y)? {
        Ordering::Equal if x.abs() >= LOST => None,
        order => Some(order),
    }
}

/// A whole number of which every digit is known.
pub(super) fn exact(number: &Number) -> Option<i128> {
    if let Some(number) = number.as_i64() {
        return Some(number.into());
    }
    if let Some(number) = number.as_u64() {
        return Some(number.into());
    }
    let whole = |number: &f64| number.fract() == 0.0 && number.abs() < LOST;
    let number = number.as_f64().filter(whole)?;
    format!("{number:.0}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Number {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn numbers_that_a_double_takes_for_one_are_told_apart() {
        for (a, b, wanted) in [
            ("1", "1.0", Some(Ordering::Equal)),
            (
                "9007199254740993",
                "9007199254740992",
                Some(Ordering::Greater),
            ),
            (
                "-9007199254740993",
                "-9007199254740992",
                Some(Ordering::Less),
            ),
            (
                "9007199254740993",
                "9007199254740992.0",
                Some(Ordering::Greater),
            ),
            ("18446744073709551615", "18446744073709551616", None),
            ("18446744073709551616", "18446744073709551617", None),
            ("1e20", "1e20", None),
            ("1e20", "1e21", Some(Ordering::Less)),
            ("0.1", "0.1", Some(Ordering::Equal)),
        ] {
            assert_eq!(compare(&number(a), &number(b)), wanted, "{a} {b}");
        }
    }
}
