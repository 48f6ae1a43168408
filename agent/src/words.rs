//! Words that every room needs.

use std::time::Duration;

/// `1 packet`, `2 packets`.
pub(crate) fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// A time, to the last digit that it has: `37 s`, `2.5 s`, `30 min`, `1 h 20 min`, `2 d`.
pub(crate) fn time(time: Duration) -> String {
    let whole = time.as_secs();
    let mut parts = Vec::new();
    for (unit, amount) in [
        ("d", whole / 86_400),
        ("h", whole / 3_600 % 24),
        ("min", whole / 60 % 60),
    ] {
        if amount > 0 {
            parts.push(format!("{amount} {unit}"));
        }
    }
    let rest = Duration::new(whole % 60, time.subsec_nanos());
    if !rest.is_zero() || parts.is_empty() {
        parts.push(format!("{} s", rest.as_secs_f64()));
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_one_way() {
        for (milliseconds, written) in [
            (0, "0 s"),
            (1, "0.001 s"),
            (2_500, "2.5 s"),
            (37_000, "37 s"),
            (60_000, "1 min"),
            (90_000, "1 min 30 s"),
            (1_800_000, "30 min"),
            (4_800_500, "1 h 20 min 0.5 s"),
            (7 * 86_400_000, "7 d"),
            (90_061_000, "1 d 1 h 1 min 1 s"),
        ] {
            assert_eq!(time(Duration::from_millis(milliseconds)), written);
        }
        assert!(
            time(Duration::MAX).ends_with("0.999999999 s") || time(Duration::MAX).contains(" d ")
        );
    }
}
