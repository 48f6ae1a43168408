//! Slots, as one process sees them. Several processes: the tests of limits.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::FileExt as _,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use rustix::fs::{FlockOperation, flock};

use super::{directory, flip};
use crate::store::{Key, SLOT_CAPACITY, Slots, StoreError};

fn key(n: u64) -> Key {
    // Spread as digests are.
    u128::from(n)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
        .to_le_bytes()
}

fn put(slots: &Slots, n: u64, record: &[u8]) -> Result<(), StoreError> {
    let mut held = slots.lock()?;
    let found = held.get(&key(n))?;
    held.put(&found, record, |old| old == b"spent")
}

fn get(slots: &Slots, n: u64) -> Option<Vec<u8>> {
    slots.lock().unwrap().get(&key(n)).unwrap().record
}

#[test]
fn records_are_found_again() {
    let (_home, directory) = directory();
    let slots = Slots::open(&directory, "test", 64).unwrap();
    assert_eq!(slots.room(), 64);
    assert_eq!(get(&slots, 1), None);
    put(&slots, 1, b"one").unwrap();
    put(&slots, 2, &[7; SLOT_CAPACITY]).unwrap();
    put(&slots, 1, b"uno").unwrap();
    put(&slots, 3, b"three").unwrap();
    for slots in [&slots, &Slots::open(&directory, "test", 9_999).unwrap()] {
        assert_eq!(slots.room(), 64, "a file keeps its size");
        assert_eq!(get(slots, 1).unwrap(), b"uno");
        assert_eq!(get(slots, 2).unwrap(), [7; SLOT_CAPACITY]);
        assert_eq!(get(slots, 3).unwrap(), b"three");
        assert_eq!(get(slots, 4), None);
    }
    assert!(put(&slots, 5, &[0; SLOT_CAPACITY + 1]).is_err());
    assert!(put(&slots, 5, b"").is_err());
}

