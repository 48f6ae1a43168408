//! What a governed user may do with files: asked of the kernel as that user, on a thread of its own, so that
//! lists of access and whatever else there is count as they will.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    thread,
};

use rustix::fs::{Access, access};

use super::{sys, users::Credentials};

/// Why a user may not.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// What the system says.
    #[error("{0}")]
    Refused(io::Error),
    /// The first line of a script names a program that the user may not execute.
    #[error("its first line names {}: {why}", interpreter.display())]
    Interpreter {
        /// That program.
        interpreter: PathBuf,
        /// What the system says of it.
        why: io::Error,
    },
    /// The own user may not ask as another.
    #[error("only root can find that out")]
    NotAsked,
}

impl AccessError {
    /// Whether there is no such file.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused(why) if why.kind() == io::ErrorKind::NotFound)
    }
}

/// Bytes of a script that are looked at, as by the kernel.
const HEAD: u64 = 256;

/// Whether a user may execute this file.
///
/// # Errors
///
/// Why not, or why that is not known.
pub fn executable_by(credentials: &Credentials, file: &Path) -> Result<(), AccessError> {
    as_user(credentials, || {
        let refused = |error: io::Error| AccessError::Refused(error);
        if !file.metadata().map_err(refused)?.is_file() {
            let why = io::Error::new(io::ErrorKind::PermissionDenied, "it is no regular file");
            return Err(refused(why));
        }
        executable(file).map_err(refused)?;
        match interpreter(file) {
            Some(interpreter) => match executable(&interpreter) {
                Ok(()) => Ok(()),
                Err(why) => Err(AccessError::Interpreter { interpreter, why }),
            },
            None => Ok(()),
        }
    })
}

/// Whether a user may read this file, or directory.
///
/// # Errors
///
/// Why not, or why that is not known.
pub fn readable_by(credentials: &Credentials, file: &Path) -> Result<(), AccessError> {
    as_user(credentials, || {
        access(file, Access::READ_OK).map_err(|why| AccessError::Refused(why.into()))
    })
}

/// Whether a user may enter this directory.
///
/// # Errors
///
/// Why not, or why that is not known.
pub fn enterable_by(credentials: &Credentials, directory: &Path) -> Result<(), AccessError> {
    as_user(credentials, || {
        let about = directory.metadata().map_err(AccessError::Refused)?;
        if !about.is_dir() {
            return Err(AccessError::Refused(io::ErrorKind::NotADirectory.into()));
        }
        executable(directory).map_err(AccessError::Refused)
    })
}

fn executable(path: &Path) -> io::Result<()> {
    Ok(access(path, Access::EXEC_OK)?)
}

/// The program that a script is for. What cannot be read is no script for this user.
fn interpreter(file: &Path) -> Option<PathBuf> {
    let mut head = Vec::new();
    let file = File::open(file).ok()?;
    file.take(HEAD).read_to_end(&mut head).ok()?;
    let line = head
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    let line = str::from_utf8(line).ok()?;
    let program = line.split_whitespace().next()?;
    Some(PathBuf::from(program))
}

/// Does something as a user, without capabilities.
fn as_user<T: Send>(
    credentials: &Credentials,
    work: impl FnOnce() -> Result<T, AccessError> + Send,
) -> Result<T, AccessError> {
    let own = rustix::process::geteuid();
    if own.as_raw() == credentials.user && !own.is_root() {
        return work();
    }
    let become_it = || -> Result<(), rustix::io::Errno> {
        sys::set_groups(&credentials.groups)?;
        sys::set_group_id(credentials.group)?;
        sys::set_user_id(credentials.user)?;
        sys::clear_capabilities()
    };
    // The system calls change one thread, which ends with this.
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            become_it().map_err(|_| AccessError::NotAsked)?;
            work()
        });
        other.join().unwrap_or(Err(AccessError::NotAsked))
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn what_another_user_may_is_asked_as_that_user() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let nobody = Credentials::nobody();
        let place = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str, mode| {
            let path = place.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let program = file("program", "", 0o755);
        let closed = file("closed", "", 0o744);
        let script = file("script", "#! /bin/sh -e\n", 0o755);
        let broken = file("broken", "#!/no/such/interpreter\n", 0o755);
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o700)).unwrap();
        // The directory is root's alone.
        assert!(matches!(
            executable_by(&nobody, &program),
            Err(AccessError::Refused(_))
        ));
        assert!(matches!(
            enterable_by(&nobody, place.path()),
            Err(AccessError::Refused(_))
        ));
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for good in [&program, &script] {
            executable_by(&nobody, good).unwrap();
        }
        enterable_by(&nobody, place.path()).unwrap();
        readable_by(&nobody, &closed).unwrap();
        let secret = file("secret", "", 0o600);
        assert!(!readable_by(&nobody, &secret).unwrap_err().is_missing());
        let none = place.path().join("none");
        assert!(readable_by(&nobody, &none).unwrap_err().is_missing());
        let told = executable_by(&nobody, &broken).unwrap_err().to_string();
        assert!(
            told.contains("names /no/such/interpreter: No such file"),
            "{told}"
        );
        for (path, why) in [
            (closed.as_path(), "Permission denied"),
            (place.path(), "no regular file"),
            (&place.path().join("none"), "No such file"),
        ] {
            let told = executable_by(&nobody, path).unwrap_err().to_string();
            assert!(told.contains(why), "{told}");
        }
        assert!(enterable_by(&nobody, &program).is_err());
        // This thread is as it was.
        assert!(rustix::process::geteuid().is_root());
        fs::write(place.path().join("mine"), "").unwrap();
    }
}
