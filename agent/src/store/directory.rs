//! Where the state is, and whether it is safe there.

use std::{
    env, fs,
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
            if let Some(why) = fault(&metadata, at == path, own, governed) {
                let (path, at) = (path.clone(), at.to_owned());
                return Err(StoreError::Exposed { path, at, why });
            }
        }
        Ok(Self { path })
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

/// Who else may change what stands at a path: the file or directory itself, or one above it. None
/// if nobody but root and the own user can; `governed` is counted as somebody else.
///
/// # Errors
///
/// It cannot be looked at.
pub fn exposed(path: &Path, governed: Option<u32>) -> io::Result<Option<String>> {
    let own = rustix::process::geteuid().as_raw();
    let path = fs::canonicalize(path)?;
    for at in path.ancestors() {
        let metadata = fs::symlink_metadata(at)?;
        if let Some(why) = fault(&metadata, false, own, governed) {
            return Ok(Some(format!("{} {why}", at.display())));
        }
    }
    Ok(None)
}

/// What is wrong with a directory of the path, `own` and `governed` being user ids.
fn fault(metadata: &Metadata, is_last: bool, own: u32, governed: Option<u32>) -> Option<String> {
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if owner != 0 && owner != own {
        return Some(format!("belongs to user {owner}"));
    }
    if owner != 0 && Some(owner) == governed {
        return Some(format!("belongs to user {owner}, as whom servers are run"));
    }
    if is_last && mode & 0o077 != 0 {
        return Some(format!("is open to others (mode {mode:04o}, not 0700)"));
    }
    // With the sticky bit, only its owner can rename or remove what is in it.
    if mode & 0o022 != 0 && mode & 0o1000 == 0 {
        return Some(format!("may be changed by others (mode {mode:04o})"));
    }
    None
}
