//! Noticing that a file may have changed, however it was changed.
//!
//! Editors do not write to a file: they write another and rename it, or remove it and make it
//! anew, and configuration managers swap a link in front of it. So its directory is watched, and
//! the one that its link leads to.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::inotify::{self, CreateFlags, Reader, WatchFlags},
    io::Errno,
};
use tokio::time::sleep;

use super::readable::Readable;

/// What tells of a file's change. Not each write: a log in the same directory would be heard, too.
const CHANGES: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// How often a directory is looked for that is not there.
const ABSENT: Duration = Duration::from_secs(1);

/// The kernel's queue of what happened in the watched directories.
#[derive(Debug)]
pub struct Inotify(OwnedFd);

impl AsRawFd for Inotify {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Watches for changes of one file.
#[derive(Debug)]
pub struct FileWatch {
    path: PathBuf,
    queue: Readable<Inotify>,
    /// Its directory is watched.
    armed: bool,
}

impl FileWatch {
    /// Watches from now on; the file, and its directory, may be absent. Must be called within a
    /// runtime.
    ///
    /// # Errors
    ///
    /// The host has no inotify instance left.
    pub fn new(path: &Path) -> io::Result<Self> {
        let queue = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let mut watch = Self {
            path: std::path::absolute(path)?,
            queue: Readable::new(Inotify(queue))?,
            armed: false,
        };
        watch.arm();
        Ok(watch)
    }

    /// Returns once something has happened where the file is: it may have changed, or not.
    ///
    /// # Errors
    ///
    /// The kernel can no longer be asked.
    pub async fn changed(&mut self) -> io::Result<()> {
        let armed = self.armed;
        tokio::select! {
            queue = self.queue.ready() => drain(queue?)?,
            () = sleep(ABSENT), if !armed => {}
        }
        // Directories are replaced, too. One that is watched already is not watched twice.
        self.arm();
        Ok(())
    }

    fn arm(&mut self) {
        let own = self.path.parent();
        let target = self.path.canonicalize().ok();
        let target = target.as_deref().and_then(Path::parent);
        let queue = self.queue.get();
        let add = |directory: &Path| inotify::add_watch(&queue.0, directory, CHANGES).is_ok();
        let target = target.is_none_or(add);
        self.armed = own.is_some_and(add) && target;
    }
}

/// Takes everything from the queue: that it was not empty is all that counts.
fn drain(queue: &Inotify) -> io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(&queue.0, &mut buffer);
    loop {
        match reader.next() {
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    /// Runs a change, and waits until it is noticed. A change that is not never ends.
    async fn noticed(watch: &mut FileWatch, change: impl FnOnce()) {
        change();
        watch.changed().await.unwrap();
    }

    #[tokio::test]
    async fn every_way_of_changing_a_file_is_noticed() {
        let room = tempfile::tempdir().unwrap();
        let (path, other) = (room.path().join("policy"), room.path().join("new"));
        fs::write(&path, "1").unwrap();
        let mut watch = FileWatch::new(&path).unwrap();
        noticed(&mut watch, || fs::write(&path, "2").unwrap()).await;
        noticed(&mut watch, || fs::write(&other, "3").unwrap()).await;
        noticed(&mut watch, || fs::rename(&other, &path).unwrap()).await;
        noticed(&mut watch, || fs::remove_file(&path).unwrap()).await;
        noticed(&mut watch, || fs::write(&path, "4").unwrap()).await;
        noticed(&mut watch, || fs::remove_dir_all(room.path()).unwrap()).await;
        // Looked for until it is there again.
        fs::create_dir(room.path()).unwrap();
        while !watch.armed {
            watch.changed().await.unwrap();
        }
        noticed(&mut watch, || fs::write(&path, "5").unwrap()).await;
    }

    #[tokio::test]
    async fn swapped_links_are_noticed() {
        let room = tempfile::tempdir().unwrap();
        let (one, two) = (room.path().join("one"), room.path().join("two"));
        for directory in [&one, &two] {
            fs::create_dir(directory).unwrap();
            fs::write(directory.join("policy"), "").unwrap();
        }
        let (data, outside) = (room.path().join("data"), room.path().join("outside"));
        fs::create_dir(&outside).unwrap();
        symlink(&one, &data).unwrap();
        let path = outside.join("policy");
        symlink(data.join("policy"), &path).unwrap();
        let mut watch = FileWatch::new(&path).unwrap();
        // Where the link leads to.
        noticed(&mut watch, || fs::write(one.join("policy"), "1").unwrap()).await;
        noticed(&mut watch, || {
            fs::remove_file(&path).unwrap();
            symlink(two.join("policy"), &path).unwrap();
        })
        .await;
        noticed(&mut watch, || fs::write(two.join("policy"), "2").unwrap()).await;
    }
}
