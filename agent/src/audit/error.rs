//! What can go wrong with the log. Whoever appends fails closed on every one of these.

use std::{io, path::PathBuf};

/// The log could not be opened, written or read.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file could not be opened or created.
    #[error("cannot open the audit log {}: {source}", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path is a symbolic link.
    #[error("the audit log {} is a symbolic link", .0.display())]
    Symlink(PathBuf),
    /// The path is a directory, a pipe, a device, …
    #[error("the audit log {} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// Somebody else may write to the file.
    #[error("the audit log {} may be written by others (mode {mode:04o})", .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// What is in the file is no audit log, or its end is damaged.
    #[error("{} does not end like an audit log: {why}", .path.display())]
    NotALog {
        /// The file.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// Somebody holds the file's lock.
    #[error("the audit log {} has been locked by another process for too long", .0.display())]
    Busy(PathBuf),
    /// The file was deleted while it was in use.
    #[error("the audit log {} was deleted while it was in use", .0.display())]
    Removed(PathBuf),
    /// The file was cut while it was in use.
    #[error("the audit log {} was cut from {was} to {is} bytes while it was in use", .path.display())]
    Shrunk {
        /// The file.
        path: PathBuf,
        /// Its length when this agent last wrote or read it.
        was: u64,
        /// Its length now.
        is: u64,
    },
    /// Others have added lines that do not belong to the chain.
    #[error("the audit log {} was tampered with after byte {offset}: {why}", .path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Up to where it was sound.
        offset: u64,
        /// What was found.
        why: String,
    },
    /// A record is too long for a line.
    #[error("a record of {0} bytes is too long for the audit log")]
    TooLong(usize),
    /// A fragment could not be put aside.
    #[error("cannot keep the fragment at the end of the audit log in {}: {source}", .path.display())]
    Aside {
        /// The file for the fragment.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file could not be read.
    #[error("cannot read the audit log {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file could not be written.
    #[error("cannot write to the audit log {}: {source}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What was written could not be brought to the disk.
    #[error("cannot bring the audit log {} to the disk: {source}", .path.display())]
    Sync {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What was read could not be printed.
    #[error("cannot print the audit log: {0}")]
    Print(io::Error),
    /// The system has no randomness for this run's name.
    #[error("cannot read /dev/urandom: {0}")]
    Random(io::Error),
}

impl AuditError {
    /// What an operator can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Open { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    "it takes its owner or root to read or write it: use sudo, or name another file (`audit show FILE`, `run --audit FILE`)"
                }
                io::ErrorKind::NotFound => {
                    "there is no such directory, or nothing was recorded there yet; name another file (`audit show FILE`, `run --audit FILE`)"
                }
                io::ErrorKind::ReadOnlyFilesystem => {
                    "its file system cannot be written to: name a file on another (`run --audit FILE`)"
                }
                _ => {
                    "see with `ls -l` and `df` what is there, or name another file (`run --audit FILE`)"
                }
            },
            Self::Symlink(_) | Self::NotAFile(_) => "name the file itself",
            Self::Exposed { .. } => "take the write permission of group and others away",
            Self::NotALog { .. } | Self::Broken { .. } | Self::Shrunk { .. } => {
                "see what `capwarden audit verify` says; move the file away to start a new log"
            }
            Self::Busy(_) => "find the process in /proc/locks or with `lslocks`",
            Self::Removed(_) => "start again; rename a log to rotate it, never delete or cut it",
            Self::Aside { .. } | Self::Write { .. } | Self::Sync { .. } => {
                "check the disk: nothing is allowed while it cannot be recorded"
            }
            Self::TooLong(_) | Self::Read { .. } | Self::Print(_) | Self::Random(_) => return None,
        })
    }
}
