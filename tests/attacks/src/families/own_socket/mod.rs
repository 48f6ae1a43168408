//! A: a packet socket of one's own.

mod calls;
mod namespaces;
mod programs;
mod supervisors;

use libc::{EBUSY, EINVAL, ENOSYS, EOPNOTSUPP, EPERM};

use crate::row::{Layer, Must, Row, Setting, row};

const REFUSED: Must = Must::Errno(EPERM);

pub(crate) const ROWS: &[Row] = &[
    row(
        "A1",
        "socket(AF_PACKET, SOCK_RAW)",
        Layer::Broker,
        REFUSED,
        calls::raw,
    )
    .every_way(),
    row(
        "A1b",
        "socket(AF_PACKET, SOCK_DGRAM)",
        Layer::Broker,
        REFUSED,
        calls::cooked,
    )
    .every_way(),
    row(
        "A1c",
        "the same, from a thread",
        Layer::Broker,
        REFUSED,
        calls::from_thread,
    ),
    row(
        "A1d",
        "the same, from an orphan in a session of its own",
        Layer::Broker,
        REFUSED,
        calls::from_orphan,
    ),
    row(
        "A1e",
        "hear more than granted on a session's own socket",
        Layer::Guard,
        Must::Heard(0),
        calls::hear_all,
    )
    .within(Setting::Granted("")),
    row(
        "A1f",
        "the same on a cooked socket",
        Layer::Guard,
        Must::Heard(0),
        calls::hear_all_cooked,
    )
    .within(Setting::Granted("")),
    row(
        "A2",
        "socket(AF_INET, SOCK_PACKET)",
        Layer::Seccomp,
        REFUSED,
        calls::sock_packet,
    )
    .every_way(),
    row(
        "A2b",
        "the same, where a session grants captures",
        Layer::Seccomp,
        REFUSED,
        calls::sock_packet,
    )
    .every_way()
    .within(Setting::Granted("")),
    row(
        "A3",
        "AF_PACKET with junk above its 32 bits",
        Layer::Broker,
        REFUSED,
        calls::junk_family,
    ),
    row(
        "A3b",
        "SOCK_PACKET with junk above its 32 bits",
        Layer::Seccomp,
        REFUSED,
        calls::junk_kind,
    ),
    row(
        "A3c",
        "the number of socket() with junk above its 32 bits",
        Layer::Broker,
        REFUSED,
        calls::junk_number,
    ),
    row(
        "A4",
        "SOCK_CLOEXEC and SOCK_NONBLOCK in the type",
        Layer::Broker,
        REFUSED,
        calls::flags,
    )
    .every_way(),
    row(
        "A5",
        "socketcall(SYS_SOCKET)",
        Layer::Seccomp,
        REFUSED,
        calls::socketcall,
    )
    .i386_only(),
    row(
        "A7",
        "io_uring: IORING_OP_SOCKET",
        Layer::Seccomp,
        Must::Errno(ENOSYS),
        calls::by_ring,
    )
    .absent(&[ENOSYS, EINVAL, EPERM])
    .every_way(),
    row(
        "A8",
        "unshare(NEWUSER|NEWNET), then socket()",
        Layer::Seccomp,
        REFUSED,
        namespaces::unshare,
    )
    .anyone()
    .every_way(),
    row(
        "A8b",
        "clone(NEWUSER|NEWNET), then socket()",
        Layer::Seccomp,
        REFUSED,
        namespaces::clone,
    )
    .anyone()
    .every_way(),
    row(
        "A8c",
        "clone3(NEWUSER|NEWNET), then socket()",
        Layer::Seccomp,
        Must::Errno(ENOSYS),
        namespaces::clone3,
    )
    .anyone()
    .every_way(),
    row(
        "A8d",
        "setns() into a network namespace",
        Layer::Seccomp,
        REFUSED,
        namespaces::setns,
    )
    .every_way(),
    row(
        "A8e",
        "unshare(NEWTIME): another clock for deadlines",
        Layer::Seccomp,
        REFUSED,
        namespaces::unshare_time,
    )
    .absent(&[EINVAL])
    .every_way(),
    row(
        "A9",
        "a seccomp listener of one's own",
        Layer::Seccomp,
        Must::Errno(EBUSY),
        supervisors::listener,
    )
    .anyone()
    .every_way(),
    row(
        "A10",
        "the same, once the agent has died",
        Layer::Seccomp,
        Must::Errno(EBUSY),
        supervisors::listener,
    )
    .within(Setting::Orphaned),
    row(
        "A11",
        "ptrace a child, to rewrite its arguments",
        Layer::Seccomp,
        REFUSED,
        supervisors::trace_child,
    )
    .anyone()
    .every_way(),
    row(
        "A11b",
        "a seccomp filter that allows all, then socket()",
        Layer::Broker,
        REFUSED,
        supervisors::allow_all,
    ),
    row(
        "A11c",
        "the same through prctl(PR_SET_SECCOMP)",
        Layer::Broker,
        REFUSED,
        supervisors::allow_all_prctl,
    ),
    row(
        "A12",
        "PTRACE_O_SUSPEND_SECCOMP",
        Layer::Seccomp,
        REFUSED,
        supervisors::suspend_seccomp,
    )
    .absent(&[EINVAL])
    .every_way(),
    row(
        "A13",
        "use a packet socket that capwarden was started with",
        Layer::Launch,
        Must::Errno(libc::EBADF),
        calls::leaked,
    )
    .anyone(),
    row(
        "A14",
        "execute a setuid program that makes sockets",
        Layer::Broker,
        Must::Nothing,
        programs::setuid,
    )
    .anyone(),
    row(
        "A14b",
        "execute a program with file capabilities",
        Layer::Broker,
        Must::Nothing,
        programs::file_capabilities,
    )
    .anyone()
    .absent(&[EOPNOTSUPP]),
    row(
        "A16",
        "execute another program from memory, then socket()",
        Layer::Broker,
        Must::Nothing,
        programs::from_memory,
    ),
    row(
        "A17",
        "personality(ADDR_COMPAT_LAYOUT, READ_IMPLIES_EXEC), then socket()",
        Layer::Broker,
        REFUSED,
        calls::personality,
    ),
    row(
        "A18",
        "code in a 32-bit segment, then int 0x80",
        Layer::Seccomp,
        REFUSED,
        calls::raw_by_segment,
    )
    .i386_only(),
    row(
        "A19",
        "vfork, and the child asks",
        Layer::Broker,
        REFUSED,
        calls::from_vfork,
    ),
    row(
        "A20",
        "execute a 32-bit program that asks",
        Layer::Seccomp,
        REFUSED,
        programs::small_program,
    )
    .i386_only(),
    row(
        "A21",
        "int 0x80 with SIGSYS blocked",
        Layer::Seccomp,
        REFUSED,
        calls::deaf,
    )
    .i386_only(),
    row(
        "A22",
        "fill the descriptor table, ask, and make room",
        Layer::Broker,
        REFUSED,
        calls::no_room,
    ),
];
