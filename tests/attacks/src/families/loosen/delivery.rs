//! Ways to read, caps and deadlines.

use std::{
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use super::super::word;
use crate::{
    attacker::{Attacker, contains},
    row::{Outcome, Seen},
    sys::{Answer, native, process},
    world::{BODY, GRANTED_PORT},
};

/// In each packet that was granted: its port.
const PORT: &[u8] = &GRANTED_PORT.to_be_bytes();

/// All that all of them hear, each packet once for each who hears it.
pub(super) fn share(a: &mut Attacker) -> Outcome {
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

pub(super) fn receive_ways(a: &mut Attacker) -> Outcome {
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

pub(super) fn receive_many(a: &mut Attacker) -> Outcome {
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

pub(super) fn splice(a: &mut Attacker) -> Outcome {
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

pub(super) fn outlive(a: &mut Attacker) -> Outcome {
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
