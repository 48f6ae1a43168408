//! B: a capture socket that was granted, made to give more.
//!
//! Without capwarden these attackers make such a socket themselves and put the grant on it as a
//! filter that is not locked ([`Attacker::filtered`]); where a filter could be no match (a cap, a
//! deadline), they have one without.

use std::{
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, AtomicPtr, Ordering},
    time::{Duration, Instant},
};

use libc::{EACCES, EINVAL, ENOENT, ENOMEM, ENOPROTOOPT, ENOSYS, EOPNOTSUPP, EPERM};

use super::word;
use crate::{
    attacker::{Attacker, SOL_PACKET, SOL_SOCKET, contains},
    netlink, ring,
    row::{Layer, Must, Outcome, Row, Seen, Setting, row},
    sys::{Answer, native, number, process},
    world::{BODY, CW0, CW1, FANOUT_GROUP, GRANTED_PORT, SECRET},
};

const REFUSED: Must = Must::Errno(EPERM);
const NONE: Must = Must::Heard(0);
const HERE: Setting = Setting::Granted("");
const STILL: Setting = Setting::Orphaned;

pub(crate) const ROWS: &[Row] = &[
    row(
        "B1",
        "SO_DETACH_FILTER",
        Layer::Broker,
        Must::Errno(ENOENT),
        detach,
    )
    .every_way()
    .within(HERE),
    row(
        "B1b",
        "a filter of one's own on, then off",
        Layer::Broker,
        NONE,
        attach_detach,
    )
    .within(HERE),
    row(
        "B2",
        "SO_ATTACH_FILTER: a filter that takes all",
        Layer::Guard,
        NONE,
        attach_all,
    )
    .within(HERE),
    row(
        "B2b",
        "the same by int 0x80",
        Layer::Seccomp,
        NONE,
        attach_foreign,
    )
    .i386_only()
    .within(HERE),
    row("B3", "SO_ATTACH_BPF", Layer::Lock, REFUSED, attach_bpf)
        .every_way()
        .within(HERE),
    row(
        "B3b",
        "SO_LOCK_FILTER off, then SO_DETACH_FILTER",
        Layer::Lock,
        REFUSED,
        unlock,
    )
    .every_way()
    .within(HERE),
    row(
        "B5",
        "bind to an interface that was not granted",
        Layer::Broker,
        REFUSED,
        rebind,
    )
    .within(HERE),
    row(
        "B5b",
        "the same with a longer address, past the broker",
        Layer::Guard,
        NONE,
        rebind_longer,
    )
    .within(HERE),
    row(
        "B5c",
        "bind to all interfaces",
        Layer::Guard,
        NONE,
        rebind_any,
    )
    .within(HERE),
    row(
        "B5d",
        "bind to an address that changes while the agent reads it",
        Layer::Guard,
        NONE,
        rebind_race,
    )
    .within(HERE),
    row(
        "B6",
        "promiscuous mode on an interface that was not granted",
        Layer::Guard,
        NONE,
        promiscuous,
    )
    .within(HERE),
    row(
        "B8",
        "PACKET_COPY_THRESH: whole packets past a snap length",
        Layer::Seccomp,
        REFUSED,
        copy_threshold,
    )
    .every_way()
    .within(HERE),
    row(
        "B8d",
        "payload by a ring of TPACKET_V3",
        Layer::Guard,
        NONE,
        ring_v3,
    )
    .within(HERE),
    row(
        "B8b",
        "payload by a ring of TPACKET_V1",
        Layer::Guard,
        NONE,
        ring_v1,
    )
    .within(HERE),
    row(
        "B8c",
        "payload by a ring of TPACKET_V2",
        Layer::Guard,
        NONE,
        ring_v2,
    )
    .within(HERE),
    row(
        "B9",
        "PACKET_VNET_HDR",
        Layer::Seccomp,
        REFUSED,
        packet_option::<15>,
    )
    .every_way()
    .within(HERE),
    row(
        "B9b",
        "PACKET_VNET_HDR_SZ",
        Layer::Seccomp,
        REFUSED,
        header_size,
    )
    .absent(&[ENOPROTOOPT])
    .every_way()
    .within(HERE),
    row("B9c", "PACKET_TX_RING", Layer::Seccomp, REFUSED, send_ring)
        .every_way()
        .within(HERE),
    row(
        "B9d",
        "PACKET_LOSS",
        Layer::Seccomp,
        REFUSED,
        packet_option::<14>,
    )
    .every_way()
    .within(HERE),
    row(
        "B9e",
        "PACKET_TX_HAS_OFF",
        Layer::Seccomp,
        REFUSED,
        packet_option::<19>,
    )
    .every_way()
    .within(HERE),
    row(
        "B9f",
        "PACKET_ORIGDEV",
        Layer::Seccomp,
        REFUSED,
        packet_option::<9>,
    )
    .every_way()
    .within(HERE),
    row(
        "B9g",
        "PACKET_QDISC_BYPASS",
        Layer::Seccomp,
        REFUSED,
        packet_option::<20>,
    )
    .every_way()
    .within(HERE),
    row(
        "B11",
        "io_uring: setsockopt as a command",
        Layer::Seccomp,
        Must::Errno(ENOSYS),
        by_ring,
    )
    .absent(&[ENOSYS, EINVAL, EOPNOTSUPP, EPERM])
    .within(HERE),
    row(
        "B12",
        "a cap of 10 packets: forks, duplicates, many sockets",
        Layer::Guard,
        Must::Heard(10),
        share,
    )
    .within(Setting::Granted("--packets 10")),
    row(
        "B13",
        "open an eBPF map by its id",
        Layer::Seccomp,
        REFUSED,
        map_by_id,
    )
    .every_way()
    .within(HERE),
    row(
        "B13b",
        "open an eBPF map by its path",
        Layer::Seccomp,
        REFUSED,
        map_by_path,
    )
    .every_way()
    .within(HERE),
    row(
        "B14",
        "payload by recvmsg, MSG_PEEK and MSG_TRUNC",
        Layer::Guard,
        NONE,
        receive_ways,
    )
    .within(HERE),
    row(
        "B14b",
        "payload by recvmmsg",
        Layer::Guard,
        NONE,
        receive_many,
    )
    .within(HERE),
    row(
        "B14c",
        "payload by splice through a pipe",
        Layer::Guard,
        NONE,
        splice,
    )
    .absent(&[EINVAL])
    .within(HERE),
    row(
        "B15",
        "outlive a deadline of 3 s, deaf to SIGTERM",
        Layer::Guard,
        NONE,
        outlive,
    )
    .within(Setting::Granted("--seconds 3")),
    row(
        "B17",
        "SO_RCVBUFFORCE",
        Layer::Powerless,
        REFUSED,
        force_buffer,
    )
    .every_way()
    .within(HERE),
    row(
        "B17b",
        "SO_MARK: take the mark off what it sends",
        Layer::Powerless,
        REFUSED,
        mark,
    )
    .every_way()
    .within(HERE),
    row(
        "B18",
        "a receive ring of 96 MiB",
        Layer::Broker,
        Must::Errno(ENOMEM),
        huge_ring,
    )
    .absent(&[ENOMEM])
    .within(HERE)
    .needs(
        &["ring caps"],
        "a ring is charged to nobody, and may have 2 GiB",
    ),
    row(
        "B19",
        "use a socket of a dead agent's session",
        Layer::Guard,
        NONE,
        held,
    )
    .within(STILL),
    row(
        "B19b",
        "the same, freed of a filter of one's own",
        Layer::Seccomp,
        Must::Errno(ENOSYS),
        held_detach,
    )
    .within(STILL),
    row(
        "B19c",
        "the same, bound to another interface",
        Layer::Guard,
        NONE,
        held_rebind,
    )
    .within(STILL),
    row(
        "B20",
        "PACKET_STATISTICS: how many packets there are of others",
        Layer::Guard,
        NONE,
        statistics,
    )
    .within(HERE),
    row(
        "B21",
        "a filter that takes all, from memory that is not to be read (PR_SET_DUMPABLE)",
        Layer::Guard,
        NONE,
        attach_hidden,
    )
    .within(HERE),
    row(
        "B21b",
        "bind to another interface, from such memory",
        Layer::Broker,
        REFUSED,
        rebind_hidden,
    )
    .within(HERE),
    row(
        "B22",
        "a filter that changes while the agent reads it",
        Layer::Guard,
        NONE,
        attach_race,
    )
    .within(HERE),
    row(
        "B23",
        "a filter on a number that comes to mean another socket",
        Layer::Guard,
        NONE,
        attach_swapped,
    )
    .within(HERE),
    row(
        "B6b",
        "promiscuous mode there, for its own sake",
        Layer::Guard,
        Must::Residual("memberships may be asked for on any interface; nothing is heard by them"),
        make_promiscuous,
    )
    .within(HERE),
    row(
        "B24",
        "SO_GET_FILTER: read the grant",
        Layer::Lock,
        Must::Errno(EACCES),
        read_filter,
    )
    .within(HERE),
];

