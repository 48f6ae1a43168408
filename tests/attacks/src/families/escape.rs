//! E: out of the tree, by privilege or by other hands.

use std::{
    ffi::CStr,
    io::{Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::{Path, PathBuf},
};

use libc::{EACCES, EBADF, EBUSY, EINVAL, EIO, ENODEV, ENOENT, ENOEXEC, ENOSYS, EOPNOTSUPP, EPERM};

use super::{other_sources::open, word};
use crate::{
    attacker::Attacker,
    row::{Layer, Must, Outcome, Row, Seen, row},
    stage::daemons::{DBUS, DOCKER, YES},
    sys::{Answer, native, number, process},
};

const REFUSED: Must = Must::Errno(EPERM);
const CLOSED: Must = Must::Errno(EACCES);
const ROOTS_FILES: Must =
    Must::Residual("--user root is no boundary: root's files and settings are open to user id 0");
const BY_PERMISSION: &str = "daemons of the host are reached by permissions, not by capwarden";

const HIDDEN: Must = Must::OneOf(&[ENOENT, EACCES, EPERM]);

pub(crate) const ROWS: &[Row] = &[
    row(
        "E1",
        "into another cgroup",
        Layer::User,
        CLOSED,
        leave_cgroup,
    )
    .root(ROOTS_FILES),
    row("E2", "mount", Layer::Seccomp, REFUSED, mount).every_way(),
    row("E2b", "umount2", Layer::Seccomp, REFUSED, unmount).every_way(),
    row("E2c", "pivot_root", Layer::Seccomp, REFUSED, pivot_root).every_way(),
    row(
        "E2d",
        "open_tree: a copy of mounts",
        Layer::Seccomp,
        REFUSED,
        open_tree,
    )
    .every_way(),
    row(
        "E2l",
        "open_tree_attr: the same, of Linux 6.15",
        Layer::Powerless,
        REFUSED,
        open_tree_attributes,
    )
    .absent(&[ENOSYS]),
    row("E2e", "move_mount", Layer::Seccomp, REFUSED, move_mount).every_way(),
    row("E2f", "fsopen", Layer::Seccomp, REFUSED, fsopen).every_way(),
    row("E2g", "fsmount", Layer::Seccomp, REFUSED, fsmount).every_way(),
    row("E2h", "fspick", Layer::Seccomp, REFUSED, fspick).every_way(),
    row(
        "E2i",
        "mount_setattr",
        Layer::Seccomp,
        REFUSED,
        mount_setattr,
    )
    .every_way(),
    row("E2j", "chroot", Layer::Powerless, REFUSED, chroot).every_way(),
    row(
        "E2k",
        "open_by_handle_at: files past directories",
        Layer::Seccomp,
        REFUSED,
        by_handle,
    )
    .absent(&[EOPNOTSUPP])
    .every_way(),
    row(
        "E3",
        "ask the container engine (docker.sock)",
        Layer::Mounts,
        HIDDEN,
        docker,
    )
    .needs(&["private mounts"], BY_PERMISSION),
    row("E3b", "ask systemd over D-Bus", Layer::Mounts, HIDDEN, dbus)
        .anyone()
        .needs(&["private mounts"], BY_PERMISSION),
    row(
        "E3d",
        "the same by the directory that it was started in",
        Layer::Mounts,
        HIDDEN,
        dbus_from_here,
    )
    .anyone()
    .needs(&["private mounts"], BY_PERMISSION),
    row(
        "E3e",
        "the same by another process's mounts (/proc/PID/root)",
        Layer::Landlock,
        HIDDEN,
        dbus_of_others,
    )
    .anyone()
    .needs(&["Landlock domain"], BY_PERMISSION),
    row("E3c", "leave something for cron", Layer::User, CLOSED, cron)
        .root(ROOTS_FILES)
        .absent(&[ENOENT, EOPNOTSUPP]),
    row("E5", "init_module", Layer::Seccomp, REFUSED, init_module)
        .absent(&[ENOSYS])
        .every_way(),
    row("E5b", "finit_module", Layer::Seccomp, REFUSED, finit_module)
        .absent(&[ENOSYS])
        .every_way(),
    row(
        "E5c",
        "delete_module",
        Layer::Seccomp,
        REFUSED,
        delete_module,
    )
    .absent(&[ENOSYS])
    .every_way(),
    row("E5d", "kexec_load", Layer::Seccomp, REFUSED, kexec)
        .absent(&[ENOSYS])
        .every_way(),
    row(
        "E5e",
        "core_pattern: a program that root runs",
        Layer::User,
        CLOSED,
        core_pattern,
    )
    .root(ROOTS_FILES)
    .absent(&[ENOENT]),
    row("E5f", "swapon", Layer::Powerless, REFUSED, swapon)
        .absent(&[ENOSYS])
        .every_way(),
    row(
        "E5g",
        "set the clock that deadlines go by",
        Layer::Powerless,
        REFUSED,
        set_clock,
    ),
    row(
        "E5h",
        "iopl: the processor's ports",
        Layer::Powerless,
        REFUSED,
        iopl,
    )
    .absent(&[ENOSYS]),
    row(
        "E6",
        "capset: take CAP_NET_RAW back",
        Layer::Powerless,
        REFUSED,
        capset,
    )
    .every_way(),
    row(
        "E6b",
        "PR_CAP_AMBIENT_RAISE",
        Layer::Powerless,
        REFUSED,
        ambient,
    )
    .every_way(),
    row(
        "E6c",
        "root executes a program, to be given all capabilities",
        Layer::Powerless,
        Must::Nothing,
        execute_as_root,
    ),
    row(
        "E6d",
        "setresuid(0)",
        Layer::Powerless,
        REFUSED,
        become_root,
    )
    .root(Must::Residual("--user root is user id 0 already")),
    row(
        "E7",
        "TIOCSTI: type into the operator's terminal",
        Layer::Seccomp,
        REFUSED,
        type_in,
    )
    .absent(&[EIO, ENODEV, ENOENT])
    .every_way(),
    row(
        "E7b",
        "TCXONC: stop a terminal that the agent writes to",
        Layer::Seccomp,
        REFUSED,
        stop_terminal,
    )
    .absent(&[ENODEV, ENOENT])
    .anyone()
    .every_way(),
    row(
        "E8",
        "CLONE_PARENT: a child of the agent's",
        Layer::Seccomp,
        REFUSED,
        clone_parent,
    )
    .anyone()
    .every_way(),
];

fn leave_cgroup(a: &mut Attacker) -> Outcome {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(|_| ENOENT)?;
    let mount = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after
            .starts_with("cgroup2 ")
            .then(|| before.split(' ').nth(4))?
    });
    let processes = PathBuf::from(mount.ok_or(ENOENT)?).join("cgroup.procs");
    let file = open(a, &processes, libc::O_WRONLY)?;
    let own = a.memory.put(b"0");
    native(libc::SYS_write, [file, own, 1, 0, 0, 0])?;
    Seen::won("in another cgroup")
}

