//! A lock among processes, which is waited for a bounded time.

use std::{
    io,
    os::fd::AsFd,
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
pub(super) struct Lock<F: AsFd>(F);

impl<F: AsFd> Lock<F> {
    /// Blocks the thread for at most about as long as `patience`. `path` is what is locked, for
    /// the error.
    pub(super) fn take(file: F, path: &Path, patience: Duration) -> Result<Self, StoreError> {
        Self::wait(
            file,
            FlockOperation::NonBlockingLockExclusive,
            path,
            patience,
        )
    }

    /// The same, of a lock that several may have at once.
    pub(super) fn share(file: F, path: &Path, patience: Duration) -> Result<Self, StoreError> {
        Self::wait(file, FlockOperation::NonBlockingLockShared, path, patience)
    }

    /// Takes it if nobody has it.
    pub(super) fn try_take(file: F, path: &Path) -> Result<Option<Self>, StoreError> {
        match Self::wait(file, FlockOperation::NonBlockingLockExclusive, path, None) {
            Ok(lock) => Ok(Some(lock)),
            Err(StoreError::Busy(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn wait(
        file: F,
        how: FlockOperation,
        path: &Path,
        patience: impl Into<Option<Duration>>,
    ) -> Result<Self, StoreError> {
        let patience = patience.into();
        let mut start = None;
        let mut tries = 0;
        loop {
            match flock(&file, how) {
                Ok(()) => return Ok(Self(file)),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => {
                    let start = start.get_or_insert_with(Instant::now);
                    match patience {
                        Some(_) if tries < HASTY => thread::yield_now(),
                        Some(patience) if start.elapsed() < patience => thread::sleep(NAP),
                        _ => return Err(StoreError::Busy(path.to_owned())),
                    }
                }
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

impl<F: AsFd> Drop for Lock<F> {
    fn drop(&mut self) {
        // It can only fail for a file that is not open.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}
