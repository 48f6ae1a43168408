//! What the documents show is what the language is.

use super::*;

const LANGUAGE: &str = include_str!("../../../../policies/README.md");
const README: &str = include_str!("../../../../README.md");

/// The blocks of YAML in a document, each with the line that it begins at.
fn blocks(document: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut lines = document.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        if line == "```yaml" {
            let text = lines.by_ref().take_while(|(line, _)| *line != "```");
            let text = text.map(|(line, _)| format!("{line}\n")).collect();
            blocks.push((number, text));
        }
    }
    blocks
}

#[test]
fn policies_in_the_documents_load() {
    let mut count = 0;
    for (name, document) in [("policies/README.md", LANGUAGE), ("README.md", README)] {
        // The agent's configuration is tried by the test of the command line.
        let policies = blocks(document).into_iter();
        for (line, text) in policies.filter(|(_, text)| !text.starts_with("servers:")) {
            let policy = Policy::parse(&format!("{name}:{line}"), &text)
                .unwrap_or_else(|error| panic!("{error:?}"));
            assert_eq!(policy.dialect(), Dialect::Capwarden);
            assert!(!policy.summary().tools.is_empty());
            count += 1;
        }
    }
    assert!(count >= 8, "{count}");
}

#[test]
fn every_key_is_documented() {
    fn keys(schema: &Value, found: &mut Vec<String>) {
        match schema {
            Value::Object(map) => {
                for (key, value) in map {
                    match (key.as_str(), value) {
                        ("properties", Value::Object(map)) => found.extend(map.keys().cloned()),
                        ("enum", Value::Array(words)) => {
                            found.extend(words.iter().filter_map(Value::as_str).map(str::to_owned));
                        }
                        _ => {}
                    }
                    keys(value, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    keys(&serde_json::from_str(SCHEMA).unwrap(), &mut found);
    assert!(found.len() > 80, "{}", found.len());
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words: std::collections::BTreeSet<&str> = LANGUAGE
        .split(|c| !word(c))
        .filter(|it| !it.is_empty())
        .collect();
    found.retain(|key| !words.contains(key.as_str()));
    assert!(found.is_empty(), "not in policies/README.md: {found:?}");
}
