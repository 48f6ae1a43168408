//! Real groups, and a process that wants to leave them.

use std::{
    os::unix::{fs::chown, process::CommandExt},
    process::{Command, Stdio},
    sync::atomic::AtomicBool,
    thread,
};

use super::*;

const USER: u32 = 65_534;

/// A group that belongs to [`USER`], as a user's own service manager has one, with another beneath it where the
/// agent is. None where this process may make none.
struct Delegated {
    whole: PathBuf,
    agents: PathBuf,
}

impl Delegated {
    fn make(above: &Path, name: &str) -> Option<Self> {
        let whole = above.join(format!("{name}-{}", std::process::id()));
        let agents = whole.join("agents");
        fs::create_dir(&whole).ok()?;
        fs::create_dir(&agents).unwrap();
        for group in [&whole, &agents] {
            for file in ["", "cgroup.procs"] {
                chown(group.join(file), Some(USER), Some(USER)).ok()?;
            }
        }
        Some(Self { whole, agents })
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        remove(&self.agents);
        remove(&self.whole);
    }
}

/// Whether a process of [`USER`] that is started in a group can move itself to another.
fn can_move(from: &Cgroup, to: &Path) -> bool {
    let procs = from.procs().unwrap();
    let mut mover = Command::new("sh");
    mover
        .args(["-c", "echo 0 >\"$0/cgroup.procs\""])
        .arg(to)
        .stderr(Stdio::null());
    let become_it = move || {
        rustix::io::write(&procs, b"0")?;
        // SAFETY: takes a number.
        if unsafe { libc::setgid(USER) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above.
        match unsafe { libc::setuid(USER) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: system calls only.
    unsafe { mover.pre_exec(become_it) };
    mover.status().unwrap().success()
}

#[test]
fn server_is_put_where_its_user_cannot_leave() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let Some(own) = own() else {
        return;
    };
    let user = Credentials::choose(Some("65534")).unwrap();
    let Some(delegated) = Delegated::make(&own, "delegated") else {
        return;
    };
    let agents = &delegated.agents;
    let beneath = Cgroup::beneath(agents).unwrap();
    assert_eq!(
        beneath.way_out(&user),
        Some(agents.join("cgroup.procs")),
        "the nearest"
    );
    assert!(can_move(&beneath, agents), "beneath it, it is free to go");

    let place = place_without_way_out(agents, &user);
    assert_eq!(place, own, "the nearest that is not its own");
    let safe = Cgroup::beneath(place).unwrap();
    assert_eq!(safe.way_out(&user), None);
    assert!(!can_move(&safe, agents));
    // Whoever owns all of them has a way out everywhere, and the agent's own group is as good as any.
    let root = Credentials::choose(Some("0")).unwrap();
    assert_eq!(place_without_way_out(agents, &root), agents);
}

/// One agent makes groups, while another clears away what is left behind.
#[test]
fn group_that_an_agent_has_locked_is_not_taken_away() {
    let Some(own) = own().filter(|_| rustix::process::geteuid().is_root()) else {
        return;
    };
    let parent = own.join(format!("swept-{}", std::process::id()));
    if fs::create_dir(&parent).is_err() {
        return;
    }
    let done = AtomicBool::new(false);
    let lost = thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    sweep(&parent);
                }
            });
        }
        // Others may be faster every time; then none is made.
        let made = (0..500).filter_map(|_| Cgroup::make(&parent).ok());
        let lost = made.filter(|(path, _locked)| {
            thread::yield_now();
            fs::remove_dir(path).is_err()
        });
        let lost = lost.count();
        done.store(true, Ordering::Relaxed);
        lost
    });
    remove(&parent);
    assert_eq!(lost, 0);
}
