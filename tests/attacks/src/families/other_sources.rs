//! C: traffic without a packet socket, or what leads to it.

use std::{ffi::CStr, path::Path};

use libc::{
    EACCES, EAFNOSUPPORT, EINVAL, ENODEV, ENOENT, ENXIO, EOPNOTSUPP, EPERM, EPROTONOSUPPORT,
    ESOCKTNOSUPPORT,
};

use super::word;
use crate::{
    attacker::{Attacker, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM},
    netlink,
    row::{Layer, Must, Outcome, Row, Seen, Setting, row},
    sys::{native, number},
    world::SPARE,
};

const REFUSED: Must = Must::Errno(EPERM);
const NO_FAMILY: Must = Must::Errno(EAFNOSUPPORT);
const NO_PROTOCOL: Must = Must::Errno(EPROTONOSUPPORT);
const CLOSED: Must = Must::Errno(EACCES);
/// What kernels without a family, or without its transport, say.
const WITHOUT: &[i32] = &[
    EAFNOSUPPORT,
    EPROTONOSUPPORT,
    ESOCKTNOSUPPORT,
    EINVAL,
    EPERM,
];
const ROOTS_FILES: Must =
    Must::Residual("--user root is no boundary: root's files and settings are open to user id 0");

pub(crate) const ROWS: &[Row] = &[
    row(
        "C1",
        "socket(AF_INET, SOCK_RAW): ICMP of others",
        Layer::Seccomp,
        REFUSED,
        socket::<2, 3, 1>,
    )
    .every_way(),
    row(
        "C1b",
        "socket(AF_INET, SOCK_RAW): TCP of others",
        Layer::Seccomp,
        REFUSED,
        socket::<2, 3, 6>,
    )
    .every_way(),
    row(
        "C1c",
        "socket(AF_INET6, SOCK_RAW)",
        Layer::Seccomp,
        REFUSED,
        socket::<10, 3, 58>,
    )
    .absent(&[EAFNOSUPPORT])
    .every_way(),
    row(
        "C1d",
        "the same, where a session grants captures",
        Layer::Seccomp,
        REFUSED,
        socket::<2, 3, 1>,
    )
    .within(Setting::Granted("")),
    row(
        "C2",
        "socket(AF_XDP)",
        Layer::Seccomp,
        NO_FAMILY,
        socket::<44, 3, 0>,
    )
    .absent(WITHOUT)
    .every_way(),
    row(
        "C3",
        "netlink: netfilter (NFLOG, NFQUEUE)",
        Layer::Seccomp,
        NO_PROTOCOL,
        socket::<16, 3, 12>,
    )
    .anyone()
    .absent(WITHOUT)
    .every_way(),
    row(
        "C3b",
        "netlink: the sockets of everybody (sock_diag)",
        Layer::Seccomp,
        NO_PROTOCOL,
        socket::<16, 3, 4>,
    )
    .anyone()
    .absent(WITHOUT)
    .every_way(),
    row(
        "C3c",
        "netlink: XFRM, the keys of IPsec",
        Layer::Seccomp,
        NO_PROTOCOL,
        socket::<16, 3, 6>,
    )
    .anyone()
    .absent(WITHOUT)
    .every_way(),
    row(
        "C3d",
        "netlink: the host's audit",
        Layer::Seccomp,
        NO_PROTOCOL,
        socket::<16, 3, 9>,
    )
    .anyone()
    .absent(WITHOUT)
    .every_way(),
    row(
        "C3e",
        "netlink: connector, the processes of everybody",
        Layer::Seccomp,
        NO_PROTOCOL,
        socket::<16, 3, 11>,
    )
    .anyone()
    .absent(WITHOUT)
    .every_way(),
    row(
        "C3f",
        "netlink: events of devices",
        Layer::Seccomp,
        NO_PROTOCOL,
        socket::<16, 3, 15>,
    )
    .anyone()
    .absent(WITHOUT)
    .every_way(),
    row(
        "C4",
        "generic netlink: join psample's packets",
        Layer::Powerless,
        REFUSED,
        psample,
    )
    .absent(&[ENOENT]),
    row(
        "C4b",
        "generic netlink: join drop monitor's packets",
        Layer::Powerless,
        REFUSED,
        drop_monitor,
    )
    .absent(&[ENOENT]),
    row(
        "C5",
        "route netlink: a clsact qdisc, to mirror packets",
        Layer::Powerless,
        REFUSED,
        clsact,
    )
    .absent(&[ENOENT, EOPNOTSUPP]),
    row(
        "C5b",
        "route netlink: another interface",
        Layer::Powerless,
        REFUSED,
        another_interface,
    )
    .absent(&[EOPNOTSUPP]),
    row(
        "C5c",
        "route netlink: another address",
        Layer::Powerless,
        REFUSED,
        another_address,
    ),
    row(
        "C5d",
        "SIOCSIFFLAGS: promiscuous mode",
        Layer::Powerless,
        REFUSED,
        interface_flags,
    )
    .every_way(),
    row(
        "C5e",
        "SIOCSIFNAME: another name for an interface",
        Layer::Powerless,
        REFUSED,
        rename,
    ),
    row(
        "C5f",
        "SIOCSHWTSTAMP: time stamps of a device",
        Layer::Powerless,
        REFUSED,
        time_stamps,
    )
    .absent(&[EOPNOTSUPP]),
    row(
        "C6",
        "every other family there is",
        Layer::Seccomp,
        NO_FAMILY,
        every_family,
    )
    .anyone(),
    row(
        "C6b",
        "socket(AF_CAN)",
        Layer::Seccomp,
        NO_FAMILY,
        socket::<29, 3, 1>,
    )
    .anyone()
    .absent(WITHOUT),
    row(
        "C6c",
        "socket(AF_BLUETOOTH)",
        Layer::Seccomp,
        NO_FAMILY,
        socket::<31, 3, 1>,
    )
    .anyone()
    .absent(WITHOUT),
    row(
        "C6d",
        "socket(AF_VSOCK)",
        Layer::Seccomp,
        NO_FAMILY,
        socket::<40, 1, 0>,
    )
    .anyone()
    .absent(WITHOUT),
    row(
        "C6e",
        "socket(AF_ALG)",
        Layer::Seccomp,
        NO_FAMILY,
        socket::<38, 5, 0>,
    )
    .anyone()
    .absent(WITHOUT),
    row(
        "C6f",
        "socket(AF_KEY)",
        Layer::Seccomp,
        NO_FAMILY,
        socket::<15, 3, 2>,
    )
    .absent(WITHOUT),
    row(
        "C6g",
        "socket(AF_IEEE802154)",
        Layer::Seccomp,
        NO_FAMILY,
        socket::<36, 3, 0>,
    )
    .absent(WITHOUT),
    row(
        "C6h",
        "socket(AF_LLC)",
        Layer::Seccomp,
        NO_FAMILY,
        socket::<26, 2, 0>,
    )
    .absent(WITHOUT),
    row(
        "C6i",
        "socket(AF_SMC)",
        Layer::Seccomp,
        NO_FAMILY,
        socket::<43, 1, 0>,
    )
    .anyone()
    .absent(WITHOUT),
    row(
        "C6j",
        "socket(AF_TIPC)",
        Layer::Seccomp,
        NO_FAMILY,
        socket::<30, 2, 0>,
    )
    .anyone()
    .absent(WITHOUT),
    row(
        "C6k",
        "socket(AF_RDS)",
        Layer::Seccomp,
        NO_FAMILY,
        socket::<21, 5, 0>,
    )
    .anyone()
    .absent(WITHOUT),
    row(
        "C7",
        "a tap of its own (/dev/net/tun)",
        Layer::Powerless,
        Must::OneOf(&[EACCES, EPERM]),
        tap,
    )
    .absent(&[ENOENT, ENODEV]),
    row("C7b", "open /dev/mem", Layer::User, CLOSED, dev_mem)
        .root(REFUSED)
        .absent(&[ENOENT, ENXIO, EPERM]),
    row("C7c", "open /proc/kcore", Layer::User, CLOSED, kcore)
        .root(REFUSED)
        .absent(&[ENOENT, EPERM]),
    row(
        "C7d",
        "make a device file of the host's memory",
        Layer::Landlock,
        Must::OneOf(&[EACCES, EPERM]),
        mknod,
    )
    .every_way(),
    row("C7e", "open usbmon", Layer::User, CLOSED, usbmon)
        .root(REFUSED)
        .absent(&[ENOENT, ENODEV]),
    row("C9", "perf_event_open", Layer::Seccomp, REFUSED, perf).every_way(),
    row(
        "C9b",
        "bpf: load a program",
        Layer::Seccomp,
        REFUSED,
        load_program,
    )
    .every_way(),
    row("C9c", "bpf: make a map", Layer::Seccomp, REFUSED, make_map).every_way(),
    row(
        "C9d",
        "a kprobe through tracefs",
        Layer::User,
        CLOSED,
        kprobe,
    )
    .root(ROOTS_FILES)
    .absent(&[ENOENT]),
    row(
        "C12",
        "userfaultfd, to stop the kernel while it copies",
        Layer::Seccomp,
        REFUSED,
        userfaultfd,
    )
    .anyone()
    .absent(&[EPERM])
    .every_way(),
    row(
        "C13",
        "fanotify: what others open",
        Layer::Powerless,
        REFUSED,
        fanotify,
    )
    .absent(&[libc::ENOSYS])
    .every_way(),
    row(
        "C14",
        "the network's settings: forward packets",
        Layer::User,
        CLOSED,
        forward,
    )
    .root(ROOTS_FILES),
];

