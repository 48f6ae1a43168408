//! The lock of a file that changes with every call, kept from one call to the next.
//!
//! To lock, to read what others may have written and to unlock costs more than the write itself. So a
//! process whose uses follow each other closely keeps the lock between them, and need not read again
//! what it has written. It lets go when [`TICK`] passed without a use; as soon as it sees that somebody
//! waits, at most a tick later, and then it does not keep it again for [`POLITE`]; and now and then
//! in any case ([`MOST`]). Who waits for the lock shows it by a shared lock on a second file.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{StoreError, lock::Lock, slots::Key};

/// How long another process may hold the lock: it works for microseconds, or keeps it for a tick or two,
/// unless it was stopped.
const PATIENCE: Duration = Duration::from_millis(250);
/// How often it is seen to, while the lock is kept.
const TICK: Duration = Duration::from_millis(5);
/// How long the lock is kept at a time.
const MOST: Duration = Duration::from_millis(100);
/// How long it is not kept after somebody else wanted it, or had it.
const POLITE: Duration = Duration::from_secs(10);
/// Records that need not be read again, at once.
const MOST_KNOWN: usize = 1_024;

/// A file's lock, and what is known of the file under it.
#[derive(Debug)]
pub(super) struct Tenant {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    file: Arc<File>,
    /// Who waits for `file`'s lock has a shared one on this.
    queue: Arc<File>,
    state: Mutex<State>,
    begun: Condvar,
}

/// What only one thread at a time uses.
#[derive(Debug, Default)]
struct State {
    /// Where each key was seen last: a hint.
    seen: HashMap<Key, u64>,
    kept: Option<Kept>,
    last: Option<Instant>,
    /// Since when the lock is known to be wanted by others.
    wanted: Option<Instant>,
    stop: bool,
}

/// The lock, kept.
#[derive(Debug)]
struct Kept {
    _lock: Lock<Arc<File>>,
    since: Instant,
    reviewed: Instant,
    /// The slots and records that were read or written since, as they are in the file.
    known: HashMap<Key, (u64, Vec<u8>)>,
}

/// The file, locked for one use: no other thread or process reads or writes it meanwhile.
#[derive(Debug)]
pub(super) struct Use<'a> {
    shared: &'a Shared,
    /// None if the lock is kept already. Dropped before the state: other processes are let in
    /// before other threads.
    lock: Option<Lock<Arc<File>>>,
    state: MutexGuard<'a, State>,
    now: Instant,
}

impl Tenant {
    /// `file`'s at `path`; the second file is made beside it.
    pub(super) fn new(path: PathBuf, file: Arc<File>) -> io::Result<Self> {
        let mut queue = path.clone().into_os_string();
        queue.push(".queue");
        let queue = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(queue)?;
        let shared = Arc::new(Shared {
            path,
            file,
            queue: Arc::new(queue),
            state: Mutex::default(),
            begun: Condvar::new(),
        });
        let mine = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("store-lock".to_owned())
            .spawn(move || mine.see_to_it())?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Waits for at most a quarter of a second for other processes.
    pub(super) fn lock(&self) -> Result<Use<'_>, StoreError> {
        let shared = &*self.shared;
        let mut state = shared.state();
        let now = Instant::now();
        // The thread may be late.
        state.review(&shared.queue, now, 2 * TICK);
        let lock = match &state.kept {
            Some(_) => None,
            None => match Lock::try_take(Arc::clone(&shared.file), &shared.path)? {
                Some(lock) => Some(lock),
                None => {
                    state.wanted = Some(now);
                    let queue = Arc::clone(&shared.queue);
                    let waits = Lock::share(queue, &shared.path, PATIENCE)?;
                    let file = Arc::clone(&shared.file);
                    let lock = Lock::take(file, &shared.path, PATIENCE)?;
                    drop(waits);
                    Some(lock)
                }
            },
        };
        Ok(Use {
            shared,
            lock,
            state,
            now,
        })
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        self.shared.begun.notify_one();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked keeps nothing: the lock is of the file, which is closed.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// What was seen is only a hint; what is known may be half changed by a panic, so it goes.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| {
            let mut state = PoisonError::into_inner(poisoned);
            state.kept = None;
            state
        })
    }

    /// Lets go of the lock in time.
    fn see_to_it(&self) {
        let mut state = self.state();
        loop {
            if state.stop {
                state.kept = None;
                return;
            }
            state = if state.kept.is_some() {
                let waited = self.begun.wait_timeout(state, TICK);
                waited.unwrap_or_else(PoisonError::into_inner).0
            } else {
                let waited = self.begun.wait(state);
                waited.unwrap_or_else(PoisonError::into_inner)
            };
            state.review(&self.queue, Instant::now(), TICK);
        }
    }
}

