//! The official JSON-Schema-Test-Suite: every case of every file agrees, or is a departure that is
//! stated here. What is not understood is refused when it is loaded, whatever the suite has for it.
//!
//! `cargo xtask setup` puts the suite into the Python environment, which `CAPWARDEN_VENV` names; without
//! the variable it is looked for in `target/venv`, and where it is not there, nothing is asked.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::super::{Fault, Schema};

/// The revisions, with what `$schema` calls them, and how many cases agree at least.
const REVISIONS: [(&str, &str, usize); 4] = [
    (
        "draft2020-12",
        "https://json-schema.org/draft/2020-12/schema",
        1_500,
    ),
    (
        "draft2019-09",
        "https://json-schema.org/draft/2019-09/schema",
        1_500,
    ),
    ("draft7", "http://json-schema.org/draft-07/schema#", 1_200),
    ("draft6", "http://json-schema.org/draft-06/schema#", 1_000),
];

/// Where nothing is asserted, as the revisions leave it to the reader: what is valid here and not in
/// the suite.
const NOT_ASSERTED: [&str; 2] = ["/optional/format/", "/optional/content.json"];

/// Where it would take the digits of numbers that have more than 64 bits: nothing is decided.
const UNSURE: [&str; 3] = [
    "/optional/bignum.json",
    "/optional/float-overflow.json",
    "/multipleOf.json: float division = inf",
];

/// The Python environment, if it has the suite.
pub(super) fn environment() -> Option<PathBuf> {
    let set = env::var_os("CAPWARDEN_VENV");
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/venv");
    let venv = set.clone().map_or_else(default, PathBuf::from);
    let there = venv.join("share/json-schema-test-suite/tests").is_dir();
    assert!(
        there || set.is_none(),
        "{} lacks the JSON-Schema-Test-Suite; `cargo xtask setup` installs it",
        venv.display()
    );
    if !there {
        eprintln!("nothing asked: no JSON-Schema-Test-Suite; `cargo xtask setup` installs it");
    }
    there.then_some(venv)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    files.sort();
    files
}

/// The texts under a key, wherever it stands in a schema.
fn texts<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    found.extend(value.get(key).and_then(Value::as_str));
    match value {
        Value::Object(members) => members.values().for_each(|it| texts(it, key, found)),
        Value::Array(items) => items.iter().for_each(|it| texts(it, key, found)),
        _ => {}
    }
}

/// Whether a schema has what it was refused for. That is a base or a language of its own in one of its
/// parts, a reference to another document, or a language that nobody knows; nothing else of the suite
/// is refused.
fn may_be_refused(schema: &Value, why: &str) -> bool {
    let all = |key| {
        let mut found = Vec::new();
        texts(schema, key, &mut found);
        found
    };
    let inside = |key| all(key).len() > usize::from(schema.get(key).is_some());
    let elsewhere = |key| all(key).iter().any(|to| !to.starts_with('#'));
    match why {
        _ if why.contains("`$id` stands inside") => inside("$id"),
        _ if why.contains("`$schema` stands inside") => inside("$schema"),
        _ if why.contains("leads nowhere in it") => elsewhere("$ref") || elsewhere("$dynamicRef"),
        _ if why.contains("is not known here") => all("$schema")
            .first()
            .is_some_and(|it| it.contains("//localhost")),
        _ => false,
    }
}

/// Whether what was found of a case is a departure that is stated.
fn may_depart(case: &str, wanted: bool, found: &Result<(), Fault>) -> bool {
    let stands = |list: &[&str]| list.iter().any(|part| case.contains(part));
    match found {
        Ok(()) => !wanted && stands(&NOT_ASSERTED),
        Err(Fault::Unsure) => stands(&UNSURE),
        Err(_) => false,
    }
}

#[test]
fn official_suite_agrees() {
    let Some(venv) = environment() else { return };
    let tests = venv.join("share/json-schema-test-suite/tests");
    let mut wrong = Vec::new();
    for (folder, revision, least) in REVISIONS {
        let mut agreed = 0;
        for file in files(&tests.join(folder)) {
            let text = fs::read_to_string(&file).unwrap();
            let groups: Vec<Value> = serde_json::from_str(&text).unwrap();
            let file = file.strip_prefix(&tests).unwrap().display();
            for group in groups {
                let what = format!("{file}: {}", group["description"].as_str().unwrap());
                let mut schema = group["schema"].clone();
                if let Some(schema) = schema.as_object_mut() {
                    schema.entry("$schema").or_insert_with(|| revision.into());
                }
                let read = match Schema::read(&schema) {
                    Ok(read) => read,
                    Err(why) if may_be_refused(&schema, &why) => continue,
                    Err(why) => {
                        wrong.push(format!("{what}: {why}"));
                        continue;
                    }
                };
                for case in group["tests"].as_array().unwrap() {
                    let what = format!("{what}: {}", case["description"]);
                    let wanted = case["valid"] == true;
                    let found = read.check(&case["data"]);
                    let decided = matches!(found, Ok(()) | Err(Fault::Wrong { .. }));
                    if decided && found.is_ok() == wanted {
                        agreed += 1;
                    } else if !may_depart(&what, wanted, &found) {
                        wrong.push(format!("{what}: wanted {wanted}: {found:?}"));
                    }
                }
            }
        }
        eprintln!("{folder}: {agreed} cases agree");
        assert!(agreed >= least, "{folder}: {agreed}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
