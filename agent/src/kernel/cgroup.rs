//! A cgroup per governed server: every process that it starts, however detached, is found there.
//! Where sessions for programs may come, it is divided: the server itself lives in a group beneath it,
//! beside those of its sessions (`program_group`), since cgroup v2 caps no memory of a group that has both
//! processes and groups.
//!
//! An agent that is killed cannot remove its groups; the next one does. Whether a group's agent lives is told by a
//! lock, which the kernel gives back when its holder dies. It is on `cgroup.kill` (Linux 5.14), a file that only root
//! can open, so that nobody else can hold it.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};

use super::{
    program_group::{self, Memory, ProgramGroup},
    users::Credentials,
};

/// A cgroup that the agent made. Dropping it kills what is left in it and removes it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    _claim: Claim,
    /// Where it is since it was divided, if memory can be capped only there.
    moved: OnceLock<(PathBuf, Claim)>,
    /// Set once it is divided: how memory can be capped in it, or why it cannot.
    divided: OnceLock<Result<Memory, String>>,
}

/// The group of the server itself, in one that is divided.
const SERVER: &str = "server";

/// Names the group, beneath where cgroup v2 is mounted, in which servers' groups are made instead of in the agent's own: so
/// that they outlive a restart of it. See `packaging/systemd/capwarden-cgroup.service`.
pub(super) const PLACE: &str = "CAPWARDEN_CGROUP";

/// Where those go that run in a group in which servers' groups are made.
const HOLDER: &str = "holder";

/// The group that the agent moves itself to, where it has to make room in its own.
pub(super) fn aside() -> String {
    format!("capwarden-{}-agent", std::process::id())
}

/// Where cgroup v2 is mounted, and the agent's own group in it. Hybrid hosts mount it beside v1.
pub(super) fn own() -> Option<PathBuf> {
    let mount = mounted()?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mut path = mount.join(group.trim_start_matches('/'));
    if path.ends_with(aside()) {
        path.pop();
    }
    // In a container the group's path may lead above what is mounted.
    Some(if path.is_dir() { path } else { mount })
}

/// Where cgroup v2 is mounted.
fn mounted() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after
            .starts_with("cgroup2 ")
            .then(|| before.split(' ').nth(4))?
    })?;
    Some(mount.into())
}

/// The group in which servers' groups are made.
fn place() -> io::Result<PathBuf> {
    let not_mounted = || io::Error::other("cgroup v2 is not mounted");
    let Some(named) = std::env::var_os(PLACE) else {
        return own().ok_or_else(not_mounted);
    };
    let named = Path::new(&named);
    let beneath = named.strip_prefix("/").unwrap_or(named);
    let place = mounted().ok_or_else(not_mounted)?.join(beneath);
    make_room(&place).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!(
                "{} ({PLACE}): {error}; is its unit running?",
                place.display()
            ),
        )
    })?;
    Ok(place)
}

/// Moves whoever holds the place of servers' groups into one of their own: no group may have both processes, and controllers
/// for those beneath it.
fn make_room(place: &Path) -> io::Result<()> {
    let procs = place.join("cgroup.procs");
    if fs::read_to_string(&procs)?.is_empty() {
        return Ok(());
    }
    let holder = place.join(HOLDER);
    match fs::create_dir(&holder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for process in processes(place) {
        match fs::write(holder.join("cgroup.procs"), process.to_string()) {
            // It has ended meanwhile.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {}
            moved => moved?,
        }
    }
    Ok(())
}

/// The agent's own group of a controller that is in cgroup v1.
pub(super) fn own_separate(controller: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let is_its = after.next() == Some("cgroup")
            && after.nth(1)?.split(',').any(|option| option == controller);
        is_its.then(|| before.split(' ').nth(4))?
    })?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| {
        let (controllers, group) = line.split_once(':')?.1.split_once(':')?;
        controllers
            .split(',')
            .any(|one| one == controller)
            .then_some(group)
    })?;
    let path = Path::new(mount).join(group.trim_start_matches('/'));
    Some(if path.is_dir() { path } else { mount.into() })
}

/// Says that the agent of a group lives: until this is dropped, or the process ends in any other way. None
/// where the kernel has no `cgroup.kill`.
#[derive(Debug)]
pub(super) struct Claim(Option<OwnedFd>);

impl Claim {
    /// Locks a group. None if somebody else has the lock, or if there is no such group (any more).
    fn take(group: &Path) -> Option<Self> {
        let path = group.join("cgroup.kill");
        let file = match fs::File::options().write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return group.is_dir().then_some(Self(None));
            }
            opened => opened.ok()?,
        };
        flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        // Whoever had the lock until now may have removed the group.
        let (ours, there) = (file.metadata().ok()?, fs::metadata(&path).ok()?);
        (ours.ino() == there.ino()).then(|| Self(Some(file.into())))
    }

    /// Makes a group and locks it. None if another agent took it for abandoned in between.
    pub(super) fn make(group: &Path) -> io::Result<Option<Self>> {
        fs::create_dir(group)?;
        Ok(Self::take(group))
    }
}

