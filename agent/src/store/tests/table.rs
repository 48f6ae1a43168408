//! Tables.

use std::{collections::BTreeMap, fs, thread};

use serde::{Deserialize, Serialize};

use super::{directory, flip};
use crate::store::{Seen, StoreError, Table};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Pin {
    tool: String,
    seen: u64,
}

fn pin(seen: u64) -> Pin {
    Pin {
        tool: "start_capture \u{1f980}\n".to_owned(),
        seen,
    }
}

#[test]
fn entries_last() {
    let (_home, directory) = directory();
    let table = Table::<Pin>::open(&directory, "pins").unwrap();
    assert!(table.entries().unwrap().is_empty());
    let before = table
        .change(|pins| pins.insert("a".to_owned(), pin(1)))
        .unwrap();
    assert_eq!(before, None);
    let other = Table::<Pin>::open(&directory, "pins").unwrap();
    assert_eq!(other.change(|pins| pins.remove("a")).unwrap(), Some(pin(1)));
    assert!(table.entries().unwrap().is_empty());
}

#[test]
fn something_that_is_there_once_is_taken_once() {
    let (_home, directory) = directory();
    let table = Table::<Pin>::open(&directory, "pins").unwrap();
    table
        .change(|pins| (0..10).for_each(|n| drop(pins.insert(n.to_string(), pin(n)))))
        .unwrap();
    let taken: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|n| {
                let own = Table::<Pin>::open(&directory, "pins").unwrap();
                let table = &table;
                scope.spawn(move || {
                    // Two share one opening.
                    let table = if n < 2 { table } else { &own };
                    let take = |n: u64| table.change(|pins| pins.remove(&n.to_string())).unwrap();
                    (0..10).filter_map(take).count()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(taken, 10);
}

#[test]
fn damage_is_refused() {
    let (_home, directory) = directory();
    let path = directory.path().join("pins.json");
    let table = Table::<Pin>::open(&directory, "pins").unwrap();
    table
        .change(|pins| pins.insert("a".to_owned(), pin(1)))
        .unwrap();
    let whole = fs::read(&path).unwrap();
    let refused = |what: &str| {
        let error = table.change(BTreeMap::clear).unwrap_err();
        assert!(
            matches!(error, StoreError::Damaged { .. }),
            "{what}: {error}"
        );
        assert!(Table::<Pin>::open(&directory, "pins").is_err(), "{what}");
    };
    for byte in 0..whole.len() {
        flip(&path, byte);
        refused(&format!("byte {byte}"));
        fs::write(&path, &whole).unwrap();
    }
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        refused(&format!("{length} bytes"));
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(table.entries().unwrap()["a"], pin(1));
}

#[test]
fn table_that_grows_too_long_is_left_as_it_was() {
    let (_home, directory) = directory();
    let table = Table::<String>::open(&directory, "texts").unwrap();
    table
        .change(|texts| texts.insert("a".to_owned(), "short".to_owned()))
        .unwrap();
    let long = "x".repeat(9 << 20);
    let error = table
        .change(|texts| texts.insert("b".to_owned(), long))
        .unwrap_err();
    assert!(error.to_string().contains("8 MiB"), "{error}");
    assert_eq!(table.entries().unwrap().len(), 1);
}

#[test]
fn change_is_seen_once() {
    let (_home, directory) = directory();
    let table = Table::<Pin>::open(&directory, "pins").unwrap();
    let other = Table::<Pin>::open(&directory, "pins").unwrap();
    let mut seen = Seen::default();
    assert!(table.news(&mut seen).unwrap().unwrap().is_empty());
    assert!(table.news(&mut seen).unwrap().is_none());
    // The same length each time, and quicker than a file system's clock may tick.
    for number in 0..100 {
        other
            .change(|pins| pins.insert("a".to_owned(), pin(100 + number)))
            .unwrap();
        assert_eq!(
            table.news(&mut seen).unwrap().unwrap()["a"],
            pin(100 + number)
        );
        assert!(table.news(&mut seen).unwrap().is_none());
    }
    let path = directory.path().join("pins.json");
    flip(&path, 3);
    assert!(table.news(&mut seen).is_err());
    assert!(table.news(&mut seen).is_err());
    flip(&path, 3);
    assert_eq!(table.news(&mut seen).unwrap().unwrap()["a"], pin(199));
    fs::remove_file(&path).unwrap();
    assert!(table.news(&mut seen).unwrap().unwrap().is_empty());
}
