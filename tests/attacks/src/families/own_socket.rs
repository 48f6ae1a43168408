//! A: a packet socket of one's own.

use std::{
    ffi::CString,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    thread,
};

use libc::{EBUSY, EINVAL, ENOENT, ENOSYS, EOPNOTSUPP, EPERM};

use super::word;
use crate::{
    attacker::{AF_PACKET, ALL, Attacker, SOCK_DGRAM, SOCK_RAW},
    ring,
    row::{Layer, Must, Outcome, Row, Seen, Setting, row},
    sys::{self, native, number, process},
    world::{LEAKED, SECRET},
};

const REFUSED: Must = Must::Errno(EPERM);

pub(crate) const ROWS: &[Row] = &[
    row(
        "A1",
        "socket(AF_PACKET, SOCK_RAW)",
        Layer::Broker,
        REFUSED,
        raw,
    )
    .every_way(),
    row(
        "A1b",
        "socket(AF_PACKET, SOCK_DGRAM)",
        Layer::Broker,
        REFUSED,
        cooked,
    )
    .every_way(),
    row(
        "A1c",
        "the same, from a thread",
        Layer::Broker,
        REFUSED,
        from_thread,
    ),
    row(
        "A1d",
        "the same, from an orphan in a session of its own",
        Layer::Broker,
        REFUSED,
        from_orphan,
    ),
    row(
        "A1e",
        "hear more than granted on a session's own socket",
        Layer::Guard,
        Must::Heard(0),
        hear_all,
    )
    .within(Setting::Granted("")),
    row(
        "A1f",
        "the same on a cooked socket",
        Layer::Guard,
        Must::Heard(0),
        hear_all_cooked,
    )
    .within(Setting::Granted("")),
    row(
        "A2",
        "socket(AF_INET, SOCK_PACKET)",
        Layer::Seccomp,
        REFUSED,
        sock_packet,
    )
    .every_way(),
    row(
        "A2b",
        "the same, where a session grants captures",
        Layer::Seccomp,
        REFUSED,
        sock_packet,
    )
    .every_way()
    .within(Setting::Granted("")),
    row(
        "A3",
        "AF_PACKET with junk above its 32 bits",
        Layer::Broker,
        REFUSED,
        junk_family,
    ),
    row(
        "A3b",
        "SOCK_PACKET with junk above its 32 bits",
        Layer::Seccomp,
        REFUSED,
        junk_kind,
    ),
    row(
        "A3c",
        "the number of socket() with junk above its 32 bits",
        Layer::Broker,
        REFUSED,
        junk_number,
    ),
    row(
        "A4",
        "SOCK_CLOEXEC and SOCK_NONBLOCK in the type",
        Layer::Broker,
        REFUSED,
        flags,
    )
    .every_way(),
    row(
        "A5",
        "socketcall(SYS_SOCKET)",
        Layer::Seccomp,
        REFUSED,
        socketcall,
    )
    .i386_only(),
    row(
        "A7",
        "io_uring: IORING_OP_SOCKET",
        Layer::Seccomp,
        Must::Errno(ENOSYS),
        by_ring,
    )
    .absent(&[ENOSYS, EINVAL, EPERM])
    .every_way(),
    row(
        "A8",
        "unshare(NEWUSER|NEWNET), then socket()",
        Layer::Seccomp,
        REFUSED,
        unshare,
    )
    .anyone()
    .every_way(),
    row(
        "A8b",
        "clone(NEWUSER|NEWNET), then socket()",
        Layer::Seccomp,
        REFUSED,
        clone,
    )
    .anyone()
    .every_way(),
    row(
        "A8c",
        "clone3(NEWUSER|NEWNET), then socket()",
        Layer::Seccomp,
        Must::Errno(ENOSYS),
        clone3,
    )
    .anyone()
    .every_way(),
    row(
        "A8d",
        "setns() into a network namespace",
        Layer::Seccomp,
        REFUSED,
        setns,
    )
    .every_way(),
    row(
        "A8e",
        "unshare(NEWTIME): another clock for deadlines",
        Layer::Seccomp,
        REFUSED,
        unshare_time,
    )
    .absent(&[EINVAL])
    .every_way(),
    row(
        "A9",
        "a seccomp listener of one's own",
        Layer::Seccomp,
        Must::Errno(EBUSY),
        listener,
    )
    .anyone()
    .every_way(),
    row(
        "A10",
        "the same, once the agent has died",
        Layer::Seccomp,
        Must::Errno(EBUSY),
        listener,
    )
    .within(Setting::Orphaned),
    row(
        "A11",
        "ptrace a child, to rewrite its arguments",
        Layer::Seccomp,
        REFUSED,
        trace_child,
    )
    .anyone()
    .every_way(),
    row(
        "A11b",
        "a seccomp filter that allows all, then socket()",
        Layer::Broker,
        REFUSED,
        allow_all,
    ),
    row(
        "A11c",
        "the same through prctl(PR_SET_SECCOMP)",
        Layer::Broker,
        REFUSED,
        allow_all_prctl,
    ),
    row(
        "A12",
        "PTRACE_O_SUSPEND_SECCOMP",
        Layer::Seccomp,
        REFUSED,
        suspend_seccomp,
    )
    .absent(&[EINVAL])
    .every_way(),
    row(
        "A13",
        "use a packet socket that capwarden was started with",
        Layer::Launch,
        Must::Errno(libc::EBADF),
        leaked,
    )
    .anyone(),
    row(
        "A14",
        "execute a setuid program that makes sockets",
        Layer::Broker,
        Must::Nothing,
        setuid,
    )
    .anyone(),
    row(
        "A14b",
        "execute a program with file capabilities",
        Layer::Broker,
        Must::Nothing,
        file_capabilities,
    )
    .anyone()
    .absent(&[EOPNOTSUPP]),
    row(
        "A16",
        "execute another program from memory, then socket()",
        Layer::Broker,
        Must::Nothing,
        from_memory,
    ),
    row(
        "A17",
        "personality(ADDR_COMPAT_LAYOUT, READ_IMPLIES_EXEC), then socket()",
        Layer::Broker,
        REFUSED,
        personality,
    ),
    row(
        "A18",
        "code in a 32-bit segment, then int 0x80",
        Layer::Seccomp,
        REFUSED,
        raw_by_segment,
    )
    .i386_only(),
    row(
        "A19",
        "vfork, and the child asks",
        Layer::Broker,
        REFUSED,
        from_vfork,
    ),
    row(
        "A20",
        "execute a 32-bit program that asks",
        Layer::Seccomp,
        REFUSED,
        small_program,
    )
    .i386_only(),
    row(
        "A21",
        "int 0x80 with SIGSYS blocked",
        Layer::Seccomp,
        REFUSED,
        deaf,
    )
    .i386_only(),
    row(
        "A22",
        "fill the descriptor table, ask, and make room",
        Layer::Broker,
        REFUSED,
        no_room,
    ),
];