/// Removes what agents that were killed have left behind; a group with processes in it stays.
fn sweep(parent: &Path) {
    let groups = fs::read_dir(parent).into_iter().flatten().flatten();
    for group in groups {
        let name = group.file_name();
        let Some(agent) = name.to_str().and_then(agent_of) else {
            continue;
        };
        let path = group.path();
        // Held until the group has gone: else its agent could lock it in between, and have it taken away.
        let claim = Claim::take(&path);
        let abandoned = match &claim {
            Some(Claim(None)) => is_forsaken(&path, agent),
            lock => lock.is_some(),
        };
        if abandoned {
            for within in beneath(&path) {
                let _ = fs::remove_dir(within);
            }
            if fs::remove_dir(&path).is_ok() {
                program_group::sweep_separate(&name.to_string_lossy());
            }
        }
    }
}

/// The agent that made a group of this name.
fn agent_of(name: &str) -> Option<u32> {
    name.strip_prefix("capwarden-")?
        .split('-')
        .next()?
        .parse()
        .ok()
}

/// Whether the agent of a group that cannot be locked seems to have gone long ago.
fn is_forsaken(group: &Path, agent: u32) -> bool {
    const SETTLED: Duration = Duration::from_secs(60);
    // One that was just made may be about to get its first process, from another namespace.
    let age = fs::metadata(group)
        .and_then(|meta| meta.modified())
        .map(|made| made.elapsed());
    matches!(age, Ok(Ok(age)) if age > SETTLED)
        && !Path::new("/proc").join(agent.to_string()).exists()
}

/// What lets a process with these credentials that is in a group beneath this one leave that, if anything does: to
/// move a process takes the right to write to the list of processes of the group that the old and the new one
/// have in common. The nearest such list.
fn way_out(parent: &Path, credentials: &Credentials) -> Option<PathBuf> {
    let above = parent.ancestors().map(|group| group.join("cgroup.procs"));
    above
        .take_while(|procs| procs.exists())
        .find(|procs| credentials.may_write(procs))
}

/// The nearest group, this one or one above it, beneath which a process with these credentials stays where it was
/// put. This one if there is none.
fn place_without_way_out<'a>(own: &'a Path, credentials: &Credentials) -> &'a Path {
    let groups = own
        .ancestors()
        .take_while(|group| group.join("cgroup.procs").exists());
    let mut safe = groups.filter(|group| way_out(group, credentials).is_none());
    safe.next().unwrap_or(own)
}

impl Cgroup {
    /// Makes a new group beneath the agent's own, or where the service manager has made a place for it.
    pub fn create() -> io::Result<Self> {
        Self::beneath(&place()?)
    }

    /// Makes a new group that processes with these credentials cannot leave: beneath the agent's own, or, where that
    /// is in their hands, as beneath a user's own service manager, beneath the nearest one above that is not. Where
    /// there is none, or none can be made there, it is beneath the agent's own, and [`way_out`](Self::way_out) tells.
    ///
    /// # Errors
    /// There is no cgroup v2, or the agent may make no groups.
    pub fn create_for(credentials: &Credentials) -> io::Result<Self> {
        let own = place()?;
        let place = place_without_way_out(&own, credentials);
        if place != own {
            // A dead agent that governed another user may have left something here.
            sweep(&own);
            match Self::beneath(place) {
                Ok(cgroup) => return Ok(cgroup),
                Err(error) => {
                    tracing::debug!(%error, place = %place.display(), "no cgroup can be made there");
                }
            }
        }
        Self::beneath(&own)
    }

    fn beneath(parent: &Path) -> io::Result<Self> {
        sweep(parent);
        let (path, claim) = Self::make(parent)?;
        Ok(Self {
            path,
            _claim: claim,
            moved: OnceLock::new(),
            divided: OnceLock::new(),
        })
    }

