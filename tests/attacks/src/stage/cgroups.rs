//! What an agent that was killed has left behind.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

const LOOKS: u32 = 200;
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Removes an agent's cgroups, whose processes have ended.
pub(crate) fn remove_those_of(agent: u32) {
    let prefix = format!("capwarden-{agent}-");
    let Some(own) = own() else { return };
    for group in fs::read_dir(own).into_iter().flatten().flatten() {
        if group.file_name().to_string_lossy().starts_with(&prefix) {
            remove(&group.path());
        }
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

/// This program's own group, where agents that it starts make theirs.
fn own() -> Option<PathBuf> {
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
