//! F: the agent, its files, and what a grant can be misused for.

use std::{
    fs::File,
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::PathBuf,
};

use libc::{EACCES, EMFILE, ENOBUFS, ENOSYS, EPERM};

use super::{borrow::victim, loosen, other_sources::open, word};
use crate::{
    attacker::{AF_PACKET, ALL, Attacker, SOCK_RAW, sent},
    row::{Layer, Must, Outcome, Row, Seen, Setting, row},
    sys::{Answer, native, number, process},
    world::{CW0, CW1},
};

const REFUSED: Must = Must::Errno(EPERM);
const CLOSED: Must = Must::Errno(EACCES);
const ROOTS_FILES: Must =
    Must::Residual("--user root is no boundary: root's files and settings are open to user id 0");
const HERE: Setting = Setting::Granted("");
/// With BPF LSM the call is refused; with the egress program the frame is.
const NOT_SENT: Must = Must::OneOf(&[EPERM, ENOBUFS]);
const TWO_WAY: &str =
    "a packet socket is two-way; its frames carry a mark that a firewall can drop";

pub(crate) const ROWS: &[Row] = &[
    row("F1b", "stop the agent", Layer::Landlock, REFUSED, stop).needs(
        &["Landlock"],
        "before Linux 6.12 user id 0 can signal the agent",
    ),
    row(
        "F1c",
        "a limit that kills the agent",
        Layer::Seccomp,
        REFUSED,
        limit,
    )
    .every_way(),
    row(
        "F1d",
        "read the agent's memory",
        Layer::Landlock,
        CLOSED,
        memory,
    ),
    row(
        "F1e",
        "look at the agent's descriptors, its listener among them",
        Layer::Landlock,
        CLOSED,
        descriptors,
    ),
    row(
        "F1f",
        "take the agent's descriptors",
        Layer::Seccomp,
        REFUSED,
        take_descriptor,
    )
    .every_way(),
    row(
        "F1g",
        "starve the agent (SCHED_IDLE)",
        Layer::Powerless,
        REFUSED,
        starve,
    )
    .every_way(),
    row(
        "F1h",
        "have the kernel kill the agent first (oom_score_adj)",
        Layer::User,
        CLOSED,
        doom,
    )
    .root(ROOTS_FILES),
    row(
        "F2",
        "once the agent has died: socket(AF_PACKET)",
        Layer::Seccomp,
        Must::Errno(ENOSYS),
        orphaned_socket,
    )
    .within(Setting::Orphaned),
    row(
        "F3",
        "300 sockets of one session",
        Layer::Broker,
        Must::Errno(EMFILE),
        many_sockets,
    )
    .within(Setting::Granted("--bytes 1GiB")),
    row(
        "F4",
        "inject frames: sendto",
        Layer::Egress,
        NOT_SENT,
        send_to,
    )
    .within(HERE)
    .needs(&["injection drop", "BPF LSM"], TWO_WAY),
    row(
        "F4b",
        "inject frames: write",
        Layer::Egress,
        NOT_SENT,
        write,
    )
    .within(HERE)
    .needs(&["injection drop", "BPF LSM"], TWO_WAY),
    row(
        "F4c",
        "inject frames: sendmmsg",
        Layer::Egress,
        NOT_SENT,
        send_many,
    )
    .within(HERE)
    .needs(&["injection drop", "BPF LSM"], TWO_WAY),
    row(
        "F4d",
        "inject frames: splice from a pipe",
        Layer::Egress,
        NOT_SENT,
        splice,
    )
    .within(HERE)
    .needs(&["injection drop", "BPF LSM"], TWO_WAY),
    row(
        "F4e",
        "inject frames: asynchronously (io_submit)",
        Layer::Egress,
        NOT_SENT,
        submit,
    )
    .within(HERE)
    .absent(&[ENOSYS])
    .needs(&["injection drop", "BPF LSM"], TWO_WAY),
    row(
        "F4f",
        "inject frames once the agent has died",
        Layer::Egress,
        NOT_SENT,
        send_orphaned,
    )
    .within(Setting::Orphaned)
    .needs(&["injection drop", "BPF LSM"], TWO_WAY),
    row(
        "F4g",
        "inject frames on an interface that was not granted",
        Layer::Egress,
        NOT_SENT,
        send_elsewhere,
    )
    .within(HERE)
    .needs(&["injection drop", "BPF LSM"], TWO_WAY),
    row(
        "F4h",
        "inject frames on loopback, as if they came from there",
        Layer::Egress,
        NOT_SENT,
        send_to_loopback,
    )
    .within(HERE)
    .needs(&["injection drop", "BPF LSM"], TWO_WAY),
    row(
        "F5",
        "join an intrusion detector's PACKET_FANOUT group",
        Layer::Seccomp,
        REFUSED,
        loosen::join_group,
    )
    .every_way()
    .within(HERE),
    row("F8", "write to the audit log", Layer::User, CLOSED, audit).root(ROOTS_FILES),
    // The last: where it works, there is no agent for those after it.
    row("F1", "kill the agent", Layer::Landlock, REFUSED, kill)
        .every_way()
        .needs(
            &["Landlock"],
            "before Linux 6.12 user id 0 can signal the agent",
        ),
];