impl State {
    /// Lets go of the lock, if it is time to, once `every` so often.
    fn review(&mut self, queue: &Arc<File>, now: Instant, every: Duration) {
        let Some(kept) = &mut self.kept else { return };
        if now.saturating_duration_since(kept.reviewed) < every {
            return;
        }
        kept.reviewed = now;
        let since = |then: Instant| now.saturating_duration_since(then);
        let idle = self.last.is_none_or(|last| since(last) >= TICK);
        let waits = || !matches!(Lock::try_take(queue, "".as_ref()), Ok(Some(_)));
        if waits() {
            self.wanted = Some(now);
            self.kept = None;
        } else if idle || since(kept.since) >= MOST {
            self.kept = None;
        }
    }
}

impl Use<'_> {
    /// Where a key was seen last.
    pub(super) fn seen(&self, key: &Key) -> Option<u64> {
        self.state.seen.get(key).copied()
    }

    /// A key is not, or no more, where it was.
    pub(super) fn gone(&mut self, key: &Key) {
        self.state.seen.remove(key);
        self.unsure(key);
    }

    /// A key's slot, if it was found or put there; it cannot have moved since.
    pub(super) fn saw(&mut self, key: Key, slot: u64, room: u64) {
        // Keys whose slots were given away by other processes may be left in it.
        if u64::try_from(self.state.seen.len()).unwrap_or(u64::MAX) >= room {
            self.state.seen.clear();
        }
        self.state.seen.insert(key, slot);
    }

    /// The slot and record of a key, if they are what is in the file.
    pub(super) fn known(&self, key: &Key) -> Option<&(u64, Vec<u8>)> {
        self.state.kept.as_ref()?.known.get(key)
    }

    /// The file has this record under a key.
    pub(super) fn know(&mut self, key: Key, slot: u64, record: &[u8]) {
        let Some(kept) = &mut self.state.kept else {
            return;
        };
        if let Some((at, old)) = kept.known.get_mut(&key) {
            *at = slot;
            old.clear();
            old.extend_from_slice(record);
        } else if kept.known.len() < MOST_KNOWN {
            kept.known.insert(key, (slot, record.to_vec()));
        }
    }

    /// What the file has under a key may be about to change.
    pub(super) fn unsure(&mut self, key: &Key) {
        if let Some(kept) = &mut self.state.kept {
            kept.known.remove(key);
        }
    }
}

