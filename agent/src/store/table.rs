//! Few entries under names, in one JSON file that is replaced as a whole.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read as _, Write as _},
    marker::PhantomData,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use super::{StateDirectory, StoreError, lock::Lock};

/// A table of at most this many bytes.
const MOST_BYTES: u64 = 8 << 20;

/// How long others may take with their changes: each waits for the disk.
const PATIENCE: Duration = Duration::from_secs(5);

/// Entries of one type under names. May be used from any thread and by several processes; every
/// look is at the file, and every change is on the disk when it returns: milliseconds, so not for
/// what happens with each call.
///
/// The file is two lines: the SHA-256 of the second in hexadecimal, and the entries as a JSON object.
#[derive(Debug)]
pub struct Table<T> {
    directory: StateDirectory,
    name: &'static str,
    path: PathBuf,
    /// Locked for a change; the table itself cannot be, because it is replaced.
    lock: File,
    /// A `flock` does not keep the threads of one process apart.
    threads: Mutex<()>,
    entry: PhantomData<fn() -> T>,
}

/// Which version of a table was seen last: none to begin with.
#[derive(Debug, Default)]
pub struct Seen(Option<Version>);

/// A version of a table's file.
#[derive(Debug)]
struct Version {
    stamp: Option<Stamp>,
    /// Kept open, so that no other file gets its number.
    _file: Option<File>,
}

#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    number: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            number: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl<T: Serialize + DeserializeOwned> Table<T> {
    /// Opens the table `name`; it is made by the first change.
    ///
    /// # Errors
    ///
    /// Its lock cannot be opened, or the table is damaged.
    pub fn open(directory: &StateDirectory, name: &'static str) -> Result<Self, StoreError> {
        let lock_path = directory.file(&format!("{name}.lock"));
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path);
        let table = Self {
            lock: lock.map_err(|source| StoreError::File {
                path: lock_path,
                doing: "open",
                source,
            })?,
            path: directory.file(&format!("{name}.json")),
            directory: directory.clone(),
            name,
            threads: Mutex::default(),
            entry: PhantomData,
        };
        table.entries()?;
        Ok(table)
    }

    /// All entries, as they are now.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is damaged.
    pub fn entries(&self) -> Result<BTreeMap<String, T>, StoreError> {
        self.read(self.file()?.as_ref())
    }

    /// All entries, if they have changed since they were `seen`. If they have not, it costs a
    /// microsecond.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is damaged. Then it is looked at anew the next time.
    pub fn news(&self, seen: &mut Seen) -> Result<Option<BTreeMap<String, T>>, StoreError> {
        let there = match fs::metadata(&self.path) {
            Ok(metadata) => Some(Stamp::of(&metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => {
                seen.0 = None;
                return Err(self.failed("look at", source));
            }
        };
        if seen.0.as_ref().is_some_and(|seen| seen.stamp == there) {
            return Ok(None);
        }
        seen.0 = None;
        // What is read may be newer than what was looked at: it is the file that tells.
        let file = self.file()?;
        let stamp = file.as_ref().map(File::metadata).transpose();
        let stamp = stamp.map_err(|source| self.failed("look at", source))?;
        let entries = self.read(file.as_ref())?;
        seen.0 = Some(Version {
            stamp: stamp.as_ref().map(Stamp::of),
            _file: file,
        });
        Ok(Some(entries))
    }

    /// The file, if there is one.
    fn file(&self) -> Result<Option<File>, StoreError> {
        match File::open(&self.path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.failed("read", source)),
        }
    }

    fn read(&self, file: Option<&File>) -> Result<BTreeMap<String, T>, StoreError> {
        let Some(file) = file else {
            return Ok(BTreeMap::new());
        };
        let mut bytes = Vec::new();
        file.take(MOST_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| self.failed("read", source))?;
        let damaged = |why: &str| StoreError::Damaged {
            path: self.path.clone(),
            why: why.to_owned(),
        };
        let (sum, entries) =
            split_line(&bytes).ok_or_else(|| damaged("it does not begin with a checksum"))?;
        if sum != hex(entries).as_bytes() {
            return Err(damaged("its checksum does not fit"));
        }
        serde_json::from_slice(entries).map_err(|error| damaged(&error.to_string()))
    }

    /// Changes the entries while nobody else can: what `change` returns is returned once its change
    /// is on the disk. If it fails, nothing is changed.
    ///
    /// # Errors
    ///
    /// Another process holds the table for too long, or the file cannot be read or written, is
    /// damaged, or would become longer than 8 MiB.
    pub fn change<R>(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, T>) -> R,
    ) -> Result<R, StoreError> {
        let _threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let _lock = Lock::take(&self.lock, &self.path, PATIENCE)?;
        let mut entries = self.entries()?;
        let result = change(&mut entries);
        let mut line = serde_json::to_vec(&entries)
            .map_err(|error| self.failed("write", io::Error::other(error)))?;
        line.push(b'\n');
        let mut bytes = hex(&line).into_bytes();
        bytes.push(b'\n');
        bytes.extend_from_slice(&line);
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MOST_BYTES {
            return Err(self.failed("write", io::Error::other("it would be longer than 8 MiB")));
        }
        self.replace(&bytes)
            .map_err(|source| self.failed("write", source))?;
        Ok(result)
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        // One name is enough, since only who holds the lock writes; what a kill left is overwritten.
        let new = self.directory.file(&format!("{}.json.new", self.name));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        self.directory.sync()
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> StoreError {
        StoreError::File {
            path: self.path.clone(),
            doing,
            source,
        }
    }
}

/// What stands before and after the first `\n`.
fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == b'\n')?;
    Some((bytes.get(..at)?, bytes.get(at + 1..)?))
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
