//! The words that capwarden's messages and documents use in one meaning each, as README has them, too.

use std::io::{self, Write};

use clap_mangen::roff::{Roff, bold, roman};

/// Each word, and what it means.
pub(super) const WORDS: [(&str, &str); 12] = [
    (
        "server",
        "an MCP server that capwarden stands in front of; a governed one is started by it, too",
    ),
    (
        "agent",
        "a process of capwarden that governs servers: run, exec, or, as the service, agent",
    ),
    (
        "launcher",
        "an unprivileged process of the service that starts the servers of one user, when the agent asks for one",
    ),
    (
        "daemon",
        "a program of the host that starts programs for whoever asks it, such as Docker; servers find none but those that they may reach",
    ),
    (
        "policy",
        "the file that says what each tool may be called with, and what that may start",
    ),
    (
        "session",
        "what one call has started, a capture, a proxy or programs, from the moment it was allowed to its end",
    ),
    (
        "terms",
        "what a session may see or do at most: interfaces, filters, addresses, caps, time",
    ),
    (
        "guard",
        "the program in the kernel, on each capture socket, that holds a session to its terms",
    ),
    (
        "grant",
        "what capwarden grant create makes: leave to call a server over HTTP, for whoever bears its token",
    ),
    (
        "principal",
        "who calls: the user whom the kernel names, or the bearer of a grant",
    ),
    (
        "audit log",
        "the file of records, one a line, each with the hash of the line before it",
    ),
    (
        "journal",
        "what an agent says to its operator on standard error, which the service manager keeps",
    ),
];

/// The section of capwarden(8) that has them.
pub(super) fn write(out: &mut dyn Write) -> io::Result<()> {
    let mut roff = Roff::new();
    roff.control("SH", ["WORDS"]);
    for (word, meaning) in WORDS {
        roff.control("TP", []);
        roff.text([bold(word)]);
        roff.text([roman(meaning)]);
    }
    roff.to_writer(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readme_has_the_same_words() {
        let readme = include_str!("../../../../README.md");
        let (_, table) = readme.split_once("## Words\n").unwrap();
        let (table, _) = table.split_once("\n## ").unwrap();
        let rows: Vec<String> = table
            .lines()
            .filter(|line| line.starts_with("| ") && !line.starts_with("| |"))
            // What is said as it is typed stands between backquotes there.
            .map(|line| line.replace('`', ""))
            .collect();
        let words = WORDS.map(|(word, meaning)| format!("| {word} | {meaning} |"));
        assert_eq!(rows, words);
    }
}
