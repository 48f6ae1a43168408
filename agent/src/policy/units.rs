//! Amounts as a policy writes them and as people read them.

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The units that a number of bytes may carry, longest first.
const UNITS: [(&str, u64); 8] = [
    ("KiB", KIB),
    ("MiB", MIB),
    ("GiB", GIB),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

/// The longest time that a policy may grant: a year, far below what any clock type holds.
pub(super) const MAX_SECONDS: f64 = 365.0 * 86_400.0;

/// Reads `50MiB`, `10 MB`, `1.5GiB` or `4096` as a number of bytes.
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    const EXPECTED: &str = "expected a number of bytes such as 4096, 64KiB, 10MB or 50MiB";
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let scale = if unit.is_empty() {
        1
    } else {
        match UNITS.iter().find(|(name, _)| *name == unit) {
            Some((_, scale)) => *scale,
            None => {
                let alike = UNITS
                    .iter()
                    .find(|(name, _)| name.eq_ignore_ascii_case(unit))
                    .map_or_else(String::new, |(name, _)| format!(" Did you mean `{name}`?"));
                return Err(format!(
                    "`{unit}` is not a unit of bytes: {EXPECTED}.{alike}"
                ));
            }
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || (number.contains('.') && fraction.is_empty()) {
        return Err(format!("{EXPECTED}."));
    }
    let too_large = || format!("`{text}` is more bytes than can be counted.");
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let mut bytes = whole.checked_mul(scale).ok_or_else(too_large)?;
    if !fraction.is_empty() {
        // Nine digits are finer than a byte of any unit above.
        let fraction = fraction.get(..9).unwrap_or(fraction);
        let numerator: u128 = fraction.parse().map_err(|_| format!("{EXPECTED}."))?;
        let denominator = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(9));
        let part = u64::try_from(numerator * u128::from(scale) / denominator).unwrap_or(0);
        bytes = bytes.checked_add(part).ok_or_else(too_large)?;
    }
    Ok(bytes)
}

/// Writes a number of bytes with the largest unit that divides it: `50 MiB`, `1500 bytes`.
pub(super) fn bytes(n: u64) -> String {
    match n {
        1 => "1 byte".to_owned(),
        n if n >= GIB && n.is_multiple_of(GIB) => format!("{} GiB", n / GIB),
        n if n >= MIB && n.is_multiple_of(MIB) => format!("{} MiB", n / MIB),
        n if n >= KIB && n.is_multiple_of(KIB) => format!("{} KiB", n / KIB),
        n if n >= 1_000_000 && n.is_multiple_of(1_000_000) => format!("{} MB", n / 1_000_000),
        n => format!("{n} bytes"),
    }
}

/// Writes a number of packets.
pub(super) fn packets(n: u64) -> String {
    if n == 1 {
        "1 packet".to_owned()
    } else {
        format!("{n} packets")
    }
}

/// Joins words as a sentence does: `a`, `a or b`, `a, b or c`.
pub(super) fn either(words: &[String], last: &str) -> String {
    match words {
        [] => String::new(),
        [only] => only.clone(),
        [most @ .., end] => format!("{} {last} {end}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_and_written() {
        for (text, n, written) in [
            ("0", 0, "0 bytes"),
            ("1", 1, "1 byte"),
            ("1B", 1, "1 byte"),
            ("4096", 4096, "4 KiB"),
            ("64KiB", 65_536, "64 KiB"),
            ("10MB", 10_000_000, "10 MB"),
            ("10 kB", 10_000, "10000 bytes"),
            ("50MiB", 52_428_800, "50 MiB"),
            ("1.5GiB", 1_610_612_736, "1536 MiB"),
            ("0.0000000019GB", 1, "1 byte"),
        ] {
            assert_eq!(parse_bytes(text), Ok(n), "{text}");
            assert_eq!(bytes(n), written, "{text}");
        }
    }

    #[test]
    fn bad_bytes_are_refused() {
        for text in [
            "",
            "MiB",
            "-1",
            "1e6",
            "1.MiB",
            ".5MiB",
            "1.2.3",
            "10Mb",
            "10mib",
            "99999999999999999999",
            "18446744073709551615KiB",
            "١MiB",
        ] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        assert!(
            parse_bytes("10mib")
                .unwrap_err()
                .ends_with("Did you mean `MiB`?")
        );
    }
}
