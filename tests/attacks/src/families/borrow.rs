//! D: somebody else's socket, memory or keys.

use std::{
    fs::File,
    os::{
        fd::AsRawFd,
        linux::net::SocketAddrExt,
        unix::{
            fs::FileExt,
            net::{SocketAddr, UnixStream},
        },
    },
    path::PathBuf,
    time::{Duration, Instant},
};

use libc::{EACCES, EBADF, EINVAL, ENOKEY, ENOSYS, ENOTTY, EPERM, ESRCH};

use super::{other_sources::open, word};
use crate::{
    attacker::Attacker,
    row::{Layer, Must, Outcome, Row, Seen, row},
    sys::{Answer, native, number, process},
    world::{KEY, SECRET},
};

const REFUSED: Must = Must::Errno(EPERM);
const CLOSED: Must = Must::Errno(EACCES);

/// A Landlock domain, whatever its version.
const DOMAIN: &str = "Landlock domain";
const OF_ONE_USER: &str = "without Landlock processes of one user can look into each other";
const SIGNALS: &str = "before Linux 6.12 a server can signal processes of its user";

const ITS_USERS: Must = Must::Residual(
    "what its user may write or set is open to a server: run it as a user of its own",
);

pub(crate) const ROWS: &[Row] = &[
    row(
        "D1",
        "a packet socket from a process outside (SCM_RIGHTS)",
        Layer::Lsm,
        Must::Nothing,
        from_outside,
    )
    .anyone()
    .needs(
        &["BPF LSM"],
        "what a process outside passes in is collusion, which takes one that may capture",
    ),
    row(
        "D1b",
        "the same through an abstract Unix socket",
        Layer::Landlock,
        // Landlock refuses the connection, and the backstop what comes by it.
        Must::ErrnoOrNothing(EPERM),
        from_outside_abstract,
    )
    .anyone()
    .needs(
        &["Landlock", "BPF LSM"],
        "before Linux 6.12 abstract sockets are everybody's; what comes is collusion",
    ),
    row(
        "D2",
        "pidfd_getfd: another's packet socket",
        Layer::Seccomp,
        REFUSED,
        take_descriptor,
    )
    .anyone()
    .every_way(),
    row(
        "D2b",
        "look at another's descriptor through /proc",
        Layer::Landlock,
        CLOSED,
        proc_descriptor,
    )
    .anyone()
    .needs(&[DOMAIN], OF_ONE_USER),
    row(
        "D4",
        "ptrace another process",
        Layer::Seccomp,
        REFUSED,
        trace,
    )
    .anyone()
    .every_way(),
    row(
        "D5",
        "process_vm_readv",
        Layer::Seccomp,
        REFUSED,
        read_memory,
    )
    .anyone()
    .every_way(),
    row(
        "D5b",
        "process_vm_writev",
        Layer::Seccomp,
        REFUSED,
        write_memory,
    )
    .anyone()
    .every_way(),
    row("D5c", "/proc/PID/mem", Layer::Landlock, CLOSED, proc_memory)
        .anyone()
        .needs(&[DOMAIN], OF_ONE_USER),
    row(
        "D5d",
        "/proc/PID/environ",
        Layer::Landlock,
        CLOSED,
        proc_environment,
    )
    .anyone()
    .needs(&[DOMAIN], OF_ONE_USER),
    row(
        "D5e",
        "/proc/PID/root, to see its mounts",
        Layer::Landlock,
        CLOSED,
        proc_root,
    )
    .anyone()
    .needs(&[DOMAIN], OF_ONE_USER),
    row(
        "D5f",
        "/proc/PID/ns/net",
        Layer::Landlock,
        CLOSED,
        proc_namespace,
    )
    .anyone()
    .needs(&[DOMAIN], OF_ONE_USER),
    row(
        "D6",
        "kcmp: which descriptors are one file",
        Layer::Landlock,
        REFUSED,
        compare,
    )
    .anyone()
    .absent(&[ENOSYS])
    .every_way()
    .needs(&[DOMAIN], OF_ONE_USER),
    row(
        "D6b",
        "process_madvise: throw its memory out",
        Layer::Landlock,
        Must::OneOf(&[EPERM, EACCES, ESRCH]),
        advise,
    )
    .absent(&[ENOSYS, EINVAL]),
    row(
        "D7",
        "kill a process of the same user",
        Layer::Landlock,
        REFUSED,
        kill,
    )
    .anyone()
    .every_way()
    .needs(&["Landlock"], SIGNALS),
    row(
        "D7b",
        "the same through a pidfd",
        Layer::Landlock,
        REFUSED,
        kill_pidfd,
    )
    .anyone()
    .every_way()
    .needs(&["Landlock"], SIGNALS),
    row(
        "D7c",
        "the same as owner of a socket (F_SETOWN, F_SETSIG)",
        Layer::Landlock,
        Must::Nothing,
        kill_by_socket,
    )
    .anyone()
    .needs(&["Landlock"], SIGNALS),
    row(
        "D7d",
        "the same by a limit (prlimit64)",
        Layer::Seccomp,
        REFUSED,
        kill_by_limit,
    )
    .anyone()
    .every_way(),
    row(
        "D8",
        "the operator's key in the session keyring",
        Layer::Launch,
        Must::Errno(ENOKEY),
        session_key,
    )
    .anyone()
    .absent(&[ENOSYS]),
    row(
        "D5g",
        "/proc/PID/maps: where things are in its memory",
        Layer::Landlock,
        CLOSED,
        proc_maps,
    )
    .anyone()
    .needs(&[DOMAIN], OF_ONE_USER),
    row(
        "D5h",
        "PIDFD_GET_NET_NAMESPACE",
        Layer::Landlock,
        Must::OneOf(&[EACCES, EPERM]),
        namespace_by_pidfd,
    )
    .anyone()
    .absent(&[ENOTTY, EINVAL])
    .every_way()
    .needs(&[DOMAIN], OF_ONE_USER),
    row(
        "D6c",
        "get_robust_list: where another's locks are",
        Layer::Landlock,
        REFUSED,
        robust_list,
    )
    .anyone()
    .every_way()
    .needs(&[DOMAIN], OF_ONE_USER),
    row(
        "D6d",
        "move_pages: where another's memory lies",
        Layer::Landlock,
        REFUSED,
        move_pages,
    )
    .anyone()
    .absent(&[ENOSYS])
    .needs(&[DOMAIN], OF_ONE_USER),
    row(
        "D9",
        "have the kernel kill another first (oom_score_adj)",
        Layer::User,
        ITS_USERS,
        doom,
    )
    .anyone(),
    row(
        "D9b",
        "slow another (setpriority)",
        Layer::Powerless,
        ITS_USERS,
        slow,
    )
    .anyone()
    .root(REFUSED),
];