const DETACH: u64 = 27;

fn detach(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    let tried = a.option(socket, SOL_SOCKET, DETACH, &[0; 4]);
    a.after(tried, socket, SECRET)
}

const ALLOW: &[(u16, u8, u8, u32)] = &[(0x06, 0, 0, 0xffff)];

fn attach(a: &mut Attacker, socket: u64) -> Answer {
    let program = a.program(ALLOW);
    a.set_at(socket, SOL_SOCKET, 26, program, 16)
}

fn attach_all(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    attach(a, socket)?;
    a.listen(socket, BODY)
}

fn attach_detach(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    attach(a, socket)?;
    a.set(socket, SOL_SOCKET, DETACH, &[0; 4])?;
    a.listen(socket, SECRET)
}

fn attach_foreign(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    let program = a.program_by_way(ALLOW);
    let arguments = [socket, SOL_SOCKET, 26, program, 8, 0];
    a.attack(number::SETSOCKOPT, arguments)?;
    a.listen(socket, BODY)
}

/// A program that takes all, where it can be loaded; otherwise a number that is none, which the
/// kernel looks at after the lock.
fn program(a: &mut Attacker) -> i32 {
    const SOCKET_FILTER: u32 = 1;
    // r0 = 65535; exit
    let code = [0x0000_ffff_0000_00b7_u64, 0x95];
    let code: Vec<u8> = code.iter().flat_map(|insn| insn.to_ne_bytes()).collect();
    let (code, licence) = (a.memory.put(&code), a.memory.text(c"MIT"));
    let mut attributes = [SOCKET_FILTER.to_ne_bytes(), 2_u32.to_ne_bytes()].concat();
    attributes.extend(code.to_ne_bytes());
    attributes.extend(licence.to_ne_bytes());
    attributes.resize(64, 0);
    let attributes = a.memory.put(&attributes);
    let loaded = a.call(number::BPF, [5, attributes, 64, 0, 0, 0]);
    loaded.ok().and_then(|fd| fd.try_into().ok()).unwrap_or(-1)
}

