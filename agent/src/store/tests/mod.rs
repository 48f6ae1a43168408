//! Directories, slots and tables.

mod directory;
mod home;
mod slots;
mod table;

pub(crate) use home::Home;

use std::path::Path;

use tempfile::TempDir;

use super::StateDirectory;

/// No governed server runs as this user.
const NOBODY: u32 = 65_534;

fn directory() -> (TempDir, StateDirectory) {
    let home = tempfile::tempdir().unwrap();
    let directory = StateDirectory::open(&home.path().join("state"), Some(NOBODY)).unwrap();
    (home, directory)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x40;
    std::fs::write(path, bytes).unwrap();
}
