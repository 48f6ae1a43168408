//! Where a caller's trace has got to: the header `traceparent` of W3C Trace Context, and its like in
//! `_meta` of a call.

use std::fmt;

/// A span of the caller's, of which a call is a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace.
    pub trace: [u8; 16],
    /// The span in it.
    pub span: [u8; 8],
    /// Whether its caller keeps it.
    pub sampled: bool,
}

impl TraceParent {
    /// Reads `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`; none if that is not
    /// well-formed. Of later versions, the parts that this one has.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let part = |from, to| text.get(from..to);
        let version: [u8; 1] = hex(part(0, 2)?)?;
        let longer = match text.len() {
            55 => false,
            56.. => true,
            _ => return None,
        };
        let dashes = [2, 35, 52].iter().all(|&at| part(at, at + 1) == Some("-"));
        let end = version != [0] && version != [0xff] && part(55, 56) == Some("-");
        if !dashes || version == [0xff] || (longer && !end) {
            return None;
        }
        let (trace, span) = (hex(part(3, 35)?)?, hex(part(36, 52)?)?);
        let [flags] = hex(part(53, 55)?)?;
        if trace == [0; 16] || span == [0; 8] {
            return None;
        }
        Some(Self {
            trace,
            span,
            sampled: flags & 1 == 1,
        })
    }
}

/// As it is written in version 00.
impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trace = u128::from_be_bytes(self.trace);
        let span = u64::from_be_bytes(self.span);
        write!(
            f,
            "00-{trace:032x}-{span:016x}-{:02x}",
            u8::from(self.sampled)
        )
    }
}

/// Bytes in lower-case hexadecimal digits, the only ones that are allowed.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != 2 * N || !text.bytes().all(digit) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_well_formed_is_a_parent() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent = TraceParent::parse(good).unwrap();
        assert_eq!(parent.to_string(), good);
        assert!(parent.sampled && parent.span[7] == 0xb7);
        let later = good.replacen("00", "cc", 1);
        for good in [later.clone(), format!("{later}-what-comes-then")] {
            assert!(TraceParent::parse(&good).is_some(), "{good}");
        }
        assert!(
            !TraceParent::parse(&good.replace("-01", "-00"))
                .unwrap()
                .sampled
        );
        for bad in [
            "",
            "00",
            &good[..54],
            &format!("{good}-more"),
            &format!("{later}more"),
            &good.replacen("00", "ff", 1),
            &good.replace("4bf9", "4BF9"),
            &good.replace("4bf9", "4bg9"),
            &good.replace("4bf9", "+bf9"),
            &good.replace('-', "_"),
            &good.replace("00f067aa0ba902b7", "0000000000000000"),
            &good.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-0",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }
}
