//! Small records under keys, in a file of slots that are changed in place.
//!
//! ```text
//! 0      header: magic and version (32 bytes), slots (8), secret (16), checksum (8), zeros
//! 4096   slot 0, slot 1, … each of 1024 bytes:
//!        checksum of what follows (8), key (16), length of the record (8), record, leftovers
//! ```
//!
//! Numbers are little-endian. A slot of zeros is free. Each key can be in either of two groups of
//! eight slots, which the key itself names; keys are digests over the file's secret, so that
//! nobody can look for keys that crowd one group. A slot lies within one page and is written by one
//! `write`, which a signal does not cut short: after a kill it holds the old record or the new one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::PathBuf,
    sync::Arc,
};

use super::{
    StateDirectory, StoreError,
    sync::Syncer,
    tenure::{Tenant, Use},
};

/// Bytes that a record may have.
pub const SLOT_CAPACITY: usize = SLOT - SLOT_HEAD;

const MAGIC: &[u8; 32] = b"capwarden slots 1\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n";
/// What stays the same of `MAGIC` in every version.
const MAGIC_KIND: usize = 16;

const HEADER: usize = 4096;
const SLOT: usize = 1024;
const SLOT_HEAD: usize = 32;
const GROUP: usize = 8;
const GROUP_BYTES: usize = GROUP * SLOT;

/// Under which a record is found: a digest over [`Slots::secret`].
pub type Key = [u8; 16];

/// The file, open. May be used from any thread; keeps no more in memory than where each key was
/// seen last, and some of the records while it has the lock.
#[derive(Debug)]
pub struct Slots {
    path: PathBuf,
    file: Arc<File>,
    groups: u64,
    secret: [u8; 16],
    tenant: Tenant,
    syncer: Syncer,
}

/// The file, locked: no other thread or process reads or writes until this is dropped.
#[derive(Debug)]
pub struct Held<'a> {
    slots: &'a Slots,
    locked: Use<'a>,
    /// Slots whose records the holder knows, and may be about to change.
    looked_at: Vec<u64>,
}

/// What was found under a key.
#[derive(Debug)]
pub struct Found {
    key: Key,
    slot: Option<u64>,
    /// The record, if there is one.
    pub record: Option<Vec<u8>>,
}

/// What is in a slot.
enum Slot<'a> {
    Free,
    Record(Key, &'a [u8]),
}

impl Slots {
    /// Opens the file `name`, or makes it with room for `room` records (rounded up to eights; one that exists
    /// keeps its size). It takes up only as much of the disk as was ever used.
    ///
    /// # Errors
    ///
    /// It cannot be read or made, is not what capwarden wrote, or others may change it.
    pub fn open(directory: &StateDirectory, name: &str, room: u64) -> Result<Self, StoreError> {
        let path = directory.file(name);
        let failed = |doing, source| StoreError::File {
            path: path.clone(),
            doing,
            source,
        };
        let file = match open_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(directory, name, room.div_ceil(GROUP as u64).max(2))
                    .map_err(|source| failed("create", source))?;
                open_file(&path)
            }
            opened => opened,
        }
        .map_err(|source| failed("open", source))?;
        let metadata = file
            .metadata()
            .map_err(|source| failed("look at", source))?;
        let damaged = |why: String| StoreError::Damaged {
            path: path.clone(),
            why,
        };
        if !metadata.is_file() || metadata.mode() & 0o022 != 0 {
            return Err(damaged(
                "it is no file, or may be changed by others".to_owned(),
            ));
        }
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0)
            .map_err(|_| damaged("it is shorter than its header".to_owned()))?;
        let (groups, secret) = read_header(&header).map_err(|found| match found {
            Header::OtherVersion(found) => StoreError::Version {
                path: path.clone(),
                found,
            },
            Header::Damaged => damaged("its header is not whole".to_owned()),
        })?;
        let whole = groups
            .saturating_mul(GROUP_BYTES as u64)
            .saturating_add(HEADER as u64);
        if metadata.len() != whole {
            return Err(damaged(format!(
                "it has {} bytes, not {whole}",
                metadata.len()
            )));
        }
        let file = Arc::new(file);
        let tenant = Tenant::new(path.clone(), Arc::clone(&file));
        Ok(Self {
            tenant: tenant.map_err(|source| failed("lock", source))?,
            syncer: Syncer::start(Arc::clone(&file)).map_err(|source| failed("sync", source))?,
            path,
            file,
            groups,
            secret,
        })
    }

    /// What keys are digests over.
    #[must_use]
    pub fn secret(&self) -> &[u8; 16] {
        &self.secret
    }

    /// How many records fit.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.groups * GROUP as u64
    }

    /// Locks the file for the calling thread, which waits for at most a quarter of a second for
    /// other processes.
    ///
    /// # Errors
    ///
    /// Another process holds it for too long, or what was written earlier could not be brought to
    /// the disk.
    pub fn lock(&self) -> Result<Held<'_>, StoreError> {
        let locked = self.tenant.lock()?;
        if let Some(why) = self.syncer.failure() {
            let (path, why) = (self.path.clone(), why.to_owned());
            return Err(StoreError::NotSynced { path, why });
        }
        Ok(Held {
            slots: self,
            locked,
            looked_at: Vec::new(),
        })
    }

    /// The first slots of the two groups that a key can be in.
    fn groups_of(&self, key: &Key) -> [u64; 2] {
        let number = u128::from_le_bytes(*key);
        let groups = u128::from(self.groups);
        let first = number % groups;
        // Never the same group twice.
        let second = (first + 1 + (number / groups) % (groups - 1)) % groups;
        [first, second].map(|group| u64::try_from(group).unwrap_or(0) * GROUP as u64)
    }

    fn read(&self, slot: u64, into: &mut [u8]) -> Result<(), StoreError> {
        self.file
            .read_exact_at(into, offset(slot))
            .map_err(|source| StoreError::File {
                path: self.path.clone(),
                doing: "read",
                source,
            })
    }

    fn parse<'a>(&self, slot: u64, bytes: &'a [u8]) -> Result<Slot<'a>, StoreError> {
        parse(bytes).ok_or_else(|| StoreError::Damaged {
            path: self.path.clone(),
            why: format!("at byte {}", offset(slot)),
        })
    }
}

