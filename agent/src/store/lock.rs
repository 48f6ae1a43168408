//! A lock among processes, which is waited for a bounded time.

use std::{
    fs::File,
    io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::StoreError;

/// So often it is tried again at once, and then after a nap each.
const HASTY: u32 = 64;
const NAP: Duration = Duration::from_micros(50);

/// Held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock<'a>(&'a File);

impl<'a> Lock<'a> {
    /// Blocks the thread for at most about as long as `patience`. `path` is what is locked, for
    /// the error.
    pub(super) fn take(
        file: &'a File,
        path: &Path,
        patience: Duration,
    ) -> Result<Self, StoreError> {
        let start = Instant::now();
        let mut tries = 0;
        loop {
            match flock(file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(file)),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if tries < HASTY => thread::yield_now(),
                Err(Errno::WOULDBLOCK) if start.elapsed() < patience => thread::sleep(NAP),
                Err(Errno::WOULDBLOCK) => return Err(StoreError::Busy(path.to_owned())),
                Err(errno) => {
                    return Err(StoreError::File {
                        path: path.to_owned(),
                        doing: "lock",
                        source: io::Error::from(errno),
                    });
                }
            }
            tries += 1;
        }
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // It can only fail for a file that is not open.
        let _ = flock(self.0, FlockOperation::Unlock);
    }
}
