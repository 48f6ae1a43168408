//! Filters: the grant's, and one's own.

use std::sync::atomic::{AtomicPtr, Ordering};

use super::super::word;
use crate::{
    attacker::{Attacker, SOL_SOCKET},
    race::{Raced, race},
    row::{Outcome, Seen},
    sys::{Answer, native, number},
    world::{BODY, SECRET},
};

pub(super) const DETACH: u64 = 27;

pub(super) fn detach(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    let tried = a.option(socket, SOL_SOCKET, DETACH, &[0; 4]);
    a.after(tried, socket, SECRET)
}

const ALLOW: &[(u16, u8, u8, u32)] = &[(0x06, 0, 0, 0xffff)];

pub(super) fn attach(a: &mut Attacker, socket: u64) -> Answer {
    let program = a.program(ALLOW);
    a.set_at(socket, SOL_SOCKET, 26, program, 16)
}

pub(super) fn attach_all(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    attach(a, socket)?;
    a.listen(socket, BODY)
}

pub(super) fn attach_detach(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    attach(a, socket)?;
    a.set(socket, SOL_SOCKET, DETACH, &[0; 4])?;
    a.listen(socket, SECRET)
}

pub(super) fn attach_foreign(a: &mut Attacker) -> Outcome {
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

pub(super) fn attach_bpf(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    let program = program(a);
    let tried = a.option(socket, SOL_SOCKET, 50, &program.to_ne_bytes());
    a.after(tried, socket, BODY)
}

pub(super) fn unlock(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    let tried = a.option(socket, SOL_SOCKET, 44, &[0; 4]);
    if tried.is_ok() {
        a.set(socket, SOL_SOCKET, DETACH, &[0; 4])?;
    }
    a.after(tried, socket, SECRET)
}

pub(super) fn held_detach(a: &mut Attacker) -> Outcome {
    let socket = a.held.ok_or(libc::EBADF)?;
    // An earlier attacker may have taken it off; there is one on again then.
    let program = a.program(&[(0x06, 0, 0, 42)]);
    let tried = a.set_at(socket, SOL_SOCKET, 26, program, 16);
    let tried = tried.and_then(|_| a.set(socket, SOL_SOCKET, DETACH, &[0; 4]));
    a.after(tried, socket, SECRET)
}

pub(super) fn hide() -> Answer {
    let option = word(libc::PR_SET_DUMPABLE);
    native(libc::SYS_prctl, [option, 0, 0, 0, 0, 0])
}

pub(super) fn attach_hidden(a: &mut Attacker) -> Outcome {
    hide()?;
    attach_all(a)
}

/// A session bounds how many filters are attached, and others are to have some.
const TRIES: usize = 50;

/// Another thread changes the program's only instruction, from one that takes nothing to one that takes
/// all; whichever was read, the grant is behind it.
pub(super) fn attach_race(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    let program = a.program(ALLOW);
    let code = a.memory.read(program + 8, 8);
    let code = code.try_into().map_or(0, usize::from_ne_bytes);
    let verdict = AtomicPtr::new(std::ptr::with_exposed_provenance_mut::<u32>(code + 4));
    let change = |step: usize| {
        let value = if step.is_multiple_of(2) { 0xffff } else { 0 };
        // SAFETY: within the program, which only the kernel and the agent read.
        unsafe { std::ptr::write_volatile(verdict.load(Ordering::Relaxed), value) };
    };
    let raced = race(TRIES, change, || {
        let _ = a.set_at(socket, SOL_SOCKET, 26, program, 16);
        false
    });
    if raced == Raced::OutOfTime {
        return Seen::broken("the race took too long");
    }
    attach(a, socket)?;
    a.listen(socket, BODY)
}

/// Another thread puts a second capture socket in the place of the first, over and over.
pub(super) fn attach_swapped(a: &mut Attacker) -> Outcome {
    let sockets = [a.filtered()?, a.filtered()?];
    let place = native(libc::SYS_dup, [sockets[0], 0, 0, 0, 0, 0])?;
    let program = a.program(ALLOW);
    let change = |step: usize| {
        let socket = if step.is_multiple_of(2) {
            sockets[1]
        } else {
            sockets[0]
        };
        let _ = native(libc::SYS_dup2, [socket, place, 0, 0, 0, 0]);
    };
    let raced = race(TRIES, change, || {
        let _ = a.set_at(place, SOL_SOCKET, 26, program, 16);
        false
    });
    if raced == Raced::OutOfTime {
        return Seen::broken("the race took too long");
    }
    let any = |a: &Attacker| {
        let received = sockets.iter().find_map(|socket| a.receive(*socket).ok());
        received.ok_or(libc::EAGAIN)
    };
    a.hear(BODY, any)
}

pub(super) fn read_filter(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    let (value, length) = (a.memory.zeros(8 * 64), a.memory.put(&64_u32.to_ne_bytes()));
    let read = [socket, SOL_SOCKET, 26, value, length, 0];
    native(libc::SYS_getsockopt, read)?;
    Seen::won(format!("{} instructions", a.memory.read_u32(length)))
}
