//! The log as a writer sees it.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock},
    io::Errno,
};

use super::{
    error::AuditError,
    hash::Hash,
    line::{About, Entry, MAX_LINE, encode, next_line},
    record::{Record, ServerRecord, TornTail},
    text::Text,
};

/// About how many bytes of lines are written at once.
const WRITE: usize = 1 << 16;
/// How long another process may hold the lock before an append fails.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// An open log. One value serves a whole agent: all methods take `&self` and may be called from
/// any thread. They block for the time of a write, and for the disk where the record must last.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    agent: String,
    file: File,
    end: Mutex<End>,
}

/// The end of the chain as this agent knows it.
#[derive(Clone, Copy, Debug)]
struct End {
    offset: u64,
    head: Head,
}

/// The last line of a chain: noted elsewhere, it is what proves that nothing before it was touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The line's number; 0 for an empty log.
    pub seq: u64,
    /// The line's hash.
    pub hash: Hash,
}

impl Head {
    pub(super) const EMPTY: Self = Self {
        seq: 0,
        hash: Hash::ZERO,
    };

    fn next(self, line: &[u8]) -> Self {
        Self {
            seq: self.seq.saturating_add(1),
            hash: Hash::of(line),
        }
    }

    /// Why the entry cannot stand after this head, if it cannot.
    pub(super) fn refuses(self, entry: &Entry) -> Option<String> {
        if entry.prev != self.hash {
            Some(format!(
                "line {} does not link to the one before",
                entry.seq
            ))
        } else if entry.seq != self.seq.saturating_add(1) {
            Some(format!("line {} follows line {}", entry.seq, self.seq))
        } else {
            None
        }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (line {})", self.hash, self.seq)
    }
}