/// Receives a descriptor over a Unix socket, and listens on it.
fn receive(a: &mut Attacker, stream: &UnixStream) -> Outcome {
    let byte = a.memory.zeros(1);
    let piece = a
        .memory
        .put(&[byte.to_ne_bytes(), 1_u64.to_ne_bytes()].concat());
    let control = a.memory.zeros(64);
    let words = [0, 0, piece, 1, control, 64, 0];
    let words: Vec<u8> = words
        .iter()
        .flat_map(|word: &u64| word.to_ne_bytes())
        .collect();
    let message = a.memory.put(&words);
    native(
        libc::SYS_recvmsg,
        [word(stream.as_raw_fd()), message, 0, 0, 0, 0],
    )?;
    let received = a.memory.read_u32(message + 40);
    if received < 20 {
        return Seen::nothing("the message came without a descriptor");
    }
    let socket = a.memory.read_u32(control + 16);
    match a.listen(socket.into(), SECRET)? {
        Seen::Heard(count) if count > 0 => Seen::won(format!("{count} packets")),
        seen => Ok(seen),
    }
}

fn errno(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

fn from_outside(a: &mut Attacker) -> Outcome {
    let stream = UnixStream::connect(&a.world.bystander.socket);
    receive(a, &stream.map_err(|error| errno(&error))?)
}

fn from_outside_abstract(a: &mut Attacker) -> Outcome {
    let name = SocketAddr::from_abstract_name(&a.world.bystander.name);
    let stream = name.and_then(|name| UnixStream::connect_addr(&name));
    receive(a, &stream.map_err(|error| errno(&error))?)
}

fn pidfd(pid: u32) -> Answer {
    native(libc::SYS_pidfd_open, [pid.into(), 0, 0, 0, 0, 0])
}

fn take_descriptor(a: &mut Attacker) -> Outcome {
    let pidfd = pidfd(a.world.bystander.pid)?;
    let wanted = a.world.bystander.packet_socket.into();
    let socket = a.attack(number::PIDFD_GETFD, [pidfd, wanted, 0, 0, 0, 0])?;
    match a.listen(socket, SECRET)? {
        Seen::Heard(count) if count > 0 => Seen::won(format!("{count} packets")),
        seen => Ok(seen),
    }
}

/// Something of the bystander's under `/proc`.
fn of_bystander(a: &Attacker, what: &str) -> PathBuf {
    format!("/proc/{}/{what}", a.world.bystander.pid).into()
}

fn proc_descriptor(a: &mut Attacker) -> Outcome {
    let number = a.world.bystander.packet_socket;
    let link = std::fs::read_link(of_bystander(a, &format!("fd/{number}")));
    let link = link.map_err(|error| errno(&error))?;
    Seen::won(format!(
        "that it is a {}",
        link.display().to_string().replace(char::is_numeric, "")
    ))
}

fn trace(a: &mut Attacker) -> Outcome {
    const SEIZE: u64 = 0x4206;
    const DETACH: u64 = 17;
    // Not the bystander: others look at that at the same time.
    let victim = a.world.bystander.victims[0].into();
    a.attack(number::PTRACE, [SEIZE, victim, 0, 0, 0, 0])?;
    let _ = a.call(number::PTRACE, [DETACH, victim, 0, 0, 0, 0]);
    Seen::won("a process that it controls")
}

const SECRET_LENGTH: usize = 24;

fn remote_piece(a: &mut Attacker) -> u64 {
    let at = a.world.bystander.secret;
    // By a 32-bit door only the low half of an address can be said: the call is made all the same.
    a.piece(at, SECRET_LENGTH as u64)
}

fn read_memory(a: &mut Attacker) -> Outcome {
    let room = a.memory.zeros(SECRET_LENGTH);
    let (local, remote) = (a.piece(room, SECRET_LENGTH as u64), remote_piece(a));
    let pid = a.world.bystander.pid.into();
    match a.attack(number::PROCESS_VM_READV, [pid, local, 1, remote, 1, 0]) {
        Ok(_) => is_secret(&a.memory.read(room, SECRET_LENGTH)),
        // It was looked for, at half of an address.
        Err(libc::EFAULT) => Seen::won("past all checks"),
        Err(errno) => Err(errno),
    }
}

fn write_memory(a: &mut Attacker) -> Outcome {
    let room = a.memory.put(crate::stage::bystander::MEMORY);
    let (local, remote) = (a.piece(room, SECRET_LENGTH as u64), remote_piece(a));
    // The secret is in memory that is not written to: it is the check that counts.
    let pid = a.world.bystander.pid.into();
    match a.attack(number::PROCESS_VM_WRITEV, [pid, local, 1, remote, 1, 0]) {
        Ok(_) | Err(libc::EFAULT) => Seen::won("past all checks"),
        Err(errno) => Err(errno),
    }
}

fn is_secret(bytes: &[u8]) -> Outcome {
    if bytes == crate::stage::bystander::MEMORY {
        Seen::won("a secret in its memory")
    } else {
        Seen::broken("something else is in its memory")
    }
}

fn proc_memory(a: &mut Attacker) -> Outcome {
    let memory = File::open(of_bystander(a, "mem")).map_err(|error| errno(&error))?;
    let mut bytes = [0; SECRET_LENGTH];
    let read = memory.read_exact_at(&mut bytes, a.world.bystander.secret);
    read.map_err(|error| errno(&error))?;
    is_secret(&bytes)
}

fn proc_environment(a: &mut Attacker) -> Outcome {
    let read = std::fs::read(of_bystander(a, "environ"));
    read.map_err(|error| errno(&error))?;
    Seen::won("its environment")
}

fn proc_root(a: &mut Attacker) -> Outcome {
    let path = of_bystander(a, "root/proc");
    open(a, &path, libc::O_RDONLY | libc::O_DIRECTORY)?;
    Seen::won("its files")
}

fn proc_namespace(a: &mut Attacker) -> Outcome {
    let path = of_bystander(a, "ns/net");
    open(a, &path, libc::O_RDONLY)?;
    Seen::won("its network namespace")
}

fn compare(a: &mut Attacker) -> Outcome {
    const FILE: u64 = 0;
    let own = std::process::id().into();
    let (pid, wanted) = (
        a.world.bystander.pid.into(),
        a.world.bystander.packet_socket.into(),
    );
    a.attack(number::KCMP, [own, pid, FILE, 0, wanted, 0])?;
    Seen::won("an order among descriptors")
}

fn advise(a: &mut Attacker) -> Outcome {
    const COLD: u64 = 20;
    let pidfd = pidfd(a.world.bystander.pid)?;
    let page = a.world.bystander.secret & !4095;
    let pages = a
        .memory
        .put(&[page.to_ne_bytes(), 4096_u64.to_ne_bytes()].concat());
    native(libc::SYS_process_madvise, [pidfd, pages, 1, COLD, 0, 0])?;
    Seen::won("advice about another's memory")
}

/// One that no other attack is about: `which` names the attack.
pub(crate) fn victim(a: &Attacker, which: usize) -> u32 {
    let place = which * 3 + a.way as usize;
    a.world.bystander.victims.get(place).copied().unwrap_or(0)
}

/// Whether a victim dies: those that have died are nobody's any more. What was killed may have to wait for
/// a processor to die on.
fn dies(pid: u32) -> Outcome {
    const PATIENCE: Duration = Duration::from_secs(3);
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        if state.is_err() {
            return Seen::won("it is dead");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Seen::nothing("it lives on")
}

const KILL: u64 = 9;

fn kill(a: &mut Attacker) -> Outcome {
    let pid = victim(a, 1);
    a.attack(number::KILL, [pid.into(), KILL, 0, 0, 0, 0])?;
    dies(pid)
}

fn kill_pidfd(a: &mut Attacker) -> Outcome {
    let pid = victim(a, 2);
    let pidfd = pidfd(pid)?;
    a.attack(number::PIDFD_SEND_SIGNAL, [pidfd, KILL, 0, 0, 0, 0])?;
    dies(pid)
}

fn kill_by_socket(a: &mut Attacker) -> Outcome {
    const SETFL: u64 = 4;
    const SETOWN: u64 = 8;
    const SETSIG: u64 = 10;
    const ASYNC: u64 = 0o20000;
    let pid = victim(a, 3);
    let (read, write) = process::pipe().map_err(|_| EBADF)?;
    let [read, write] = [&read, &write].map(|end| word(end.as_raw_fd()));
    let set = |command, value| native(libc::SYS_fcntl, [read, command, value, 0, 0, 0]);
    set(SETOWN, pid.into())?;
    set(SETSIG, KILL)?;
    set(SETFL, ASYNC)?;
    let byte = a.memory.put(b"x");
    native(libc::SYS_write, [write, byte, 1, 0, 0, 0])?;
    dies(pid)
}

fn kill_by_limit(a: &mut Attacker) -> Outcome {
    const FILE_SIZE: u64 = 1;
    let pid = victim(a, 4);
    let none = a.memory.zeros(16);
    a.attack(number::PRLIMIT64, [pid.into(), FILE_SIZE, none, 0, 0, 0])?;
    Seen::won("limits of its choice for another")
}

fn session_key(a: &mut Attacker) -> Outcome {
    const SEARCH: u64 = 10;
    const READ: u64 = 11;
    const SESSION: u64 = (-3_i64).cast_unsigned();
    let (kind, name) = (a.memory.text(c"user"), a.memory.text(c"capwarden-attacks"));
    let key = native(libc::SYS_keyctl, [SEARCH, SESSION, kind, name, 0, 0])?;
    let room = a.memory.zeros(64);
    let count = native(libc::SYS_keyctl, [READ, key, room, 64, 0, 0])?;
    let read = a.memory.read(room, usize::try_from(count).unwrap_or(0));
    if read == KEY {
        Seen::won("the key")
    } else {
        Seen::broken("another key")
    }
}

fn proc_maps(a: &mut Attacker) -> Outcome {
    let maps = std::fs::read(of_bystander(a, "maps")).map_err(|error| errno(&error))?;
    if maps.is_empty() {
        return Seen::nothing("an empty file");
    }
    Seen::won("where everything is")
}

fn robust_list(a: &mut Attacker) -> Outcome {
    let room = a.memory.zeros(16);
    let pid = a.world.bystander.pid.into();
    a.attack(number::GET_ROBUST_LIST, [pid, room, room + 8, 0, 0, 0])?;
    Seen::won("an address in its memory")
}

fn move_pages(a: &mut Attacker) -> Outcome {
    let page = a.world.bystander.secret & !4095;
    let (page, node) = (a.memory.put(&page.to_ne_bytes()), a.memory.zeros(4));
    let pid = a.world.bystander.pid.into();
    native(libc::SYS_move_pages, [pid, 1, page, 0, node, 0])?;
    Seen::won("on which node its memory lies")
}

fn doom(a: &mut Attacker) -> Outcome {
    let path = format!("/proc/{}/oom_score_adj", victim(a, 7));
    let file = open(a, &PathBuf::from(path), libc::O_WRONLY)?;
    let most = a.memory.put(b"1000");
    native(libc::SYS_write, [file, most, 4, 0, 0, 0])?;
    Seen::won("first in line")
}

fn slow(a: &mut Attacker) -> Outcome {
    let pid = victim(a, 8).into();
    native(libc::SYS_setpriority, [0, pid, 19, 0, 0, 0])?;
    Seen::won("it waits for everybody")
}

fn namespace_by_pidfd(a: &mut Attacker) -> Outcome {
    const NET: u64 = 0xff04;
    let pidfd = pidfd(a.world.bystander.pid)?;
    a.attack(number::IOCTL, [pidfd, NET, 0, 0, 0, 0])?;
    Seen::won("its network namespace")
}