impl Drop for Use<'_> {
    fn drop(&mut self) {
        let now = self.now;
        let within = |then: Option<Instant>, span: Duration| {
            then.is_some_and(|then| now.saturating_duration_since(then) < span)
        };
        let follows = within(self.state.last.replace(now), TICK);
        let wanted = within(self.state.wanted, POLITE);
        if let Some(lock) = self.lock.take()
            && follows
            && !wanted
        {
            self.state.kept = Some(Kept {
                _lock: lock,
                since: now,
                reviewed: now,
                known: HashMap::new(),
            });
            self.shared.begun.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files {
        _home: tempfile::TempDir,
        path: PathBuf,
    }

    impl Files {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let path = home.path().join("slots");
            File::create(&path).unwrap();
            Self { _home: home, path }
        }

        fn tenant(&self) -> Tenant {
            let file = File::options().write(true).open(&self.path).unwrap();
            Tenant::new(self.path.clone(), Arc::new(file)).unwrap()
        }

        /// What another process would find.
        fn is_locked(&self) -> bool {
            let other = File::options().write(true).open(&self.path).unwrap();
            Lock::try_take(&other, &self.path).unwrap().is_none()
        }
    }

    /// The state of a tenant that keeps the lock since a moment that is returned; its thread does
    /// not run, so that time is what the test says.
    fn keeping(files: &Files) -> (State, Arc<File>, Instant) {
        let file = File::options().write(true).open(&files.path).unwrap();
        let queue = File::create(files.path.with_extension("queue")).unwrap();
        let now = Instant::now();
        let lock = Lock::try_take(Arc::new(file), &files.path).unwrap();
        let state = State {
            kept: Some(Kept {
                _lock: lock.unwrap(),
                since: now,
                reviewed: now,
                known: HashMap::new(),
            }),
            last: Some(now),
            ..State::default()
        };
        (state, Arc::new(queue), now)
    }

    #[test]
    fn lock_is_kept_while_it_is_used_and_let_go_of_when_it_is_not() {
        let files = Files::new();
        let (mut state, queue, start) = keeping(&files);
        for tick in 1..20 {
            let now = start + TICK * tick;
            state.last = Some(now);
            state.review(&queue, now, TICK);
            assert!(state.kept.is_some() && files.is_locked(), "tick {tick}");
        }
        state.last = Some(start + MOST);
        state.review(&queue, start + MOST, TICK);
        assert!(
            state.kept.is_none() && !files.is_locked(),
            "for long enough"
        );
        assert_eq!(state.wanted, None);

        let (mut state, queue, start) = keeping(&files);
        state.review(&queue, start + TICK / 2, TICK);
        assert!(state.kept.is_some(), "it is not time");
        state.review(&queue, start + TICK, TICK);
        assert!(state.kept.is_none() && !files.is_locked(), "nothing came");
    }

    #[test]
    fn who_waits_is_seen() {
        let files = Files::new();
        let (mut state, queue, start) = keeping(&files);
        let other = File::open(files.path.with_extension("queue")).unwrap();
        let waits = Lock::share(&other, &files.path, PATIENCE).unwrap();
        let now = start + TICK;
        state.last = Some(now);
        state.review(&queue, now, TICK);
        assert!(state.kept.is_none() && !files.is_locked());
        assert_eq!(state.wanted, Some(now));
        drop(waits);
    }

    #[test]
    fn others_get_it_and_then_it_is_not_kept() {
        let files = Files::new();
        let (one, other) = (files.tenant(), files.tenant());
        let kept = |tenant: &Tenant| tenant.shared.state().kept.is_some();
        // Two uses must follow each other closely, which a busy machine can prevent.
        let keeps = |tenant: &Tenant| {
            (0..10_000).any(|_| {
                drop(tenant.lock().unwrap());
                kept(tenant)
            })
        };
        assert!(keeps(&one));
        let mut held = one.lock().unwrap();
        held.saw([1; 16], 7, 10);
        held.know([1; 16], 7, b"record");
        drop(held);
        drop(other.lock().unwrap());
        assert!(!kept(&one), "it was let go of for the other");
        let held = one.lock().unwrap();
        assert!(held.known(&[1; 16]).is_none(), "the other may have written");
        assert_eq!(held.seen(&[1; 16]), Some(7));
    }

    #[test]
    fn what_a_panic_left_is_not_believed() {
        let files = Files::new();
        let tenant = files.tenant();
        let panicked = thread::scope(|scope| {
            let spoil = || {
                let _held = tenant.lock().unwrap();
                panic!("while it is held");
            };
            scope.spawn(spoil).join()
        });
        assert!(panicked.is_err());
        for _ in 0..10 {
            let held = tenant.lock().unwrap();
            assert!(held.state.kept.is_none());
        }
    }
}
