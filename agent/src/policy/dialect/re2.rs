//! Regular expressions in RE2's syntax, which the dialects use, put into the syntax of ours.
//!
//! The two are nearly one. Where the same text means something else, it is rewritten, so that a
//! pattern admits neither more nor less: RE2's `\d`, `\w`, `\s` and `\b` know ASCII only, `\<` is
//! a `<`, and in brackets `[`, `&` and `~` stand for themselves.

use std::iter::Peekable;

/// Rewrites a pattern; an error says why it cannot be. What is no pattern at all may pass.
pub(super) fn rewrite(pattern: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => escape(&mut chars, &mut out, false)?,
            '[' => brackets(&mut chars, &mut out)?,
            // Only this one of the groups' flags changes what the rest of the syntax means.
            '(' if flags(&chars).contains('x') => return Err("has a flag `x`, which RE2 has not"),
            '(' if flags(&chars).contains('R') => return Err("has a flag `R`, which RE2 has not"),
            c => out.push(c),
        }
    }
    Ok(out)
}

/// What is after a backslash.
fn escape(
    chars: &mut Peekable<impl Iterator<Item = char>>,
    out: &mut String,
    in_brackets: bool,
) -> Result<(), &'static str> {
    match chars.next() {
        Some('d') => out.push_str("[0-9]"),
        Some('D') => out.push_str("[^0-9]"),
        Some('w') => out.push_str("[0-9A-Za-z_]"),
        Some('W') => out.push_str("[^0-9A-Za-z_]"),
        Some('s') => out.push_str(r"[\t\n\f\r ]"),
        Some('S') => out.push_str(r"[^\t\n\f\r ]"),
        Some('b') if in_brackets => return Err("has `\\b` in brackets, which RE2 does not take"),
        Some('b') if chars.peek() == Some(&'{') => {
            return Err("has `\\b{`, which RE2 and its likes read in different ways");
        }
        Some('b') => out.push_str(r"(?-u:\b)"),
        Some('B') => return Err("has `\\B`, which cannot be had for ASCII alone"),
        Some('Q') => {
            let mut rest = String::new();
            while let Some(c) = chars.next() {
                if c == '\\' && chars.peek() == Some(&'E') {
                    chars.next();
                    break;
                }
                rest.push(c);
            }
            out.push_str(&regex::escape(&rest));
        }
        Some(c @ ('<' | '>')) => out.push(c),
        Some(c) => {
            out.push('\\');
            out.push(c);
        }
        None => out.push('\\'),
    }
    Ok(())
}

/// What is in brackets, the first of which is read.
fn brackets(
    chars: &mut Peekable<impl Iterator<Item = char> + Clone>,
    out: &mut String,
) -> Result<(), &'static str> {
    out.push('[');
    if chars.peek() == Some(&'^') {
        chars.next();
        out.push('^');
    }
    // A bracket that comes first stands for itself.
    if chars.peek() == Some(&']') {
        chars.next();
        out.push_str(r"\]");
    }
    while let Some(c) = chars.next() {
        match c {
            ']' => {
                out.push(']');
                return Ok(());
            }
            '\\' => escape(chars, out, true)?,
            // A class with a name, such as `[:alpha:]`, which is ASCII in both.
            '[' if chars.peek() == Some(&':') => {
                let name: String = chars.clone().take_while(|c| *c != ']').collect();
                if name.len() > 1 && name.ends_with(':') {
                    out.push('[');
                    out.push_str(&name);
                    out.push(']');
                    // The name and its bracket.
                    chars.nth(name.chars().count());
                } else {
                    out.push_str(r"\[");
                }
            }
            '[' | '&' | '~' => {
                out.push('\\');
                out.push(c);
            }
            '-' if chars.peek() == Some(&'-') => {
                return Err("has `--` in brackets; write `\\-` for a hyphen");
            }
            c => out.push(c),
        }
    }
    // No bracket ends it: the compiler says so.
    Ok(())
}

/// The flags of a group that has just begun; empty if it has none.
fn flags(chars: &Peekable<impl Iterator<Item = char> + Clone>) -> String {
    let mut ahead = chars.clone();
    if ahead.next() != Some('?') {
        return String::new();
    }
    let flags = ahead.take_while(|c| c.is_ascii_alphabetic() || *c == '-');
    // `?P<name>` is no flag.
    let flags: String = flags.collect();
    if flags == "P" { String::new() } else { flags }
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_in_re2() {
        for (pattern, text, matches) in [
            (r"^\d+$", "123", true),
            (r"^\d+$", "١٢٣", false),
            (r"^\D+$", "١٢٣", true),
            (r"^\w+$", "az_9", true),
            (r"^\w+$", "é", false),
            (r"^\W$", "é", true),
            (r"^\s$", " ", true),
            (r"^\s$", "\u{a0}", false),
            (r"^\S$", "\u{a0}", true),
            (r"^[\d.]+$", "1.2", true),
            (r"^[\d.]+$", "١", false),
            (r"^[^\w]+$", "é-", true),
            (r"\bprod\b", "a prod b", true),
            // A boundary stands between `é` and `p` where only ASCII makes words.
            (r"\bprod\b", "éprodé", true),
            (r"^\<b\>$", "<b>", true),
            (r"^\Qa.b*\E$", "a.b*", true),
            (r"^\Qa.b*\E$", "aXb", false),
            (r"^[[a]+$", "[a", true),
            (r"^[a&&b]+$", "a&b", true),
            (r"^[^a&&b]$", "c", true),
            (r"^[^a&&b]$", "&", false),
            (r"^[^a&&b]$", "a", false),
            (r"^[a~~b]$", "~", true),
            (r"^[]a]+$", "]a", true),
            (r"^[^]a]+$", "b]", false),
            (r"^[[:alpha:]1]+$", "a1", true),
            (r"^[[:alpha:]]+$", "é", false),
            (r"^[[:^digit:]]+$", "ab", true),
            (r"^(?P<n>a)(?:b)(?i)C$", "abc", true),
            (r"^a.c$", "a\nc", false),
            (r"^a$", "a\n", false),
            (r"^\.\[\\$", r".[\", true),
            (r"^[\]\-x]+$", "]-x", true),
        ] {
            let rewritten = rewrite(pattern).unwrap();
            let regex = Regex::new(&rewritten).unwrap_or_else(|error| panic!("{pattern}: {error}"));
            assert_eq!(
                regex.is_match(text),
                matches,
                "{pattern} → {rewritten}: {text:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        for pattern in [
            r"\Bx",
            r"[a--b]",
            r"\b{start}x",
            r"(?x) a",
            r"(?iR)a",
            r"[\b]",
        ] {
            assert!(rewrite(pattern).is_err(), "{pattern}");
        }
        // These the compiler refuses.
        for pattern in [
            "(",
            "[",
            "[[:alpha:]",
            r"\",
            r"\C",
            r"(?=a)",
            r"(a)\1",
            "a**{",
        ] {
            let rewritten = rewrite(pattern).unwrap();
            assert!(Regex::new(&rewritten).is_err(), "{pattern} → {rewritten}");
        }
    }
}
