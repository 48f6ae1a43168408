//! Where the pictures are made: namespaces of their own, in which a host is as the documents describe one,
//! and nothing of the real one is to be seen. Files are in memory, and gone with it; so are the interfaces.

use std::{
    env,
    ffi::OsStr,
    fs::{self, DirBuilder},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt as _, chown},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use anyhow::{Context, Result, bail};

use crate::{house, term::Progress};

/// What is in memory there.
const MADE: [&str; 6] = [
    "/etc/capwarden",
    "/opt/capwarden",
    "/opt/pcap",
    "/run/capwarden",
    "/var/lib/capwarden",
    "/var/log/capwarden",
];

/// What the host calls itself there.
const HOST: &str = "capture-1";

/// Who there is: name, number and home.
const USERS: [(&str, u32, &str); 5] = [
    ("root", 0, CHECKOUT),
    ("nobody", 65_534, "/nonexistent"),
    ("capwarden-server", SERVER, "/nonexistent"),
    ("alice", ALICE, "/nonexistent"),
    ("bob", BOB, "/nonexistent"),
];
/// Governed servers.
pub(super) const SERVER: u32 = 990;
/// Somebody with an MCP client, and somebody else.
pub(super) const ALICE: u32 = 1_001;
pub(super) const BOB: u32 = 1_002;
/// The group `capwarden`, whose members reach the agent.
pub(super) const GROUP: u32 = 991;

/// Where a checkout of capwarden seems to be: as far as pictures show it.
pub(super) const CHECKOUT: &str = "/opt/capwarden";
/// Where the governed server captures to.
pub(super) const CAPTURES: &str = "/var/lib/capwarden/captures";

/// What of the mounts below `/sys` is needed there, too.
const BELOW_SYS: [&str; 4] = ["fs/bpf", "fs/cgroup", "kernel/security", "kernel/tracing"];

/// Calls this program again, in there, with these arguments.
pub(super) fn enter(arguments: &[&OsStr]) -> Result<ExitStatus> {
    for needed in [house::root().to_path_buf(), house::target(), house::venv()?] {
        let needed = fs::canonicalize(needed)?;
        if let Some(made) = MADE.iter().find(|made| needed.starts_with(made)) {
            bail!(
                "{} is below {made}, which is a place of the pictures' own; use another checkout",
                needed.display()
            );
        }
    }
    // Something can be mounted only where a directory is.
    let mut new = Vec::new();
    for place in MADE {
        match DirBuilder::new().mode(0o755).create(place) {
            Ok(()) => new.push(place),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot make {place}")),
        }
    }
    let mut unshare = Command::new("unshare");
    unshare.args([
        "--mount",
        "--net",
        "--uts",
        "--propagation",
        "private",
        "--",
    ]);
    unshare.arg(env::current_exe()?).args(arguments);
    let status = unshare.status().context("cannot run unshare");
    for place in new {
        let _ = fs::remove_dir(place);
    }
    status
}

/// The place, once it is entered.
pub(super) struct Place {
    /// The program that is shown, as `capwarden` in the recorded shell's search path.
    pub(super) capwarden: PathBuf,
    /// What the recorded shell finds programs by.
    pub(super) path: String,
    /// This very program, which `cargo xtask` calls.
    pub(super) xtask: PathBuf,
}

impl Place {
    /// Makes it look as it has to, with this program as `capwarden`.
    pub(super) fn furnish(program: &Path) -> Result<Self> {
        let venv = fs::canonicalize(house::venv()?)?;
        let xtask = env::current_exe()?;
        rustix::system::sethostname(HOST.as_bytes())?;
        for place in MADE {
            mount(&["-t", "tmpfs", "-o", "mode=0755", "pictures", place])?;
        }
        Self::network()?;
        Self::users()?;
        let checkout = Path::new(CHECKOUT);
        // What `cargo xtask run` finds itself and what it shows by: crate::house.
        let built = checkout.join("target/debug/xtask");
        let capwarden = checkout.join("target/release/capwarden");
        for (from, to) in [(&*xtask, &built), (program, &capwarden)] {
            fs::create_dir_all(to.parent().context("no parent")?)?;
            fs::File::create(to)?;
            mount(&[OsStr::new("--bind"), from.as_ref(), to.as_ref()])?;
        }
        let theirs = checkout.join("target/venv");
        fs::create_dir_all(&theirs)?;
        for to in [&*theirs, Path::new("/opt/pcap")] {
            mount(&[OsStr::new("--bind"), venv.as_ref(), to.as_ref()])?;
        }
        fs::create_dir(CAPTURES)?;
        chown(CAPTURES, Some(SERVER), Some(SERVER))?;
        let path = format!(
            "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            checkout.join("target/release").display()
        );
        Ok(Self {
            capwarden,
            path,
            xtask: built,
        })
    }

    /// Loopback, and an interface that leads nowhere; `/sys` tells of these, and of no others.
    fn network() -> Result<()> {
        let before = Path::new("/opt/capwarden/sys");
        fs::create_dir(before)?;
        mount(&[OsStr::new("--rbind"), "/sys".as_ref(), before.as_ref()])?;
        mount(&["-t", "sysfs", "sysfs", "/sys"])?;
        for below in BELOW_SYS {
            let (from, to) = (before.join(below), Path::new("/sys").join(below));
            if from.is_dir() && to.is_dir() {
                mount(&[OsStr::new("--rbind"), from.as_ref(), to.as_ref()])?;
            }
        }
        run(Command::new("umount").arg("--lazy").arg(before))?;
        fs::remove_dir(before)?;
        for scope in ["all", "default"] {
            let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1");
        }
        for line in [
            "link set lo up",
            "link add eth0 type veth peer name eth1",
            "address add 10.0.0.5/24 dev eth0",
            "link set eth0 up",
        ] {
            run(Command::new("ip").args(line.split(' ')))?;
        }
        Ok(())
    }

    /// Nobody but those of the story.
    fn users() -> Result<()> {
        let (mut users, mut groups) = (String::new(), String::new());
        for (name, id, home) in USERS {
            users += &format!("{name}:x:{id}:{id}::{home}:/bin/sh\n");
            groups += &format!("{name}:x:{id}:\n");
        }
        groups += &format!("capwarden:x:{GROUP}:alice,bob\n");
        for (file, text) in [("passwd", users), ("group", groups)] {
            let ours = Path::new("/etc/capwarden").join(file);
            fs::write(&ours, text)?;
            let theirs = Path::new("/etc").join(file);
            mount(&[OsStr::new("--bind"), ours.as_ref(), theirs.as_ref()])?;
        }
        Ok(())
    }

    /// `capwarden` with these words.
    pub(super) fn capwarden(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.capwarden);
        command.args(words).env_remove("SUDO_UID").current_dir("/");
        command
    }
}

fn mount<T: AsRef<OsStr>>(words: &[T]) -> Result<()> {
    run(Command::new("mount").args(words))
}

fn run(command: &mut Command) -> Result<()> {
    Progress::quiet().run(command)
}
