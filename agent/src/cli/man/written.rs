//! `capwarden-policy(5)`: the policy language, made from the text that stands beside the ready
//! policies.

use std::io::{self, Write};

use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

/// What the page is made from: Markdown, of which headings, paragraphs, tables of two columns and
/// blocks of code are used.
const TEXT: &str = include_str!("../../../../policies/README.md");

/// The page's name.
pub(super) const NAME: &str = "capwarden-policy.5";

/// Writes the page.
pub(super) fn write(out: &mut dyn Write) -> io::Result<()> {
    let mut page = Roff::new();
    page.control("TH", ["capwarden-policy", "5", "", "", "capwarden"]);
    page.control("SH", ["NAME"]);
    page.text([roman(
        "capwarden-policy - what MCP tools may be called with, and what their captures may see",
    )]);
    page.control("SH", ["DESCRIPTION"]);
    let mut lines = TEXT.lines().skip(1).peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("```") {
            page.control("PP", []);
            page.control("nf", []);
            for line in lines.by_ref().take_while(|line| !line.starts_with("```")) {
                page.text([roman(format!("  {line}"))]);
            }
            page.control("fi", []);
        } else if let Some(title) = line.strip_prefix("## ") {
            page.control("SH", [title.to_uppercase().as_str()]);
        } else if let Some(row) = line.strip_prefix("| ") {
            let (key, says) = row
                .trim_end_matches('|')
                .split_once(" |")
                .unwrap_or((row, ""));
            page.control("TP", []);
            page.text(inlines(key.trim()));
            page.text(inlines(says.trim()));
        } else if line.starts_with("|---") {
            // Nothing is said by it.
        } else if line.is_empty() {
            if lines
                .peek()
                .is_some_and(|next| !next.starts_with(['|', '#', '`']))
            {
                page.control("PP", []);
            }
        } else {
            page.text(inlines(line));
        }
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([
        bold("capwarden-policy"),
        roman("(8), "),
        bold("capwarden-run"),
        roman("(8), "),
        italic("pcap-filter"),
        roman("(7)"),
    ]);
    page.to_writer(out)
}

/// A line with its code in bold.
fn inlines(line: &str) -> Vec<Inline> {
    let parts = line.split('`').enumerate();
    let parts = parts.filter(|(_, part)| !part.is_empty());
    parts
        .map(|(n, part)| match n % 2 {
            0 => roman(part),
            _ => bold(part),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_all_that_the_text_has() {
        let mut page = Vec::new();
        write(&mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        for part in [
            ".SH CHECKS",
            ".SH \"POLICIES OF OTHERS\"",
            "\n.TP\n\\fBoutside\\fR\n",
            "no_more_than: 500",
        ] {
            assert!(page.contains(part), "{part} in\n{page}");
        }
        assert_eq!(
            page.matches("\n.nf\n").count(),
            page.matches("\n.fi\n").count()
        );
        assert!(!page.contains("```") && !page.contains("|--"), "{page}");
    }
}