fn raw(a: &mut Attacker) -> Outcome {
    a.socket(AF_PACKET, SOCK_RAW, ALL)?;
    Seen::won("a packet socket")
}

fn cooked(a: &mut Attacker) -> Outcome {
    a.socket(AF_PACKET, SOCK_DGRAM, ALL)?;
    Seen::won("a packet socket")
}

fn sock_packet(a: &mut Attacker) -> Outcome {
    a.socket(2, 10, ALL)?;
    Seen::won("a packet socket")
}

fn flags(a: &mut Attacker) -> Outcome {
    a.socket(AF_PACKET, SOCK_RAW | 0o2_004_000, ALL)?;
    Seen::won("a packet socket")
}

const JUNK: u64 = 0xdead_beef_0000_0000;

fn junk_family(a: &mut Attacker) -> Outcome {
    a.socket(JUNK | AF_PACKET, JUNK | SOCK_RAW, JUNK | ALL)?;
    Seen::won("a packet socket")
}

fn junk_kind(a: &mut Attacker) -> Outcome {
    a.socket(JUNK | 2, JUNK | 10, JUNK | ALL)?;
    Seen::won("a packet socket")
}

fn junk_number(_: &mut Attacker) -> Outcome {
    let number = number::SOCKET.native | 1 << 32;
    sys::numbered(number, [AF_PACKET, SOCK_RAW, ALL, 0, 0, 0])?;
    Seen::won("a packet socket")
}

fn socketcall(a: &mut Attacker) -> Outcome {
    let arguments: Vec<u8> = [17_u32, 3, 0x0300]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    let arguments = a.memory.put(&arguments);
    a.attack(number::SOCKETCALL, [1, arguments, 0, 0, 0, 0])?;
    Seen::won("a packet socket")
}

