//! What a kernel unpacks as its first file system: a cpio archive of the kind `newc`, in which
//! everything belongs to root.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// The kinds of entries, as they stand in the mode.
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const DEVICE: u32 = 0o020_000;

/// The name behind the last entry.
const END: &str = "TRAILER!!!";

/// The archive before it is written: paths without their first slash, so that what is in a
/// directory comes after it.
#[derive(Clone, Default)]
pub(super) struct Archive {
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone)]
struct Entry {
    /// Its kind and its permissions.
    mode: u32,
    /// Major and minor number of a device.
    device: (u32, u32),
    content: Content,
}

#[derive(Clone)]
enum Content {
    /// What a file says, or where a link leads.
    Text(String),
    /// A file of the host, which is read when the archive is written.
    Host(PathBuf),
}

impl Archive {
    /// A directory.
    pub(super) fn directory(&mut self, path: &str, permissions: u32) {
        self.put(path, DIRECTORY | permissions, Content::Text(String::new()));
    }

    /// A file of the host.
    pub(super) fn file(&mut self, path: &str, from: &Path, permissions: u32) {
        self.put(path, FILE | permissions, Content::Host(from.to_path_buf()));
    }

    /// A file with these words.
    pub(super) fn text(&mut self, path: &str, text: &str, permissions: u32) {
        self.put(path, FILE | permissions, Content::Text(text.to_owned()));
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, path: &str, to: &str) {
        self.put(path, LINK | 0o777, Content::Text(to.to_owned()));
    }

    /// A character device that root alone may use.
    pub(super) fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.put(path, DEVICE | 0o600, Content::Text(String::new()));
        if let Some(entry) = self.entries.get_mut(relative(path)) {
            entry.device = (major, minor);
        }
    }

    /// Whether there is such an entry.
    pub(super) fn has(&self, path: &str) -> bool {
        self.entries.contains_key(relative(path))
    }

    fn put(&mut self, path: &str, mode: u32, content: Content) {
        let path = relative(path);
        for (end, _) in path.match_indices('/') {
            let above = path.get(..end).unwrap_or_default().to_owned();
            self.entries.entry(above).or_insert_with(|| Entry {
                mode: DIRECTORY | 0o755,
                device: (0, 0),
                content: Content::Text(String::new()),
            });
        }
        let entry = Entry {
            mode,
            device: (0, 0),
            content,
        };
        self.entries.insert(path.to_owned(), entry);
    }

    /// Writes it into a file.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut out = BufWriter::new(file);
        let end = Entry {
            mode: 0,
            device: (0, 0),
            content: Content::Text(String::new()),
        };
        let entries = self.entries.iter().map(|(name, entry)| (&name[..], entry));
        for (inode, (name, entry)) in (1..).zip(entries.chain([(END, &end)])) {
            entry
                .write(&mut out, inode, name)
                .with_context(|| format!("cannot put {name} into {}", path.display()))?;
        }
        Ok(out.flush()?)
    }
}

fn relative(path: &str) -> &str {
    path.trim_matches('/')
}

impl Entry {
    fn write(&self, out: &mut impl Write, inode: u32, name: &str) -> Result<()> {
        let (size, time, mut from): (u64, i64, Box<dyn Read + '_>) = match &self.content {
            Content::Text(text) => (u64::try_from(text.len())?, 0, Box::new(text.as_bytes())),
            Content::Host(path) => {
                let file =
                    File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
                let about = file.metadata()?;
                (about.len(), about.mtime(), Box::new(file))
            }
        };
        let short = u32::try_from(size).context("4 GiB are too much for one file")?;
        // Python compares it with what it has compiled.
        let time = u32::try_from(time).unwrap_or_default();
        let name_size = u32::try_from(name.len())?.saturating_add(1);
        let (major, minor) = self.device;
        out.write_all(b"070701")?;
        // Inode, mode, owner, group, links, time, size, device, special device, name's size, checksum.
        let fields = [
            inode, self.mode, 0, 0, 1, time, short, 0, 0, major, minor, name_size, 0,
        ];
        for field in fields {
            write!(out, "{field:08X}")?;
        }
        out.write_all(name.as_bytes())?;
        out.write_all(b"\0")?;
        // Six bytes and thirteen fields of eight stand before the name.
        pad(out, 110 + u64::from(name_size))?;
        if io::copy(&mut from.by_ref().take(size), out)? != size || from.read(&mut [0])? > 0 {
            bail!("it changed while it was read");
        }
        pad(out, size)
    }
}

/// What follows begins at a multiple of four bytes.
fn pad(out: &mut impl Write, written: u64) -> Result<()> {
    let missing = written.next_multiple_of(4) - written;
    Ok(io::copy(&mut io::repeat(0).take(missing), out).map(drop)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{
        env, fs,
        time::{Duration, SystemTime},
    };

    use super::*;

    #[test]
    fn archive_is_what_kernels_read() {
        let home = env::temp_dir().join(format!("xtask-archive-{}", std::process::id()));
        fs::create_dir_all(&home).unwrap();
        let odd = home.join("odd");
        fs::write(&odd, "12345").unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(0x1234_5678);
        File::open(&odd).unwrap().set_modified(time).unwrap();
        let mut archive = Archive::default();
        archive.link("bin/sh", "busybox");
        archive.file("/bin/odd", &odd, 0o755);
        archive.device("dev/console", 5, 1);
        archive.directory("/tmp/", 0o1777);
        assert!(archive.has("/bin/odd") && archive.has("bin") && !archive.has("bi"));
        let path = home.join("archive");
        archive.write(&path).unwrap();
        let written = fs::read(&path).unwrap();
        fs::remove_dir_all(&home).unwrap();

        // Inode, mode, owner, group, links, time; size; devices; the device; the name's size; nothing.
        let header = |inode: u32, mode: u32, size: u32, device: (u32, u32), name: u32| {
            let time = if size == 5 { "12345678" } else { "00000000" };
            format!(
                "070701{inode:08X}{mode:08X}000000000000000000000001{time}{size:08X}\
                 0000000000000000{:08X}{:08X}{name:08X}00000000",
                device.0, device.1
            )
        };
        let expected = [
            header(1, 0o040_755, 0, (0, 0), 4) + "bin\0\0\0",
            header(2, 0o100_755, 5, (0, 0), 8) + "bin/odd\0\0\0" + "12345\0\0\0",
            header(3, 0o120_777, 7, (0, 0), 7) + "bin/sh\0\0\0\0" + "busybox\0",
            header(4, 0o040_755, 0, (0, 0), 4) + "dev\0\0\0",
            header(5, 0o020_600, 0, (5, 1), 12) + "dev/console\0\0\0",
            header(6, 0o041_777, 0, (0, 0), 4) + "tmp\0\0\0",
            header(7, 0, 0, (0, 0), 11) + "TRAILER!!!\0\0\0\0",
        ];
        assert_eq!(String::from_utf8(written).unwrap(), expected.concat());
    }
}