fn attach_bpf(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    let program = program(a);
    let tried = a.option(socket, SOL_SOCKET, 50, &program.to_ne_bytes());
    a.after(tried, socket, BODY)
}

fn unlock(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    let tried = a.option(socket, SOL_SOCKET, 44, &[0; 4]);
    if tried.is_ok() {
        a.set(socket, SOL_SOCKET, DETACH, &[0; 4])?;
    }
    a.after(tried, socket, SECRET)
}

fn rebind(a: &mut Attacker) -> Outcome {
    let socket = a.capture()?;
    let tried = a.bind(socket, CW1, 20);
    a.after(tried, socket, SECRET)
}

fn rebind_longer(a: &mut Attacker) -> Outcome {
    let socket = a.capture()?;
    a.bind(socket, CW1, 32)?;
    a.listen(socket, SECRET)
}

fn rebind_any(a: &mut Attacker) -> Outcome {
    let socket = a.capture()?;
    a.bind(socket, 0, 20)?;
    a.listen(socket, SECRET)
}

/// Another thread changes the address; whichever interface it comes to be, it must be deaf.
fn rebind_race(a: &mut Attacker) -> Outcome {
    const ROUNDS: usize = 200;
    let socket = a.capture()?;
    let address = a.packet_address(CW0);
    let done = AtomicBool::new(false);
    let room = a.memory.zeros(32);
    let index =
        std::ptr::with_exposed_provenance_mut::<u32>(usize::try_from(address + 4).unwrap_or(0));
    let index = AtomicPtr::new(index);
    let mut astray = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let index = index.load(Ordering::Relaxed);
            while !done.load(Ordering::Relaxed) {
                for interface in [CW0, CW1] {
                    // SAFETY: within the address, which only the kernel reads.
                    unsafe { std::ptr::write_volatile(index, interface) };
                }
            }
        });
        for _ in 0..ROUNDS {
            let _ = a.call(number::BIND, [socket, address, 20, 0, 0, 0]);
            a.memory.write(room, &20_u32.to_ne_bytes());
            let named = native(libc::SYS_getsockname, [socket, room + 8, room, 0, 0, 0]);
            if named.is_ok() && a.memory.read_u32(room + 12) == CW1 {
                astray += 1;
                if astray == 3 {
                    break;
                }
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    a.listen(socket, SECRET)
}

/// `struct packet_mreq`: the interface, `PACKET_MR_PROMISC`.
fn promiscuity_of(interface: u32) -> [u8; 16] {
    let mut request = [0_u8; 16];
    request[..4].copy_from_slice(&interface.to_ne_bytes());
    request[4] = 1;
    request
}

fn promiscuous(a: &mut Attacker) -> Outcome {
    let socket = a.capture()?;
    a.set(socket, SOL_PACKET, 1, &promiscuity_of(CW1))?;
    a.listen(socket, SECRET)
}

const VERSION: u64 = 10;
const RX_RING: u64 = 5;

/// `struct tpacket_req`.
fn ring_of(block: u32, blocks: u32, frame: u32) -> Vec<u8> {
    let words = [block, blocks, frame, block / frame * blocks];
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// With frames that are too small, whole packets go to the queue.
fn copy_threshold(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    let tried = a.option(socket, SOL_PACKET, 7, &1500_u32.to_ne_bytes());
    a.set(socket, SOL_PACKET, RX_RING, &ring_of(4096, 1, 64))?;
    a.after(tried, socket, BODY)
}

/// Parts of a ring that have `BODY` in them, whatever their headers say.
fn by_ring_of(a: &mut Attacker, version: u32) -> Outcome {
    const FRAME: usize = 2048;
    const FRAMES: usize = 128;
    const BLOCKS: u32 = 16;
    const MILLISECONDS: u32 = 10;
    let socket = a.capture()?;
    a.set(socket, SOL_PACKET, VERSION, &version.to_ne_bytes())?;
    let size = FRAME * FRAMES;
    let block = u32::try_from(size).unwrap_or(0) / BLOCKS;
    let mut request = ring_of(block, BLOCKS, 2048);
    if version == 2 {
        // A block is handed over after so long; nothing private, no features.
        let words = [MILLISECONDS, 0, 0];
        request.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
    }
    a.set(socket, SOL_PACKET, RX_RING, &request)?;
    a.bind(socket, CW0, 20)?;
    let at = native(libc::SYS_mmap, [0, size as u64, 3, 1, socket, 0])?;
    let frames = std::ptr::with_exposed_provenance::<u8>(usize::try_from(at).unwrap_or(0));
    let mut counted = [false; FRAMES];
    a.hear(BODY, |_| {
        for (number, counted) in counted.iter_mut().enumerate() {
            let mut frame = vec![0; FRAME];
            let from = frames.wrapping_add(number * FRAME);
            // SAFETY: a part of the mapping, which the kernel alone writes to.
            unsafe { std::ptr::copy_nonoverlapping(from, frame.as_mut_ptr(), FRAME) };
            if !*counted && contains(&frame, BODY) {
                *counted = true;
                return Ok(frame);
            }
        }
        Err(libc::EAGAIN)
    })
}

fn ring_v1(a: &mut Attacker) -> Outcome {
    by_ring_of(a, 0)
}

fn ring_v2(a: &mut Attacker) -> Outcome {
    by_ring_of(a, 1)
}

fn ring_v3(a: &mut Attacker) -> Outcome {
    by_ring_of(a, 2)
}

fn packet_option<const OPTION: u64>(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    a.option(socket, SOL_PACKET, OPTION, &1_u32.to_ne_bytes())?;
    Seen::won("the option is set")
}

fn header_size(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    a.option(socket, SOL_PACKET, 24, &10_u32.to_ne_bytes())?;
    Seen::won("the option is set")
}

fn send_ring(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    a.option(socket, SOL_PACKET, 13, &ring_of(4096, 1, 2048))?;
    Seen::won("a ring to send with")
}

fn by_ring(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    let socket_fd = i32::try_from(socket).unwrap_or(-1);
    // SOCKET_URING_OP_SETSOCKOPT, PACKET_COPY_THRESH.
    let value = a.memory.put(&1500_u32.to_ne_bytes());
    ring::set_option(a, socket_fd, [263, 7], value)?;
    Seen::won("the option is set")
}

/// In each packet that was granted: its port.
const PORT: &[u8] = &GRANTED_PORT.to_be_bytes();

/// All that all of them hear, each packet once for each who hears it.
fn share(a: &mut Attacker) -> Outcome {
    const CHILDREN: usize = 3;
    const MORE_SOCKETS: usize = 2;
    deaf_to_signals(a)?;
    let mut sockets = vec![a.capture()?];
    sockets.push(native(libc::SYS_dup, [sockets[0], 0, 0, 0, 0, 0])?);
    // Once the cap is reached, there are no more.
    sockets.extend((0..MORE_SOCKETS).map_while(|_| a.capture().ok()));
    let (read, write) = process::pipe().map_err(|_| libc::EMFILE)?;
    let [read, write] = [&read, &write].map(|end| word(end.as_raw_fd()));
    for _ in 0..CHILDREN {
        process::spawn(|| {
            sockets.extend(a.capture());
            let any = |a: &Attacker| {
                let received = sockets.iter().find_map(|socket| a.receive(*socket).ok());
                received.ok_or(libc::EAGAIN)
            };
            let heard = match a.hear(PORT, any) {
                Ok(Seen::Heard(count)) => count,
                _ => 0,
            };
            let at = a.memory.put(&heard.to_ne_bytes());
            let _ = native(libc::SYS_write, [write, at, 8, 0, 0, 0]);
        })?;
    }
    let room = a.memory.zeros(8);
    let mut heard = 0;
    for _ in 0..CHILDREN {
        native(libc::SYS_read, [read, room, 8, 0, 0, 0])?;
        heard += u64::from(a.memory.read_u32(room));
    }
    Ok(Seen::Heard(heard))
}

/// When a session ends, its processes are asked to.
fn deaf_to_signals(a: &mut Attacker) -> Answer {
    let all = a.memory.put(&u64::MAX.to_ne_bytes());
    native(libc::SYS_rt_sigprocmask, [0, all, 0, 8, 0, 0])
}

fn map_by_id(a: &mut Attacker) -> Outcome {
    let attributes = a.memory.put(&a.world.map.to_ne_bytes());
    a.memory.zeros(32);
    a.attack(number::BPF, [14, attributes, 12, 0, 0, 0])?;
    Seen::won("a map of somebody's")
}

fn map_by_path(a: &mut Attacker) -> Outcome {
    let path = a.world.pinned.as_os_str().as_encoded_bytes().to_vec();
    let path = a.memory.put(&[path, vec![0]].concat());
    let attributes = a.memory.put(&[path.to_ne_bytes(), [0; 8]].concat());
    a.attack(number::BPF, [7, attributes, 16, 0, 0, 0])?;
    Seen::won("a map of somebody's")
}

/// A `struct msghdr` with room for one piece.
fn message(a: &mut Attacker) -> (u64, u64) {
    let room = a.memory.zeros(1 << 14);
    let piece = a.piece(room, 1 << 14);
    let words = [0, 0, piece, 1, 0, 0, 0];
    let words: Vec<u8> = words
        .iter()
        .flat_map(|word: &u64| word.to_ne_bytes())
        .collect();
    (a.memory.put(&words), room)
}

fn receive_ways(a: &mut Attacker) -> Outcome {
    const DONTWAIT: u64 = 0x40;
    const PEEK: u64 = 2;
    const TRUNC: u64 = 0x20;
    let socket = a.capture()?;
    let (message, room) = message(a);
    a.hear(BODY, |a| {
        let read = |flags: u64| -> Result<Vec<u8>, i32> {
            a.memory.write(room, &[0; 256]);
            native(libc::SYS_recvmsg, [socket, message, flags, 0, 0, 0])?;
            // Whatever the length is said to be.
            Ok(a.memory.read(room, 256))
        };
        let peeked = read(DONTWAIT | PEEK | TRUNC)?;
        let taken = read(DONTWAIT | TRUNC)?;
        Ok(if contains(&peeked, BODY) {
            peeked
        } else {
            taken
        })
    })
}

fn receive_many(a: &mut Attacker) -> Outcome {
    let socket = a.capture()?;
    let (message, room) = message(a);
    // struct mmsghdr: a msghdr of 56 bytes, and a length.
    let header = a.memory.read(message, 56);
    let header = a.memory.put(&[header, vec![0; 8]].concat());
    a.hear(BODY, |a| {
        native(libc::SYS_recvmmsg, [socket, header, 1, 0x40, 0, 0])?;
        Ok(a.memory.read(room, 256))
    })
}

fn splice(a: &mut Attacker) -> Outcome {
    const NONBLOCK: u64 = 2;
    let socket = a.capture()?;
    let (read, write) = process::pipe().map_err(|_| libc::EMFILE)?;
    let [read, write] = [&read, &write].map(|end| word(end.as_raw_fd()));
    let room = a.memory.zeros(4096);
    a.hear(BODY, |a| {
        let count = native(libc::SYS_splice, [socket, 0, write, 0, 2048, NONBLOCK])?;
        native(libc::SYS_read, [read, room, count, 0, 0, 0])?;
        Ok(a.memory.read(room, usize::try_from(count).unwrap_or(0)))
    })
}

fn outlive(a: &mut Attacker) -> Outcome {
    const DEADLINE: Duration = Duration::from_millis(3_050);
    deaf_to_signals(a)?;
    let socket = a.capture()?;
    let start = Instant::now();
    while start.elapsed() < DEADLINE {
        // What came in time may be read.
        match a.listen(socket, PORT)? {
            Seen::Heard(_) => {}
            other => return Ok(other),
        }
    }
    a.listen(socket, PORT)
}

fn force_buffer(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    a.option(socket, SOL_SOCKET, 33, &(64_u32 << 20).to_ne_bytes())?;
    Seen::won("a buffer beyond the host's limit")
}

fn mark(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    a.option(socket, SOL_SOCKET, 36, &[0; 4])?;
    Seen::won("a mark of its choice")
}

fn huge_ring(a: &mut Attacker) -> Outcome {
    let socket = a.capture()?;
    a.set(socket, SOL_PACKET, RX_RING, &ring_of(1 << 20, 96, 2048))?;
    Seen::won("96 MiB of the kernel's memory")
}

fn held(a: &mut Attacker) -> Outcome {
    let socket = a.held.ok_or(libc::EBADF)?;
    if !a.world.governed {
        a.set(socket, SOL_SOCKET, DETACH, &[0; 4])?;
    }
    a.listen(socket, SECRET)
}

fn held_detach(a: &mut Attacker) -> Outcome {
    let socket = a.held.ok_or(libc::EBADF)?;
    // An earlier attacker may have taken it off; there is one on again then.
    let program = a.program(&[(0x06, 0, 0, 42)]);
    let tried = a.set_at(socket, SOL_SOCKET, 26, program, 16);
    let tried = tried.and_then(|_| a.set(socket, SOL_SOCKET, DETACH, &[0; 4]));
    a.after(tried, socket, SECRET)
}

fn held_rebind(a: &mut Attacker) -> Outcome {
    let socket = a.held.ok_or(libc::EBADF)?;
    a.bind(socket, CW1, 32)?;
    a.listen(socket, SECRET)
}

/// What the kernel has counted for a socket that listens where nothing was granted.
fn statistics(a: &mut Attacker) -> Outcome {
    const STATISTICS: u64 = 6;
    let socket = a.capture()?;
    a.bind(socket, CW1, 32)?;
    let value = a.memory.zeros(8);
    let length = a.memory.put(&8_u32.to_ne_bytes());
    let read = [socket, SOL_PACKET, STATISTICS, value, length, 0];
    // Reading sets it back to none: what was queued before the bind is not of there.
    while a.receive(socket).is_ok() {}
    native(libc::SYS_getsockopt, read)?;
    if let Seen::Broken(why) = a.listen(socket, SECRET)? {
        return Seen::broken(why);
    }
    native(libc::SYS_getsockopt, read)?;
    Ok(Seen::Heard(a.memory.read_u32(value).into()))
}

fn hide() -> Answer {
    let option = word(libc::PR_SET_DUMPABLE);
    native(libc::SYS_prctl, [option, 0, 0, 0, 0, 0])
}

fn attach_hidden(a: &mut Attacker) -> Outcome {
    hide()?;
    attach_all(a)
}

fn rebind_hidden(a: &mut Attacker) -> Outcome {
    hide()?;
    rebind(a)
}

/// Another thread changes the program's only instruction, from one that takes nothing to one that takes
/// all; whichever was read, the grant is behind it.
fn attach_race(a: &mut Attacker) -> Outcome {
    const ROUNDS: usize = 50;
    let socket = a.filtered()?;
    let program = a.program(ALLOW);
    let code = a.memory.read(program + 8, 8);
    let code = code.try_into().map_or(0, usize::from_ne_bytes);
    let verdict = AtomicPtr::new(std::ptr::with_exposed_provenance_mut::<u32>(code + 4));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let verdict = verdict.load(Ordering::Relaxed);
            while !done.load(Ordering::Relaxed) {
                for value in [0, 0xffff] {
                    // SAFETY: within the program, which only the kernel and the agent read.
                    unsafe { std::ptr::write_volatile(verdict, value) };
                }
            }
        });
        for _ in 0..ROUNDS {
            let _ = a.set_at(socket, SOL_SOCKET, 26, program, 16);
        }
        done.store(true, Ordering::Relaxed);
    });
    attach(a, socket)?;
    a.listen(socket, BODY)
}