fn from_thread(a: &mut Attacker) -> Outcome {
    let asked = thread::scope(|scope| {
        let world = a.world.clone();
        let thread = scope.spawn(move || Attacker::new(sys::Way::Native, world).capture());
        thread.join().unwrap_or(Err(libc::EIO))
    });
    asked?;
    Seen::won("a packet socket")
}

fn from_orphan(a: &mut Attacker) -> Outcome {
    let (read, write) = process::pipe().map_err(|_| libc::EMFILE)?;
    let [read, write] = [&read, &write].map(|end| word(end.as_raw_fd()));
    let room = a.memory.zeros(4);
    process::spawn(|| {
        let _ = native(libc::SYS_setsid, [0; 6]);
        // Its child goes on alone.
        let _ = process::spawn(|| {
            let errno = a.capture().err().unwrap_or(0);
            a.memory.write(room, &errno.to_ne_bytes());
            let _ = native(libc::SYS_write, [write, room, 4, 0, 0, 0]);
        });
    })?;
    native(libc::SYS_read, [read, room, 4, 0, 0, 0])?;
    match a.memory.read_u32(room).cast_signed() {
        0 => Seen::won("a packet socket"),
        errno => Err(errno),
    }
}

fn from_vfork(a: &mut Attacker) -> Outcome {
    extern "C" fn ask(errno: *mut libc::c_void) -> libc::c_int {
        let asked = native(libc::SYS_socket, [AF_PACKET, SOCK_RAW, ALL, 0, 0, 0]);
        let asked = asked.err().unwrap_or(0);
        // SAFETY: room for it, which the parent looks at only when this has ended.
        unsafe { errno.cast::<i32>().write(asked) };
        0
    }
    let stack = a.memory.zeros(1 << 16) + (1 << 16);
    let stack = std::ptr::with_exposed_provenance_mut(usize::try_from(stack).unwrap_or(0));
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let mut errno = -1;
    // The child shares this process's memory and runs before it goes on.
    // SAFETY: a stack of its own, and an argument that outlives it.
    let child = unsafe { libc::clone(ask, stack, flags, (&raw mut errno).cast()) };
    process::wait(child);
    match errno {
        0 => Seen::won("a packet socket"),
        errno => Err(errno),
    }
}

fn hear_all(a: &mut Attacker) -> Outcome {
    let socket = a.capture()?;
    a.listen(socket, SECRET)
}

fn hear_all_cooked(a: &mut Attacker) -> Outcome {
    let socket = a.open_socket(AF_PACKET, SOCK_DGRAM, ALL)?;
    a.listen(socket, SECRET)
}

fn by_ring(a: &mut Attacker) -> Outcome {
    ring::socket(a, 17, SOCK_RAW, 0x0300)?;
    Seen::won("a packet socket")
}

const NEWUSER_NEWNET: u64 = 0x1000_0000 | 0x4000_0000;

fn socket_there(a: &Attacker) -> Outcome {
    a.capture()?;
    Seen::won("a packet socket in a namespace of its own")
}

fn unshare(a: &mut Attacker) -> Outcome {
    a.attack(number::UNSHARE, [NEWUSER_NEWNET, 0, 0, 0, 0, 0])?;
    socket_there(a)
}

fn unshare_time(a: &mut Attacker) -> Outcome {
    a.attack(number::UNSHARE, [0x80, 0, 0, 0, 0, 0])?;
    Seen::won("a time namespace")
}

fn clone(a: &mut Attacker) -> Outcome {
    child_of(a, |a| {
        a.attack(
            number::CLONE,
            [NEWUSER_NEWNET | word(libc::SIGCHLD), 0, 0, 0, 0, 0],
        )
    })
}

fn clone3(a: &mut Attacker) -> Outcome {
    child_of(a, |a| {
        let arguments = [NEWUSER_NEWNET, 0, 0, 0, word(libc::SIGCHLD), 0, 0, 0];
        let arguments: Vec<u8> = arguments
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        let arguments = a.memory.put(&arguments);
        a.attack(number::CLONE3, [arguments, 64, 0, 0, 0, 0])
    })
}

