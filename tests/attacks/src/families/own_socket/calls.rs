//! The call itself, in every spelling.

use std::{os::fd::AsRawFd, thread};

use super::super::word;
use crate::{
    attacker::{AF_PACKET, ALL, Attacker, SOCK_DGRAM, SOCK_RAW},
    ring,
    row::{Outcome, Seen},
    sys::{self, native, number, process},
    world::{LEAKED, SECRET},
};

pub(super) fn raw(a: &mut Attacker) -> Outcome {
    a.socket(AF_PACKET, SOCK_RAW, ALL)?;
    Seen::won("a packet socket")
}

pub(super) fn cooked(a: &mut Attacker) -> Outcome {
    a.socket(AF_PACKET, SOCK_DGRAM, ALL)?;
    Seen::won("a packet socket")
}

pub(super) fn sock_packet(a: &mut Attacker) -> Outcome {
    a.socket(2, 10, ALL)?;
    Seen::won("a packet socket")
}

pub(super) fn flags(a: &mut Attacker) -> Outcome {
    a.socket(AF_PACKET, SOCK_RAW | 0o2_004_000, ALL)?;
    Seen::won("a packet socket")
}

const JUNK: u64 = 0xdead_beef_0000_0000;

pub(super) fn junk_family(a: &mut Attacker) -> Outcome {
    a.socket(JUNK | AF_PACKET, JUNK | SOCK_RAW, JUNK | ALL)?;
    Seen::won("a packet socket")
}

pub(super) fn junk_kind(a: &mut Attacker) -> Outcome {
    a.socket(JUNK | 2, JUNK | 10, JUNK | ALL)?;
    Seen::won("a packet socket")
}

pub(super) fn junk_number(_: &mut Attacker) -> Outcome {
    let number = number::SOCKET.native | 1 << 32;
    sys::numbered(number, [AF_PACKET, SOCK_RAW, ALL, 0, 0, 0])?;
    Seen::won("a packet socket")
}

pub(super) fn socketcall(a: &mut Attacker) -> Outcome {
    let arguments: Vec<u8> = [17_u32, 3, 0x0300]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    let arguments = a.memory.put(&arguments);
    a.attack(number::SOCKETCALL, [1, arguments, 0, 0, 0, 0])?;
    Seen::won("a packet socket")
}

pub(super) fn from_thread(a: &mut Attacker) -> Outcome {
    let asked = thread::scope(|scope| {
        let world = a.world.clone();
        let thread = scope.spawn(move || Attacker::new(sys::Way::Native, world).capture());
        thread.join().unwrap_or(Err(libc::EIO))
    });
    asked?;
    Seen::won("a packet socket")
}

pub(super) fn from_orphan(a: &mut Attacker) -> Outcome {
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

pub(super) fn from_vfork(a: &mut Attacker) -> Outcome {
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

pub(super) fn hear_all(a: &mut Attacker) -> Outcome {
    let socket = a.capture()?;
    a.listen(socket, SECRET)
}

pub(super) fn hear_all_cooked(a: &mut Attacker) -> Outcome {
    let socket = a.open_socket(AF_PACKET, SOCK_DGRAM, ALL)?;
    a.listen(socket, SECRET)
}

pub(super) fn by_ring(a: &mut Attacker) -> Outcome {
    ring::socket(a, 17, SOCK_RAW, 0x0300)?;
    Seen::won("a packet socket")
}

pub(super) fn leaked(a: &mut Attacker) -> Outcome {
    match a.listen(word(LEAKED), SECRET)? {
        Seen::Heard(count) if count > 0 => Seen::won(format!("{count} packets")),
        seen => Ok(seen),
    }
}

pub(super) fn personality(a: &mut Attacker) -> Outcome {
    const ADDR_COMPAT_LAYOUT: u64 = 0x020_0000;
    const READ_IMPLIES_EXEC: u64 = 0x040_0000;
    native(
        libc::SYS_personality,
        [ADDR_COMPAT_LAYOUT | READ_IMPLIES_EXEC, 0, 0, 0, 0, 0],
    )?;
    raw(a)
}

pub(super) fn raw_by_segment(a: &mut Attacker) -> Outcome {
    sys::segment::socket(&mut a.memory, [17, 3, 0x0300])?;
    Seen::won("a packet socket")
}

pub(super) fn deaf(a: &mut Attacker) -> Outcome {
    let all = a.memory.put(&u64::MAX.to_ne_bytes());
    native(libc::SYS_rt_sigprocmask, [0, all, 0, 8, 0, 0])?;
    raw(a)
}

/// An answer that finds no room must be no answer that is left over.
pub(super) fn no_room(a: &mut Attacker) -> Outcome {
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
