//! The cgroup of one session for programs: what its processes use together, and their end.
//!
//! A process cannot be born in it (`CLONE_INTO_CGROUP` would be the server's to use, and seccomp has no
//! `clone3`), so the agent moves in what the server forks in the session's name, as soon as fork
//! tagging tells of it; whatever these fork is born in it. What a process has allocated before it was
//! moved counts for the server. Nothing within can leave: its files are root's.
//!
//! | what | by |
//! |---|---|
//! | memory | `memory.max` with `memory.oom.group` (Linux 4.19); where the host has its memory controller in cgroup v1, `memory.limit_in_bytes` of a group there |
//! | the end | `cgroup.kill` (Linux 5.14) |
//! | processes | fork tagging, see `tree`: `pids.max` would count threads, and refuse where it should end |
//!
//! Of cgroup v2, no group may have both processes and controllers for those beneath it. So the agent
//! moves itself aside if it is alone in its group (a service with `Delegate=yes`); else the server
//! gets its place further up, in a group that gives the memory controller already (a slice).

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use super::{
    cgroup::{self, processes, remove},
    users::Credentials,
};

/// Where memory is capped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// In the session's own group.
    Unified,
    /// In a group of cgroup v1, beneath this.
    Separate(PathBuf),
}

/// The group of one session. Dropping it kills what is left in it and removes it.
#[derive(Debug)]
pub struct ProgramGroup {
    path: PathBuf,
    /// Where its memory is counted; none where it is not.
    memory: Option<(Memory, PathBuf)>,
}

impl Memory {
    /// How memory can be capped in groups beneath a server's, or why it cannot.
    pub(super) fn find(server: &Path, credentials: &Credentials) -> Result<Self, String> {
        let parent = server.parent().unwrap_or(server);
        if has_word(&parent.join("cgroup.controllers"), "memory") {
            enable(parent)?;
            enable(server)?;
            return Ok(Self::Unified);
        }
        let separate = cgroup::own_separate("memory").ok_or(
            "memory cannot be capped here: no memory controller is given to capwarden's cgroup; \
             run it as a system service with Delegate=yes",
        )?;
        let files = |group: &Path| ["cgroup.procs", "tasks"].map(|file| group.join(file));
        let above = separate.ancestors().flat_map(files);
        if let Some(file) = above
            .filter(|file| file.exists())
            .find(|file| credentials.may_write(file))
        {
            return Err(format!(
                "memory cannot be capped here: the server could leave its cgroup, as it may write \
                 to {}; run it as another user (--user)",
                file.display()
            ));
        }
        Ok(Self::Separate(separate))
    }
}

/// Gives the memory controller to the groups beneath one.
fn enable(group: &Path) -> Result<(), String> {
    if gives_memory(group) {
        return Ok(());
    }
    let file = group.join("cgroup.subtree_control");
    let give = || fs::write(&file, "+memory");
    let given = match give() {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            step_aside(group).and_then(|()| give())
        }
        given => given,
    };
    given.map_err(|error| {
        format!(
            "memory cannot be capped here: {}: {error}; run capwarden as a system service with \
             Delegate=yes",
            file.display()
        )
    })
}

/// The lock on the group that the agent has moved itself to.
static ASIDE: OnceLock<cgroup::Claim> = OnceLock::new();

/// Removes the groups in cgroup v1 of a server whose group was removed, as far as they are empty.
pub(super) fn sweep_separate(server: &str) {
    let parent = cgroup::own_separate("memory");
    let groups = parent.and_then(|parent| fs::read_dir(parent).ok());
    for group in groups.into_iter().flatten().flatten() {
        let name = group.file_name();
        let session = name.to_str().and_then(|name| name.strip_prefix(server));
        if session.is_some_and(|session| session.starts_with("-s")) {
            let _ = fs::remove_dir(group.path());
        }
    }
}

/// Moves the agent out of its group into one beneath it, if nobody else is there.
fn step_aside(group: &Path) -> io::Result<()> {
    let own = std::process::id();
    if processes(group) != [own] {
        return Err(io::Error::other("other processes are in the same cgroup"));
    }
    let aside = group.join(cgroup::aside());
    match cgroup::Claim::make(&aside) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        // Until the agent is in it, nothing else keeps it from being removed.
        Ok(Some(claim)) => drop(ASIDE.set(claim)),
        _ => {}
    }
    fs::write(aside.join("cgroup.procs"), own.to_string())
}