    /// Makes a group that is the agent's own. Each one that another agent takes away before it is locked
    /// is followed by one of another name.
    fn make(parent: &Path) -> io::Result<(PathBuf, Claim)> {
        const ATTEMPTS: usize = 8;
        static NEXT: AtomicU32 = AtomicU32::new(0);
        for _ in 0..ATTEMPTS {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("capwarden-{}-{number}", std::process::id()));
            match Claim::make(&path) {
                Ok(Some(claim)) => return Ok((path, claim)),
                // Left by an agent of the same number, and not abandoned: its processes live on.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                Ok(None) => {
                    let _ = fs::remove_dir(&path);
                }
            }
        }
        Err(io::Error::other(
            "another process removes new cgroups, or holds their locks",
        ))
    }

    /// Divides it, before anything is attached to it and the server is started in it that has these
    /// credentials. It may be elsewhere then.
    pub fn divide(&self, credentials: &Credentials) -> io::Result<()> {
        let mut memory = Memory::find(&self.path, credentials);
        if memory.is_err()
            && let Some(place) = self.place_with_memory()
        {
            sweep(&place);
            let (place, claim) = Self::make(&place)?;
            let _ = fs::remove_dir(&self.path);
            memory = Memory::find(&place, credentials);
            let _ = self.moved.set((place, claim));
        }
        fs::create_dir(self.path().join(SERVER))?;
        let _ = self.divided.set(memory);
        Ok(())
    }

    /// The group above the agent's own that gives the memory controller to those beneath it, as a
    /// slice of systemd does: a session of a user has none to give.
    fn place_with_memory(&self) -> Option<PathBuf> {
        let mut above = self.path.parent()?.ancestors().skip(1);
        let giving = above.find(|group| program_group::gives_memory(group))?;
        Some(giving.to_owned())
    }

    /// A group beneath it for the processes of a session, which together have at most so much memory.
    ///
    /// # Errors
    /// Also if it is not divided, or if memory cannot be capped here.
    pub fn program_group(&self, number: u32, memory: Option<u64>) -> io::Result<ProgramGroup> {
        let divided = self.divided.get().ok_or_else(|| {
            io::Error::other("the server was started when its policy granted no programs")
        })?;
        let capped = match (memory, divided) {
            (None, _) => None,
            (Some(bytes), Ok(memory)) => Some((memory, bytes)),
            (Some(_), Err(why)) => return Err(io::Error::other(why.clone())),
        };
        ProgramGroup::create(self.path(), number, capped)
    }

    /// Why the memory of sessions cannot be capped in it; none if it can, or nobody has asked.
    pub fn lacks_memory(&self) -> Option<&str> {
        self.divided.get()?.as_ref().err().map(String::as_str)
    }

    /// The processes in it, as far as this PID namespace sees them.
    pub fn processes(&self) -> Vec<u32> {
        let mut all = processes(self.path());
        for group in beneath(self.path()) {
            all.extend(processes(&group));
        }
        all
    }

    /// Those that are in no session's group.
    pub fn servers_processes(&self) -> Vec<u32> {
        processes(&self.servers())
    }

    /// Where the server itself lives.
    fn servers(&self) -> PathBuf {
        match self.divided.get() {
            None => self.path().to_owned(),
            Some(_) => self.path().join(SERVER),
        }
    }

    /// Writing `0` to this descriptor moves the writer into the group.
    pub(super) fn procs(&self) -> io::Result<OwnedFd> {
        let path = self.servers().join("cgroup.procs");
        let file = fs::File::options().write(true).open(&path);
        let file = file.map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
        Ok(file.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.moved.get().map_or(&self.path, |(place, _)| place)
    }

    /// Its directory, for attaching programs to it.
    pub(super) fn directory(&self) -> io::Result<OwnedFd> {
        Ok(fs::File::open(self.path())?.into())
    }

    /// What lets a process with these credentials leave it, if anything does. Groups beneath this one do not matter.
    pub fn way_out(&self, credentials: &Credentials) -> Option<PathBuf> {
        way_out(self.path(), credentials)
    }

    /// Whether the kernel can kill everything in it at once.
    pub(super) fn can_kill(&self) -> bool {
        self.path().join("cgroup.kill").exists()
    }

    /// Kills everything in it, at once and for certain (`cgroup.kill`, Linux 5.14).
    pub fn kill(&self) {
        if fs::write(self.path().join("cgroup.kill"), "1").is_err() {
            for pid in self.processes() {
                super::process::kill(pid);
            }
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.kill();
        for group in beneath(self.path()) {
            remove(&group);
        }
        remove(self.path());
    }
}

/// The processes of a group, as far as this PID namespace sees them.
pub(super) fn processes(group: &Path) -> Vec<u32> {
    fs::read_to_string(group.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid != 0)
        .collect()
}

/// The groups beneath one.
fn beneath(group: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path())
}

/// Removes a group whose processes were killed: they leave a moment later, and one that still
/// holds a process cannot be removed.
pub(super) fn remove(group: &Path) {
    for _ in 0..50 {
        match fs::remove_dir(group) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(10));
            }
            _ => return,
        }
    }
    tracing::warn!(path = %group.display(), "the cgroup could not be removed");
}

#[cfg(test)]
mod tests;
