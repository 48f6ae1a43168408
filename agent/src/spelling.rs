//! Keys that lenient JSON readers take for one another.

/// Whether a parser that ignores case, or ends strings at a NUL, reads `key` as `name`.
pub(crate) fn folds(key: &str, name: &str) -> bool {
    let key = key.split('\0').next().unwrap_or_default();
    // A folded letter is up to three bytes long, so lengths say little.
    key.chars().map(fold).eq(name.chars().map(fold))
}

/// Unicode's simple folding, as far as it ends in ASCII: Go's encoding/json folds like this.
pub(crate) fn fold(letter: char) -> char {
    match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        _ => letter.to_ascii_lowercase(),
    }
}
