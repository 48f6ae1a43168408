//! A cgroup of the program's own, in which agents make theirs: what other agents of the host tidy up is
//! not the attacks', and what an agent that was killed has left behind is found again.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

const LOOKS: u32 = 200;
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The group, until it is dropped.
#[derive(Debug)]
pub(crate) struct OwnGroup {
    before: PathBuf,
    path: PathBuf,
}

impl OwnGroup {
    /// Makes one beneath the group that this program is in, and enters it. None where there is no
    /// cgroup v2.
    pub(crate) fn enter() -> Option<Self> {
        let before = current()?;
        let path = before.join(format!("attacks-{}", std::process::id()));
        fs::create_dir(&path).ok()?;
        let group = Self { before, path };
        fs::write(group.path.join("cgroup.procs"), "0").ok()?;
        Some(group)
    }
}

impl Drop for OwnGroup {
    fn drop(&mut self) {
        let _ = fs::write(self.before.join("cgroup.procs"), "0");
        for group in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if group.path().is_dir() {
                remove(&group.path());
            }
        }
        remove(&self.path);
    }
}

fn remove(group: &Path) {
    for _ in 0..LOOKS {
        match fs::remove_dir(group) {
            // An ended process is in its cgroup for a moment longer.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => thread::sleep(LOOK_AGAIN),
            _ => return,
        }
    }
}

/// The group that this program is in.
fn current() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after
            .starts_with("cgroup2 ")
            .then(|| before.split(' ').nth(4))?
    })?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let path = Path::new(mount).join(group.trim_start_matches('/'));
    Some(if path.is_dir() { path } else { mount.into() })
}
