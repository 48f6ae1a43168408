//! What can go wrong with the store. Whoever asks it fails closed on every one of these.

use std::{io, path::PathBuf};

use super::Exposure;

/// The store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing says where the state belongs.
    #[error("there is no place for the state: neither XDG_STATE_HOME nor HOME is an absolute path")]
    NoPlace,
    /// The directory could not be made or looked at.
    #[error("cannot use the state directory {}: {source}", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else may change what is in the directory.
    #[error(
        "the state would not be safe in {}: {by}; `{}`, or name another directory with --state",
        .path.display(), .by.remedy()
    )]
    Exposed {
        /// The state directory.
        path: PathBuf,
        /// It, or the directory above it that is at fault.
        by: Exposure,
    },
    /// A file could not be read or written.
    #[error("cannot {doing} {}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// What is in a file is not what capwarden wrote.
    #[error(
        "{path} is damaged ({why}), and is not used, so that nothing is forgotten; to begin anew \
         without what it holds, stop capwarden and type: mv {path} {path}.damaged",
        path = .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found, and where.
        why: String,
    },
    /// The file was written by another version.
    #[error(
        "{} was written by another version of capwarden ({found}); use that one, or move the file away",
        .path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says of itself.
        found: String,
    },
    /// Somebody holds the file's lock.
    #[error("{} has been locked by another process for too long", .0.display())]
    Busy(PathBuf),
    /// There is no room for one more.
    #[error("{} is full: it has room for {room}, and none of them can be forgotten yet", .path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// How many fit.
        room: u64,
    },
    /// What was written may not be on the disk.
    #[error("{} can no longer be brought to the disk: {why}", .path.display())]
    NotSynced {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
}
