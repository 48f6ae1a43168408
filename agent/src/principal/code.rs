//! Random codes in letters that are not taken for one another: Crockford's base 32, which has no
//! I, L, O and U.

use std::{
    fs::File,
    io::{self, Read as _},
};

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Bytes as letters and digits, five bits each, filled up with zero bits.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(5) * 8);
    let (mut held, mut bits) = (0_u32, 0);
    for &byte in bytes {
        held = (held << 8) | u32::from(byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(letter(held >> bits));
        }
    }
    if bits > 0 {
        text.push(letter(held << (5 - bits)));
    }
    text
}

fn letter(value: u32) -> char {
    let at = usize::try_from(value & 31).unwrap_or(0);
    ALPHABET.get(at).copied().map_or('0', char::from)
}

/// The value of one letter as [`encode`] writes it.
fn value(letter: u8) -> Option<u32> {
    let at = ALPHABET.iter().position(|&known| known == letter)?;
    u32::try_from(at).ok()
}

/// The bytes that [`encode`] wrote; none if it could not have written that.
pub(crate) fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = Vec::with_capacity(N);
    let (mut held, mut bits) = (0_u32, 0);
    for letter in text.bytes() {
        held = (held << 5) | value(letter)?;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from((held >> bits) & 0xff).ok()?);
            held &= (1 << bits) - 1;
        }
    }
    let whole = bits < 5 && held == 0;
    bytes.try_into().ok().filter(|_| whole)
}

/// A code as somebody may write it who read it or was told it, as [`encode`] writes it.
pub(crate) fn tidy(text: &str) -> String {
    let letters = text.chars().filter(|c| !matches!(c, '-' | ' '));
    letters
        .map(|c| match c.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            c => c,
        })
        .collect()
}

/// Bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_from_their_one_spelling() {
        assert_eq!(encode(&[0xff, 0x00, 0xff]), "ZW0FY");
        for n in 0..=255_u8 {
            let bytes = [n, n.wrapping_mul(7), 0, 255, n ^ 0x55];
            let text = encode(&bytes);
            assert_eq!(text.len(), 8);
            assert_eq!(decode::<5>(&text), Some(bytes));
            let bytes = [n, 1, 2];
            assert_eq!(decode::<3>(&encode(&bytes)), Some(bytes));
        }
        // Another length, letters that are not used, and bits beyond the bytes.
        for other in ["", "ZW0F", "ZW0FYY", "ZW0FU", "zw0fy", "ZW0FZ"] {
            assert_eq!(decode::<3>(other), None, "{other}");
        }
    }

    #[test]
    fn what_was_read_aloud_is_understood() {
        assert_eq!(tidy("k7qm-2foi"), "K7QM2F01");
        assert_eq!(tidy(" K7QM 2FOL "), "K7QM2F01");
    }

    #[test]
    fn random_bytes_differ() {
        assert_ne!(random::<16>().unwrap(), random::<16>().unwrap());
    }
}