fn socket<const FAMILY: u64, const KIND: u64, const PROTOCOL: u64>(a: &mut Attacker) -> Outcome {
    a.socket(FAMILY, KIND, PROTOCOL)?;
    Seen::won("a socket")
}

fn every_family(a: &mut Attacker) -> Outcome {
    const KNOWN: [u64; 5] = [1, 2, 10, 16, 17];
    const KINDS: [u64; 5] = [SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, 4, 5];
    let mut made = Vec::new();
    let mut others = Vec::new();
    for family in (0..=64).filter(|family| !KNOWN.contains(family)) {
        for kind in KINDS {
            match a.open_socket(family, kind, 0) {
                Ok(_) => made.push(family),
                Err(EAFNOSUPPORT) => {}
                Err(errno) => others.push(errno),
            }
        }
    }
    made.dedup();
    match (made.len(), others.first()) {
        (0, None) => Err(EAFNOSUPPORT),
        (0, Some(errno)) => Err(*errno),
        (count, _) => Seen::won(format!("sockets of {count} families")),
    }
}

/// Joins the first multicast group of a generic family.
fn join(a: &mut Attacker, family: &CStr) -> Outcome {
    const CONTROLLER: u16 = 16;
    const GET_FAMILY: [u8; 4] = [3, 1, 0, 0];
    const FAMILY_NAME: u16 = 2;
    const ADD_MEMBERSHIP: u64 = 1;
    const SOL_NETLINK: u64 = 270;
    let name = netlink::attribute(FAMILY_NAME, family.to_bytes_with_nul());
    let body = [&GET_FAMILY[..], &name].concat();
    let socket = a.open_socket(16, 3, 16)?;
    let answer = netlink::question(&mut a.memory, socket, CONTROLLER, &body)?;
    // CTRL_ATTR_MCAST_GROUPS (7), the first of them, CTRL_ATTR_MCAST_GRP_ID (2).
    let attributes = answer.get(20..).unwrap_or(&[]);
    let group = netlink::find(attributes, 7)
        .and_then(|groups| netlink::find(groups, 1))
        .and_then(|group| netlink::find(group, 2))
        .ok_or(ENOENT)?;
    a.set(socket, SOL_NETLINK, ADD_MEMBERSHIP, group)?;
    Seen::won("in the group")
}

