//! What interfaces receive for a socket: promiscuous mode, multicast addresses.

use std::sync::atomic::{AtomicPtr, Ordering};

use crate::{
    attacker::{Attacker, SOL_PACKET},
    netlink,
    race::{Raced, race},
    row::{Outcome, Seen},
    world::{CW0, CW1, SECRET},
};

const ADD_MEMBERSHIP: u64 = 1;

/// `struct packet_mreq`: the interface, the kind, how long the address is, the address.
fn request(interface: u32, kind: u8, address: &[u8]) -> [u8; 16] {
    let mut request = [0_u8; 16];
    request[..4].copy_from_slice(&interface.to_ne_bytes());
    request[4] = kind;
    request[6] = u8::try_from(address.len()).unwrap_or(0);
    request[8..8 + address.len()].copy_from_slice(address);
    request
}

/// `PACKET_MR_PROMISC`
fn promiscuity_of(interface: u32) -> [u8; 16] {
    request(interface, 1, &[])
}

pub(super) fn promiscuous(a: &mut Attacker) -> Outcome {
    let socket = a.capture()?;
    a.set(socket, SOL_PACKET, ADD_MEMBERSHIP, &promiscuity_of(CW1))?;
    a.listen(socket, SECRET)
}

/// Whether an interface is in promiscuous mode, by a netlink socket.
fn is_promiscuous(a: &mut Attacker, route: u64, interface: u32) -> Result<bool, i32> {
    const GET_LINK: u16 = 18;
    const PROMISCUITY: u16 = 30;
    let asked = netlink::link(interface, 0);
    let link = netlink::question(&mut a.memory, route, GET_LINK, &asked)?;
    // Behind struct nlmsghdr and struct ifinfomsg.
    let count = netlink::find(link.get(32..).unwrap_or(&[]), PROMISCUITY);
    Ok(!matches!(count, Some([0, ..]) | None))
}

pub(super) fn make_promiscuous(a: &mut Attacker) -> Outcome {
    let socket = a.capture()?;
    a.set(socket, SOL_PACKET, ADD_MEMBERSHIP, &promiscuity_of(CW1))?;
    let route = a.open_socket(16, 3, 0)?;
    match is_promiscuous(a, route, CW1)? {
        true => Seen::won("an interface in promiscuous mode"),
        false => Seen::nothing("it is not promiscuous"),
    }
}

/// Another thread changes which interface it is.
pub(super) fn promiscuity_race(a: &mut Attacker) -> Outcome {
    const TRIES: usize = 60;
    let socket = a.capture()?;
    let route = a.open_socket(16, 3, 0)?;
    let request = a.memory.put(&promiscuity_of(CW0));
    let index = std::ptr::with_exposed_provenance_mut(usize::try_from(request).unwrap_or(0));
    let index = AtomicPtr::<u32>::new(index);
    let change = |step: usize| {
        let interface = if step.is_multiple_of(2) { CW1 } else { CW0 };
        // SAFETY: within the request, which only the kernel and the agent read.
        unsafe { std::ptr::write_volatile(index.load(Ordering::Relaxed), interface) };
    };
    let mut failed = None;
    let raced = race(TRIES, change, || {
        let _ = a.set_at(socket, SOL_PACKET, ADD_MEMBERSHIP, request, 16);
        is_promiscuous(a, route, CW1).unwrap_or_else(|errno| {
            failed = Some(errno);
            false
        })
    });
    match (raced, failed) {
        (Raced::Won, _) => Seen::won("an interface in promiscuous mode"),
        (_, Some(errno)) => Seen::broken(format!("errno {errno} from netlink")),
        (Raced::OutOfTime, _) => Seen::broken("the race took too long"),
        (Raced::Lost, _) if !is_promiscuous(a, route, CW0)? => {
            Seen::broken("not even what was granted is promiscuous")
        }
        (Raced::Lost, _) => Seen::nothing("only what was granted is promiscuous"),
    }
}

/// Each one is kernel memory that nobody is charged for.
pub(super) fn many_addresses(a: &mut Attacker) -> Outcome {
    const MULTICAST: u8 = 0;
    const COUNT: u16 = 1_000;
    let socket = a.capture()?;
    for number in 0..COUNT {
        let [high, low] = number.to_be_bytes();
        let wanted = request(CW0, MULTICAST, &[0x01, 0x00, 0x5e, 0x10, high, low]);
        a.set(socket, SOL_PACKET, ADD_MEMBERSHIP, &wanted)?;
    }
    Seen::won(format!("{COUNT} addresses"))
}
