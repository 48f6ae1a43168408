//! Where the state is, and whether it is safe there.

use std::{
    env, fmt, fs,
    fs::{DirBuilder, Metadata},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use super::StoreError;

/// A directory that only the agent's own user (and root) can change, down from the root directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDirectory {
    path: PathBuf,
}

impl StateDirectory {
    /// The usual place: `/var/lib/capwarden/state` for root; else `capwarden/state` under
    /// `$XDG_STATE_HOME`, or under `~/.local/state`.
    ///
    /// # Errors
    ///
    /// There is no home to put it into.
    pub fn usual_place() -> Result<PathBuf, StoreError> {
        if rustix::process::geteuid().is_root() {
            return Ok("/var/lib/capwarden/state".into());
        }
        let absolute = |name| {
            env::var_os(name)
                .map(PathBuf::from)
                .filter(|p| p.is_absolute())
        };
        absolute("XDG_STATE_HOME")
            .or_else(|| Some(absolute("HOME")?.join(".local/state")))
            .map(|home| home.join("capwarden/state"))
            .ok_or(StoreError::NoPlace)
    }

    /// Opens the directory, or makes it with mode 0700. `governed` is the user that governed servers run
    /// as, if any is started: one who could change the state could forget what was counted.
    ///
    /// # Errors
    ///
    /// It cannot be made, or somebody other than the agent's own user and root may change it or a
    /// directory above it.
    pub fn open(path: &Path, governed: Option<u32>) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Directory {
            path: path.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed)?;
        // From here on without symbolic links, so that what is looked at is what is used.
        let path = fs::canonicalize(path).map_err(failed)?;
        let own = rustix::process::geteuid().as_raw();
        for at in path.ancestors() {
            let metadata = fs::symlink_metadata(at).map_err(failed)?;
            if let Some(fault) = fault(&metadata, at == path, own, governed) {
                let at = at.to_owned();
                let by = Exposure { at, own, fault };
                return Err(StoreError::Exposed { path, by });
            }
        }
        Ok(Self { path })
    }

    /// Whether [`open`](Self::open) would find it usable: nothing is made. What is above it is looked at where it is not
    /// there yet.
    ///
    /// # Errors
    ///
    /// As of `open`.
    pub fn check(path: &Path, governed: Option<u32>) -> Result<(), StoreError> {
        let failed = |source| StoreError::Directory {
            path: path.to_owned(),
            source,
        };
        if path.symlink_metadata().is_ok() {
            if !path.metadata().map_err(failed)?.is_dir() {
                return Err(failed(io::ErrorKind::NotADirectory.into()));
            }
            return Self::open(path, governed).map(drop);
        }
        let there = path.ancestors().skip(1).find(|above| above.exists());
        let by = exposed(there.unwrap_or(Path::new("/")), governed).map_err(failed)?;
        match by {
            Some(by) => Err(StoreError::Exposed {
                path: path.to_owned(),
                by,
            }),
            None => Ok(()),
        }
    }

    /// Where it is, free of symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes sure that names which were changed in it are on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        fs::File::open(&self.path)?.sync_all()
    }
}

/// A file or a directory that somebody else can change, or look into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposure {
    /// Which: the path that was asked for, or one above it.
    pub at: PathBuf,
    /// The user who asked.
    own: u32,
    fault: Fault,
}

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It is another user's.
    Owner(u32),
    /// It is the user's as whom servers run.
    Governed(u32),
    /// It is the state directory, and others may look into it.
    Open(u32),
    /// Others may write to it.
    Writable(u32),
}

impl Exposure {
    /// The command that closes it.
    #[must_use]
    pub fn remedy(&self) -> String {
        let at = self.at.display();

        match self.fault {
            Fault::Owner(_) => format!("sudo chown {} {at}", self.own),
            Fault::Governed(_) => format!("sudo chown root {at}"),
            Fault::Open(_) => format!("sudo chmod 0700 {at}"),
            Fault::Writable(_) => format!("sudo chmod go-w {at}"),
        }
    }
}

/// As in `/srv may be changed by others (mode 0777)`.
impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.at.display())?;
        match self.fault {
            Fault::Owner(owner) => write!(f, "belongs to user {owner}"),
            Fault::Governed(owner) => write!(f, "belongs to user {owner}, as whom servers are run"),
            Fault::Open(mode) => write!(f, "is open to others (mode {mode:04o}, not 0700)"),
            Fault::Writable(mode) => write!(f, "may be changed by others (mode {mode:04o})"),
        }
    }
}

/// Who else may change what stands at a path: the file or directory itself, or one above it. None
/// if nobody but root and the own user can; `governed` is counted as somebody else.
///
/// # Errors
///
/// It cannot be looked at.
pub fn exposed(path: &Path, governed: Option<u32>) -> io::Result<Option<Exposure>> {
    let own = rustix::process::geteuid().as_raw();
    let path = fs::canonicalize(path)?;
    for at in path.ancestors() {
        let metadata = fs::symlink_metadata(at)?;
        if let Some(fault) = fault(&metadata, false, own, governed) {
            let at = at.to_owned();
            return Ok(Some(Exposure { at, own, fault }));
        }
    }
    Ok(None)
}

/// What is wrong with a directory of the path, `own` and `governed` being user ids.
fn fault(metadata: &Metadata, is_last: bool, own: u32, governed: Option<u32>) -> Option<Fault> {
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if owner != 0 && owner != own {
        return Some(Fault::Owner(owner));
    }
    if owner != 0 && Some(owner) == governed {
        return Some(Fault::Governed(owner));
    }
    if is_last && mode & 0o077 != 0 {
        return Some(Fault::Open(mode));
    }
    // With the sticky bit, only its owner can rename or remove what is in it.
    if mode & 0o022 != 0 && mode & 0o1000 == 0 {
        return Some(Fault::Writable(mode));
    }
    None
}
