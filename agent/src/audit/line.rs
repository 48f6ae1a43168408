//! One line of the file: written, read back, and cut out of a stream without trusting its length.

use std::io::{self, BufRead};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    error::AuditError,
    hash::{Hash, Hasher},
    record::{Record, ServerRecord},
    text::{Text, visible_json},
};

/// The longest line.
pub(super) const MAX_LINE: usize = 1 << 20;

/// What is written, and the server that it is about where the record does not say so itself.
#[derive(Clone, Copy)]
pub(super) struct About<'a>(pub(super) Option<&'a Text>, pub(super) &'a Record);

impl<'a> From<&'a ServerRecord> for About<'a> {
    fn from(one: &'a ServerRecord) -> Self {
        Self(one.server.as_ref(), &one.record)
    }
}

#[derive(Serialize)]
struct Written<'a> {
    seq: u64,
    time: String,
    agent: &'a str,
    prev: Hash,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a Text>,
    #[serde(flatten)]
    record: &'a Record,
}

/// The bytes of a line, without its end.
pub(super) fn encode(
    seq: u64,
    agent: &str,
    prev: Hash,
    about: &About<'_>,
) -> Result<String, AuditError> {
    let line = serde_json::to_string(&Written {
        seq,
        time: format!("{:.6}", Timestamp::now()),
        agent,
        prev,
        server: about.0,
        record: about.1,
    });
    // Records hold nothing that JSON cannot: numbers, text, and lists of both.
    let line = visible_json(&line.map_err(|error| AuditError::Print(error.into()))?);
    if line.len() > MAX_LINE {
        return Err(AuditError::TooLong(line.len()));
    }
    Ok(line)
}

/// A line that was read back. Kinds and fields that this version does not know are kept.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Entry {
    pub(super) seq: u64,
    pub(super) time: String,
    pub(super) agent: String,
    pub(super) prev: Hash,
    pub(super) kind: String,
    #[serde(flatten)]
    pub(super) fields: Map<String, Value>,
}

impl Entry {
    /// Reads a line, or says what is wrong with it.
    pub(super) fn parse(line: &[u8]) -> Result<Self, String> {
        let entry: Self = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        match entry.time.parse::<Timestamp>() {
            Ok(_) => Ok(entry),
            Err(error) => Err(format!("its time: {error}")),
        }
    }

    /// The names under which a call's values are recorded.
    pub(super) fn value_names(&self) -> impl Iterator<Item = &str> {
        let values = self.fields.get("values").and_then(Value::as_object);
        values
            .into_iter()
            .flat_map(|values| values.keys().map(String::as_str))
    }

    /// A field that is text.
    pub(super) fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field).and_then(Value::as_str)
    }
}

/// A line as it stands in the file.
pub(super) struct RawLine {
    /// Its bytes without the end; no more than [`MAX_LINE`] of them.
    pub(super) bytes: Vec<u8>,
    /// How long it really is.
    pub(super) length: usize,
    /// The hash of all of it.
    pub(super) hash: Hash,
    /// True if it has an end.
    pub(super) ended: bool,
}

impl RawLine {
    /// True if it is longer than any line that was ever written.
    pub(super) fn is_overlong(&self) -> bool {
        self.length > MAX_LINE
    }
}

/// Cuts the next line out of a stream; none at the end.
pub(super) fn next_line(stream: &mut impl BufRead) -> io::Result<Option<RawLine>> {
    let mut bytes = Vec::new();
    let mut length = 0_usize;
    let mut hasher = Hasher::default();
    loop {
        let buffer = match stream.fill_buf() {
            Ok(buffer) => buffer,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if buffer.is_empty() {
            return Ok((length > 0).then(|| RawLine {
                bytes,
                length,
                hash: hasher.finish(),
                ended: false,
            }));
        }
        let mut parts = buffer.splitn(2, |&byte| byte == b'\n');
        let part = parts.next().unwrap_or_default();
        let ended = parts.next().is_some();
        hasher.update(part);
        let room = MAX_LINE.saturating_sub(bytes.len());
        bytes.extend(part.iter().take(room));
        length = length.saturating_add(part.len());
        let used = part.len() + usize::from(ended);
        stream.consume(used);
        if ended {
            return Ok(Some(RawLine {
                bytes,
                length,
                hash: hasher.finish(),
                ended,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    #[test]
    fn lines_are_cut_whatever_the_buffer() {
        let text = b"one\n\ntwo three\nrest";
        for capacity in 1..text.len() + 2 {
            let mut stream = BufReader::with_capacity(capacity, &text[..]);
            let mut seen = Vec::new();
            while let Some(line) = next_line(&mut stream).unwrap() {
                assert_eq!(line.hash, Hash::of(&line.bytes));
                seen.push((String::from_utf8(line.bytes).unwrap(), line.ended));
            }
            let expected = [
                ("one", true),
                ("", true),
                ("two three", true),
                ("rest", false),
            ];
            assert_eq!(seen, expected.map(|(text, ended)| (text.to_owned(), ended)));
        }
    }

    #[test]
    fn line_that_is_too_long_is_hashed_but_not_kept() {
        let long = vec![b'x'; MAX_LINE + 10];
        let mut text = long.clone();
        text.extend(b"\nnext\n");
        let mut stream = &text[..];
        let line = next_line(&mut stream).unwrap().unwrap();
        assert!(line.is_overlong());
        assert_eq!((line.bytes.len(), line.length), (MAX_LINE, MAX_LINE + 10));
        assert_eq!(line.hash, Hash::of(&long));
        assert_eq!(next_line(&mut stream).unwrap().unwrap().bytes, b"next");
    }
}