impl Held<'_> {
    /// Looks for the record under a key.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is damaged where the record could be.
    pub fn get(&mut self, key: &Key) -> Result<Found, StoreError> {
        let mut found = Found {
            key: *key,
            slot: None,
            record: None,
        };
        if let Some((slot, record)) = self.locked.known(key) {
            found.slot = Some(*slot);
            found.record = Some(record.clone());
            self.looked_at.extend(found.slot);
            return Ok(found);
        }
        if let Some(slot) = self.locked.seen(key) {
            let mut bytes = [0; SLOT];
            self.slots.read(slot, &mut bytes)?;
            match self.slots.parse(slot, &bytes)? {
                Slot::Record(other, record) if other == *key => {
                    found.slot = Some(slot);
                    found.record = Some(record.to_vec());
                }
                // Another process has given the slot away, since the record was spent.
                _ => self.locked.gone(key),
            }
        }
        if found.slot.is_none() {
            self.look(key, |slot, what| match what {
                Slot::Record(other, record) if other == *key => {
                    found.slot = Some(slot);
                    found.record = Some(record.to_vec());
                    true
                }
                _ => false,
            })?;
        }
        if let (Some(slot), Some(record)) = (found.slot, &found.record) {
            self.locked.know(*key, slot, record);
            self.remember(*key, slot);
        }
        Ok(found)
    }

    /// Puts a record where [`get`](Self::get) has looked, under the same lock. Where there is no
    /// room for a new one, it takes the place of one that `is_spent` and was not looked for.
    ///
    /// # Errors
    ///
    /// There is no room, or the file cannot be read or written, or is damaged.
    pub fn put(
        &mut self,
        found: &Found,
        record: &[u8],
        is_spent: impl Fn(&[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let slot = match found.slot {
            Some(slot) => slot,
            None => self.free_slot(&found.key, is_spent)?,
        };
        let failed = |source| StoreError::File {
            path: self.slots.path.clone(),
            doing: "write",
            source,
        };
        let bytes = encode(&found.key, record)
            .ok_or_else(|| failed(io::Error::other("the record is empty, or too long")))?;
        self.locked.unsure(&found.key);
        self.slots
            .file
            .write_all_at(&bytes, offset(slot))
            .map_err(failed)?;
        self.slots.syncer.written();
        self.locked.know(found.key, slot, record);
        if found.slot.is_none() {
            self.remember(found.key, slot);
        }
        Ok(())
    }

    /// For whoever finds that a record is not what it wrote.
    #[must_use]
    pub fn no_record(&self) -> StoreError {
        StoreError::Damaged {
            path: self.slots.path.clone(),
            why: "a record in it makes no sense".to_owned(),
        }
    }

    fn free_slot(
        &mut self,
        key: &Key,
        is_spent: impl Fn(&[u8]) -> bool,
    ) -> Result<u64, StoreError> {
        let (mut free, mut spent) = (None, None);
        self.look(key, |slot, what| {
            match what {
                Slot::Free => free = Some(slot),
                Slot::Record(other, record) => {
                    if spent.is_none() && !self.looked_at.contains(&slot) && is_spent(record) {
                        spent = Some((slot, other));
                    }
                }
            }
            free.is_some()
        })?;
        match (free, spent) {
            (Some(slot), _) => Ok(slot),
            (None, Some((slot, other))) => {
                self.locked.gone(&other);
                Ok(slot)
            }
            (None, None) => Err(StoreError::Full {
                path: self.slots.path.clone(),
                room: self.slots.room(),
            }),
        }
    }

    /// Shows all slots that a key can be in, until one is the right one.
    fn look(
        &self,
        key: &Key,
        mut is_it: impl FnMut(u64, Slot<'_>) -> bool,
    ) -> Result<(), StoreError> {
        let mut bytes = [0; GROUP_BYTES];
        for group in self.slots.groups_of(key) {
            self.slots.read(group, &mut bytes)?;
            for (slot, bytes) in (group..).zip(bytes.chunks_exact(SLOT)) {
                if is_it(slot, self.slots.parse(slot, bytes)?) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn remember(&mut self, key: Key, slot: u64) {
        self.locked.saw(key, slot, self.slots.room());
        self.looked_at.push(slot);
    }
}

fn offset(slot: u64) -> u64 {
    HEADER as u64 + slot * SLOT as u64
}

/// None if it is damaged.
fn parse(slot: &[u8]) -> Option<Slot<'_>> {
    let (sum, rest) = slot.split_first_chunk()?;
    let (key, after) = rest.split_first_chunk()?;
    let (length, after) = after.split_first_chunk()?;
    let length = u64::from_le_bytes(*length);
    if length == 0 {
        return slot.iter().all(|&byte| byte == 0).then_some(Slot::Free);
    }
    let length = usize::try_from(length).ok()?;
    let record = after.get(..length)?;
    let summed = rest.get(..SLOT_HEAD - 8 + length)?;
    (checksum(summed) == u64::from_le_bytes(*sum)).then_some(Slot::Record(*key, record))
}

/// None if the record is empty, or too long.
fn encode(key: &Key, record: &[u8]) -> Option<Vec<u8>> {
    if record.is_empty() || record.len() > SLOT_CAPACITY {
        return None;
    }
    let mut bytes = Vec::with_capacity(SLOT_HEAD + record.len());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(&u64::try_from(record.len()).ok()?.to_le_bytes());
    bytes.extend_from_slice(record);
    let sum = checksum(bytes.get(8..)?);
    bytes.get_mut(..8)?.copy_from_slice(&sum.to_le_bytes());
    Some(bytes)
}

/// Against damage, not against forgery: who can write to the file is trusted. Each step can be
/// undone, so that two texts which differ in one word never have the same sum.
fn checksum(bytes: &[u8]) -> u64 {
    let mut sum = 0x6a09_e667_f3bc_c908_u64;
    let mut add = |word: u64| {
        sum = (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        sum ^= sum >> 29;
    };
    let words = bytes.chunks_exact(8);
    let rest = words.remainder();
    for word in words {
        add(word.try_into().map_or(0, u64::from_le_bytes));
    }
    for &byte in rest {
        add(byte.into());
    }
    sum
}

fn open_file(path: &std::path::Path) -> io::Result<File> {
    let no_link = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(no_link)
        .open(path)
}

/// Why a header is not used.
enum Header {
    OtherVersion(String),
    Damaged,
}

fn read_header(header: &[u8]) -> Result<(u64, [u8; 16]), Header> {
    let fields = || {
        let (magic, rest) = header.split_first_chunk::<32>()?;
        let (groups, rest) = rest.split_first_chunk()?;
        let (secret, rest) = rest.split_first_chunk()?;
        let (sum, _) = rest.split_first_chunk()?;
        let summed = header.get(..56)?;
        Some((
            magic,
            u64::from_le_bytes(*groups),
            *secret,
            u64::from_le_bytes(*sum),
            summed,
        ))
    };
    let (magic, groups, secret, sum, summed) = fields().ok_or(Header::Damaged)?;
    if magic != MAGIC && magic.get(..MAGIC_KIND) == MAGIC.get(..MAGIC_KIND) {
        let line = magic
            .split(|&byte| byte == b'\n')
            .next()
            .unwrap_or_default();
        return Err(Header::OtherVersion(line.escape_ascii().to_string()));
    }
    if magic != MAGIC || checksum(summed) != sum || groups < 2 {
        return Err(Header::Damaged);
    }
    Ok((groups, secret))
}

/// Makes the file under another name first: whoever sees it sees it whole. If another process was
/// quicker, its file is the one.
fn create(directory: &StateDirectory, name: &str, groups: u64) -> io::Result<()> {
    let mut secret = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut secret)?;
    let mut header = Vec::with_capacity(64);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&groups.to_le_bytes());
    header.extend_from_slice(&secret);
    header.extend_from_slice(&checksum(&header).to_le_bytes());

    let unique = u64::from_le_bytes(secret.first_chunk().copied().unwrap_or_default());
    let new = directory.file(&format!("{name}.new-{unique:016x}"));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    let made = (|| {
        file.write_all(&header)?;
        file.set_len(HEADER as u64 + groups.saturating_mul(GROUP_BYTES as u64))?;
        file.sync_all()?;
        match fs::hard_link(&new, directory.file(name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    })();
    fs::remove_file(&new)?;
    made?;
    directory.sync()
}
