//! Unix sockets that clients of this host find by their path.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{
            fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
            net::UnixStream as Peer,
        },
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use tokio::net::{UnixListener, UnixStream};

use crate::store;

/// A Unix socket that listens, and goes when it is dropped, unless it is another process's.
#[derive(Debug)]
pub struct LocalSocket {
    listener: UnixListener,
    path: PathBuf,
    /// The device and the inode of the file.
    file: (u64, u64),
    /// The file is another process's.
    left: AtomicBool,
}

impl LocalSocket {
    /// Listens at a path, for root and one user. What an agent that was killed has left behind is
    /// replaced; another's, who listens, stays, and so does what is no socket.
    ///
    /// # Errors
    ///
    /// Somebody listens there, others could change what stands in the directory, or the system
    /// refuses.
    pub fn bind(path: &Path, user: u32) -> io::Result<Self> {
        let socket = Self::bind_closed(path, user)?;
        chown(path, Some(user), None)?;
        Ok(socket)
    }

    /// The same, for root and everybody in a group.
    ///
    /// # Errors
    ///
    /// See [`bind`](Self::bind).
    pub fn bind_for_group(path: &Path, group: u32) -> io::Result<Self> {
        let socket = Self::bind_closed(path, 0)?;
        chown(path, None, Some(group))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
        Ok(socket)
    }

    /// Listens at a path where only the own user may connect.
    fn bind_closed(path: &Path, user: u32) -> io::Result<Self> {
        let directory = path.parent().filter(|at| !at.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        // Else somebody could put a link in its place, for its owner or its mode to be changed.
        if let Some(by) = store::exposed(directory, (user != 0).then_some(user))? {
            let why = format!("{by}; `{}`, or choose another directory", by.remedy());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path) => {
                fs::remove_file(path)?;
                UnixListener::bind(path)?
            }
            bound => bound?,
        };
        let meta = fs::symlink_metadata(path)?;
        let socket = Self {
            listener,
            path: path.to_owned(),
            file: (meta.dev(), meta.ino()),
            left: AtomicBool::new(false),
        };
        // Nobody but root, and then the one whom it is for.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(socket)
    }

    /// The same of a listener that another process has bound at a path; none if it is at another one. What is at the
    /// path stays that process's, and stays when this is dropped, until this one [has](Self::own) it. Must be called
    /// within a runtime.
    ///
    /// # Errors
    ///
    /// It is no listener.
    pub fn adopt(listener: OwnedFd, path: &Path) -> io::Result<Option<Self>> {
        let listener = std::os::unix::net::UnixListener::from(listener);
        if listener.local_addr()?.as_pathname() != Some(path) {
            return Ok(None);
        }
        listener.set_nonblocking(true)?;
        let meta = fs::symlink_metadata(path)?;
        Ok(Some(Self {
            listener: UnixListener::from_std(listener)?,
            path: path.to_owned(),
            file: (meta.dev(), meta.ino()),
            left: AtomicBool::new(true),
        }))
    }

    /// Has what is at the path from now on: it goes when this is dropped.
    pub fn own(&self) {
        self.left.store(false, Ordering::Release);
    }

    /// A copy of the listener, for another process.
    ///
    /// # Errors
    ///
    /// There are no descriptors left.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }

    /// Leaves what is at the path to who has a copy: it stays when this is dropped.
    pub fn leave(&self) {
        self.left.store(true, Ordering::Release);
    }

    /// Waits for a client.
    ///
    /// # Errors
    ///
    /// The system has no room for one more.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        if *self.left.get_mut() {
            return;
        }
        let meta = fs::symlink_metadata(&self.path);
        // Another's may be there by now.
        if meta.is_ok_and(|meta| (meta.dev(), meta.ino()) == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether nobody listens any more. A listener with too much to do refuses nobody: it lets them wait.
fn is_abandoned(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
        && Peer::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(path: &Path) -> io::Result<LocalSocket> {
        LocalSocket::bind(path, rustix::process::geteuid().as_raw())
    }

    #[tokio::test]
    async fn socket_replaces_what_a_killed_agent_left_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let taken = bind(&path).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        assert!(!path.exists());
        fs::write(&path, "mine").unwrap();
        assert!(bind(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    #[tokio::test]
    async fn socket_is_left_to_who_has_a_copy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let socket = bind(&path).unwrap();
        let copy = socket.copy().unwrap();
        socket.leave();
        drop(socket);
        assert!(Peer::connect(&path).is_ok());
        let elsewhere = LocalSocket::adopt(copy.try_clone().unwrap(), directory.path());
        assert!(elsewhere.unwrap().is_none());
        let adopt = || LocalSocket::adopt(copy.try_clone().unwrap(), &path);
        drop(adopt().unwrap().unwrap());
        assert!(Peer::connect(&path).is_ok(), "whose it is not yet");
        let socket = adopt().unwrap().unwrap();
        socket.accept().await.unwrap();
        socket.own();
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn socket_of_another_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let socket = bind(&path).unwrap();
        fs::rename(&path, directory.path().join("away")).unwrap();
        let other = bind(&path).unwrap();
        drop(socket);
        assert!(path.exists());
        drop(other);
        assert!(!path.exists());
    }
}