/// A call that is past the check of privileges if it says one of these, as nothing was asked for that
/// can be.
fn past(answer: Answer, benign: &[i32]) -> Outcome {
    match answer {
        Ok(_) => Seen::won("done"),
        Err(errno) if benign.contains(&errno) => Seen::won("past the check of privileges"),
        Err(errno) => Err(errno),
    }
}

const PLACE: &CStr = c"/run/attacks/mounted";
const HERE: i32 = libc::AT_FDCWD;

fn mount(a: &mut Attacker) -> Outcome {
    let (what, at, kind) = (
        a.memory.text(c"mine"),
        a.memory.text(PLACE),
        a.memory.text(c"tmpfs"),
    );
    a.attack(number::MOUNT, [what, at, kind, 0, 0, 0])?;
    native(libc::SYS_umount2, [at, 2, 0, 0, 0, 0])?;
    Seen::won("a file system of its own")
}

fn unmount(a: &mut Attacker) -> Outcome {
    // What nothing is mounted on cannot be unmounted, which is found out later.
    let at = a.memory.text(PLACE);
    past(a.attack(number::UMOUNT2, [at, 0, 0, 0, 0, 0]), &[EINVAL])
}

fn pivot_root(a: &mut Attacker) -> Outcome {
    let at = a.memory.text(PLACE);
    past(
        a.attack(number::PIVOT_ROOT, [at, at, 0, 0, 0, 0]),
        &[EINVAL, EBUSY],
    )
}

