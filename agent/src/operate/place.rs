//! Where the sockets are.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

/// Where agents that run as root have their sockets.
pub(super) const DIRECTORY: &str = "/run/capwarden/agents";

/// Makes the directory, for nobody but root. The one above it may be looked into: others put there what is
/// for everybody.
pub(super) fn make(directory: &Path) -> io::Result<()> {
    if let Some(above) = directory.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(above)?;
    }
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let meta = fs::symlink_metadata(directory)?;
    let own = rustix::process::geteuid().as_raw();
    if !meta.is_dir() || meta.uid() != own || meta.mode() & 0o077 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it is no directory that belongs to root alone, with mode 0700",
        ));
    }
    Ok(())
}

/// The socket of a process.
pub(super) fn socket(directory: &Path, pid: u32) -> PathBuf {
    directory.join(format!("{pid}.sock"))
}

/// Every socket that there is, by its process.
pub(super) fn sockets(directory: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let pid = name.to_str()?.strip_suffix(".sock")?.parse().ok()?;
            entry
                .file_type()
                .ok()?
                .is_socket()
                .then(|| (pid, entry.path()))
        })
        .collect();
    found.sort_unstable();
    Ok(found)
}

/// Removes the socket of a process that was killed: nobody listens, and the process has gone. One that has
/// just been made is not listened on for a moment, but its process lives.
pub(super) fn sweep(pid: u32, path: &Path) -> bool {
    let abandoned = UnixStream::connect(path)
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        && !Path::new(&format!("/proc/{pid}")).exists();
    abandoned && fs::remove_file(path).is_ok()
}

/// The same for all of a directory.
pub(super) fn sweep_all(directory: &Path) {
    for (pid, path) in sockets(directory).unwrap_or_default() {
        if sweep(pid, &path) {
            tracing::debug!(
                pid,
                "removed the operators' socket of an agent that was killed"
            );
        }
    }
}
