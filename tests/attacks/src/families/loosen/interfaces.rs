//! Where a socket listens, and what is told of there.

use std::sync::atomic::{AtomicPtr, Ordering};

use super::filters::{DETACH, hide};
use crate::{
    attacker::{Attacker, SOL_PACKET, SOL_SOCKET},
    race::{Raced, race},
    row::{Outcome, Seen},
    sys::{native, number},
    world::{CW0, CW1, SECRET},
};

pub(super) fn rebind(a: &mut Attacker) -> Outcome {
    let socket = a.capture()?;
    let tried = a.bind(socket, CW1, 20);
    a.after(tried, socket, SECRET)
}

pub(super) fn rebind_longer(a: &mut Attacker) -> Outcome {
    let socket = a.capture()?;
    a.bind(socket, CW1, 32)?;
    a.listen(socket, SECRET)
}

pub(super) fn rebind_any(a: &mut Attacker) -> Outcome {
    let socket = a.capture()?;
    a.bind(socket, 0, 20)?;
    a.listen(socket, SECRET)
}

/// Another thread changes the address; whichever interface it comes to be, it must be deaf.
pub(super) fn rebind_race(a: &mut Attacker) -> Outcome {
    const TRIES: usize = 100;
    let socket = a.capture()?;
    let address = a.packet_address(CW0);
    let room = a.memory.zeros(32);
    let index =
        std::ptr::with_exposed_provenance_mut::<u32>(usize::try_from(address + 4).unwrap_or(0));
    let index = AtomicPtr::new(index);
    let change = |step: usize| {
        let interface = if step.is_multiple_of(2) { CW1 } else { CW0 };
        // SAFETY: within the address, which only the kernel reads.
        unsafe { std::ptr::write_volatile(index.load(Ordering::Relaxed), interface) };
    };
    let raced = race(TRIES, change, || {
        let _ = a.call(number::BIND, [socket, address, 20, 0, 0, 0]);
        a.memory.write(room, &20_u32.to_ne_bytes());
        let named = native(libc::SYS_getsockname, [socket, room + 8, room, 0, 0, 0]);
        named.is_ok() && a.memory.read_u32(room + 12) == CW1
    });
    if raced == Raced::OutOfTime {
        return Seen::broken("the race took too long");
    }
    a.listen(socket, SECRET)
}

pub(super) fn held(a: &mut Attacker) -> Outcome {
    let socket = a.held.ok_or(libc::EBADF)?;
    if !a.world.governed {
        a.set(socket, SOL_SOCKET, DETACH, &[0; 4])?;
    }
    a.listen(socket, SECRET)
}

pub(super) fn held_rebind(a: &mut Attacker) -> Outcome {
    let socket = a.held.ok_or(libc::EBADF)?;
    a.bind(socket, CW1, 32)?;
    a.listen(socket, SECRET)
}

/// What the kernel has counted for a socket that listens where nothing was granted.
pub(super) fn statistics(a: &mut Attacker) -> Outcome {
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

pub(super) fn rebind_hidden(a: &mut Attacker) -> Outcome {
    hide()?;
    rebind(a)
}