fn open_tree(a: &mut Attacker) -> Outcome {
    const CLONE: u64 = 1;
    let at = a.memory.text(PLACE);
    a.attack(number::OPEN_TREE, [word(HERE), at, CLONE, 0, 0, 0])?;
    Seen::won("a copy of a mount")
}

fn open_tree_attributes(a: &mut Attacker) -> Outcome {
    const CLONE: u64 = 1;
    const OPEN_TREE_ATTR: u64 = 467;
    let (at, attributes) = (a.memory.text(PLACE), a.memory.zeros(32));
    let arguments = [word(HERE), at, CLONE, attributes, 32, 0];
    crate::sys::numbered(OPEN_TREE_ATTR, arguments)?;
    Seen::won("a copy of a mount")
}

fn move_mount(a: &mut Attacker) -> Outcome {
    let at = a.memory.text(PLACE);
    past(
        a.attack(number::MOVE_MOUNT, [word(HERE), at, word(HERE), at, 0, 0]),
        &[EINVAL],
    )
}

fn fsopen(a: &mut Attacker) -> Outcome {
    let kind = a.memory.text(c"tmpfs");
    a.attack(number::FSOPEN, [kind, 0, 0, 0, 0, 0])?;
    Seen::won("a file system in the making")
}

fn fsmount(a: &mut Attacker) -> Outcome {
    past(
        a.attack(number::FSMOUNT, [0, 0, 0, 0, 0, 0]),
        &[EINVAL, EBADF],
    )
}

fn fspick(a: &mut Attacker) -> Outcome {
    let at = a.memory.text(c"/run");
    a.attack(number::FSPICK, [word(HERE), at, 0, 0, 0, 0])?;
    Seen::won("a mounted file system's settings")
}

fn mount_setattr(a: &mut Attacker) -> Outcome {
    let at = a.memory.text(PLACE);
    let attributes = a.memory.put(&[8, 0, 0, 0, 0, 0, 0, 0]);
    a.memory.zeros(32);
    past(
        a.attack(
            number::MOUNT_SETATTR,
            [word(HERE), at, 0, attributes, 32, 0],
        ),
        &[EINVAL],
    )
}

fn chroot(a: &mut Attacker) -> Outcome {
    let at = a.memory.text(PLACE);
    a.attack(number::CHROOT, [at, 0, 0, 0, 0, 0])?;
    Seen::won("another root directory")
}

fn by_handle(a: &mut Attacker) -> Outcome {
    let path = a.memory.text(PLACE);
    let mut handle = 128_u32.to_ne_bytes().to_vec();
    handle.resize(8 + 128, 0);
    let (handle, mount) = (a.memory.put(&handle), a.memory.zeros(8));
    native(
        libc::SYS_name_to_handle_at,
        [word(HERE), path, handle, mount, 0, 0],
    )?;
    let run = a.memory.text(c"/run");
    let run = native(libc::SYS_openat, [word(HERE), run, 0, 0, 0, 0])?;
    a.attack(number::OPEN_BY_HANDLE_AT, [run, handle, 0, 0, 0, 0])?;
    Seen::won("a file by its number")
}

fn ask(path: &str) -> Outcome {
    let errno = |error: std::io::Error| error.raw_os_error().unwrap_or(EIO);
    let mut stream = UnixStream::connect(path).map_err(errno)?;
    stream.write_all(b"capture for me").map_err(errno)?;
    let mut said = [0; 64];
    let count = stream.read(&mut said).map_err(errno)?;
    if said.get(..count) == Some(YES) {
        Seen::won("a daemon that does it")
    } else {
        Seen::broken("it answers something else")
    }
}

fn docker(_: &mut Attacker) -> Outcome {
    ask(DOCKER)
}

