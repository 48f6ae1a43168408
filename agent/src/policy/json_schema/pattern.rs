//! Regular expressions in ECMA-262's syntax, put into that of ours, which takes linear time.
//!
//! Where the same text would mean something else it is rewritten, or refused: a pattern must not admit
//! more here than at the server.

use std::{iter::Peekable, str::Chars};

use regex::{Regex, RegexBuilder};

/// Bytes of a compiled expression: the time that a match takes grows with it.
const MOST: usize = 64 << 10;
/// How large one may be for what a match with it is said to weigh.
const SIZES: [(usize, usize); 3] = [(4 << 10, 1), (16 << 10, 4), (MOST, 16)];
/// Bytes of the text of one.
const LONGEST: usize = 1 << 10;

/// A regular expression that can be used.
#[derive(Debug)]
pub(super) struct Pattern {
    regex: Regex,
    weight: usize,
}

impl Pattern {
    /// Compiles an expression, which matches anywhere; an error says in a phrase why it cannot be used.
    pub(super) fn read(pattern: &str) -> Result<Self, String> {
        if pattern.len() > LONGEST {
            return Err(format!("it is longer than {LONGEST} bytes"));
        }
        let ours = rewrite(pattern)?;
        for (size, weight) in SIZES {
            match compile(&ours, size) {
                Ok(regex) => return Ok(Self { regex, weight }),
                Err(regex::Error::CompiledTooBig(_)) => {}
                Err(_) => {
                    let why = "it is none, or one that cannot be matched in linear time";
                    return Err(why.to_owned());
                }
            }
        }
        Err("it is too large once it is compiled".to_owned())
    }

    /// How much longer than with the simplest ones a match with it may take.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    pub(super) fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

fn compile(pattern: &str, size: usize) -> Result<Regex, regex::Error> {
    let mut builder = RegexBuilder::new(pattern);
    builder.size_limit(size).dfa_size_limit(MOST).build()
}

fn rewrite(pattern: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => escape(&mut chars, &mut out, false)?,
            '[' => class(&mut chars, &mut out)?,
            '.' => out.push_str(r"[^\n\r\u2028\u2029]"),
            '(' if chars.peek() == Some(&'?') => {
                let mut ahead = chars.clone();
                ahead.next();
                match (ahead.next(), ahead.next()) {
                    (Some(':'), _) => {}
                    (Some('<'), Some(c)) if c.is_ascii_alphabetic() || c == '_' => {}
                    _ => return Err("it looks ahead or behind, or has flags"),
                }
                out.push('(');
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

fn escape(
    chars: &mut Peekable<Chars<'_>>,
    out: &mut String,
    in_class: bool,
) -> Result<(), &'static str> {
    match chars.next() {
        Some('d') => out.push_str("[0-9]"),
        Some('D') => out.push_str("[^0-9]"),
        Some('w') => out.push_str("[0-9A-Za-z_]"),
        Some('W') => out.push_str("[^0-9A-Za-z_]"),
        Some('s') => out.push_str(r"[[\s\uFEFF]--\x85]"),
        Some('S') => out.push_str(r"[^[[\s\uFEFF]--\x85]]"),
        Some('b') if in_class => out.push_str(r"\x08"),
        Some('b') => out.push_str(r"(?-u:\b)"),
        Some(c @ ('n' | 'r' | 't' | 'f' | 'v')) => {
            out.push('\\');
            out.push(c);
        }
        Some('0') if !chars.peek().is_some_and(char::is_ascii_digit) => out.push_str(r"\x00"),
        Some('c') => match chars.next() {
            Some(c) if c.is_ascii_alphabetic() => {
                out.push_str(&format!(r"\x{:02x}", u32::from(c) % 32));
            }
            _ => return Err("it has an escape without its letter"),
        },
        Some('u') if chars.peek() == Some(&'{') => out.push_str(r"\u"),
        Some('u') => {
            let digits = digits(chars, 4)?;
            let number = u32::from_str_radix(&digits, 16).unwrap_or(u32::MAX);
            if char::from_u32(number).is_none() {
                return Err("it has half of a surrogate pair");
            }
            out.push_str(r"\u");
            out.push_str(&digits);
        }
        Some('x') => {
            let digits = digits(chars, 2)?;
            out.push_str(r"\x");
            out.push_str(&digits);
        }
        Some(c @ ('p' | 'P')) if chars.peek() == Some(&'{') => {
            out.push('\\');
            out.push(c);
        }
        Some(c) if c.is_ascii_alphanumeric() => {
            return Err("it has an escape or a back reference that is not known here");
        }
        Some(c) => out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        None => return Err("it ends in a backslash"),
    }
    Ok(())
}

fn digits(chars: &mut Peekable<Chars<'_>>, count: usize) -> Result<String, &'static str> {
    let digits: String = chars.take(count).collect();
    match digits.len() == count && digits.chars().all(|c| c.is_ascii_hexdigit()) {
        true => Ok(digits),
        false => Err("it has an escape without its digits"),
    }
}

/// What is in brackets, where `[`, `&` and `~` stand for themselves.
fn class(chars: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), &'static str> {
    out.push('[');
    if chars.peek() == Some(&'^') {
        chars.next();
        out.push('^');
    }
    if chars.peek() == Some(&']') {
        return Err("it has empty brackets");
    }
    while let Some(c) = chars.next() {
        match c {
            ']' => {
                out.push(']');
                return Ok(());
            }
            '\\' => escape(chars, out, true)?,
            '-' if chars.peek() == Some(&'-') => return Err("it has `--` in brackets"),
            '[' | '&' | '~' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    Err("it has brackets that are not closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_to_servers() {
        for (pattern, yes, no) in [
            (r"^\d+$", "12", "1\u{664}"),
            (r"^\w+$", "a_1", "é"),
            (r"^[\w.-]+$", "a.b-c", "a/b"),
            (r"^[^\s]+$", "ab", "a b"),
            (r"^\s$", "\u{feff}", "\u{85}"),
            (r"^a.c$", "abc", "a\u{2028}c"),
            (r"^[[&&a~]+$", "[&a~", "b"),
            (r"^\/x\-y$", "/x-y", "xy"),
            (r"^\u0041\x42\0?$", "AB", "ab"),
            (r"^(?:a|(?<n>b))$", "b", "c"),
            (r"\bcat\b", "a cat.", "cats"),
            (r"^$", "", "\n"),
            (r"^\cC\cj$", "\x03\n", "cC"),
        ] {
            let regex = Pattern::read(pattern).unwrap();
            assert!(regex.is_match(yes), "{pattern} {yes:?}");
            assert!(!regex.is_match(no), "{pattern} {no:?}");
        }
        for pattern in [
            "(?=a)",
            "(?!a)",
            "(?<=a)b",
            r"(a)\1",
            r"\A",
            r"\Bx",
            "[]",
            "[^]",
            "[+--]",
            "(?i)a",
            "a{",
            "(",
            "[a",
            r"\",
            r"\ud800",
            r"\c",
            "(a{1000}){1000}",
        ] {
            assert!(Pattern::read(pattern).is_err(), "{pattern}");
        }
        assert!(Pattern::read(&"a".repeat(2000)).is_err());
    }
}
