//! An expression as tokens: what libpcap's scanner sees, as far as it matters here.
//!
//! Whatever is not known is [`Token::Other`], which keeps the item that it stands in as it is.

/// A token; positions are bytes of the expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Open,
    Close,
    And,
    Or,
    Not,
    /// A qualifier, an address, a number or a name.
    Word(&'a str),
    Other,
}

/// A token, and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed<'a> {
    pub(super) token: Token<'a>,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Splits an expression. Nothing is left out but white space. The `or` of `src or dst` is a word.
pub(super) fn tokens(text: &str) -> Vec<Placed<'_>> {
    let mut placed = Vec::new();
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
        if blank > 0 {
            at += blank;
            continue;
        }
        let word = rest.find(|c| !in_word(c)).unwrap_or(rest.len());
        let (token, length) = match rest.get(..word).unwrap_or_default() {
            "" => symbol(rest),
            "and" => (Token::And, word),
            "or" => (Token::Or, word),
            "not" => (Token::Not, word),
            text => (Token::Word(text), word),
        };
        placed.push(Placed {
            token,
            start: at,
            end: at + length,
        });
        at += length;
    }
    join_directions(&mut placed, text);
    placed
}

fn join_directions<'a>(placed: &mut [Placed<'a>], text: &'a str) {
    for at in 1..placed.len().saturating_sub(1) {
        if let Some([before, operator, behind]) = placed.get_mut(at - 1..at + 2)
            && let (Token::Word("src"), Token::Word("dst"))
            | (Token::Word("dst"), Token::Word("src")) = (before.token, behind.token)
            && matches!(operator.token, Token::And | Token::Or)
            && let Some(word) = text.get(operator.start..operator.end)
        {
            operator.token = Token::Word(match word {
                "&&" => "and",
                "||" => "or",
                word => word,
            });
        }
    }
}

fn symbol(rest: &str) -> (Token<'_>, usize) {
    let first = rest.chars().next().map_or(1, char::len_utf8);
    if rest.starts_with("&&") {
        (Token::And, 2)
    } else if rest.starts_with("||") {
        (Token::Or, 2)
    } else if rest.starts_with("!=") {
        (Token::Other, 2)
    } else if rest.starts_with('!') {
        (Token::Not, 1)
    } else if rest.starts_with('(') {
        (Token::Open, 1)
    } else if rest.starts_with(')') {
        (Token::Close, 1)
    } else {
        (Token::Other, first)
    }
}

fn in_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '_' | '-' | '/' | '\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_are_words() {
        let found: Vec<_> = tokens("src||dst or dst and src port")
            .iter()
            .map(|one| one.token)
            .collect();
        let words = ["src", "or", "dst", "dst", "and", "src", "port"].map(Token::Word);
        assert_eq!(found[..3], words[..3]);
        assert_eq!(found[3], Token::Or);
        assert_eq!(found[4..], words[3..]);
    }

    #[test]
    fn operators_and_words_are_told_apart() {
        use Token::{And, Close, Not, Open, Or, Other, Word};
        let expression = "!(host 10.0.0.1||net\t10.0.0.0/8)&& not tcp[0]!=1 and proto \\or é";
        let found: Vec<_> = tokens(expression).iter().map(|one| one.token).collect();
        let expected = [
            Not,
            Open,
            Word("host"),
            Word("10.0.0.1"),
            Or,
            Word("net"),
            Word("10.0.0.0/8"),
            Close,
            And,
            Not,
            Word("tcp"),
            Other,
            Word("0"),
            Other,
            Other,
            Word("1"),
            And,
            Word("proto"),
            Word("\\or"),
            Other,
        ];
        assert_eq!(found, expected);
        for one in tokens(expression) {
            if let Word(word) = one.token {
                assert_eq!(&expression[one.start..one.end], word);
            }
        }
    }
}