fn dbus(_: &mut Attacker) -> Outcome {
    ask(DBUS)
}

/// Every process is started somewhere beneath `/run`.
fn dbus_from_here(_: &mut Attacker) -> Outcome {
    let up = "../".repeat(2);
    ask(&DBUS.replacen("/run/", &up, 1))
}

fn dbus_of_others(a: &mut Attacker) -> Outcome {
    ask(&format!("/proc/{}/root{DBUS}", a.world.bystander.pid))
}

fn cron(a: &mut Attacker) -> Outcome {
    // A file without a name, which vanishes by itself.
    open(
        a,
        Path::new("/etc/cron.d"),
        libc::O_TMPFILE | libc::O_WRONLY,
    )?;
    Seen::won("it may write there")
}

fn init_module(a: &mut Attacker) -> Outcome {
    let image = a.memory.put(&[0; 64]);
    let none = a.memory.text(c"");
    past(
        a.attack(number::INIT_MODULE, [image, 64, none, 0, 0, 0]),
        &[ENOEXEC],
    )
}

fn finit_module(a: &mut Attacker) -> Outcome {
    let none = a.memory.text(c"");
    past(
        a.attack(number::FINIT_MODULE, [u64::MAX, none, 0, 0, 0, 0]),
        &[EBADF],
    )
}

fn delete_module(a: &mut Attacker) -> Outcome {
    let name = a.memory.text(c"no_such_module");
    past(
        a.attack(number::DELETE_MODULE, [name, 0o4000, 0, 0, 0, 0]),
        &[ENOENT],
    )
}

fn kexec(a: &mut Attacker) -> Outcome {
    const NO_SUCH_FLAG: u64 = 0x8000;
    past(
        a.attack(number::KEXEC_LOAD, [0, 0, 0, NO_SUCH_FLAG, 0, 0]),
        &[EINVAL],
    )
}

fn core_pattern(a: &mut Attacker) -> Outcome {
    // Opened, and not written to.
    open(
        a,
        Path::new("/proc/sys/kernel/core_pattern"),
        libc::O_WRONLY,
    )?;
    Seen::won("it may write there")
}

fn swapon(a: &mut Attacker) -> Outcome {
    let path = a.memory.text(c"/run/attacks/no-such-file");
    past(a.attack(number::SWAPON, [path, 0, 0, 0, 0, 0]), &[ENOENT])
}

fn set_clock(a: &mut Attacker) -> Outcome {
    const SET_OFFSET: u32 = 0x0100;
    // By nothing.
    let mut change = SET_OFFSET.to_ne_bytes().to_vec();
    change.resize(208, 0);
    let change = a.memory.put(&change);
    native(libc::SYS_clock_adjtime, [0, change, 0, 0, 0, 0])?;
    Seen::won("a clock of its choice")
}

fn iopl(_: &mut Attacker) -> Outcome {
    #[cfg(target_arch = "x86_64")]
    let number = libc::SYS_iopl;
    #[cfg(not(target_arch = "x86_64"))]
    let number = -1;
    native(number, [3, 0, 0, 0, 0, 0])?;
    Seen::won("the processor's ports")
}

const NET_RAW: u32 = 1 << 13;
const VERSION_3: u32 = 0x2008_0522;

fn set_capabilities(a: &mut Attacker, sets: u32) -> (u64, u64) {
    let header = [VERSION_3, 0].map(u32::to_ne_bytes).concat();
    let data = [sets, sets, 0, 0, 0, 0].map(u32::to_ne_bytes).concat();
    (a.memory.put(&header), a.memory.put(&data))
}

fn capset(a: &mut Attacker) -> Outcome {
    let (header, data) = set_capabilities(a, NET_RAW);
    a.attack(number::CAPSET, [header, data, 0, 0, 0, 0])?;
    Seen::won("CAP_NET_RAW")
}