/// What a child sees that `make` has made.
fn child_of(a: &mut Attacker, make: impl FnOnce(&mut Attacker) -> sys::Answer) -> Outcome {
    match make(a)? {
        0 => process::exit(i32::from(a.capture().is_err())),
        child => {
            let child = i32::try_from(child).unwrap_or(-1);
            match process::wait(child) {
                0 => Seen::won("a packet socket in a namespace of its own"),
                status => Seen::broken(format!("the child ended with {status}")),
            }
        }
    }
}

fn setns(a: &mut Attacker) -> Outcome {
    // Its own: into others it would go by the same call.
    let path = a.memory.text(c"/proc/self/ns/net");
    let namespace = native(libc::SYS_openat, [word(libc::AT_FDCWD), path, 0, 0, 0, 0])?;
    a.attack(number::SETNS, [namespace, 0x4000_0000, 0, 0, 0, 0])?;
    Seen::won("in a namespace of its choice")
}

/// Allows every call.
const ALLOW: &[(u16, u8, u8, u32)] = &[(0x06, 0, 0, 0x7fff_0000)];

fn no_new_privileges() -> Result<(), i32> {
    let option = word(libc::PR_SET_NO_NEW_PRIVS);
    native(libc::SYS_prctl, [option, 1, 0, 0, 0, 0]).map(drop)
}

fn listener(a: &mut Attacker) -> Outcome {
    const NEW_LISTENER: u64 = 8;
    no_new_privileges()?;
    let program = a.program_by_way(ALLOW);
    a.attack(number::SECCOMP, [1, NEW_LISTENER, program, 0, 0, 0])?;
    Seen::won("a listener")
}

fn allow_all(a: &mut Attacker) -> Outcome {
    const TSYNC: u64 = 1;
    no_new_privileges()?;
    let program = a.program(ALLOW);
    a.call(number::SECCOMP, [1, TSYNC, program, 0, 0, 0])?;
    raw(a)
}

fn allow_all_prctl(a: &mut Attacker) -> Outcome {
    no_new_privileges()?;
    let program = a.program(ALLOW);
    let option = word(libc::PR_SET_SECCOMP);
    a.call(number::PRCTL, [option, 2, program, 0, 0, 0])?;
    raw(a)
}

const SEIZE: u64 = 0x4206;

/// A child that waits to be looked at.
fn idle_child() -> Result<i32, i32> {
    process::spawn(|| {
        // It goes with its parent, however that ends.
        let option = word(libc::PR_SET_PDEATHSIG);
        let _ = native(libc::SYS_prctl, [option, word(libc::SIGKILL), 0, 0, 0, 0]);
        thread::sleep(std::time::Duration::from_secs(5));
    })
}

fn seize(a: &mut Attacker, options: u64) -> Outcome {
    let child = idle_child()?;
    let traced = a.attack(number::PTRACE, [SEIZE, word(child), 0, options, 0, 0]);
    let _ = process::kill(child, libc::SIGKILL);
    process::wait(child);
    traced?;
    Seen::won("a child that it controls")
}

fn trace_child(a: &mut Attacker) -> Outcome {
    seize(a, 0)
}

fn suspend_seccomp(a: &mut Attacker) -> Outcome {
    seize(a, 1 << 21)
}

fn leaked(a: &mut Attacker) -> Outcome {
    match a.listen(word(LEAKED), SECRET)? {
        Seen::Heard(count) if count > 0 => Seen::won(format!("{count} packets")),
        seen => Ok(seen),
    }
}

/// Executes this program as a helper, which makes a socket if it can, and says so by its status.
fn execute(path: &std::path::Path) -> Outcome {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| ENOENT)?;
    let child = process::fork().map_err(|_| libc::EAGAIN)?;
    if child == 0 {
        let words = [path.as_ptr(), c"helper".as_ptr(), std::ptr::null()];
        // SAFETY: strings with their final zeros, and a null behind them.
        unsafe { libc::execv(path.as_ptr(), words.as_ptr()) };
        process::exit(126);
    }
    let status = process::wait(child);
    if libc::WIFSIGNALED(status) {
        return Ok(Seen::Killed(libc::WTERMSIG(status)));
    }
    if !libc::WIFEXITED(status) {
        return Seen::broken(format!("the helper ended with {status}"));
    }
    match libc::WEXITSTATUS(status) {
        0 => Seen::won("a packet socket"),
        1 => Seen::nothing("it runs, and gets no socket"),
        126 => Err(EOPNOTSUPP),
        status => Seen::broken(format!("the helper exits with {status}")),
    }
}

