//! Brings a file to the disk in the background, soon after it was written to.

use std::{
    fs::File,
    sync::{
        Arc, Condvar, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// How long after a write it is on the disk, at the latest; a slow disk adds the time of one write.
pub const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Syncs on a thread of its own, which sleeps while nothing is written, and once more when it is
/// dropped.
#[derive(Debug)]
pub(super) struct Syncer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    file: Arc<File>,
    /// Something was written since the last sync began.
    dirty: AtomicBool,
    stop: Mutex<bool>,
    wake: Condvar,
    /// Why the disk does not have what was written. The kernel tells of a failure once, and may
    /// then forget what it could not write: it stays.
    failed: OnceLock<String>,
}

impl Syncer {
    pub(super) fn start(file: Arc<File>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            file,
            dirty: AtomicBool::new(false),
            stop: Mutex::new(false),
            wake: Condvar::new(),
            failed: OnceLock::new(),
        });
        let mine = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("store-sync".to_owned())
            .spawn(move || mine.run())?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Something was written.
    pub(super) fn written(&self) {
        // Only the first write of a second has to wake anybody.
        if !self.shared.dirty.swap(true, Ordering::AcqRel) {
            let _stop = self
                .shared
                .stop
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            self.shared.wake.notify_one();
        }
    }

    /// Why what was written is not on the disk, if it could not be brought there.
    pub(super) fn failure(&self) -> Option<&str> {
        self.shared.failed.get().map(String::as_str)
    }
}

impl Shared {
    fn run(&self) {
        let mut stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            while !*stop && !self.dirty.load(Ordering::Acquire) {
                stop = self.wake.wait(stop).unwrap_or_else(PoisonError::into_inner);
            }
            let was_dirty = |stop: bool| stop && !self.dirty.load(Ordering::Acquire);
            if was_dirty(*stop) {
                return;
            }
            let waited = self
                .wake
                .wait_timeout_while(stop, SYNC_EVERY, |stop| !*stop);
            stop = waited.unwrap_or_else(PoisonError::into_inner).0;
            let last = *stop;
            drop(stop); // writers need not wait for the disk
            self.dirty.store(false, Ordering::Release);
            if let Err(error) = self.file.sync_data() {
                let _ = self.failed.set(error.to_string());
            }
            if last {
                return;
            }
            stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        *self
            .shared
            .stop
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing more to sync.
            let _ = thread.join();
        }
    }
}
