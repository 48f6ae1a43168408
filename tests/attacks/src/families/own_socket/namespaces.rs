//! A namespace of its own, where it would have the capability.

use super::super::word;
use crate::{
    attacker::Attacker,
    row::{Outcome, Seen},
    sys::{self, native, number, process},
};

const NEWUSER_NEWNET: u64 = 0x1000_0000 | 0x4000_0000;

fn socket_there(a: &Attacker) -> Outcome {
    a.capture()?;
    Seen::won("a packet socket in a namespace of its own")
}

pub(super) fn unshare(a: &mut Attacker) -> Outcome {
    a.attack(number::UNSHARE, [NEWUSER_NEWNET, 0, 0, 0, 0, 0])?;
    socket_there(a)
}

pub(super) fn unshare_time(a: &mut Attacker) -> Outcome {
    a.attack(number::UNSHARE, [0x80, 0, 0, 0, 0, 0])?;
    Seen::won("a time namespace")
}

pub(super) fn clone(a: &mut Attacker) -> Outcome {
    child_of(a, |a| {
        a.attack(
            number::CLONE,
            [NEWUSER_NEWNET | word(libc::SIGCHLD), 0, 0, 0, 0, 0],
        )
    })
}

pub(super) fn clone3(a: &mut Attacker) -> Outcome {
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

pub(super) fn setns(a: &mut Attacker) -> Outcome {
    // Its own: into others it would go by the same call.
    let path = a.memory.text(c"/proc/self/ns/net");
    let namespace = native(libc::SYS_openat, [word(libc::AT_FDCWD), path, 0, 0, 0, 0])?;
    a.attack(number::SETNS, [namespace, 0x4000_0000, 0, 0, 0, 0])?;
    Seen::won("in a namespace of its choice")
}
