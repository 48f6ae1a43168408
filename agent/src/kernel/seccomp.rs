//! The seccomp filter of a governed process: which system calls it may make itself, and which one
//! the agent makes for it.
//!
//! ```text
//! 1  foreign architecture                         → kill
//! 2  x32                                          → kill
//! 3  io_uring_*, clone3                           → ENOSYS   (killing breaks Node and glibc)
//! 4  bpf, ptrace, mount, setns, … (DENIED)        → EPERM
//! 5  clone with a namespace flag or CLONE_PARENT  → EPERM
//!    prlimit64 of another process                 → EPERM
//!    ioctl that types into, or stops, a terminal  → EPERM
//! 6  seccomp with NEW_LISTENER                    → EBUSY
//! 7  setsockopt: SO_ATTACH_FILTER, SO_DETACH_…    → the agent (see `broker`)
//!                SOL_PACKET: PACKET_RX_RING       → the agent (see `rings`)
//!                PACKET_ADD_MEMBERSHIP            → the agent (see `packet_membership`)
//!                … an option that is not listed   → EPERM
//! 8  bind with the length of a packet address     → the agent (see `broker`)
//! 9  socket:     SOCK_PACKET of any family        → EPERM
//!                AF_PACKET                        → the agent (see `broker`)
//!                AF_INET, AF_INET6 with SOCK_RAW  → EPERM
//!                … with MPTCP, SCTP and the like  → EPROTONOSUPPORT (programs fall back to TCP)
//!                AF_NETLINK beyond route, generic → EPROTONOSUPPORT
//!                AF_UNIX, AF_INET, AF_INET6       → allow
//!                any other family                 → EAFNOSUPPORT
//! 10 everything else                             → allow
//! ```
//! Arguments are compared as the kernel uses them, by their low 32 bits: junk above must not make
//! a difference. `SECCOMP_RET_USER_NOTIF` needs Linux 5.0, `ADDFD` with `SEND` 5.14:
//! <https://github.com/torvalds/linux/blob/v5.14/kernel/seccomp.c#L1528>

use capwarden_abi::packet_option;
use libc::{c_long, sock_filter};

/// One classic BPF instruction over `struct seccomp_data`.
pub(super) type Filter = Vec<sock_filter>;

#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;

const NR: u32 = 0;
const ARCH: u32 = 4;
const fn argument(index: u32) -> u32 {
    16 + 8 * index // little endian: the low half comes first
}

const X32_BIT: u32 = 0x4000_0000;

/// Linux 6.15; of the same number on every architecture.
const OPEN_TREE_ATTR: c_long = 467;

/// What nothing in a governed tree has a business with. All but `ptrace`, the `process_vm` calls,
/// `userfaultfd` and `pidfd_getfd` also need a capability that it lacks.
const DENIED: &[c_long] = &[
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_userfaultfd,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_open_by_handle_at,
];

const ABSENT: &[c_long] = &[
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_clone3,
];

const NAMESPACE_FLAGS: u32 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP)
    .cast_unsigned();

/// A child whose parent is the agent would be the agent's to reap.
const CLONE_PARENT: u32 = libc::CLONE_PARENT.cast_unsigned();

/// TIOCSTI and TIOCLINUX put characters into a terminal as if somebody had typed them: into the
/// operator's shell. TCXONC can hold the agent's own output for ever.
const TERMINAL_REQUESTS: &[u32] = &[0x5412, 0x541c, 0x540a];

const SOL_SOCKET: u32 = 1;
const SO_ATTACH_FILTER: u32 = 26;
const SO_DETACH_FILTER: u32 = 27;
pub(super) const SOL_PACKET: u32 = 263;
const SOCK_TYPE_MASK: u32 = 0xf;
const SOCK_RAW: u32 = 3;
const SOCK_PACKET: u32 = 10;
/// Transports whose packets go by sockets that only the kernel knows (DCCP, SCTP, UDP-Lite, SMC,
/// MPTCP), so that nobody could say whose they are: see `network`.
const HIDDEN_TRANSPORTS: &[u32] = &[33, 132, 136, 256, 262];
const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const AF_NETLINK: u32 = 16;
const AF_PACKET: u32 = 17;
const NETLINK_PROTOCOLS: &[u32] = &[0, 16];