/// Whether the groups beneath one have the memory controller.
pub(super) fn gives_memory(group: &Path) -> bool {
    has_word(&group.join("cgroup.subtree_control"), "memory")
}

fn has_word(file: &Path, word: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.split_whitespace().any(|one| one == word))
}

impl ProgramGroup {
    /// Makes one beneath a server's group.
    pub(super) fn create(
        server: &Path,
        number: u32,
        memory: Option<(&Memory, u64)>,
    ) -> io::Result<Self> {
        let path = server.join(format!("s{number}"));
        fs::create_dir(&path)?;
        let mut group = Self { path, memory: None };
        if let Some((kind, bytes)) = memory {
            let place = match kind {
                Memory::Unified => group.path.clone(),
                Memory::Separate(parent) => {
                    let name = server.file_name().unwrap_or_default().to_string_lossy();
                    let place = parent.join(format!("{name}-s{number}"));
                    fs::create_dir(&place)?;
                    place
                }
            };
            group.memory = Some((kind.clone(), place.clone()));
            cap(kind, &place, bytes)?;
        }
        Ok(group)
    }

    /// By which the kernel knows it.
    pub fn id(&self) -> io::Result<u64> {
        Ok(fs::metadata(&self.path)?.ino())
    }

    /// What caps its memory, for people.
    pub(super) fn controller(&self) -> &'static str {
        match self.memory {
            None => "nothing",
            Some((Memory::Unified, _)) => "by cgroup v2",
            Some((Memory::Separate(_), _)) => "by cgroup v1",
        }
    }

    /// Moves a process in. One that has gone meanwhile is no error.
    pub fn add(&self, process: u32) -> io::Result<()> {
        let separate = match &self.memory {
            Some((Memory::Separate(_), place)) => Some(place),
            _ => None,
        };
        // Its memory first: whoever is found in the group is counted.
        for place in separate.into_iter().chain([&self.path]) {
            match fs::write(place.join("cgroup.procs"), process.to_string()) {
                Err(error)
                    if error.raw_os_error() != Some(rustix::io::Errno::SRCH.raw_os_error()) =>
                {
                    return Err(error);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The processes in it, as far as this PID namespace sees them.
    pub fn processes(&self) -> Vec<u32> {
        processes(&self.path)
    }

    /// Kills everything in it, at once.
    pub fn kill(&self) {
        if fs::write(self.path.join("cgroup.kill"), "1").is_err() {
            for pid in self.processes() {
                super::process::kill(pid);
            }
        }
    }

    /// Whether the kernel has ended a process in it for want of memory.
    pub fn is_out_of_memory(&self) -> bool {
        let Some((kind, place)) = &self.memory else {
            return false;
        };
        let file = match kind {
            Memory::Unified => "memory.events",
            Memory::Separate(_) => "memory.oom_control",
        };
        let text = fs::read_to_string(place.join(file)).unwrap_or_default();
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.any(|(name, count)| name == "oom_kill" && count.trim() != "0")
    }

    /// The most memory that it has had, in bytes; none where that is not counted.
    pub fn peak_memory(&self) -> Option<u64> {
        let (kind, place) = self.memory.as_ref()?;
        let files: &[&str] = match kind {
            // `memory.peak` came with Linux 5.19.
            Memory::Unified => &["memory.peak", "memory.current"],
            Memory::Separate(_) => &["memory.max_usage_in_bytes"],
        };
        let mut found = files.iter().filter_map(|file| {
            let text = fs::read_to_string(place.join(file)).ok()?;
            text.trim().parse().ok()
        });
        found.next()
    }
}

/// Caps the memory of a group, swap included where there is any.
fn cap(kind: &Memory, group: &Path, bytes: u64) -> io::Result<()> {
    let write = |file: &str, value: &str| fs::write(group.join(file), value);
    let optional = |written: io::Result<()>| match written {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let bytes = bytes.to_string();
    match kind {
        Memory::Unified => {
            write("memory.max", &bytes)?;
            optional(write("memory.swap.max", "0"))?;
            optional(write("memory.oom.group", "1"))
        }
        Memory::Separate(_) => {
            write("memory.limit_in_bytes", &bytes)?;
            optional(write("memory.memsw.limit_in_bytes", &bytes))
        }
    }
}

impl Drop for ProgramGroup {
    fn drop(&mut self) {
        self.kill();
        remove(&self.path);
        if let Some((Memory::Separate(_), place)) = &self.memory {
            remove(place);
        }
    }
}
