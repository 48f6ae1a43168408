//! SPECIFICATION.md: what it names exists.

use std::{collections::BTreeSet, fs, path::Path};

/// The parts of a cell of tests: a link's target, or what stands in backquotes.
enum Named<'a> {
    File(&'a str),
    Test(&'a str),
}

fn named(cell: &str) -> Vec<Named<'_>> {
    let mut all = Vec::new();
    let mut rest = cell;
    while let Some(at) = rest.find(['`', '(']) {
        let is_test = rest[at..].starts_with('`');
        let inner = &rest[at + 1..];
        let end = if is_test { '`' } else { ')' };
        let length = inner.find(end).unwrap_or(inner.len());
        let name = &inner[..length];
        all.push(if is_test {
            Named::Test(name)
        } else {
            Named::File(name)
        });
        rest = inner.get(length + 1..).unwrap_or_default();
    }
    all
}

#[test]
fn promises_are_held_by_tests_that_exist() {
    let house = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = fs::read_to_string(house.join("SPECIFICATION.md")).unwrap();
    let mut numbers = BTreeSet::new();
    let mut tests = 0;
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [number, promise, held] = cells[..] else {
            panic!("three columns: {line}");
        };
        if number.is_empty() {
            continue; // a table's head
        }
        assert!(numbers.insert(number), "{number} is there twice");
        assert!(promise.ends_with('.'), "a sentence: {promise}");
        let mut source = String::new();
        let mut found = 0;
        for named in named(held.split("**Gap").next().unwrap_or_default()) {
            match named {
                Named::File(path) => {
                    let path = house.join(path);
                    source = fs::read_to_string(&path)
                        .unwrap_or_else(|error| panic!("{number}: {}: {error}", path.display()));
                }
                Named::Test(name) => {
                    let here = source.contains(&format!("fn {name}("))
                        || source.contains(&format!("\n{name}() {{"))
                        || source.contains(&format!("\"{name}\""));
                    assert!(here, "{number}: no test {name} there");
                    found += 1;
                }
            }
        }
        assert!(found > 0 || held.contains("**Gap"), "{number} is not held");
        tests += found;
    }
    assert!(
        numbers.len() > 30 && tests > 80,
        "{} {tests}",
        numbers.len()
    );
}

/// The ids of the attack table's rows, as its source has them: `A1`, `A1b`.
fn attacks(directory: &Path, ids: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            attacks(&path, ids);
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        let is_id = |text: &&str| {
            let rest = text.strip_prefix(|first: char| first.is_ascii_uppercase());
            let number =
                rest.map(|rest| rest.trim_end_matches(|last: char| last.is_ascii_lowercase()));
            number.is_some_and(|number| {
                let digits = number.chars().all(|digit| digit.is_ascii_digit());
                digits
                    && !number.is_empty()
                    && rest.is_some_and(|rest| rest.len() <= number.len() + 1)
            })
        };
        ids.extend(source.split('"').filter(is_id).map(str::to_owned));
    }
}

#[test]
fn every_attack_is_named_by_a_promise_and_no_promise_is_called_like_one() {
    let house = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut rows = BTreeSet::new();
    attacks(&house.join("tests/attacks/src/families"), &mut rows);
    assert!(rows.len() > 200 && rows.contains("B18b"), "{rows:?}");
    let text = fs::read_to_string(house.join("SPECIFICATION.md")).unwrap();
    let (mut promised, mut families) = (BTreeSet::new(), BTreeSet::new());
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        families.extend(line.chars().nth(2).filter(char::is_ascii_uppercase));
        promised.extend(line.split('`').skip(1).step_by(2));
    }
    for row in &rows {
        let variant_of = row.trim_end_matches(|last: char| last.is_ascii_lowercase());
        let named = promised.contains(row.as_str()) || promised.contains(variant_of);
        assert!(named, "no promise names {row}");
        let letter = row.chars().next().unwrap();
        assert!(
            !families.contains(&letter),
            "promises are called {letter}, too"
        );
    }
}
