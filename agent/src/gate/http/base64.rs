//! Header values that cannot stand in a header as they are: `=?base64?…?=`.

/// What a header's value says; none if it is wrapped and cannot be unwrapped.
pub(super) fn header_value(value: &str) -> Option<String> {
    let wrapped = value
        .strip_prefix("=?base64?")
        .and_then(|rest| rest.strip_suffix("?="));
    match wrapped {
        None => Some(value.to_owned()),
        Some(wrapped) => String::from_utf8(decode(wrapped.as_bytes())?).ok(),
    }
}

/// Decodes the alphabet of RFC 4648, section 4, padded, and nothing else.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let value = |byte: u8| -> Option<u32> {
        Some(u32::from(match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        }))
    };
    let body = text
        .strip_suffix(b"==")
        .or_else(|| text.strip_suffix(b"="))
        .unwrap_or(text);
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3);
    for group in body.chunks(4) {
        let mut bits = 0;
        for byte in group {
            bits = bits << 6 | value(*byte)?;
        }
        let unused = 4 - group.len();
        bits <<= 6 * unused;
        let [_, bytes @ ..] = bits.to_be_bytes();
        let (used, rest) = bytes.split_at(3_usize.saturating_sub(unused));
        // Bits that no byte has would let one value be written in several ways.
        if used.is_empty() || rest.iter().any(|byte| *byte != 0) {
            return None;
        }
        decoded.extend_from_slice(used);
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_unwrapped() {
        for (value, said) in [
            ("plain", Some("plain")),
            ("=?base64?SGVsbG8sIOS4lueVjA==?=", Some("Hello, 世界")),
            ("=?base64?IHBhZGRlZCA=?=", Some(" padded ")),
            ("=?base64?bGluZTEKbGluZTI=?=", Some("line1\nline2")),
            ("=?base64??=", Some("")),
            ("=?BASE64?eA==?=", Some("=?BASE64?eA==?=")),
            ("=?base64?eA=?=", None),
            ("=?base64?eB==?=", None),
            ("=?base64?e===?=", None),
            ("=?base64?e-==?=", None),
            ("=?base64?/w==?=", None),
        ] {
            assert_eq!(header_value(value).as_deref(), said, "{value}");
        }
    }
}