fn setuid(a: &mut Attacker) -> Outcome {
    execute(&a.world.helpers.join("setuid"))
}

fn file_capabilities(a: &mut Attacker) -> Outcome {
    execute(&a.world.helpers.join("powerful"))
}

fn from_memory(a: &mut Attacker) -> Outcome {
    let name = a.memory.text(c"attacks");
    let file = native(libc::SYS_memfd_create, [name, 0, 0, 0, 0, 0])?;
    let program = std::fs::read("/proc/self/exe").map_err(|_| ENOENT)?;
    let path = std::path::PathBuf::from(format!("/proc/self/fd/{file}"));
    std::fs::write(&path, program).map_err(|_| libc::EIO)?;
    execute(&path)
}

fn personality(a: &mut Attacker) -> Outcome {
    const ADDR_COMPAT_LAYOUT: u64 = 0x020_0000;
    const READ_IMPLIES_EXEC: u64 = 0x040_0000;
    native(
        libc::SYS_personality,
        [ADDR_COMPAT_LAYOUT | READ_IMPLIES_EXEC, 0, 0, 0, 0, 0],
    )?;
    raw(a)
}

fn raw_by_segment(a: &mut Attacker) -> Outcome {
    sys::segment::socket(&mut a.memory, [17, 3, 0x0300])?;
    Seen::won("a packet socket")
}

/// A 32-bit program: `socket(AF_PACKET, SOCK_RAW, ETH_P_ALL)`, then `exit` with 0 if that is a
/// descriptor and 1 if not.
fn small_program(a: &mut Attacker) -> Outcome {
    const START: u32 = 0x0800_0000;
    const HEADERS: u32 = 52 + 32;
    const CODE: &[u8] = &[
        0xb8, 0x67, 0x01, 0, 0, // mov eax, 359
        0xbb, 17, 0, 0, 0, // mov ebx, AF_PACKET
        0xb9, 3, 0, 0, 0, // mov ecx, SOCK_RAW
        0xba, 0, 3, 0, 0, // mov edx, ETH_P_ALL
        0xcd, 0x80, // int 0x80
        0xc1, 0xe8, 31, // shr eax, 31
        0x89, 0xc3, // mov ebx, eax
        0xb8, 1, 0, 0, 0, // mov eax, 1
        0xcd, 0x80, // int 0x80
    ];
    let length = HEADERS + u32::try_from(CODE.len()).unwrap_or(0);
    let mut program = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    program.extend([2, 0, 3, 0]); // executable, of an i386
    for word in [1, START + HEADERS, 52, 0, 0] {
        program.extend(u32::to_le_bytes(word));
    }
    for half in [52, 32, 1, 0, 0, 0] {
        program.extend(u16::to_le_bytes(half));
    }
    // To be loaded as it is, to be read and executed.
    for word in [1, 0, START, START, length, length, 5, 0x1000] {
        program.extend(u32::to_le_bytes(word));
    }
    program.extend(CODE);
    let name = a.memory.text(c"small");
    let file = native(libc::SYS_memfd_create, [name, 0, 0, 0, 0, 0])?;
    let path = std::path::PathBuf::from(format!("/proc/self/fd/{file}"));
    std::fs::write(&path, program).map_err(|_| libc::EIO)?;
    execute(&path)
}

fn deaf(a: &mut Attacker) -> Outcome {
    let all = a.memory.put(&u64::MAX.to_ne_bytes());
    native(libc::SYS_rt_sigprocmask, [0, all, 0, 8, 0, 0])?;
    raw(a)
}

/// An answer that finds no room must be no answer that is left over.
fn no_room(a: &mut Attacker) -> Outcome {
    const NOFILE: u64 = 7;
    let limit = |a: &mut Attacker, most: u64| {
        let limit = a
            .memory
            .put(&[most.to_ne_bytes(), 4096_u64.to_ne_bytes()].concat());
        native(libc::SYS_prlimit64, [0, NOFILE, limit, 0, 0, 0])
    };
    limit(a, 0)?;
    let full = a.capture();
    limit(a, 4096)?;
    if full.is_ok() {
        return Seen::won("a packet socket in a full table");
    }
    raw(a)
}