impl Log {
    /// Opens a log, or creates it with mode 0600. Symbolic links and files that others may write
    /// are refused; so is a file whose last line is not a record. A fragment at the end is put
    /// aside (see the module's documentation).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, AuditError> {
        let path = path.as_ref().to_owned();
        let log = Self {
            agent: random_name()?,
            file: open_file(&path)?,
            end: Mutex::new(End {
                offset: 0,
                head: Head::EMPTY,
            }),
            path,
        };
        {
            let mut end = log.end();
            let _lock = Lock::take(&log.file, &log.path)?;
            *end = log.find_end()?;
            if end.offset == 0 {
                sync_directory(&log.path);
            }
            log.catch_up(&mut end)?;
        }
        Ok(log)
    }

    /// Appends a record and returns the new head. Records that end something or refuse something
    /// are on the disk on return.
    pub fn append(&self, record: &Record) -> Result<Head, AuditError> {
        self.append_one(About(None, record))
    }

    /// The same for a record about this server.
    pub fn append_about(&self, server: &str, record: Record) -> Result<Head, AuditError> {
        self.append_one(About::from(&ServerRecord::new(server, record)))
    }

    fn append_one(&self, one: About<'_>) -> Result<Head, AuditError> {
        let head = {
            let mut end = self.end();
            let _lock = Lock::take(&self.file, &self.path)?;
            self.catch_up(&mut end)?;
            self.write(&mut end, &mut [one].into_iter())?
        };
        if one.1.must_last() {
            self.sync()?;
        }
        Ok(head)
    }

    /// Appends records in their order, as one write where they fit. Returns as [`append`](Self::append)
    /// does; if that fails, records before the one that could not be written may be in the log.
    pub fn append_all(&self, records: &[ServerRecord]) -> Result<(), AuditError> {
        if records.is_empty() {
            return Ok(());
        }
        {
            let mut end = self.end();
            let _lock = Lock::take(&self.file, &self.path)?;
            self.catch_up(&mut end)?;
            self.write(&mut end, &mut records.iter().map(About::from))?;
        }
        if records.iter().any(|one| one.record.must_last()) {
            self.sync()?;
        }
        Ok(())
    }

    /// Brings everything that was appended to the disk.
    pub fn sync(&self) -> Result<(), AuditError> {
        self.file.sync_data().map_err(|source| AuditError::Sync {
            path: self.path.clone(),
            source,
        })
    }

    /// The head as this agent last knew it.
    pub fn head(&self) -> Head {
        self.end().head
    }

    /// This run's name in the log.
    pub fn agent(&self) -> &str {
        &self.agent
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A panic elsewhere cannot leave the end half changed: it moves in one assignment, after the
    /// write.
    fn end(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds the last whole line of a file that this agent has not seen before.
    fn find_end(&self) -> Result<End, AuditError> {
        let size = self.size()?;
        // Enough for a fragment and the last line, each with its end.
        let window = size.min(2 * (MAX_LINE as u64 + 1));
        let start = size - window;
        let mut tail = Vec::new();
        (|| {
            tail.resize(usize::try_from(window).map_err(io::Error::other)?, 0);
            self.file.read_exact_at(&mut tail, start)
        })()
        .map_err(|source| self.read_failed(source))?;

        let Some(last) = tail.iter().rposition(|&byte| byte == b'\n') else {
            return if start == 0 && could_be_first(&tail) {
                Ok(End {
                    offset: 0,
                    head: Head::EMPTY,
                })
            } else {
                Err(self.not_a_log("it has no line"))
            };
        };
        let whole = tail.get(..last).unwrap_or_default();
        let line = match whole.iter().rposition(|&byte| byte == b'\n') {
            Some(before) => whole.get(before + 1..).unwrap_or_default(),
            None if start == 0 => whole,
            None => return Err(self.not_a_log("its last line is too long")),
        };
        let entry = Entry::parse(line).map_err(|why| self.not_a_log(&why))?;
        Ok(End {
            offset: start + last as u64 + 1,
            head: Head {
                seq: entry.seq,
                hash: Hash::of(line),
            },
        })
    }

    /// Reads what others have added since, and repairs a torn end. The lock is held.
    fn catch_up(&self, known: &mut End) -> Result<(), AuditError> {
        let size = self.size()?;
        let mut end = *known;
        if size < end.offset {
            return Err(AuditError::Shrunk {
                path: self.path.clone(),
                was: end.offset,
                is: size,
            });
        }
        if size == end.offset {
            return Ok(());
        }
        let mut fragment = None;
        {
            let mut file = &self.file;
            file.seek(SeekFrom::Start(end.offset))
                .map_err(|source| self.read_failed(source))?;
            let mut stream = BufReader::new(file.take(size - end.offset));
            while let Some(line) =
                next_line(&mut stream).map_err(|source| self.read_failed(source))?
            {
                let entry = Entry::parse(&line.bytes);
                let fits = match &entry {
                    Ok(entry) => end.head.refuses(entry).map_or(Ok(()), Err),
                    Err(why) => Err(why.clone()),
                };
                if line.is_overlong() {
                    return Err(self.broken(end, "a line is too long".to_owned()));
                }
                if !line.ended {
                    fragment = Some((line.bytes, fits.is_ok()));
                    break;
                }
                fits.map_err(|why| self.broken(end, why))?;
                end = End {
                    offset: end.offset + line.bytes.len() as u64 + 1,
                    head: end.head.next(&line.bytes),
                };
            }
        }
        *known = end;
        match fragment {
            None => Ok(()),
            // All but the line's end was written.
            Some((line, true)) => {
                (&self.file)
                    .write_all(b"\n")
                    .map_err(|source| self.write_failed(source))?;
                *known = End {
                    offset: end.offset + line.len() as u64 + 1,
                    head: end.head.next(&line),
                };
                Ok(())
            }
            Some((fragment, false)) => self.put_aside(known, &fragment),
        }
    }

    /// Moves a fragment from the end of the log to a file of its own. The copy is on the disk
    /// before the log is cut, so that a crash in between loses nothing.
    fn put_aside(&self, end: &mut End, fragment: &[u8]) -> Result<(), AuditError> {
        let mut name = self.path.clone().into_os_string();
        name.push(
            Timestamp::now()
                .strftime(".torn-%Y%m%dT%H%M%S.%6fZ")
                .to_string(),
        );
        let path = PathBuf::from(name);
        let kept = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| {
                file.write_all(fragment)?;
                file.sync_all()
            });
        kept.map_err(|source| AuditError::Aside {
            path: path.clone(),
            source,
        })?;
        sync_directory(&path);
        self.file
            .set_len(end.offset)
            .map_err(|source| self.write_failed(source))?;
        let record = Record::TornTail(TornTail {
            bytes: fragment.len() as u64,
            sha256: Hash::of(fragment),
            kept: Text::new(path.to_string_lossy()),
        });
        self.write(end, &mut [About(None, &record)].into_iter())?;
        self.sync()
    }

    /// Writes lines at the end. The lock is held and the end is known.
    fn write(
        &self,
        end: &mut End,
        records: &mut dyn Iterator<Item = About<'_>>,
    ) -> Result<Head, AuditError> {
        let mut lines = String::new();
        let mut next = *end;
        for record in records {
            let seq = next.head.seq.saturating_add(1);
            let line = encode(seq, &self.agent, next.head.hash, &record);
            let Ok(line) = line else {
                self.put(end, &lines, next)?;
                return line.map(|_| end.head);
            };
            next.head = next.head.next(line.as_bytes());
            next.offset += line.len() as u64 + 1;
            lines.push_str(&line);
            lines.push('\n');
            if lines.len() > WRITE {
                self.put(end, &lines, next)?;
                lines.clear();
            }
        }
        self.put(end, &lines, next)?;
        Ok(end.head)
    }

    /// Writes lines at the end, which is `next` then.
    fn put(&self, end: &mut End, lines: &str, next: End) -> Result<(), AuditError> {
        if let Err(source) = (&self.file).write_all(lines.as_bytes()) {
            // A full disk may have taken a part of them. If it cannot be taken back either, the
            // next writer puts it aside.
            let _ = self.file.set_len(end.offset);
            return Err(self.write_failed(source));
        }
        *end = next;
        Ok(())
    }

    fn size(&self) -> Result<u64, AuditError> {
        let meta = self
            .file
            .metadata()
            .map_err(|source| self.read_failed(source))?;
        if meta.nlink() == 0 {
            return Err(AuditError::Removed(self.path.clone()));
        }
        Ok(meta.len())
    }

    fn not_a_log(&self, why: &str) -> AuditError {
        AuditError::NotALog {
            path: self.path.clone(),
            why: why.to_owned(),
        }
    }

    fn broken(&self, end: End, why: String) -> AuditError {
        AuditError::Broken {
            path: self.path.clone(),
            offset: end.offset,
            why,
        }
    }

    fn read_failed(&self, source: io::Error) -> AuditError {
        AuditError::Read {
            path: self.path.clone(),
            source,
        }
    }

    fn write_failed(&self, source: io::Error) -> AuditError {
        AuditError::Write {
            path: self.path.clone(),
            source,
        }
    }
}

