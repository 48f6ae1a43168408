//! The pages that are written by hand: the policy language, and the guides. Each is made from the
//! Markdown that is read on its own, too.

use std::io::{self, Write};

use clap_mangen::roff::{Inline, Roff, bold, roman};

/// A page, and the text that it is made from.
pub(super) struct Written {
    name: &'static str,
    section: &'static str,
    /// What it is about, in a line.
    says: &'static str,
    /// Markdown, of which headings, paragraphs, lists, tables and blocks of code are used.
    text: &'static str,
    /// Other pages, with their sections.
    see: &'static [(&'static str, &'static str)],
}

/// All of them.
pub(super) const PAGES: &[Written] = &[
    Written {
        name: "capwarden-policy",
        section: "5",
        says: "what MCP tools may be called with, and what their captures may see",
        text: include_str!("../../../../policies/README.md"),
        see: &[
            ("capwarden-policy", "8"),
            ("capwarden-run", "8"),
            ("capwarden-write-a-policy", "7"),
            ("pcap-filter", "7"),
        ],
    },
    Written {
        name: "capwarden-agent.yaml",
        section: "5",
        says: "what capwarden agent serves, to whom",
        text: include_str!("../../../manual/configuration.md"),
        see: &[("capwarden-agent", "8"), ("capwarden-serving", "7")],
    },
    Written {
        name: "capwarden-sharkmcp",
        section: "7",
        says: "hand SharkMCP to a model",
        text: include_str!("../../../manual/sharkmcp.md"),
        see: &[
            ("capwarden-agent", "8"),
            ("capwarden-policy", "5"),
            ("capwarden-report", "8"),
        ],
    },
    Written {
        name: "capwarden-kali",
        section: "7",
        says: "hand a Kali server's proxy to a model",
        text: include_str!("../../../manual/kali.md"),
        see: &[("capwarden-agent", "8"), ("capwarden-policy", "5")],
    },
    Written {
        name: "capwarden-your-server",
        section: "7",
        says: "put capwarden in front of any MCP server",
        text: include_str!("../../../manual/your-server.md"),
        see: &[
            ("capwarden-run", "8"),
            ("capwarden-policy", "5"),
            ("capwarden-tools", "8"),
        ],
    },
    Written {
        name: "capwarden-write-a-policy",
        section: "7",
        says: "write a policy that holds",
        text: include_str!("../../../manual/write-a-policy.md"),
        see: &[
            ("capwarden-policy", "5"),
            ("capwarden-filter", "8"),
            ("pcap-filter", "7"),
        ],
    },
    Written {
        name: "capwarden-approving",
        section: "7",
        says: "look at calls before they run, and stop what runs",
        text: include_str!("../../../manual/approve.md"),
        see: &[
            ("capwarden-approvals", "8"),
            ("capwarden-top", "8"),
            ("capwarden-stop", "8"),
        ],
    },
    Written {
        name: "capwarden-serving",
        section: "7",
        says: "serve a host's users, many servers by one agent",
        text: include_str!("../../../manual/daemon.md"),
        see: &[
            ("capwarden-agent", "8"),
            ("capwarden-connect", "8"),
            ("capwarden-client-config", "8"),
        ],
    },
    Written {
        name: "capwarden-over-http",
        section: "7",
        says: "serve clients over HTTP, with grants",
        text: include_str!("../../../manual/over-http.md"),
        see: &[
            ("capwarden-run", "8"),
            ("capwarden-grant", "8"),
            ("capwarden-revoke", "8"),
        ],
    },
    Written {
        name: "capwarden-pin-tools",
        section: "7",
        says: "hold tools to what their server said of them",
        text: include_str!("../../../manual/pin-tools.md"),
        see: &[("capwarden-tools", "8"), ("capwarden-policy", "5")],
    },
    Written {
        name: "capwarden-fleet",
        section: "7",
        says: "roll capwarden out to many hosts",
        text: include_str!("../../../manual/fleet.md"),
        see: &[("capwarden-agent", "8"), ("capwarden-doctor", "8")],
    },
    Written {
        name: "capwarden-read-the-audit",
        section: "7",
        says: "find something in the audit log, and trust it",
        text: include_str!("../../../manual/read-the-audit.md"),
        see: &[("capwarden-audit", "8"), ("capwarden-report", "8")],
    },
    Written {
        name: "capwarden-metrics",
        section: "7",
        says: "what an agent counts, for Prometheus",
        text: include_str!("../../../manual/metrics.md"),
        see: &[("capwarden-run", "8"), ("capwarden-agent.yaml", "5")],
    },
    Written {
        name: "capwarden-born-armed",
        section: "7",
        says: "how the kernel holds a capture to its grant",
        text: include_str!("../../../manual/born-armed.md"),
        see: &[("capwarden-kernels", "7"), ("capwarden-run", "8")],
    },
    Written {
        name: "capwarden-kernels",
        section: "7",
        says: "what each kernel offers for enforcement",
        text: include_str!("../../../manual/kernels.md"),
        see: &[("capwarden-doctor", "8"), ("capwarden-born-armed", "7")],
    },
];

