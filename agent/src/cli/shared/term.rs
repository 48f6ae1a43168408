//! Terminals: colour, width, and writing to standard output.

use std::{
    env,
    io::{self, BufWriter, IsTerminal, Write},
};

use rustix::termios::tcgetwinsize;

use super::failure::{Account, Failure};
use crate::audit::visible_json;

/// Colours text, or leaves it.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Paint(bool);

impl Paint {
    pub(in crate::cli) fn for_stdout() -> Self {
        Self::for_stream(&io::stdout())
    }

    pub(in crate::cli) fn for_stderr() -> Self {
        Self::for_stream(&io::stderr())
    }

    pub(in crate::cli) fn off() -> Self {
        Self(false)
    }

    fn for_stream(stream: &impl IsTerminal) -> Self {
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self(stream.is_terminal() && !refused && !dumb)
    }

    pub(in crate::cli) fn is_on(self) -> bool {
        self.0
    }

    pub(in crate::cli) fn error(self, text: &str) -> String {
        self.with("1;31", text)
    }

    pub(in crate::cli) fn warning(self, text: &str) -> String {
        self.with("33", text)
    }

    pub(in crate::cli) fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(in crate::cli) fn note(self, text: &str) -> String {
        self.with("36", text)
    }

    pub(in crate::cli) fn strong(self, text: &str) -> String {
        self.with("1", text)
    }

    fn with(self, style: &str, text: &str) -> String {
        if self.0 {
            format!("\u{1b}[{style}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Breaks lines where a terminal ends, or leaves them: what others read keeps its lines.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Fit(Option<usize>);

impl Fit {
    /// Columns that a line has at least after its indent; with fewer, it is indented less.
    const ROOM: usize = 30;
    /// That much.
    const LESS: usize = 8;

    pub(in crate::cli) fn for_stdout() -> Self {
        let stdout = io::stdout();
        let size = stdout.is_terminal().then(|| tcgetwinsize(&stdout).ok());
        // A terminal that does not say how wide it is says 0.
        let columns = size.flatten().map(|size| usize::from(size.ws_col));
        Self(columns.filter(|columns| *columns > 0))
    }

    pub(in crate::cli) fn off() -> Self {
        Self(None)
    }

    /// A line, whose continuations begin in this column, counted from 0.
    pub(in crate::cli) fn line(self, line: &str, indent: usize) -> String {
        match self.0 {
            Some(width) if indent + Self::ROOM > width => {
                wrapped(line, width, indent.min(Self::LESS))
            }
            Some(width) => wrapped(line, width, indent),
            None => line.to_owned(),
        }
    }
}

/// Breaks a line at its spaces before this many columns are full. A word that is longer stays whole.
pub(in crate::cli) fn wrapped(line: &str, width: usize, indent: usize) -> String {
    let mut text = String::new();
    let mut column = 0;
    for piece in line.split_inclusive(' ') {
        let mut piece = piece;
        if column > indent && column + columns(piece.trim_end_matches(' ')) > width {
            text.truncate(text.trim_end_matches(' ').len());
            text += &format!("\n{:indent$}", "");
            column = indent;
            piece = piece.trim_start_matches(' ');
        }
        text += piece;
        column += columns(piece);
    }
    text
}

/// How many columns a text takes, about: colours take none.
fn columns(text: &str) -> usize {
    let mut count = 0;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => {
                rest.find(char::is_ascii_alphabetic);
            }
            _ => count += 1,
        }
    }
    count
}

/// Writes to standard output. A reader who has gone (`| head`) is no failure.
pub(in crate::cli) fn print(
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Internal(
            Account::new("cannot write to standard output").because(error),
        )),
        _ => Ok(()),
    }
}

/// Writes a value to standard output as JSON.
pub(in crate::cli) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = json_text(value)?;
    print(|out| writeln!(out, "{text}"))
}

/// The same of what others wrote: what could move a cursor, hide or turn text around is escaped.
pub(in crate::cli) fn print_visible_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = visible_json_text(value)?;
    print(|out| out.write_all(text.as_bytes()))
}

/// What [`print_visible_json`] prints.
pub(in crate::cli) fn visible_json_text(value: &impl serde::Serialize) -> Result<String, Failure> {
    let text = json_text(value)?;
    // Line by line, since the ends of lines would be escaped too.
    let lines = text.lines().map(|line| visible_json(line) + "\n");
    Ok(lines.collect())
}

fn json_text(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map_err(|error| {
        Failure::Internal(Account::new("cannot write the answer as JSON").because(error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words_and_keep_their_indent() {
        for (line, width, indent, expected) in [
            ("one two three", 40, 4, "one two three"),
            ("one two three", 7, 2, "one two\n  three"),
            ("  one two three", 9, 4, "  one two\n    three"),
            ("a  b", 2, 0, "a\nb"),
            // A word that is too long is not cut, and nothing is put before it in vain.
            ("abcdefghij k", 5, 2, "abcdefghij\n  k"),
            ("x abcdefghij", 5, 2, "x abcdefghij"),
            (
                "\u{1b}[1mone\u{1b}[0m two three",
                7,
                1,
                "\u{1b}[1mone\u{1b}[0m two\n three",
            ),
            ("", 5, 2, ""),
        ] {
            assert_eq!(wrapped(line, width, indent), expected, "{line:?}");
        }
        let long = vec!["abcdefghi"; 30].join(" ");
        let text = wrapped(&long, 100, 11);
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
        assert_eq!(text.split_whitespace().count(), 30);
    }

    #[test]
    fn what_others_read_and_what_has_no_room_is_not_broken() {
        let line = vec!["word"; 50].join(" ");
        assert_eq!(Fit::off().line(&line, 4), line);
        let narrow = Fit(Some(40)).line(&line, 35);
        assert!(narrow.contains("\n        word"), "{narrow}");
        assert!(narrow.lines().all(|line| line.len() <= 40), "{narrow}");
        assert_eq!(Fit(Some(1)).line("a b", 0), "a\nb");
    }
}