fn psample(a: &mut Attacker) -> Outcome {
    join(a, c"psample")
}

fn drop_monitor(a: &mut Attacker) -> Outcome {
    join(a, c"NET_DM")
}

const LOOPBACK: u32 = 1;

fn clsact(a: &mut Attacker) -> Outcome {
    netlink::clsact(&mut a.memory, LOOPBACK)?;
    Seen::won("a place for filters that mirror")
}

fn another_interface(a: &mut Attacker) -> Outcome {
    netlink::simple(&mut a.memory, "ifb", "another")?;
    Seen::won("an interface")
}

fn another_address(a: &mut Attacker) -> Outcome {
    netlink::address(&mut a.memory, LOOPBACK, [10, 98, 0, 1], 24)?;
    Seen::won("an address")
}

/// An `ioctl` on an ordinary socket, about `lo`.
fn about_loopback(a: &mut Attacker, request: u64, value: &[u8]) -> Outcome {
    about(a, "lo", request, value)
}

/// Asks for something of an interface.
fn about(a: &mut Attacker, name: &str, request: u64, value: &[u8]) -> Outcome {
    let socket = a.open_socket(2, SOCK_DGRAM, 0)?;
    let mut about = [0_u8; 40];
    about[..name.len()].copy_from_slice(name.as_bytes());
    about[16..16 + value.len()].copy_from_slice(value);
    let about = a.memory.put(&about);
    a.attack(number::IOCTL, [socket, request, about, 0, 0, 0])?;
    Seen::won("done")
}

fn interface_flags(a: &mut Attacker) -> Outcome {
    const UP_RUNNING_PROMISCUOUS: u16 = 0x1 | 0x40 | 0x100;
    about_loopback(a, 0x8914, &UP_RUNNING_PROMISCUOUS.to_ne_bytes())
}

fn rename(a: &mut Attacker) -> Outcome {
    // One that is down: before Linux 6.2 the name of one that is up stays as it is.
    about(a, SPARE, 0x8923, b"renamed\0")
}

fn time_stamps(a: &mut Attacker) -> Outcome {
    let settings = a.memory.zeros(12);
    about_loopback(a, 0x89b0, &settings.to_ne_bytes())
}