/// The agent; without capwarden, a victim of each attack's own.
fn target(a: &Attacker, which: usize) -> u64 {
    let pid = if a.world.governed {
        a.agent
    } else {
        victim(a, which)
    };
    pid.into()
}

fn kill(a: &mut Attacker) -> Outcome {
    a.attack(
        number::KILL,
        [target(a, 5), word(libc::SIGKILL), 0, 0, 0, 0],
    )?;
    Seen::won("it is dead")
}

fn stop(a: &mut Attacker) -> Outcome {
    let agent = target(a, 6);
    a.call(number::KILL, [agent, word(libc::SIGSTOP), 0, 0, 0, 0])?;
    a.call(number::KILL, [agent, word(libc::SIGCONT), 0, 0, 0, 0])?;
    Seen::won("it stands still")
}

/// The agent; without capwarden, one that the attack before this one has not killed.
fn standing(a: &Attacker) -> u32 {
    if a.world.governed {
        a.agent
    } else {
        a.world.bystander.pid
    }
}

fn limit(a: &mut Attacker) -> Outcome {
    const CORE: u64 = 4; // where it works, one that harms nobody
    let none = a.memory.zeros(16);
    a.attack(number::PRLIMIT64, [standing(a).into(), CORE, none, 0, 0, 0])?;
    Seen::won("limits of its choice")
}

