//! What is printed.

use std::{collections::BTreeMap, fmt, io::IsTerminal};

use serde_json::{Value, json};

use crate::{
    judge::{Mark, shown},
    row::{Layer, Row, Seen},
    sys::Way,
};

/// A row that was tried.
#[derive(Debug)]
pub(crate) struct Tried {
    pub(crate) row: &'static Row,
    pub(crate) user: u32,
    pub(crate) way: Way,
    pub(crate) free: Seen,
    pub(crate) governed: Seen,
    pub(crate) mark: Mark,
}

impl Tried {
    /// What must stop it: by a foreign door, nothing gets as far as the layers behind.
    fn layer(&self) -> Layer {
        match self.way {
            Way::Native => self.row.layer,
            Way::I386 | Way::X32 => Layer::Seccomp,
        }
    }

    /// What came of it, in one line, with so much room for what was attempted.
    fn line(&self, f: &mut fmt::Formatter<'_>, widest: usize) -> fmt::Result {
        let Self { row, mark, .. } = self;
        let user = if self.user == 0 { "root" } else { "nobody" };
        write!(
            f,
            "{} {:<4} {user:<6} {:<6}  {:<widest$}  {:<15}  {} → {}",
            sign(mark),
            row.id,
            self.way.name(),
            row.says,
            self.layer().name(),
            shown(&self.free),
            shown(&self.governed),
        )?;
        match mark {
            Mark::Passed => writeln!(f),
            mark => writeln!(f, "  {}", dim(&format!("{}: {}", mark.word(), mark.why()))),
        }
    }
}

/// All of them, in the order of the table.
#[derive(Debug, Default)]
pub(crate) struct Report(pub(crate) Vec<Tried>);

impl Report {
    fn count(&self, word: &str) -> usize {
        let marks = self.0.iter();
        marks.filter(|tried| tried.mark.word() == word).count()
    }

    /// Whether nothing failed.
    pub(crate) fn is_clean(&self) -> bool {
        self.count("failed") == 0
    }

    /// For programs.
    pub(crate) fn to_json(&self) -> Value {
        let rows = self.0.iter().map(|tried| {
            json!({
                "id": tried.row.id,
                "attack": tried.row.says,
                "layer": tried.layer().name(),
                "user": tried.user,
                "way": tried.way,
                "ungoverned": shown(&tried.free),
                "governed": shown(&tried.governed),
                "mark": tried.mark.word(),
                "why": tried.mark.why(),
            })
        });
        json!({
            "rows": rows.collect::<Vec<_>>(),
            "passed": self.count("passed"),
            "failed": self.count("failed"),
            "skipped": self.count("skipped"),
            "residual": self.count("residual"),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widest = self.0.iter().map(|tried| tried.row.says.chars().count());
        let widest = widest.max().unwrap_or(0);
        // A door that this kernel does not have is said once, not in every row.
        let mut closed = BTreeMap::<&str, usize>::new();
        for tried in &self.0 {
            if let Mark::Skipped(why) = &tried.mark
                && tried.way != Way::Native
                && why.starts_with("this kernel")
            {
                *closed.entry(why).or_default() += 1;
                continue;
            }
            tried.line(f, widest)?;
        }
        writeln!(f)?;
        for (why, count) in closed {
            writeln!(f, "{count} skipped: {why}")?;
        }
        let [passed, failed, skipped, residual] =
            ["passed", "failed", "skipped", "residual"].map(|word| self.count(word));
        if residual > 0 {
            writeln!(f, "{residual} residual: they work, and SECURITY.md says so")?;
        }
        // Once more, for who sees only the end.
        for tried in &self.0 {
            if matches!(tried.mark, Mark::Failed(_)) {
                tried.line(f, widest)?;
            }
        }
        writeln!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

fn sign(mark: &Mark) -> String {
    match mark {
        Mark::Passed => paint("32", "✓"),
        Mark::Residual(_) => paint("33", "!"),
        Mark::Skipped(_) => dim("·"),
        Mark::Failed(_) => paint("31", "✗"),
    }
}

fn dim(text: &str) -> String {
    paint("2", text)
}

/// Colours, for a terminal only.
fn paint(code: &str, text: &str) -> String {
    if std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{Must, row};

    const ROW: Row = row("T1", "a try", Layer::Seccomp, Must::Nothing, |_| Err(0));

    #[test]
    fn what_failed_is_said_again_before_the_closing_line() {
        let tried = |mark| Tried {
            row: &ROW,
            user: 0,
            way: Way::Native,
            free: Seen::Heard(1),
            governed: Seen::Heard(2),
            mark,
        };
        let marks = [
            Mark::Failed("it works under capwarden".into()),
            Mark::Passed,
            Mark::Residual("so it is".into()),
        ];
        let said = Report(marks.map(tried).into()).to_string();
        let mut last = said.lines().rev();
        assert_eq!(last.next(), Some("1 passed, 1 failed, 0 skipped"));
        let again = last.next().unwrap_or("");
        assert!(again.contains("T1") && again.ends_with("failed: it works under capwarden"));
        assert_eq!(said.matches("failed: it works").count(), 2);
        assert_eq!(said.matches("residual: so it is").count(), 1);
        let well = Report(vec![tried(Mark::Passed)]).to_string();
        assert_eq!(well.lines().count(), 3);
    }
}