/// Opens a file for something that only its owner may.
pub(crate) fn open(a: &mut Attacker, path: &Path, flags: i32) -> Result<u64, i32> {
    let path = path.as_os_str().as_encoded_bytes();
    let path = a.memory.put(&[path, &[0]].concat());
    let flags = word(flags | libc::O_CLOEXEC);
    native(
        libc::SYS_openat,
        [word(libc::AT_FDCWD), path, flags, 0o600, 0, 0],
    )
}

fn tap(a: &mut Attacker) -> Outcome {
    const TUNSETIFF: u64 = 0x4004_54ca;
    const TAP_NO_PI: u16 = 0x2 | 0x1000;
    // The host's may be hidden, or not made yet.
    let device = open(a, Path::new("/dev/net/tun"), libc::O_RDWR)?;
    let mut about = [0_u8; 40];
    about[..9].copy_from_slice(b"attacktap");
    about[16..18].copy_from_slice(&TAP_NO_PI.to_ne_bytes());
    let about = a.memory.put(&about);
    a.attack(number::IOCTL, [device, TUNSETIFF, about, 0, 0, 0])?;
    Seen::won("a tap")
}

fn dev_mem(a: &mut Attacker) -> Outcome {
    open(a, Path::new("/dev/mem"), libc::O_RDONLY)?;
    Seen::won("the host's memory")
}

fn kcore(a: &mut Attacker) -> Outcome {
    open(a, Path::new("/proc/kcore"), libc::O_RDONLY)?;
    Seen::won("the kernel's memory")
}

fn usbmon(a: &mut Attacker) -> Outcome {
    open(a, Path::new("/dev/usbmon0"), libc::O_RDONLY)?;
    Seen::won("what goes over USB")
}

fn mknod(a: &mut Attacker) -> Outcome {
    const MEMORY: u64 = 1 << 8 | 1;
    let name = format!("/tmp/attacks-device-{}", std::process::id());
    let path = a.memory.put(&[name.as_bytes(), &[0]].concat());
    let mode = u64::from(libc::S_IFCHR);
    a.attack(
        number::MKNODAT,
        [word(libc::AT_FDCWD), path, mode, MEMORY, 0, 0],
    )?;
    let _ = std::fs::remove_file(name);
    Seen::won("a device")
}

fn perf(a: &mut Attacker) -> Outcome {
    // PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CONTEXT_SWITCHES, of the whole of a processor.
    const SIZE: u32 = 64;
    let mut about = [1_u32.to_ne_bytes(), SIZE.to_ne_bytes()].concat();
    about.extend(3_u64.to_ne_bytes());
    about.resize(SIZE as usize, 0);
    let about = a.memory.put(&about);
    a.attack(
        number::PERF_EVENT_OPEN,
        [about, word(-1), 0, word(-1), 0, 0],
    )?;
    Seen::won("the events of a processor")
}

fn load_program(a: &mut Attacker) -> Outcome {
    let code = [0xb7_u64, 0x95].map(u64::to_ne_bytes).concat();
    let (code, licence) = (a.memory.put(&code), a.memory.text(c"MIT"));
    let mut attributes = [1_u32.to_ne_bytes(), 2_u32.to_ne_bytes()].concat();
    attributes.extend(code.to_ne_bytes());
    attributes.extend(licence.to_ne_bytes());
    attributes.resize(64, 0);
    let attributes = a.memory.put(&attributes);
    a.attack(number::BPF, [5, attributes, 64, 0, 0, 0])?;
    Seen::won("a program in the kernel")
}

fn make_map(a: &mut Attacker) -> Outcome {
    let words = [2_u32, 4, 8, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    let attributes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let attributes = a.memory.put(&attributes);
    a.attack(number::BPF, [0, attributes, 48, 0, 0, 0])?;
    Seen::won("a map")
}

fn kprobe(a: &mut Attacker) -> Outcome {
    // Opened, and not written to.
    open(
        a,
        Path::new("/run/attacks/tracing/kprobe_events"),
        libc::O_WRONLY,
    )?;
    Seen::won("the kernel's functions, to look into")
}

fn userfaultfd(a: &mut Attacker) -> Outcome {
    const USER_MODE_ONLY: u64 = 1;
    a.attack(number::USERFAULTFD, [USER_MODE_ONLY, 0, 0, 0, 0, 0])?;
    Seen::won("page faults of its own")
}

fn fanotify(a: &mut Attacker) -> Outcome {
    const CONTENT: u64 = 4;
    a.attack(number::FANOTIFY_INIT, [CONTENT, 0, 0, 0, 0, 0])?;
    Seen::won("a say in what others open")
}

fn forward(a: &mut Attacker) -> Outcome {
    // Opened, and not written to.
    open(
        a,
        Path::new("/proc/sys/net/ipv4/ip_forward"),
        libc::O_WRONLY,
    )?;
    Seen::won("it may write there")
}
