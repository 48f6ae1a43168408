//! A reader of lines whose memory is bounded, whatever the other side sends.

use std::{
    io::{self, BufRead, Read},
    ops::Range,
};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What one read asks for.
const CHUNK: usize = 64 * 1024;

/// What came next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A line, with its line end unless the stream ended without one: [`Lines::bytes`] has it.
    Line(Range<usize>),
    /// A line that was longer than the limit; it was not kept.
    TooLong { bytes: u64 },
    /// The stream ended.
    End,
}

/// Reads lines of a bounded length.
#[derive(Debug)]
pub(super) struct Lines<R> {
    inner: R,
    limit: usize,
    /// Up to `filled` it holds what was read, from there on it is room to read into.
    buffer: Vec<u8>,
    filled: usize,
    /// Where the first byte that was not given out stands.
    start: usize,
    /// Up to where there is no newline.
    scanned: usize,
    /// Bytes of an over-long line thrown away so far.
    skipped: Option<u64>,
    ended: bool,
}

impl<R> Lines<R> {
    pub(super) fn new(inner: R, limit: usize) -> Self {
        Self {
            inner,
            limit,
            buffer: Vec::new(),
            filled: 0,
            start: 0,
            scanned: 0,
            skipped: None,
            ended: false,
        }
    }

    /// The bytes of a line, until the next is read.
    pub(super) fn bytes(&self, line: Range<usize>) -> &[u8] {
        self.buffer.get(line).unwrap_or_default()
    }

    /// Takes down what a read has come to.
    fn came(&mut self, read: io::Result<usize>) -> io::Result<()> {
        match read {
            Ok(0) => self.ended = true,
            Ok(read) => self.filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// What the buffer already holds.
    fn take(&mut self) -> Option<Next> {
        let fresh = self.buffer.get(self.scanned..self.filled);
        let fresh = fresh.unwrap_or_default();
        // The standard library's own search for a byte, which is not public by itself.
        let mut rest = fresh;
        let ran = rest.skip_until(b'\n').unwrap_or_default();
        let found = fresh.get(..ran).is_some_and(|run| run.ends_with(b"\n"));
        self.scanned += ran;

        let length = self.scanned - self.start;
        if found || self.ended {
            let line = self.start..self.scanned;
            self.start = self.scanned;
            return match self.skipped.take() {
                Some(skipped) => Some(Next::TooLong {
                    bytes: add(skipped, length),
                }),
                None if length > self.limit => Some(Next::TooLong {
                    bytes: add(0, length),
                }),
                None if length == 0 => Some(Next::End),
                None => Some(Next::Line(line)),
            };
        }
        if self.skipped.is_some() || length > self.limit {
            self.skipped = Some(add(self.skipped.unwrap_or_default(), length));
            self.start = self.scanned;
        }
        None
    }

    fn make_room(&mut self) {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.filled, 0);
            self.scanned -= self.start;
            self.filled -= self.start;
            self.start = 0;
        }
        // One long line should not cost its memory for ever.
        if self.filled == 0 && self.buffer.len() > 16 * CHUNK {
            self.buffer = Vec::new();
        }
        // Half of a chunk free is enough: a read that fills it is followed by another.
        if self.buffer.len() - self.filled < CHUNK / 2 {
            // Twice as much, but no more than the longest line takes. Cleared once, not for each read.
            let most = self.limit.saturating_add(CHUNK);
            let size = self.buffer.len().saturating_mul(2).min(most);
            let size = size.max(self.filled + CHUNK);
            self.buffer.reserve_exact(size - self.buffer.len());
            self.buffer.resize(size, 0);
        }
    }
}

impl<R: Read> Lines<R> {
    /// Waits for the next line, in a thread.
    pub(super) fn next(&mut self) -> io::Result<Next> {
        loop {
            if let Some(next) = self.take() {
                return Ok(next);
            }
            self.make_room();
            let room = self.buffer.get_mut(self.filled..).unwrap_or_default();
            let read = self.inner.read(room);
            self.came(read)?;
        }
    }
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Waits for the next line, in a task.
    pub(super) async fn arrives(&mut self) -> io::Result<Next> {
        loop {
            if let Some(next) = self.take() {
                return Ok(next);
            }
            self.make_room();
            let room = self.buffer.get_mut(self.filled..).unwrap_or_default();
            let read = self.inner.read(room).await;
            self.came(read)?;
        }
    }
}

fn add(bytes: u64, more: usize) -> u64 {
    bytes.saturating_add(u64::try_from(more).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes out a few at a time.
    struct Drip(Vec<u8>, usize);

    impl Read for Drip {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(into.len());
            into[..count].copy_from_slice(&self.0.drain(..count).collect::<Vec<_>>());
            Ok(count)
        }
    }

    fn read(text: &[u8], step: usize, limit: usize) -> Vec<String> {
        let mut lines = Lines::new(Drip(text.to_vec(), step), limit);
        let mut seen = Vec::new();
        loop {
            match lines.next().unwrap() {
                Next::Line(line) => {
                    seen.push(String::from_utf8_lossy(lines.bytes(line)).into_owned());
                }
                Next::TooLong { bytes } => seen.push(format!("<{bytes}>")),
                Next::End => return seen,
            }
        }
    }

    #[test]
    fn lines_any_chunking_gives_the_same_lines() {
        let text = b"one\n\ntwo\r\n0123456789abc\nthree\nlast";
        for step in [1, 2, 3, 7, 1000] {
            assert_eq!(
                read(text, step, 9),
                ["one\n", "\n", "two\r\n", "<14>", "three\n", "last"],
                "{step}"
            );
        }
    }

    #[test]
    fn lines_over_long_line_is_not_buffered() {
        let mut text = vec![b'x'; 8 << 20];
        text.extend_from_slice(b"\nok\n");
        let mut lines = Lines::new(&text[..], 1 << 20);
        assert_eq!(
            lines.next().unwrap(),
            Next::TooLong {
                bytes: (8 << 20) + 1
            }
        );
        assert!(lines.buffer.capacity() <= (1 << 20) + CHUNK);
        let Next::Line(line) = lines.next().unwrap() else {
            panic!("a line follows");
        };
        assert_eq!(lines.bytes(line), b"ok\n");
        assert_eq!(lines.next().unwrap(), Next::End);
    }

    #[test]
    fn lines_over_long_line_at_the_end_is_told() {
        assert_eq!(read(b"0123456789", 3, 4), ["<10>"]);
    }
}