#[test]
fn spent_records_make_room_and_live_ones_do_not() {
    let (_home, directory) = directory();
    let slots = Slots::open(&directory, "test", 64).unwrap();
    let other = Slots::open(&directory, "test", 64).unwrap();
    let mut live = HashMap::new();
    let mut full = 0;
    for n in 0..200 {
        let record = format!("record {n}").into_bytes();
        match put(&slots, n, &record) {
            Ok(()) => drop(live.insert(n, record)),
            Err(StoreError::Full { room: 64, .. }) => full += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(full + live.len(), 200);
    assert!(
        live.len() > 55,
        "only {} of 64 slots could be used",
        live.len()
    );
    for (n, record) in &live {
        assert_eq!(get(&other, *n).as_ref(), Some(record), "{n}");
    }

    let (&gone, _) = live.iter().next().unwrap();
    put(&slots, gone, b"spent").unwrap();
    let new = (1_000..).find(|n| put(&slots, *n, b"new").is_ok()).unwrap();
    assert_eq!(get(&slots, gone), None);
    // It had seen the one whose place was taken.
    assert_eq!(get(&other, gone), None);
    assert_eq!(get(&other, new).unwrap(), b"new");
    live.remove(&gone);
    for (n, record) in &live {
        assert_eq!(get(&slots, *n).as_ref(), Some(record), "{n}");
    }
}

#[test]
fn what_was_looked_at_is_not_given_away() {
    let (_home, directory) = directory();
    let slots = Slots::open(&directory, "test", 16).unwrap();
    for n in 0..16 {
        put(&slots, n, b"spent").unwrap();
    }
    // All sixteen slots are in the two groups of every key.
    let mut held = slots.lock().unwrap();
    let known: Vec<_> = (0..16).map(|n| held.get(&key(n)).unwrap()).collect();
    let new = held.get(&key(99)).unwrap();
    assert!(held.put(&new, b"new", |old| old == b"spent").is_err());
    for found in &known {
        held.put(found, b"live", |_| false).unwrap();
    }
    drop(held);
    assert!((0..16).all(|n| get(&slots, n).unwrap() == b"live"));
}

#[test]
fn damage_is_refused_wherever_it_is() {
    let (_home, directory) = directory();
    let path = directory.path().join("test");
    let filled = || {
        let _ = fs::remove_file(&path);
        let slots = Slots::open(&directory, "test", 16).unwrap();
        put(&slots, 1, b"a record").unwrap();
        let at = fs::read(&path)
            .unwrap()
            .windows(8)
            .position(|w| w == b"a record")
            .unwrap();
        (slots, at - 32)
    };
    // Every byte of the slot's head and record, seen by who knows the slot and by who does not.
    for byte in 0..40 {
        let (slots, slot) = filled();
        flip(&path, slot + byte);
        for slots in [&slots, &Slots::open(&directory, "test", 16).unwrap()] {
            let error = slots.lock().unwrap().get(&key(1)).unwrap_err();
            assert!(
                matches!(error, StoreError::Damaged { .. }),
                "byte {byte}: {error}"
            );
            let text = error.to_string();
            assert!(
                text.contains(&format!("mv {0} {0}.damaged", path.display())),
                "{text}"
            );
        }
    }
    // A free slot with something in it is no free slot.
    let (slots, slot) = filled();
    flip(&path, slot ^ 1024);
    assert!(slots.lock().unwrap().get(&key(2)).is_err());

    for byte in 0..64 {
        drop(filled());
        flip(&path, byte);
        let error = Slots::open(&directory, "test", 16).unwrap_err();
        let expected = match byte {
            16..32 => matches!(error, StoreError::Version { .. }),
            _ => matches!(error, StoreError::Damaged { .. }),
        };
        assert!(expected, "byte {byte}: {error}");
    }
    for length in [0, 10, 4096, 5000] {
        drop(filled());
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(length)
            .unwrap();
        let error = Slots::open(&directory, "test", 16).unwrap_err();
        assert!(
            matches!(error, StoreError::Damaged { .. }),
            "{length} bytes: {error}"
        );
    }
}

#[test]
fn files_that_others_could_change_are_refused() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let (_home, directory) = directory();
    drop(Slots::open(&directory, "test", 16).unwrap());
    symlink(directory.path().join("test"), directory.path().join("link")).unwrap();
    assert!(Slots::open(&directory, "link", 16).is_err());
    let path = directory.path().join("test");
    fs::set_permissions(path, fs::Permissions::from_mode(0o620)).unwrap();
    assert!(Slots::open(&directory, "test", 16).is_err());
}

#[test]
fn lock_that_is_held_for_too_long_is_told() {
    let (_home, directory) = directory();
    let slots = Slots::open(&directory, "test", 16).unwrap();
    let rude = fs::File::open(directory.path().join("test")).unwrap();
    flock(&rude, FlockOperation::LockExclusive).unwrap();
    let error = slots.lock().unwrap_err();
    assert!(matches!(error, StoreError::Busy(_)), "{error}");
    drop(rude);
    put(&slots, 1, b"again").unwrap();
}

#[test]
fn threads_and_openings_do_not_lose_updates() {
    const EACH: u64 = 2_000;
    let (_home, directory) = directory();
    let refused = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            let slots = Slots::open(&directory, "test", 64).unwrap();
            let refused = &refused;
            scope.spawn(move || {
                thread::scope(|scope| {
                    for _ in 0..2 {
                        scope.spawn(|| {
                            for n in 0..EACH {
                                let Ok(mut held) = slots.lock() else {
                                    refused.fetch_add(1, Ordering::Relaxed);
                                    continue;
                                };
                                let found = held.get(&key(n % 8)).unwrap();
                                let old = found.record.as_deref().map_or(0, |record| {
                                    u64::from_le_bytes(record.try_into().unwrap())
                                });
                                let new = (old + 1).to_le_bytes();
                                held.put(&found, &new, |_| false).unwrap();
                            }
                        });
                    }
                });
            });
        }
    });
    let slots = Slots::open(&directory, "test", 64).unwrap();
    let number = |n| u64::from_le_bytes(get(&slots, n).unwrap().try_into().unwrap());
    let sum: u64 = (0..8).map(number).sum();
    assert_eq!(sum, 4 * EACH - refused.into_inner());
}

#[test]
fn file_takes_only_what_is_used_of_the_disk() {
    use std::os::unix::fs::MetadataExt as _;
    let (_home, directory) = directory();
    let slots = Slots::open(&directory, "test", 16_384).unwrap();
    put(&slots, 1, b"one").unwrap();
    slots.lock().unwrap();
    let file = fs::File::open(directory.path().join("test")).unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!(metadata.len(), 4096 + 16_384 * 1024);
    assert!(
        metadata.blocks() * 512 < 1 << 20,
        "{} blocks",
        metadata.blocks()
    );
    let mut magic = [0; 17];
    file.read_exact_at(&mut magic, 0).unwrap();
    assert_eq!(&magic, b"capwarden slots 1");
}