fn errno(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

fn memory(a: &mut Attacker) -> Outcome {
    let path = format!("/proc/{}/mem", standing(a));
    let memory = File::open(path).map_err(|error| errno(&error))?;
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", standing(a)));
    let maps = maps.map_err(|error| errno(&error))?;
    let start = maps
        .split('-')
        .next()
        .and_then(|start| u64::from_str_radix(start, 16).ok());
    let read = memory.read_exact_at(&mut [0; 16], start.unwrap_or(0));
    read.map_err(|error| errno(&error))?;
    Seen::won("its memory")
}

fn descriptors(a: &mut Attacker) -> Outcome {
    let listed = std::fs::read_dir(format!("/proc/{}/fd", standing(a)));
    let mut seen = 0;
    for entry in listed.map_err(|error| errno(&error))?.flatten() {
        std::fs::read_link(entry.path()).map_err(|error| errno(&error))?;
        seen += 1;
    }
    Seen::won(format!("{seen} descriptors"))
}

fn take_descriptor(a: &mut Attacker) -> Outcome {
    let pidfd = native(libc::SYS_pidfd_open, [standing(a).into(), 0, 0, 0, 0, 0])?;
    a.attack(number::PIDFD_GETFD, [pidfd, 1, 0, 0, 0, 0])?;
    Seen::won("a descriptor of its")
}

fn starve(a: &mut Attacker) -> Outcome {
    const IDLE: u64 = 5;
    let none = a.memory.zeros(4);
    a.attack(
        number::SCHED_SETSCHEDULER,
        [standing(a).into(), IDLE, none, 0, 0, 0],
    )?;
    let _ = a.call(
        number::SCHED_SETSCHEDULER,
        [standing(a).into(), 0, none, 0, 0, 0],
    );
    Seen::won("it waits for everybody")
}

fn orphaned_socket(a: &mut Attacker) -> Outcome {
    a.capture()?;
    Seen::won("a packet socket")
}

fn many_sockets(a: &mut Attacker) -> Outcome {
    for _ in 0..300 {
        a.open_socket(AF_PACKET, SOCK_RAW, ALL)?;
    }
    Seen::won("300 sockets")
}

const FRAMES: u64 = 16;

/// A frame of an experimental protocol, to nobody.
fn frame(a: &mut Attacker) -> u64 {
    let mut frame = [0_u8; 60];
    frame[0] = 0x02;
    frame[6] = 0x02;
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    a.memory.put(&frame)
}

/// Sends some by a way, and looks whether so many more have left the interface.
fn inject(a: &mut Attacker, send: impl Fn(&mut Attacker, u64) -> Answer) -> Outcome {
    let socket = a.filtered()?;
    inject_by(a, socket, "cw0", send)
}

fn inject_by(
    a: &mut Attacker,
    socket: u64,
    interface: &str,
    send: impl Fn(&mut Attacker, u64) -> Answer,
) -> Outcome {
    let before = sent(interface);
    // Others may send there, too: what was refused each time did not leave.
    let (mut taken, mut refused) = (0, libc::EIO);
    for _ in 0..FRAMES {
        match send(a, socket) {
            Ok(_) => taken += 1,
            Err(errno) => refused = errno,
        }
    }
    if taken == 0 {
        return Err(refused);
    }
    match sent(interface) - before {
        left if left < taken => Seen::nothing(format!("{left} of {taken} frames left")),
        _ => Seen::won(format!("{taken} frames on the network")),
    }
}

fn send_to(a: &mut Attacker) -> Outcome {
    let (frame, address) = (frame(a), a.packet_address(CW0));
    inject(a, |a, socket| {
        a.call(number::SENDTO, [socket, frame, 60, 0, address, 20])
    })
}

fn write(a: &mut Attacker) -> Outcome {
    let frame = frame(a);
    inject(a, |_, socket| {
        native(libc::SYS_write, [socket, frame, 60, 0, 0, 0])
    })
}

fn send_many(a: &mut Attacker) -> Outcome {
    let frame = frame(a);
    let piece = a
        .memory
        .put(&[frame.to_ne_bytes(), 60_u64.to_ne_bytes()].concat());
    let words = [0, 0, piece, 1, 0, 0, 0, 0];
    let words: Vec<u8> = words
        .iter()
        .flat_map(|word: &u64| word.to_ne_bytes())
        .collect();
    let messages = a.memory.put(&words);
    inject(a, |_, socket| {
        native(libc::SYS_sendmmsg, [socket, messages, 1, 0, 0, 0])
    })
}

fn audit(a: &mut Attacker) -> Outcome {
    let log: PathBuf = a.world.log.clone();
    open(a, &log, libc::O_WRONLY | libc::O_APPEND)?;
    Seen::won("a log of its choice")
}

fn doom(a: &mut Attacker) -> Outcome {
    let path = format!("/proc/{}/oom_score_adj", standing(a));
    // Opened, and not written to.
    open(a, &PathBuf::from(path), libc::O_WRONLY)?;
    Seen::won("it may be first in line")
}

fn send_orphaned(a: &mut Attacker) -> Outcome {
    let socket = a.held.ok_or(libc::EBADF)?;
    let (frame, address) = (frame(a), a.packet_address(CW0));
    inject_by(a, socket, "cw0", |a, socket| {
        a.call(number::SENDTO, [socket, frame, 60, 0, address, 20])
    })
}

fn splice(a: &mut Attacker) -> Outcome {
    let (read, write) = process::pipe().map_err(|_| EMFILE)?;
    let [read, write] = [&read, &write].map(|end| word(end.as_raw_fd()));
    let frame = frame(a);
    inject(a, |_, socket| {
        native(libc::SYS_write, [write, frame, 60, 0, 0, 0])?;
        native(libc::SYS_splice, [read, 0, socket, 0, 60, 0])
    })
}

/// One `struct iocb` at a time; its answer is in the event.
fn submit(a: &mut Attacker) -> Outcome {
    const PWRITE: u64 = 1;
    let context = a.memory.zeros(8);
    native(libc::SYS_io_setup, [4, context, 0, 0, 0, 0])?;
    let context = a.memory.read(context, 8);
    let context = context.try_into().map_or(0, u64::from_ne_bytes);
    let (frame, event) = (frame(a), a.memory.zeros(32));
    inject(a, |a, socket| {
        // data, key and flags, opcode and priority and descriptor, buffer, length, offset …
        let words = [0, 0, PWRITE | socket << 32, frame, 60, 0, 0, 0];
        let words: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let request = a.memory.put(&words);
        let list = a.memory.put(&request.to_ne_bytes());
        native(libc::SYS_io_submit, [context, 1, list, 0, 0, 0])?;
        native(libc::SYS_io_getevents, [context, 1, 1, event, 0, 0])?;
        match i64::from(a.memory.read_u32(event + 16).cast_signed()) {
            error @ ..0 => Err(i32::try_from(-error).unwrap_or(libc::EIO)),
            count => Ok(count.cast_unsigned()),
        }
    })
}

/// An address names the interface, whatever the socket is bound to.
fn send_by_address(a: &mut Attacker, index: u32, interface: &str) -> Outcome {
    let socket = a.filtered()?;
    let (frame, address) = (frame(a), a.packet_address(index));
    inject_by(a, socket, interface, |a, socket| {
        a.call(number::SENDTO, [socket, frame, 60, 0, address, 20])
    })
}

fn send_elsewhere(a: &mut Attacker) -> Outcome {
    send_by_address(a, CW1, "cw1")
}

fn send_to_loopback(a: &mut Attacker) -> Outcome {
    const LOOPBACK: u32 = 1;
    send_by_address(a, LOOPBACK, "lo")
}
