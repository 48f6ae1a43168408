//! Terminals: colour, and writing to standard output.

use std::{
    env,
    io::{self, BufWriter, IsTerminal, Write},
};

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
