//! The protocol of Redis, RESP 2: requests are lists of strings, answers one of five kinds. What
//! the server says is bounded before it is kept.

use std::io::{self, BufRead, Read as _};

/// Bytes of a line, and of a string: `INFO` answers with some kilobytes.
const LONGEST_LINE: u64 = 64 << 10;
const LONGEST_STRING: usize = 1 << 20;
/// Items of a list, and lists within lists.
const MOST_ITEMS: usize = 1 << 12;
const DEEPEST: u8 = 4;

/// What the server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::limits) enum Reply {
    /// A word such as `OK`, or a string.
    Text(Vec<u8>),
    /// What went wrong: a word in capitals, and more words.
    Error(String),
    Number(i64),
    Nothing,
    List(Vec<Reply>),
}

impl Reply {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }
}

/// Adds a request.
pub(super) fn request<'a>(out: &mut Vec<u8>, parts: impl ExactSizeIterator<Item = &'a [u8]> + 'a) {
    out.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
    for part in parts {
        out.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

/// Reads one answer.
///
/// # Errors
///
/// The connection failed, or what came is not of this protocol: either way nothing more can be
/// read from it.
pub(super) fn read(from: &mut impl BufRead) -> io::Result<Reply> {
    read_within(from, DEEPEST)
}

fn read_within(from: &mut impl BufRead, deeper: u8) -> io::Result<Reply> {
    let line = line(from)?;
    let (kind, rest) = line.split_first().ok_or_else(|| strange("an empty line"))?;
    let words = || String::from_utf8_lossy(rest).into_owned();
    match kind {
        b'+' => Ok(Reply::Text(rest.to_vec())),
        b'-' => Ok(Reply::Error(words())),
        b':' => Ok(Reply::Number(number(rest)?)),
        b'$' => {
            let Some(length) = length(rest, LONGEST_STRING)? else {
                return Ok(Reply::Nothing);
            };
            let mut bytes = vec![0; length + 2];
            from.read_exact(&mut bytes)?;
            if !bytes.ends_with(b"\r\n") {
                return Err(strange("a string that does not end"));
            }
            bytes.truncate(length);
            Ok(Reply::Text(bytes))
        }
        b'*' => {
            let Some(length) = length(rest, MOST_ITEMS)? else {
                return Ok(Reply::Nothing);
            };
            let Some(deeper) = deeper.checked_sub(1) else {
                return Err(strange("lists too deep"));
            };
            (0..length)
                .map(|_| read_within(from, deeper))
                .collect::<io::Result<_>>()
                .map(Reply::List)
        }
        _ => Err(strange("something else")),
    }
}

fn line(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let read = from.take(LONGEST_LINE).read_until(b'\n', &mut line)?;
    if read == 0 {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the connection was closed",
        ));
    }
    if !line.ends_with(b"\r\n") {
        return Err(strange("a line that does not end"));
    }
    line.truncate(line.len() - 2);
    Ok(line)
}

fn number(text: &[u8]) -> io::Result<i64> {
    let number = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok());
    number.ok_or_else(|| strange("no number where one belongs"))
}

fn length(text: &[u8], most: usize) -> io::Result<Option<usize>> {
    match number(text)? {
        -1 => Ok(None),
        length => match usize::try_from(length) {
            Ok(length) if length <= most => Ok(Some(length)),
            _ => Err(strange("a length out of bounds")),
        },
    }
}

fn strange(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("it did not answer as Redis does: {what}"),
    )
}
