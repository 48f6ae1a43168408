//! Recordings of a terminal, as asciinema writes and plays them: asciicast, version 2.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Longer pauses than this are cut to it, in milliseconds: nobody likes to wait for a compiler twice.
const LONGEST_PAUSE: u64 = 1_600;

/// What a terminal has shown, and when.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cast {
    pub(super) title: String,
    pub(super) columns: u16,
    pub(super) rows: u16,
    /// In the order of their times.
    pub(super) events: Vec<Event>,
}

/// Something at one moment of a recording.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Milliseconds since the beginning.
    pub(super) at: u64,
    pub(super) what: What,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The terminal was written this.
    Output(String),
    /// This is the moment that a picture of the recording shows, if it shows only one.
    Marker,
}

impl Cast {
    /// A recording of what was written at these milliseconds, in bytes as they came: characters may be
    /// torn apart. Long pauses are shortened.
    pub(super) fn recorded(title: &str, columns: u16, rows: u16, came: &[(u64, Came)]) -> Self {
        let mut events = Vec::new();
        let mut torn = Vec::new();
        let (mut last, mut at) = (came.first().map_or(0, |(at, _)| *at), 0);
        for (real, came) in came {
            at += real.saturating_sub(last).min(LONGEST_PAUSE);
            last = *real;
            let what = match came {
                Came::Marker => What::Marker,
                Came::Bytes(bytes) => {
                    torn.extend_from_slice(bytes);
                    let text = whole(&mut torn);
                    if text.is_empty() {
                        continue;
                    }
                    What::Output(text)
                }
            };
            events.push(Event { at, what });
        }
        Self {
            title: title.to_owned(),
            columns,
            rows,
            events,
        }
    }

    /// The file's text.
    pub(super) fn text(&self) -> String {
        let head = json!({
            "version": 2,
            "width": self.columns,
            "height": self.rows,
            "title": self.title,
            "env": { "TERM": "xterm-256color" },
        });
        let mut text = format!("{head}\n");
        for event in &self.events {
            let (kind, data) = match &event.what {
                What::Output(output) => ("o", output.as_str()),
                What::Marker => ("m", ""),
            };
            let data = Value::from(data);
            let (seconds, rest) = (event.at / 1_000, event.at % 1_000);
            text += &format!("[{seconds}.{rest:03}, \"{kind}\", {data}]\n");
        }
        text
    }

    /// Reads such a file. `Err` if a player would not play it.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines();
        let head: Value = serde_json::from_str(lines.next().context("no header")?)?;
        if head.get("version") != Some(&json!(2)) {
            bail!("the header names no version 2: {head}");
        }
        let size = |name: &str| -> Result<u16> {
            let size = head.get(name).and_then(Value::as_u64).context("no size")?;
            Ok(u16::try_from(size)?)
        };
        let mut cast = Self {
            title: head
                .get("title")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            columns: size("width")?,
            rows: size("height")?,
            events: Vec::new(),
        };
        for line in lines {
            let (seconds, kind, data): (f64, String, String) =
                serde_json::from_str(line).with_context(|| format!("no event: {line}"))?;
            let at = u64::try_from(
                std::time::Duration::try_from_secs_f64(seconds)?
                    .as_micros()
                    .saturating_add(500)
                    / 1_000,
            )?;
            if cast.events.last().is_some_and(|last| last.at > at) {
                bail!("before the event above it: {line}");
            }
            let what = match kind.as_str() {
                "o" => What::Output(data),
                "m" => What::Marker,
                _ => bail!("an event that is not known here: {line}"),
            };
            cast.events.push(Event { at, what });
        }
        Ok(cast)
    }
}

/// What came from a terminal, or was noted of it.
#[derive(Debug)]
pub(super) enum Came {
    Bytes(Vec<u8>),
    Marker,
}

/// Takes what is whole characters; the beginning of one more stays.
fn whole(bytes: &mut Vec<u8>) -> String {
    let end = match std::str::from_utf8(bytes) {
        Ok(_) => bytes.len(),
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(_) => bytes.len(),
    };
    let rest = bytes.split_off(end);
    let text = String::from_utf8_lossy(bytes).into_owned();
    *bytes = rest;
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &[u8]) -> Came {
        Came::Bytes(text.to_vec())
    }

    #[test]
    fn recordings_are_read_as_they_were_written() {
        let came = [
            (700, bytes(b"# ")),
            (1_000, bytes(b"\x1b[1m\xe2\x9c")),
            (1_010, bytes(b"\x93\r\n")),
            (1_020, Came::Marker),
            (9_000, bytes(b"\"late\"")),
        ];
        let cast = Cast::recorded("a title", 80, 24, &came);
        let times: Vec<u64> = cast.events.iter().map(|event| event.at).collect();
        assert_eq!(times, [0, 300, 310, 320, 320 + LONGEST_PAUSE]);
        let tick = What::Output("✓\r\n".to_owned());
        assert_eq!(cast.events[2].what, tick);
        assert_eq!(Cast::parse(&cast.text()).unwrap(), cast);
    }

    #[test]
    fn what_no_player_plays_is_no_recording() {
        let head = r#"{"version":2,"width":80,"height":24}"#;
        for text in [
            String::new(),
            "{\"version\":1}".to_owned(),
            format!("{head}\n[1.0, \"o\"]"),
            format!("{head}\n[1.0, \"o\", \"a\"]\n[0.5, \"o\", \"b\"]"),
        ] {
            assert!(Cast::parse(&text).is_err(), "{text}");
        }
    }
}