/// `sizeof(struct sockaddr_ll)`, which is what every capture tool passes. Other lengths slip past
/// the agent, and gain nothing: the guard looks at the interface of every packet.
const PACKET_ADDRESS: u32 = 20;

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`
pub(super) const NEW_LISTENER: u32 = 1 << 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Allow,
    Notify,
    Kill,
    Errno(i32),
}

impl Action {
    const fn encode(self) -> u32 {
        match self {
            Self::Allow => 0x7fff_0000,
            Self::Notify => 0x7fc0_0000,
            Self::Kill => 0x8000_0000,
            Self::Errno(errno) => 0x0005_0000 | errno.cast_unsigned(),
        }
    }
}

/// Builds the filter from the end of each block backwards, so that every jump is forward and
/// short.
#[derive(Default)]
struct Block(Filter);

impl Block {
    fn load(mut self, offset: u32) -> Self {
        self.0.push(insn(0x20, 0, 0, offset)); // ld [offset]
        self
    }

    fn and(mut self, mask: u32) -> Self {
        self.0.push(insn(0x54, 0, 0, mask));
        self
    }

    fn then(mut self, action: Action) -> Self {
        self.0.push(insn(0x06, 0, 0, action.encode()));
        self
    }

    fn if_equal(self, value: u32, action: Action) -> Self {
        self.if_equal_do(value, Block::default().then(action))
    }

    /// `block` must not fall through.
    fn if_equal_do(mut self, value: u32, block: Block) -> Self {
        // A block longer than a jump reaches would be a mistake in this file; the test of the
        // whole filter would show it.
        let skip = u8::try_from(block.0.len()).unwrap_or(u8::MAX);
        self.0.push(insn(0x15, 0, skip, value));
        self.0.extend(block.0);
        self
    }

    fn if_any_bit(mut self, mask: u32, action: Action) -> Self {
        self.0.push(insn(0x45, 0, 1, mask));
        self.then(action)
    }

    fn if_at_least(mut self, value: u32, action: Action) -> Self {
        self.0.push(insn(0x35, 0, 1, value));
        self.then(action)
    }

    fn calls(mut self, numbers: &[c_long], action: Action) -> Self {
        for number in numbers {
            self = self.if_equal(nr(*number), action);
        }
        self
    }
}

const fn insn(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn nr(number: c_long) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The filter of every governed process.
pub(super) fn governed() -> Filter {
    use Action::{Allow, Errno, Kill, Notify};

    let clone = Block::default()
        .load(argument(0))
        .if_any_bit(NAMESPACE_FLAGS | CLONE_PARENT, Errno(libc::EPERM))
        .then(Allow);
    // With equal user ids, limits of the agent could be set: one that kills it, say.
    let limits = Block::default()
        .load(argument(0))
        .if_equal(0, Allow)
        .then(Errno(libc::EPERM));
    let mut terminal = Block::default().load(argument(1));
    for request in TERMINAL_REQUESTS {
        terminal = terminal.if_equal(*request, Errno(libc::EPERM));
    }
    let seccomp = Block::default()
        .load(argument(1))
        .if_any_bit(NEW_LISTENER, Errno(libc::EBUSY))
        .then(Allow);
    let socket_options = Block::default()
        .load(argument(2))
        .if_equal(SO_ATTACH_FILTER, Notify)
        .if_equal(SO_DETACH_FILTER, Notify)
        .then(Allow);
    let mut packet_options = Block::default().load(argument(2));
    for option in packet_option::BY_AGENT {
        packet_options = packet_options.if_equal(option, Notify);
    }
    for option in packet_option::BY_PROCESS {
        packet_options = packet_options.if_equal(option, Allow);
    }
    let setsockopt = Block::default()
        .load(argument(1))
        .if_equal_do(SOL_SOCKET, socket_options)
        .if_equal_do(SOL_PACKET, packet_options.then(Errno(libc::EPERM)))
        .then(Allow);
    let bind = Block::default()
        .load(argument(2))
        .if_equal(PACKET_ADDRESS, Notify)
        .then(Allow);
    let internet = || {
        let mut internet = Block::default()
            .load(argument(1))
            .and(SOCK_TYPE_MASK)
            .if_equal(SOCK_RAW, Errno(libc::EPERM))
            .load(argument(2));
        for protocol in HIDDEN_TRANSPORTS {
            internet = internet.if_equal(*protocol, Errno(libc::EPROTONOSUPPORT));
        }
        internet.then(Allow)
    };
    let mut netlink = Block::default().load(argument(2));
    for protocol in NETLINK_PROTOCOLS {
        netlink = netlink.if_equal(*protocol, Allow);
    }
    let socket = Block::default()
        .load(argument(1))
        .and(SOCK_TYPE_MASK)
        .if_equal(SOCK_PACKET, Errno(libc::EPERM))
        .load(argument(0))
        .if_equal(AF_PACKET, Notify)
        .if_equal_do(AF_INET, internet())
        .if_equal_do(AF_INET6, internet())
        .if_equal_do(AF_NETLINK, netlink.then(Errno(libc::EPROTONOSUPPORT)))
        .if_equal(AF_UNIX, Allow)
        .then(Errno(libc::EAFNOSUPPORT));

    let mut filter = Block::default().load(ARCH);
    filter.0.push(insn(0x15, 1, 0, NATIVE));
    filter = filter.then(Kill).load(NR);
    if cfg!(target_arch = "x86_64") {
        filter = filter.if_at_least(X32_BIT, Kill);
    }
    filter
        .calls(ABSENT, Errno(libc::ENOSYS))
        .calls(DENIED, Errno(libc::EPERM))
        .if_equal_do(nr(libc::SYS_clone), clone)
        .if_equal_do(nr(libc::SYS_prlimit64), limits)
        .if_equal_do(nr(libc::SYS_ioctl), terminal.then(Allow))
        .if_equal_do(nr(libc::SYS_seccomp), seccomp)
        .if_equal_do(nr(libc::SYS_setsockopt), setsockopt)
        .if_equal_do(nr(libc::SYS_bind), bind)
        .if_equal_do(nr(libc::SYS_socket), socket)
        .then(Allow)
        .0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter as the kernel does, on one call.
    fn run(arch: u32, number: c_long, arguments: [u64; 6]) -> u32 {
        let mut data = [0_u8; 64];
        data[0..4].copy_from_slice(&nr(number).to_ne_bytes());
        data[4..8].copy_from_slice(&arch.to_ne_bytes());
        for (index, value) in arguments.iter().enumerate() {
            data[16 + 8 * index..24 + 8 * index].copy_from_slice(&value.to_le_bytes());
        }
        let filter = governed();
        let (mut pc, mut a) = (0_usize, 0_u32);
        loop {
            let sock_filter { code, jt, jf, k } = filter[pc];
            pc += 1;
            let jump = |taken: bool| usize::from(if taken { jt } else { jf });
            match code {
                0x20 => {
                    let k = k as usize;
                    a = u32::from_ne_bytes(data[k..k + 4].try_into().unwrap());
                }
                0x54 => a &= k,
                0x06 => return k,
                0x15 => pc += jump(a == k),
                0x35 => pc += jump(a >= k),
                0x45 => pc += jump(a & k != 0),
                _ => panic!("unexpected instruction {code:#x}"),
            }
        }
    }

    fn native(number: c_long, arguments: [u64; 3]) -> u32 {
        let [a, b, c] = arguments;
        run(NATIVE, number, [a, b, c, 0, 0, 0])
    }

    fn errno(errno: i32) -> u32 {
        Action::Errno(errno).encode()
    }

    #[test]
    fn filter_table_gives_each_call_its_answer() {
        const JUNK: u64 = 0xdead_beef_0000_0000;
        let (allow, notify, kill) = (
            Action::Allow.encode(),
            Action::Notify.encode(),
            Action::Kill.encode(),
        );
        let socket = libc::SYS_socket;
        let option = libc::SYS_setsockopt;
        for (what, number, arguments, expected) in [
            ("packet raw", socket, [17, 3, 0x300], notify),
            ("packet dgram", socket, [17, 2, 0], notify),
            ("packet, flags", socket, [17, 3 | 0o2_004_000, 0], notify),
            (
                "packet, junk above",
                socket,
                [JUNK | 17, JUNK | 3, JUNK],
                notify,
            ),
            (
                "SOCK_PACKET over inet",
                socket,
                [2, 10, 0],
                errno(libc::EPERM),
            ),
            (
                "SOCK_PACKET over packet",
                socket,
                [17, JUNK | 10, 0],
                errno(libc::EPERM),
            ),
            ("raw inet", socket, [2, 3, 1], errno(libc::EPERM)),
            (
                "raw inet6, flags",
                socket,
                [10, 3 | 0o2_000_000, 1],
                errno(libc::EPERM),
            ),
            ("tcp", socket, [2, 1, 6], allow),
            ("udp6", socket, [10, 2, 0], allow),
            (
                "mptcp",
                socket,
                [2, 1, JUNK | 262],
                errno(libc::EPROTONOSUPPORT),
            ),
            ("sctp6", socket, [10, 1, 132], errno(libc::EPROTONOSUPPORT)),
            ("ping", socket, [2, 2, 1], allow),
            ("unix", socket, [1, 1, 0], allow),
            ("netlink route", socket, [16, 3, 0], allow),
            ("netlink generic", socket, [16, 3, 16], allow),
            (
                "netlink netfilter",
                socket,
                [16, 3, 12],
                errno(libc::EPROTONOSUPPORT),
            ),
            ("bluetooth", socket, [31, 3, 1], errno(libc::EAFNOSUPPORT)),
            ("can", socket, [29, 3, 1], errno(libc::EAFNOSUPPORT)),
            ("xdp", socket, [44, 3, 0], errno(libc::EAFNOSUPPORT)),
            ("attach filter", option, [3, 1, 26], notify),
            (
                "detach filter, junk above",
                option,
                [3, JUNK | 1, JUNK | 27],
                notify,
            ),
            // On a capture socket they fail for the lock that is on it.
            ("attach bpf", option, [3, 1, 50], allow),
            ("attach reuseport filter", option, [3, 1, 51], allow),
            ("reuse address", option, [3, 1, 2], allow),
            (
                "rx ring, junk above",
                option,
                [3, JUNK | 263, JUNK | 5],
                notify,
            ),
            ("add membership", option, [3, 263, 1], notify),
            ("drop membership", option, [3, 263, 2], allow),
            ("packet version", option, [3, 263, 10], allow),
            ("copy threshold", option, [3, 263, 7], errno(libc::EPERM)),
            ("tx ring", option, [3, 263, 13], errno(libc::EPERM)),
            ("fanout", option, [3, 263, 18], errno(libc::EPERM)),
            ("qdisc bypass", option, [3, 263, 20], errno(libc::EPERM)),
            ("tcp option", option, [3, 6, 1], allow),
            ("bpf", libc::SYS_bpf, [0, 0, 0], errno(libc::EPERM)),
            ("ptrace", libc::SYS_ptrace, [0, 0, 0], errno(libc::EPERM)),
            (
                "io_uring",
                libc::SYS_io_uring_setup,
                [0, 0, 0],
                errno(libc::ENOSYS),
            ),
            ("clone3", libc::SYS_clone3, [0, 0, 0], errno(libc::ENOSYS)),
            ("clone thread", libc::SYS_clone, [0x3d_0f00, 0, 0], allow),
            (
                "clone newuser",
                libc::SYS_clone,
                [0x1000_0011, 0, 0],
                errno(libc::EPERM),
            ),
            (
                "clone newnet",
                libc::SYS_clone,
                [0x4000_0011, 0, 0],
                errno(libc::EPERM),
            ),
            (
                "clone parent",
                libc::SYS_clone,
                [0x8011, 0, 0],
                errno(libc::EPERM),
            ),
            ("own limit", libc::SYS_prlimit64, [JUNK, 1, 0], allow),
            (
                "limit of others",
                libc::SYS_prlimit64,
                [7, 1, 0],
                errno(libc::EPERM),
            ),
            (
                "type into a terminal",
                libc::SYS_ioctl,
                [0, JUNK | 0x5412, 0],
                errno(libc::EPERM),
            ),
            ("size of a terminal", libc::SYS_ioctl, [0, 0x5413, 0], allow),
            ("own filter", libc::SYS_seccomp, [1, 0, 0], allow),
            (
                "own listener",
                libc::SYS_seccomp,
                [1, 8 | 16, 0],
                errno(libc::EBUSY),
            ),
            ("bind, packet address", libc::SYS_bind, [3, 0, 20], notify),
            ("bind, internet address", libc::SYS_bind, [3, 0, 16], allow),
            ("x32", 0x4000_0029, [17, 3, 0], kill),
            ("read", libc::SYS_read, [0, 0, 0], allow),
        ] {
            assert_eq!(native(number, arguments), expected, "{what}");
        }
        assert_eq!(run(0x4000_0003, 1, [0; 6]), kill, "i386");
    }

    /// The kernel remembers that a call is allowed, and runs no filter for it, if nothing that the
    /// filter looks at on its way there is an argument.
    #[test]
    fn filter_looks_at_no_arguments_of_what_a_proxy_does_all_the_time() {
        let filter = governed();
        for number in [
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_recvfrom,
            libc::SYS_sendto,
            libc::SYS_recvmsg,
            libc::SYS_sendmsg,
            libc::SYS_splice,
            libc::SYS_futex,
            libc::SYS_epoll_pwait,
            libc::SYS_accept4,
            libc::SYS_connect,
            libc::SYS_close,
        ] {
            let (mut pc, mut a) = (0_usize, 0_u32);
            let allowed = loop {
                let sock_filter { code, jt, jf, k } = filter[pc];
                pc += 1;
                let jump = |taken: bool| usize::from(if taken { jt } else { jf });
                match (code, k) {
                    (0x20, NR) => a = nr(number),
                    (0x20, ARCH) => a = NATIVE,
                    (0x06, action) => break action == Action::Allow.encode(),
                    (0x15, k) => pc += jump(a == k),
                    (0x35, k) => pc += jump(a >= k),
                    _ => break false,
                }
            };
            assert!(allowed, "system call {number}");
        }
    }

    #[test]
    fn filter_size_fits_every_jump() {
        assert!(governed().len() < 256, "{}", governed().len());
    }
}
