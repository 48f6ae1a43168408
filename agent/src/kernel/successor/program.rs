//! The program that runs, and whether another file is in its place.

use std::{
    env,
    ffi::OsString,
    fs, io,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::MetadataExt as _,
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
};

use super::resolve::resolved;

/// What this process executes, even if it has been removed.
const OWN: &str = "/proc/self/exe";
/// What the kernel puts behind the path of a file that was removed.
const REMOVED: &[u8] = b" (deleted)";

/// The program of this process, and how it was started.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    name: OsString,
    arguments: Vec<OsString>,
    /// The device and the inode of the file.
    file: (u64, u64),
}

impl Program {
    /// That of this process. Where it was started by a path, that is where its next version is expected: a link
    /// there may lead elsewhere then.
    ///
    /// # Errors
    /// There is no `/proc`.
    pub fn own() -> io::Result<Self> {
        let file = identity(Path::new(OWN))?;
        let mut words = env::args_os();
        let name = words.next().unwrap_or_default();
        let named = Path::new(&name);
        let named = match named.components().nth(1) {
            Some(_) => std::path::absolute(named).ok(),
            None => None,
        };
        let path = match named.filter(|path| identity(path).is_ok_and(|there| there == file)) {
            Some(path) => path,
            None => present(fs::read_link(OWN)?),
        };
        Ok(Self {
            path,
            name,
            arguments: words.collect(),
            file,
        })
    }

    /// The same with another file and other arguments.
    #[cfg(test)]
    pub(super) fn at(path: &Path, arguments: &[&str]) -> Self {
        Self {
            path: path.to_owned(),
            name: path.into(),
            arguments: arguments.iter().map(Into::into).collect(),
            file: (0, 0),
        }
    }

    /// The same in another place.
    #[cfg(test)]
    pub(crate) fn elsewhere(self, path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            ..self
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn name(&self) -> &OsString {
        &self.name
    }

    pub(super) fn arguments(&self) -> &[OsString] {
        &self.arguments
    }

    /// Whether another file is there now.
    #[must_use]
    pub fn is_replaced(&self) -> bool {
        let there = fs::metadata(&self.path);
        there.is_ok_and(|meta| meta.is_file() && (meta.dev(), meta.ino()) != self.file)
    }

    /// The path without links of the file that is there now, which nobody but root could have put there.
    ///
    /// # Errors
    /// As of [`resolved`].
    pub(super) fn file(&self) -> io::Result<PathBuf> {
        resolved(&self.path)
    }

    /// Executes what is there now in place of what this process executes, with the same arguments. Returns only if
    /// that is not possible, or others than root could have put it there.
    pub(in crate::kernel) fn execute(&self) -> io::Error {
        match self.file() {
            Ok(file) => Command::new(file)
                .arg0(&self.name)
                .args(&self.arguments)
                .exec(),
            Err(error) => error,
        }
    }
}

/// The device and the inode of what is there.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

/// The path of a file that may have been removed.
fn present(path: PathBuf) -> PathBuf {
    match path.as_os_str().as_bytes().strip_suffix(REMOVED) {
        Some(bare) if !path.exists() => OsString::from_vec(bare.to_owned()).into(),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_at_the_path_is_noticed_and_none_is_not_taken_for_one() {
        let own = Program::own().unwrap();
        assert!(!own.is_replaced(), "{own:?}");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        fs::write(&path, "1").unwrap();
        let program = Program {
            path: path.clone(),
            file: identity(&path).unwrap(),
            ..own
        };
        assert!(!program.is_replaced());
        let kept = fs::File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(!program.is_replaced(), "there is nothing to start");
        fs::create_dir(&path).unwrap();
        assert!(!program.is_replaced(), "nor is a directory");
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "2").unwrap();
        assert!(program.is_replaced());
        drop(kept);
    }

    #[test]
    fn path_of_a_removed_file_is_where_it_was() {
        let gone = |path: &str| present(path.into());
        assert_eq!(
            gone("/nonexistent/a (deleted)"),
            Path::new("/nonexistent/a")
        );
        assert_eq!(gone("/nonexistent/a"), Path::new("/nonexistent/a"));
    }
}