impl Written {
    /// The file that it is written to.
    pub(super) fn file(&self) -> String {
        format!("{}.{}", self.name, self.section)
    }

    /// Writes the page.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut page = Roff::new();
        page.control("TH", [self.name, self.section, "", "", "capwarden"]);
        page.control("SH", ["NAME"]);
        page.text([roman(format!("{} - {}", self.name, self.says))]);
        page.control("SH", ["DESCRIPTION"]);
        body(self.text, &mut page);
        page.control("SH", ["SEE ALSO"]);
        let mut see = Vec::new();
        for (page, section) in self.see {
            if !see.is_empty() {
                see.push(roman(", "));
            }
            see.push(bold(*page));
            see.push(roman(format!("({section})")));
        }
        page.text(see);
        page.to_writer(out)
    }
}

/// What stands under the title of a text.
fn body(text: &str, page: &mut Roff) {
    let mut lines = text.lines().skip(1).peekable();
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
        } else if let Some(title) = line.strip_prefix("### ") {
            page.control("SS", [title]);
        } else if let Some(words) = picture(line) {
            page.text([roman(format!("[Picture: {words}]"))]);
        } else if lines.peek().is_some_and(|next| next.starts_with("|---")) {
            // The head of a table, of which a page has none.
        } else if let Some(row) = line.strip_prefix("| ") {
            let (key, says) = row
                .trim_end_matches('|')
                .split_once(" |")
                .unwrap_or((row, ""));
            page.control("TP", []);
            page.text(inlines(key.trim()));
            page.text(inlines(says.trim()));
        } else if line.starts_with("|---") || line.starts_with("| |") {
            // Nothing is said by it.
        } else if let Some((mark, item)) = item(line) {
            page.control("IP", [mark, "4"]);
            page.text(inlines(item));
        } else if line.is_empty() {
            if lines
                .peek()
                .is_some_and(|next| !next.starts_with(['|', '#', '`']) && item(next).is_none())
            {
                page.control("PP", []);
            }
        } else {
            page.text(inlines(line.trim_start()));
        }
    }
}

/// What a line that is a picture shows, in words: `![words](file)`. A page of the manual has only these.
fn picture(line: &str) -> Option<&str> {
    let (words, _) = line.strip_prefix("![")?.split_once("](")?;
    Some(words)
}

/// An item of a list: its mark, and its first line.
fn item(line: &str) -> Option<(&str, &str)> {
    if let Some(item) = line.strip_prefix("- ") {
        return Some(("\u{2022}", item));
    }
    let (number, item) = line.split_once(". ")?;
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| (line.get(..=number.len()).unwrap_or(number), item))
}

/// A line with its code in bold, and of its links the words.
fn inlines(line: &str) -> Vec<Inline> {
    let parts = line.split('`').enumerate();
    let parts = parts.filter(|(_, part)| !part.is_empty());
    parts
        .map(|(n, part)| match n % 2 {
            0 => roman(without_links(&part.replace("**", ""))),
            _ => bold(part),
        })
        .collect()
}

/// `[words](where)` as `words`.
fn without_links(text: &str) -> String {
    let mut said = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("](") {
        let (before, words) = before.rsplit_once('[').unwrap_or((before, ""));
        said.push_str(before);
        said.push_str(words);
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    said.push_str(rest);
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(name: &str) -> String {
        let written = PAGES.iter().find(|page| page.file() == name).unwrap();
        let mut page = Vec::new();
        written.write(&mut page).unwrap();
        String::from_utf8(page).unwrap()
    }

    #[test]
    fn the_page_has_all_that_the_text_has() {
        let page = page("capwarden-policy.5");
        for part in [
            ".SH CHECKS",
            ".SH \"POLICIES OF OTHERS\"",
            "\n.TP\n\\fBoutside\\fR\n",
            "no_more_than: 500",
        ] {
            assert!(page.contains(part), "{part} in\n{page}");
        }
    }

    #[test]
    fn no_page_has_markdown_left_in_it() {
        for written in PAGES {
            let page = page(&written.file());
            assert_eq!(
                page.matches("\n.nf\n").count(),
                page.matches("\n.fi\n").count()
            );
            for mark in ["```", "|--", "**", "]("] {
                assert!(
                    !page.contains(mark),
                    "{mark} in {}:\n{page}",
                    written.file()
                );
            }
        }
    }

    #[test]
    fn pictures_are_told_of_in_words() {
        let page = page("capwarden-approving.7");
        assert!(page.contains(".PP\n[Picture: "), "{page}");
        assert!(!page.contains("pictures/"), "{page}");
    }

    #[test]
    fn lists_and_links_are_read() {
        let mut roff = Roff::new();
        body(
            "# A title\n\nSee [this](x.md) and `that`.\n\n1. one\n   more\n2. two\n\n- dot\n",
            &mut roff,
        );
        let page = roff.to_roff();
        for part in [
            "See this and \\fBthat\\fR.",
            ".IP 1. 4\none\nmore\n.IP 2. 4\ntwo",
            ".IP • 4\ndot",
        ] {
            assert!(page.contains(part), "{part} in\n{page}");
        }
    }
}
