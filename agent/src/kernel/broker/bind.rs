//! `bind`: a tool is told at once that it may not listen where it wants to.
//!
//! Everything else goes on unexamined, and that is sound: no promise rests on `bind`. The guard compares the
//! interface of every packet, so a caller that changes the address behind our back, or passes another length, or
//! another socket under the number, hears nothing.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{
    super::{
        aside::Aside,
        notify::{Listener, Notification},
        packet_sockets,
    },
    Admit, identify,
};

/// Answers at once, unless it is a capture socket that is bound: then its caller's memory has to be read, which can take
/// as long as that likes, so that it is done aside.
pub(super) fn answer<A: Admit>(
    listener: &Arc<Listener>,
    admit: &Arc<A>,
    call: Notification,
    aside: &Aside,
) {
    let armed = packet_sockets::inode_of_call(&call).and_then(|inode| admit.armed_for(inode));
    let Some(session) = armed else {
        let _ = listener.go_on(&call);
        return;
    };
    let examined = {
        let (listener, admit) = (Arc::clone(listener), Arc::clone(admit));
        move || {
            // Whatever happens, the caller must not be left waiting.
            let examined = AssertUnwindSafe(|| examine(&listener, &*admit, &call));
            if catch_unwind(examined).is_err() {
                let _ = listener.go_on(&call);
            }
        }
    };
    if aside.push(session, examined).is_err() {
        let _ = listener.go_on(&call);
    }
}

fn examine(listener: &Listener, admit: &impl Admit, call: &Notification) {
    let denied = identify(call)
        .zip(interface_of_packet_address(call))
        .filter(|_| listener.is_waiting(call))
        .and_then(|(caller, index)| Some((admit.may_bind(&caller, index).err()?, caller)));
    match denied {
        None => {
            let _ = listener.go_on(call);
        }
        Some((refusal, caller)) => {
            if listener.fail(call, refusal.errno).is_ok() {
                admit.refused(Some(caller), refusal);
            }
        }
    }
}

/// The interface index of the `struct sockaddr_ll` that a caller of `bind` points at.
fn interface_of_packet_address(call: &Notification) -> Option<u32> {
    let [_, address, ..] = call.arguments;
    let memory = File::open(format!("/proc/{}/mem", call.thread)).ok()?;
    let mut bytes = [0_u8; 8]; // family 2, protocol 2, index 4
    memory.read_exact_at(&mut bytes, address).ok()?;
    let [f0, f1, _, _, index @ ..] = bytes;
    let family = i32::from(u16::from_ne_bytes([f0, f1]));
    (family == libc::AF_PACKET).then(|| u32::from_ne_bytes(index))
}
