//! What whoever bears a grant shows.

use std::{fmt, hint, io};

use sha2::{Digest as _, Sha256};

use super::code;

/// What every token begins with, for programs that look for secrets in the wrong places.
const PREFIX: &str = "cwg_";
/// Letters of the secret, and of the checksum after it.
const SECRET: usize = 52;
const CHECKSUM: usize = 6;

/// The secret of a grant: `cwg_`, 256 random bits in 52 letters and digits, and a checksum of 6, so that a
/// token that was copied badly is told from one that is not known.
///
/// Neither `Debug` nor `Display` shows it; [`reveal`](Self::reveal) does. It is overwritten when it is dropped.
pub struct Token([u8; 32]);

impl Token {
    /// A new one.
    ///
    /// # Errors
    ///
    /// The host has no randomness.
    pub fn generate() -> io::Result<Self> {
        code::random().map(Self)
    }

    /// Reads a token in the one way in which it is written.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(PREFIX)?;
        if rest.len() != SECRET + CHECKSUM {
            return None;
        }
        let (secret, sum) = rest.split_at_checked(SECRET)?;
        let token = Self(code::decode(secret)?);
        (sum == token.checksum()).then_some(token)
    }

    /// The token, to be shown to whom it is for.
    #[must_use]
    pub fn reveal(&self) -> String {
        let (secret, sum) = (code::encode(&self.0), self.checksum());
        format!("{PREFIX}{secret}{sum}")
    }

    fn checksum(&self) -> String {
        let mut sum = code::encode(&digest(b"capwarden token checksum", &self.0));
        sum.truncate(CHECKSUM);
        sum
    }

    /// What is kept of it.
    pub(super) fn digest(&self) -> [u8; 32] {
        digest(b"capwarden token", &self.0)
    }
}

fn digest(purpose: &[u8], secret: &[u8]) -> [u8; 32] {
    let digest = Sha256::new().chain_update(purpose).chain_update(secret);
    digest.finalize().into()
}

impl Drop for Token {
    fn drop(&mut self) {
        self.0.fill(0);
        // The compiler must not know that nobody reads it any more.
        hint::black_box(&self.0);
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}
