//! Supervisors of its own: seccomp filters, listeners, tracers.

use std::thread;

use super::{super::word, calls::raw};
use crate::{
    attacker::Attacker,
    row::{Outcome, Seen},
    sys::{native, number, process},
};

/// Allows every call.
const ALLOW: &[(u16, u8, u8, u32)] = &[(0x06, 0, 0, 0x7fff_0000)];

fn no_new_privileges() -> Result<(), i32> {
    let option = word(libc::PR_SET_NO_NEW_PRIVS);
    native(libc::SYS_prctl, [option, 1, 0, 0, 0, 0]).map(drop)
}

pub(super) fn listener(a: &mut Attacker) -> Outcome {
    const NEW_LISTENER: u64 = 8;
    no_new_privileges()?;
    let program = a.program_by_way(ALLOW);
    a.attack(number::SECCOMP, [1, NEW_LISTENER, program, 0, 0, 0])?;
    Seen::won("a listener")
}

pub(super) fn allow_all(a: &mut Attacker) -> Outcome {
    const TSYNC: u64 = 1;
    no_new_privileges()?;
    let program = a.program(ALLOW);
    a.call(number::SECCOMP, [1, TSYNC, program, 0, 0, 0])?;
    raw(a)
}

pub(super) fn allow_all_prctl(a: &mut Attacker) -> Outcome {
    no_new_privileges()?;
    let program = a.program(ALLOW);
    let option = word(libc::PR_SET_SECCOMP);
    a.call(number::PRCTL, [option, 2, program, 0, 0, 0])?;
    raw(a)
}

const SEIZE: u64 = 0x4206;

/// A child that waits to be looked at.
fn idle_child() -> Result<i32, i32> {
    process::spawn(|| {
        // It goes with its parent, however that ends.
        let option = word(libc::PR_SET_PDEATHSIG);
        let _ = native(libc::SYS_prctl, [option, word(libc::SIGKILL), 0, 0, 0, 0]);
        thread::sleep(std::time::Duration::from_secs(5));
    })
}

fn seize(a: &mut Attacker, options: u64) -> Outcome {
    let child = idle_child()?;
    let traced = a.attack(number::PTRACE, [SEIZE, word(child), 0, options, 0, 0]);
    let _ = process::kill(child, libc::SIGKILL);
    process::wait(child);
    traced?;
    Seen::won("a child that it controls")
}

pub(super) fn trace_child(a: &mut Attacker) -> Outcome {
    seize(a, 0)
}

pub(super) fn suspend_seccomp(a: &mut Attacker) -> Outcome {
    seize(a, 1 << 21)
}
