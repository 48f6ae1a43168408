//! Server-sent events, cut out of a byte stream and put together again with nothing changed but
//! the data.

use std::{borrow::Cow, time::Duration};

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// How often a stream says that it is still there: a client that has gone is noticed by that.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// What it says then.
pub(super) const ALIVE: &[u8] = b":\n\n";

/// When a stream that has nothing else to say is to say [`ALIVE`].
pub(super) fn sign_of_life() -> Interval {
    let mut alive = interval_at(Instant::now() + SIGN_OF_LIFE, SIGN_OF_LIFE);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    alive
}

/// Cuts a stream of bytes into events. Holds one event at most.
#[derive(Debug)]
pub(super) struct Splitter {
    buffer: Vec<u8>,
    limit: usize,
    /// Where the first byte that was not given out stands.
    start: usize,
    /// Where the line begins that is being looked at.
    line: usize,
    /// Up to where lines were looked for.
    scanned: usize,
    /// The last line ended with a carriage return: a line feed after it belongs to it.
    returned: bool,
}

/// An event that is longer than is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Splitter {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            buffer: Vec::new(),
            limit,
            start: 0,
            line: 0,
            scanned: 0,
            returned: false,
        }
    }

    /// Takes more of the stream.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.line -= self.start;
            self.scanned -= self.start;
            self.start = 0;
        }
        if self.buffer.len() > self.limit {
            return Err(TooLong);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// How many bytes were not given out yet.
    pub(super) fn waiting(&self) -> usize {
        self.buffer.len().saturating_sub(self.start)
    }

    /// The next event that is complete: its bytes, blank line and all.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        while let Some(&byte) = self.buffer.get(self.scanned) {
            self.scanned += 1;
            let after_return = std::mem::take(&mut self.returned);
            match byte {
                b'\n' if after_return => {
                    // The blank line was given out with its carriage return.
                    if self.line == self.start && self.scanned == self.start + 1 {
                        self.start = self.scanned;
                    }
                    self.line = self.scanned;
                }
                b'\n' | b'\r' => {
                    let blank = self.line + 1 == self.scanned;
                    self.returned = byte == b'\r';
                    self.line = self.scanned;
                    if blank {
                        // The line feed of a blank line that ends in both.
                        if self.returned && self.buffer.get(self.scanned) == Some(&b'\n') {
                            self.scanned += 1;
                            self.returned = false;
                            self.line = self.scanned;
                        }
                        let event = self.start..self.scanned;
                        self.start = self.scanned;
                        return self.buffer.get(event);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

/// One event, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event<'a> {
    raw: &'a [u8],
    /// The lines, without their ends.
    lines: Vec<&'a [u8]>,
    /// What the lines called `data` say, if there are any.
    data: Option<Cow<'a, [u8]>>,
    /// A line ends with a carriage return alone, or seems to be data and is not: readers differ
    /// in what they make of that.
    ambiguous: bool,
}

impl<'a> Event<'a> {
    pub(super) fn parse(raw: &'a [u8]) -> Self {
        let mut lines = Vec::with_capacity(4);
        let mut ambiguous = false;
        let mut rest = raw;
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let (line, after) = rest.split_at(end.unwrap_or(rest.len()));
            lines.push(line);
            rest = match after {
                [b'\r', b'\n', rest @ ..] | [b'\n', rest @ ..] => rest,
                [b'\r', rest @ ..] => {
                    ambiguous = true;
                    rest
                }
                _ => after,
            };
        }
        let mut data: Option<Cow<'a, [u8]>> = None;
        lines.retain(|line| {
            let (name, value) = field(line);
            if name == b"data" {
                match &mut data {
                    None => data = Some(Cow::Borrowed(value)),
                    Some(data) => {
                        let data = data.to_mut();
                        data.push(b'\n');
                        data.extend_from_slice(value);
                    }
                }
                return true;
            }
            let seems = name.trim_ascii().eq_ignore_ascii_case(b"data") || name.starts_with(BOM);
            ambiguous |= seems;
            !seems && !line.is_empty()
        });
        Self {
            raw,
            lines,
            data,
            ambiguous,
        }
    }

    /// The data; none if it has none, or only a place for it.
    pub(super) fn data(&self) -> Option<&[u8]> {
        self.data.as_deref().filter(|data| !data.is_empty())
    }

    /// It can be asked for again, with all that came after it.
    pub(super) fn has_id(&self) -> bool {
        self.lines.iter().any(|line| field(line).0 == b"id")
    }

    /// The event as it came, as far as all readers agree on it.
    pub(super) fn unchanged(&self, into: &mut Vec<u8>) {
        if !self.ambiguous {
            into.extend_from_slice(self.raw);
            return;
        }
        for line in &self.lines {
            put(line, into);
        }
        into.push(b'\n');
    }

    /// The event with this data in place of its own.
    pub(super) fn with_data(&self, data: &str, into: &mut Vec<u8>) {
        let mut placed = false;
        for line in &self.lines {
            if field(line).0 != b"data" {
                put(line, into);
            } else if !placed {
                placed = true;
                event_data(data, into);
            }
        }
        into.push(b'\n');
    }
}

/// An event of nothing but data.
pub(super) fn event(data: &str, into: &mut Vec<u8>) {
    event_data(data, into);
    into.push(b'\n');
}

fn event_data(data: &str, into: &mut Vec<u8>) {
    // JSON has a line end between tokens only, where any number of them means the same.
    for line in data.split(['\n', '\r']).filter(|line| !line.is_empty()) {
        into.extend_from_slice(b"data: ");
        put(line.as_bytes(), into);
    }
}

fn put(line: &[u8], into: &mut Vec<u8>) {
    into.extend_from_slice(line);
    into.push(b'\n');
}

const BOM: &[u8] = b"\xef\xbb\xbf";

/// A line's name and value.
fn field(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|byte| *byte == b':') {
        Some(colon) => {
            let (name, value) = line.split_at(colon);
            let value = value.strip_prefix(b":").unwrap_or(value);
            (name, value.strip_prefix(b" ").unwrap_or(value))
        }
        None => (line, b""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut splitter = Splitter::new(1000);
        let mut events = Vec::new();
        for chunk in chunks {
            splitter.feed(chunk).unwrap();
            while let Some(event) = splitter.next() {
                events.push(event.to_vec());
            }
        }
        events
    }

    #[test]
    fn events_are_the_same_however_they_come() {
        for text in [
            &b"id: 1\ndata: {}\n\n: hello\n\ndata:a\ndata:b\n\n"[..],
            b"id: 1\r\ndata: {}\r\n\r\n: hello\r\n\r\ndata:a\r\ndata:b\r\n\r\n",
            b"id: 1\rdata: {}\r\r: hello\r\rdata:a\rdata:b\r\r",
        ] {
            let whole = split(&[text]);
            assert_eq!(whole.len(), 3);
            assert_eq!(whole.concat(), text);
            for step in 1..text.len() {
                let chunks: Vec<&[u8]> = text.chunks(step).collect();
                let parts = split(&chunks);
                let said = |events: &[Vec<u8>]| -> Vec<Option<Vec<u8>>> {
                    let events = events.iter().map(|event| Event::parse(event));
                    events
                        .map(|event| event.data().map(<[u8]>::to_vec))
                        .collect()
                };
                assert_eq!(said(&parts), said(&whole), "{step}");
                assert_eq!(
                    said(&whole),
                    [Some(b"{}".to_vec()), None, Some(b"a\nb".to_vec())]
                );
            }
        }
    }

    #[test]
    fn event_that_has_not_ended_is_not_given_out() {
        assert!(split(&[b"data: {}\n"]).is_empty());
        assert!(split(&[b"data: {}"]).is_empty());
    }

    #[test]
    fn event_that_is_too_long_is_refused() {
        let mut splitter = Splitter::new(10);
        splitter.feed(&[b'x'; 11]).unwrap();
        assert!(splitter.next().is_none());
        assert_eq!(splitter.feed(b"x"), Err(TooLong));
    }

    #[test]
    fn data_is_replaced_and_the_rest_stays() {
        let raw = b"event: message\nid: 7\ndata: {\"a\":\ndata: 1}\nretry: 5\nx-new: y\n\n";
        let event = Event::parse(raw);
        assert_eq!(event.data(), Some(&b"{\"a\":\n1}"[..]));
        assert!(event.has_id());
        let mut same = Vec::new();
        event.unchanged(&mut same);
        assert_eq!(same, raw);
        let mut changed = Vec::new();
        event.with_data("{\"b\":\n2}", &mut changed);
        assert_eq!(
            String::from_utf8(changed).unwrap(),
            "event: message\nid: 7\ndata: {\"b\":\ndata: 2}\nretry: 5\nx-new: y\n\n"
        );
    }

    #[test]
    fn what_readers_differ_on_is_made_plain() {
        let told = |raw: &[u8]| {
            let mut told = Vec::new();
            Event::parse(raw).unchanged(&mut told);
            String::from_utf8(told).unwrap()
        };
        assert_eq!(told(b"id: 1\rdata: x\r\r"), "id: 1\ndata: x\n\n");
        assert_eq!(told(b"Data: {\"x\":1}\nid: 1\n\n"), "id: 1\n\n");
        assert_eq!(told(b"\xef\xbb\xbfdata: x\n\n"), "\n");
        assert_eq!(told(b"id: 0\ndata: \n\n"), "id: 0\ndata: \n\n");
    }
}