/// Another thread puts a second capture socket in the place of the first, over and over.
fn attach_swapped(a: &mut Attacker) -> Outcome {
    const ROUNDS: usize = 50;
    let sockets = [a.filtered()?, a.filtered()?];
    let place = native(libc::SYS_dup, [sockets[0], 0, 0, 0, 0, 0])?;
    let program = a.program(ALLOW);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for socket in sockets {
                    let _ = native(libc::SYS_dup2, [socket, place, 0, 0, 0, 0]);
                }
            }
        });
        for _ in 0..ROUNDS {
            let _ = a.set_at(place, SOL_SOCKET, 26, program, 16);
        }
        done.store(true, Ordering::Relaxed);
    });
    let any = |a: &Attacker| {
        let received = sockets.iter().find_map(|socket| a.receive(*socket).ok());
        received.ok_or(libc::EAGAIN)
    };
    a.hear(BODY, any)
}

fn make_promiscuous(a: &mut Attacker) -> Outcome {
    const GET_LINK: u16 = 18;
    const PROMISCUITY: u16 = 30;
    let socket = a.capture()?;
    a.set(socket, SOL_PACKET, 1, &promiscuity_of(CW1))?;
    let route = a.open_socket(16, 3, 0)?;
    let link = netlink::question(&mut a.memory, route, GET_LINK, &netlink::link(CW1, 0))?;
    // Behind struct nlmsghdr and struct ifinfomsg.
    let count = netlink::find(link.get(32..).unwrap_or(&[]), PROMISCUITY);
    match count {
        Some([0, ..]) | None => Seen::nothing("it is not promiscuous"),
        Some(_) => Seen::won("an interface in promiscuous mode"),
    }
}

fn read_filter(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    let (value, length) = (a.memory.zeros(8 * 64), a.memory.put(&64_u32.to_ne_bytes()));
    let read = [socket, SOL_SOCKET, 26, value, length, 0];
    native(libc::SYS_getsockopt, read)?;
    Seen::won(format!("{} instructions", a.memory.read_u32(length)))
}

/// For the group of somebody's that a socket is to join: see `agent`.
pub(crate) fn join_group(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    a.option(socket, SOL_PACKET, 18, &FANOUT_GROUP.to_ne_bytes())?;
    Seen::won("in the group: it takes a part of its packets")
}