/// Whether a log could be appended to here. Nothing is made or written; that there is none yet is no error.
///
/// # Errors
///
/// It cannot be opened, is no file of its own, or may be written by others.
pub fn check_file(path: &Path) -> Result<(), AuditError> {
    match open_with(path, OFlags::empty()) {
        Err(AuditError::Open { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        opened => opened.map(drop),
    }
}

fn open_file(path: &Path) -> Result<File, AuditError> {
    open_with(path, OFlags::CREATE)
}

fn open_with(path: &Path, more: OFlags) -> Result<File, AuditError> {
    // NONBLOCK: a pipe under this name must not hold us up before it is refused.
    let flags = more
        | OFlags::RDWR
        | OFlags::APPEND
        | OFlags::NOFOLLOW
        | OFlags::CLOEXEC
        | OFlags::NONBLOCK
        | OFlags::NOCTTY;
    let file = match rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => File::from(file),
        Err(Errno::LOOP) => return Err(AuditError::Symlink(path.to_owned())),
        Err(Errno::ISDIR) => return Err(AuditError::NotAFile(path.to_owned())),
        Err(error) => {
            return Err(AuditError::Open {
                path: path.to_owned(),
                source: error.into(),
            });
        }
    };
    let meta = file.metadata().map_err(|source| AuditError::Open {
        path: path.to_owned(),
        source,
    })?;
    if !meta.is_file() {
        return Err(AuditError::NotAFile(path.to_owned()));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(AuditError::Exposed {
            path: path.to_owned(),
            mode: meta.mode() & 0o7777,
        });
    }
    Ok(file)
}

/// Brings a new file's name to the disk. Not every file system can, and not every user may open
/// the directory; the records themselves do not depend on it.
fn sync_directory(path: &Path) {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let _ = File::open(directory.unwrap_or(Path::new("."))).and_then(|file| file.sync_all());
}

/// True if a file without a single line end can be what a crash left of a first record: the
/// beginning of one, or the zeros of a block that was never written.
fn could_be_first(tail: &[u8]) -> bool {
    let start = br#"{"seq":1,"time":""#;
    tail.iter().zip(start).all(|(is, must)| is == must) || tail.iter().all(|&byte| byte == 0)
}

fn random_name() -> Result<String, AuditError> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(AuditError::Random)?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}

/// The file's lock, given back when dropped. Waiting has an end: whoever may open the file can
/// hold its lock, and that must not stop an agent for ever.
pub(super) struct Lock<'a>(&'a File);

impl<'a> Lock<'a> {
    fn take(file: &'a File, path: &Path) -> Result<Self, AuditError> {
        Self::wait(file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
            Errno::WOULDBLOCK => AuditError::Busy(path.to_owned()),
            errno => AuditError::Write {
                path: path.to_owned(),
                source: errno.into(),
            },
        })
    }

    /// The lock of a reader, who wants to see no line half written.
    pub(super) fn share(file: &'a File) -> Result<Self, Errno> {
        Self::wait(file, FlockOperation::NonBlockingLockShared)
    }

    fn wait(file: &'a File, operation: FlockOperation) -> Result<Self, Errno> {
        let since = Instant::now();
        loop {
            match flock(file, operation) {
                Ok(()) => return Ok(Self(file)),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if since.elapsed() < LOCK_PATIENCE => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(errno) => return Err(errno),
            }
        }
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // Closing the file would give it back as well; there is nothing to do about a failure.
        let _ = flock(self.0, FlockOperation::Unlock);
    }
}
