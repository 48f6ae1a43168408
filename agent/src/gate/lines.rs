//! A reader of lines whose memory is bounded, whatever the other side sends.

use std::{
    io::{self, BufRead},
    ops::Range,
};

use tokio::io::{AsyncRead, AsyncReadExt};

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
    buffer: Vec<u8>,
    /// Where the first byte that was not given out stands.
    start: usize,
    /// Up to where there is no newline.
    scanned: usize,
    /// Bytes of an over-long line thrown away so far.
    skipped: Option<u64>,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(inner: R, limit: usize) -> Self {
        Self {
            inner,
            limit,
            buffer: Vec::new(),
            start: 0,
            scanned: 0,
            skipped: None,
            ended: false,
        }
    }

    /// The bytes of a line, until the next call of [`Self::next`].
    pub(super) fn bytes(&self, line: Range<usize>) -> &[u8] {
        self.buffer.get(line).unwrap_or_default()
    }

    /// Waits for the next line. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> io::Result<Next> {
        loop {
            if let Some(next) = self.take() {
                return Ok(next);
            }
            self.make_room();
            if self.inner.read_buf(&mut self.buffer).await? == 0 {
                self.ended = true;
            }
        }
    }

    /// What the buffer already holds.
    fn take(&mut self) -> Option<Next> {
        let fresh = self.buffer.get(self.scanned..).unwrap_or_default();
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
            self.buffer.drain(..self.start);
            self.scanned -= self.start;
            self.start = 0;
        }
        // One long line should not cost its memory for ever.
        if self.buffer.is_empty() && self.buffer.capacity() > 16 * CHUNK {
            self.buffer = Vec::new();
        }
        // Half of a chunk free is enough: a read that fills it is followed by another.
        if self.buffer.capacity() - self.buffer.len() < CHUNK / 2 {
            self.buffer.reserve(CHUNK);
        }
    }
}

fn add(bytes: u64, more: usize) -> u64 {
    bytes.saturating_add(u64::try_from(more).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    use tokio::io::ReadBuf;

    use super::*;

    /// Gives its bytes out a few at a time.
    struct Drip(Vec<u8>, usize);

    impl AsyncRead for Drip {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let count = self.1.min(self.0.len()).min(into.remaining());
            into.put_slice(&self.0.drain(..count).collect::<Vec<_>>());
            Poll::Ready(Ok(()))
        }
    }

    async fn read(text: &[u8], step: usize, limit: usize) -> Vec<String> {
        let mut lines = Lines::new(Drip(text.to_vec(), step), limit);
        let mut seen = Vec::new();
        loop {
            match lines.next().await.unwrap() {
                Next::Line(line) => {
                    seen.push(String::from_utf8_lossy(lines.bytes(line)).into_owned());
                }
                Next::TooLong { bytes } => seen.push(format!("<{bytes}>")),
                Next::End => return seen,
            }
        }
    }

    #[tokio::test]
    async fn lines_any_chunking_gives_the_same_lines() {
        let text = b"one\n\ntwo\r\n0123456789abc\nthree\nlast";
        for step in [1, 2, 3, 7, 1000] {
            assert_eq!(
                read(text, step, 9).await,
                ["one\n", "\n", "two\r\n", "<14>", "three\n", "last"],
                "{step}"
            );
        }
    }

    #[tokio::test]
    async fn lines_over_long_line_is_not_buffered() {
        let mut text = vec![b'x'; 8 << 20];
        text.extend_from_slice(b"\nok\n");
        let mut lines = Lines::new(&text[..], 1 << 20);
        assert_eq!(
            lines.next().await.unwrap(),
            Next::TooLong {
                bytes: (8 << 20) + 1
            }
        );
        assert!(lines.buffer.capacity() < 4 << 20);
        let Next::Line(line) = lines.next().await.unwrap() else {
            panic!("a line follows");
        };
        assert_eq!(lines.bytes(line), b"ok\n");
        assert_eq!(lines.next().await.unwrap(), Next::End);
    }

    #[tokio::test]
    async fn lines_over_long_line_at_the_end_is_told() {
        assert_eq!(read(b"0123456789", 3, 4).await, ["<10>"]);
    }
}
