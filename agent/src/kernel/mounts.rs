//! Daemons that would start programs for whoever asks them: a container engine, a message bus, a
//! service manager, a spool of jobs. A governed process would be out of its confinement through any
//! of them, so it lives among mounts of its own where they are not to be found.
//!
//! ```text
//! /run            a directory of its own, with what was in it but for these, and for capwarden's own: what a
//!                 daemon that starts later, or once more, puts there does not appear
//! /run/systemd    the same, with only what is known to start nothing
//! elsewhere       an empty directory, which nobody may open, over each
//! ```
//! What is mounted later elsewhere on the host appears as it would; what is mounted here is not seen by
//! the host. The namespace is made on a thread of the agent, which may allocate; between
//! fork and exec the child only enters it. Connecting through `/proc/<pid>/root` of others is
//! what Landlock prevents.
//!
//! Clones of mounts (`open_tree`) are from Linux 5.2.

use std::{
    env,
    ffi::{CString, OsStr},
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt as _, MetadataExt, lchown, symlink},
        },
    },
    path::{Path, PathBuf},
    thread,
};

use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_change,
        move_mount, open_tree,
    },
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

use super::deputy::Deputy;

/// Where most daemons listen. One is nearly everywhere a link to the other.
const RUN: [&str; 2] = ["/run", "/var/run"];

/// What is capwarden's own in `/run`: agents and launchers listen there, which root could connect to, governed or not.
const OWN: &[u8] = b"capwarden";

/// What is left of `/run/systemd`: looking up names of hosts and users, logging, and the
/// directory by which programs see that systemd runs.
const OF_SYSTEMD: &[&str] = &["journal", "netif", "resolve", "system", "userdb"];

/// A mount namespace to start one server in.
#[derive(Debug)]
pub(super) struct Mounts {
    namespace: OwnedFd,
    root: OwnedFd,
    /// Where the agent is, to be looked up again: from a directory that is covered, what it had
    /// in it could be reached still.
    here: CString,
}

impl Mounts {
    /// Makes one for a user's server without deputies, but for these. None where the agent may have no mounts
    /// of its own.
    ///
    /// # Errors
    /// What could not be covered, and why.
    pub(super) fn without_deputies(reached: &[Deputy], user: u32) -> io::Result<Option<Self>> {
        let here = env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        let here = CString::new(here.into_os_string().as_bytes())?;
        let made = apart(|| {
            cover(reached, user)?;
            Ok(Self {
                namespace: File::open("/proc/thread-self/ns/mnt")?.into(),
                root: rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?,
                here,
            })
        });
        match made {
            // What fails later has the path in its words, and no number.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::PERM) => Ok(None),
            made => made.map(Some),
        }
    }

    /// Enters it. System calls only: for the child between fork and exec.
    pub(super) fn enter(&self) -> Result<(), Errno> {
        move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
        rustix::process::fchdir(&self.root)?;
        rustix::process::chroot(c".")?;
        rustix::process::chdir(&*self.here).or_else(|_| rustix::process::chdir(c"/"))
    }
}

/// Whether the agent may have mounts of its own.
pub fn available() -> io::Result<()> {
    apart(|| Ok(()))
}

/// Does something on a thread in a mount namespace that the host sees nothing of.
fn apart<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            // SAFETY: this thread does nothing else, and shares no more than it must.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
            let downstream = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
            mount_change("/", downstream)?;
            work()
        });
        worker
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that mounts panicked")))
    })
}

fn cover(reached: &[Deputy], user: u32) -> io::Result<()> {
    let hidden: Vec<Deputy> = Deputy::ALL
        .into_iter()
        .filter(|deputy| !reached.contains(deputy))
        .collect();
    let mut done = Vec::new();
    for run in RUN {
        // A link is followed once; without the directory there is nothing to hide.
        let Ok(run) = fs::canonicalize(run) else {
            continue;
        };
        if done.contains(&run) {
            continue;
        }
        let kept = |name: &OsStr| {
            let name = name.as_bytes();
            let mut starts = hidden.iter().flat_map(|deputy| deputy.in_run());
            name != OWN && !starts.any(|start| name.starts_with(start.as_bytes()))
        };
        replace(&run, kept)?;
        let systemd = run.join("systemd");
        if hidden.contains(&Deputy::Systemd) && systemd.is_dir() {
            replace(&systemd, |name| OF_SYSTEMD.iter().any(|kept| name == *kept))?;
        }
        done.push(run);
    }
    for directory in hidden.iter().flat_map(|deputy| deputy.elsewhere()) {
        close(directory.as_ref()).map_err(|error| about(directory.as_ref(), &error))?;
    }
    if hidden.contains(&Deputy::Terminals) {
        let directory = PathBuf::from(format!("/tmp/tmux-{user}"));
        reserve(&directory, user)
            .and_then(|()| close(&directory))
            .map_err(|error| about(&directory, &error))?;
    }
    Ok(())
}

/// Makes a user's directory in `/tmp` where there is none, as its program would: one that came later would not
/// be covered. It stays.
fn reserve(directory: &Path, user: u32) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => lchown(directory, Some(user), None),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Puts a directory in the place of one, with what was in it and is kept. What comes there later comes
/// to one of them only.
fn replace(directory: &Path, kept: impl Fn(&OsStr) -> bool) -> io::Result<()> {
    let failed = |error: io::Error| about(directory, &error);
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // One that goes meanwhile is not missed.
        if kept(&entry.file_name())
            && let Ok(found) = Entry::take(&entry.path())
        {
            entries.push((entry.file_name(), found));
        }
    }
    let own = fs::metadata(directory).map_err(failed)?;
    let options = format!(
        "mode={:o},uid={},gid={},size=16m,nr_inodes=4096",
        own.mode() & 0o7777,
        own.uid(),
        own.gid()
    );
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let options = CString::new(options)?;
    mount(c"tmpfs", directory, c"tmpfs", flags, &*options).map_err(|error| failed(error.into()))?;
    for (name, entry) in entries {
        let place = directory.join(name);
        entry.put(&place).map_err(|error| about(&place, &error))?;
    }
    Ok(())
}

/// What stands in a directory, to be put into another.
enum Entry {
    Directory(OwnedFd),
    /// A file, a socket, a pipe.
    Other(OwnedFd),
    Link(PathBuf),
}

impl Entry {
    fn take(path: &Path) -> io::Result<Self> {
        let kind = fs::symlink_metadata(path)?.file_type();
        if kind.is_symlink() {
            return Ok(Self::Link(fs::read_link(path)?));
        }
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_SYMLINK_NOFOLLOW
            | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, path, flags)?;
        Ok(if kind.is_dir() {
            Self::Directory(tree)
        } else {
            Self::Other(tree)
        })
    }

    fn put(self, place: &Path) -> io::Result<()> {
        let tree = match self {
            Self::Link(target) => return symlink(target, place),
            Self::Directory(tree) => {
                fs::create_dir(place)?;
                tree
            }
            Self::Other(tree) => {
                File::create_new(place)?;
                tree
            }
        };
        let from_tree = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        Ok(move_mount(tree.as_fd(), c"", CWD, place, from_tree)?)
    }
}

/// Puts an empty directory over one, if it is there, which nobody may open. Others may write beside it, so what was
/// looked at is what is covered, and no link leads elsewhere.
fn close(directory: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = match rustix::fs::open(directory, flags, Mode::empty()) {
        Ok(found) => found,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let place = format!("/proc/thread-self/fd/{}", found.as_raw_fd());
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount(
        c"tmpfs",
        place,
        c"tmpfs",
        flags,
        c"mode=000,size=4k,nr_inodes=2",
    )?)
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