fn ambient(a: &mut Attacker) -> Outcome {
    const AMBIENT: u64 = 47;
    const RAISE: u64 = 2;
    if !a.world.governed {
        // It must be inheritable.
        let (header, _) = set_capabilities(a, 0);
        let data = [NET_RAW, NET_RAW, NET_RAW, 0, 0, 0]
            .map(u32::to_ne_bytes)
            .concat();
        let data = a.memory.put(&data);
        a.call(number::CAPSET, [header, data, 0, 0, 0, 0])?;
    }
    a.attack(number::PRCTL, [AMBIENT, RAISE, 13, 0, 0, 0])?;
    Seen::won("CAP_NET_RAW for whatever it executes")
}

/// A program that user id 0 executes gets what the bounding set has, wherever that may be.
fn execute_as_root(a: &mut Attacker) -> Outcome {
    let (header, data) = set_capabilities(a, 0);
    a.call(number::CAPSET, [header, data, 0, 0, 0, 0])?;
    let status = std::process::Command::new("/proc/self/exe")
        .arg("powers")
        .status();
    match status
        .map_err(|error| error.raw_os_error().unwrap_or(EIO))?
        .code()
    {
        Some(0) => Seen::won("capabilities"),
        Some(1) => Seen::nothing("it has no capability"),
        status => Seen::broken(format!("it exits with {status:?}")),
    }
}

fn become_root(_: &mut Attacker) -> Outcome {
    native(libc::SYS_setresuid, [0, 0, 0, 0, 0, 0])?;
    Seen::won("user id 0")
}

/// A terminal of its own, as the operator's would be: the side that programs have.
fn terminal(a: &mut Attacker) -> Result<(std::os::fd::OwnedFd, u64), i32> {
    const SET_CONTROLLING: u64 = 0x540e;
    const UNLOCK: u64 = 0x4004_5431;
    const NUMBER: u64 = 0x8004_5430;
    let main = open(a, Path::new("/dev/ptmx"), libc::O_RDWR | libc::O_NOCTTY)?;
    let main = process::own(i32::try_from(main).unwrap_or(-1));
    let fd = word(main.as_raw_fd());
    let zero = a.memory.zeros(4);
    a.call(number::IOCTL, [fd, UNLOCK, zero, 0, 0, 0])?;
    let number = a.memory.zeros(4);
    a.call(number::IOCTL, [fd, NUMBER, number, 0, 0, 0])?;
    let path = format!("/dev/pts/{}", a.memory.read_u32(number));
    let side = open(a, Path::new(&path), libc::O_RDWR | libc::O_NOCTTY)?;
    let _ = native(libc::SYS_setsid, [0; 6]);
    let _ = a.call(number::IOCTL, [side, SET_CONTROLLING, 0, 0, 0, 0]);
    Ok((main, side))
}

fn type_in(a: &mut Attacker) -> Outcome {
    let (main, side) = terminal(a)?;
    let letter = a.memory.put(b"x");
    let typed = a.attack(number::IOCTL, [side, 0x5412, letter, 0, 0, 0]);
    // Who closes a terminal that it leads is hung up.
    std::mem::forget(main);
    typed?;
    Seen::won("a letter that nobody has typed")
}

fn stop_terminal(a: &mut Attacker) -> Outcome {
    let (main, side) = terminal(a)?;
    let stopped = a.attack(number::IOCTL, [side, 0x540a, 0, 0, 0, 0]);
    std::mem::forget(main);
    stopped?;
    Seen::won("a terminal that hangs")
}

fn clone_parent(a: &mut Attacker) -> Outcome {
    const PARENT: u64 = 0x8000;
    match a.attack(number::CLONE, [PARENT | word(libc::SIGCHLD), 0, 0, 0, 0, 0])? {
        0 => process::exit(0),
        _ => Seen::won("a child that is its parent's"),
    }
}

/// What a program with privileges does when attackers execute it: exits with 0 if it gets a packet
/// socket.
pub(crate) fn helper() -> ! {
    let socket = native(libc::SYS_socket, [17, 3, 0, 0, 0, 0]);
    process::exit(i32::from(socket.is_err()))
}

/// Exits with 0 if it has any capability.
pub(crate) fn powers() -> ! {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let none = line.is_some_and(|line| line.trim().chars().all(|digit| digit == '0'));
    process::exit(i32::from(none))
}
