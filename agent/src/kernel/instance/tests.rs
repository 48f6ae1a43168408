use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use capwarden_abi::{LINK_ETHERNET, PAYLOAD_FULL, Terms, ended};
use rustix::net::{RecvFlags, recv};

use super::{
    super::{
        guard::{Guard, GuardPlan, RAW_IN_STORE},
        socket::{ArmedSocket, SocketCall, arm},
    },
    *,
};
use crate::filter::{Insn, Program, translate, translate_own};

const ALL: u16 = 0x0003_u16.to_be();
/// 14 + 20 + 8 on loopback.
const HEADERS: usize = 42;

fn program(insns: &[(u16, u8, u8, u32)]) -> Program {
    let insns = insns
        .iter()
        .map(|&(code, jt, jf, k)| Insn::new(code, jt, jf, k));
    Program::new(insns.collect()).unwrap()
}

/// UDP datagrams over IPv4 to this port, this many bytes of each.
fn to_port(port: u16, length: u32) -> Program {
    program(&[
        (0x28, 0, 0, 12),
        (0x15, 0, 5, 0x0800),
        (0x30, 0, 0, 23),
        (0x15, 0, 3, 17),
        (0x28, 0, 0, 36),
        (0x15, 0, 1, port.into()),
        (0x06, 0, 0, length),
        (0x06, 0, 0, 0),
    ])
}

/// Loads a filter and puts it in its slot.
fn install_part(slot: &Slot, filter: Option<&[EbpfInsn]>) -> Result<(), LoadError> {
    Ok(slot.put(&slot.load(filter)?)?)
}

/// A guard of loopback's datagrams to either of two ports; none without root.
pub(crate) fn guard(ports: [u16; 2], packets: u64) -> Option<Guard> {
    load(ports, packets, Vec::new()).map(Result::unwrap)
}

/// The same, with more code behind the filter.
fn load(ports: [u16; 2], packets: u64, more: Vec<EbpfInsn>) -> Option<Result<Guard, GuardError>> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let [first, second] = ports;
    let grant = program(&[
        (0x28, 0, 0, 12),
        (0x15, 0, 6, 0x0800),
        (0x30, 0, 0, 23),
        (0x15, 0, 4, 17),
        (0x28, 0, 0, 36),
        (0x15, 1, 0, first.into()),
        (0x15, 0, 1, second.into()),
        (0x06, 0, 0, u32::MAX),
        (0x06, 0, 0, 0),
    ]);
    let plan = GuardPlan {
        terms: Terms {
            packets,
            bytes: 0,
            deadline: 0,
            snap: 262_144,
            payload: PAYLOAD_FULL,
            link: LINK_ETHERNET,
            any_interface: 0,
        },
        raw: Some([translate(&grant).unwrap(), more].concat()),
        cooked: None,
        interfaces: vec![1],
    };
    Some(Guard::load(&plan))
}

fn armed(guard: &Guard) -> (ArmedSocket, Slot) {
    let call = SocketCall {
        protocol: ALL,
        non_blocking: true,
        ..SocketCall::of(SocketKind::Raw)
    };
    arm(guard, call).unwrap()
}

fn install(slot: &Slot, own: &Program) {
    install_part(slot, Some(&translate_own(own).unwrap())).unwrap();
}

/// Three ports of loopback that nobody else sends to, and a datagram of 100 bytes to each.
struct Traffic([UdpSocket; 3]);

impl Traffic {
    fn new() -> Self {
        Self([(); 3].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap()))
    }

    fn ports(&self) -> [u16; 3] {
        self.0
            .each_ref()
            .map(|socket| socket.local_addr().unwrap().port())
    }

    /// Sends one to each, and gives port and length of what the socket heard.
    fn heard(&self, socket: &ArmedSocket) -> Vec<(u16, usize)> {
        self.send();
        drain(socket)
    }

    fn send(&self) {
        for to in &self.0 {
            self.0[0]
                .send_to(&[7; 100], to.local_addr().unwrap())
                .unwrap();
        }
    }
}

fn drain(socket: &ArmedSocket) -> Vec<(u16, usize)> {
    let mut bytes = [0_u8; 2048];
    let mut heard = Vec::new();
    while let Ok((length, _)) = recv(socket, &mut bytes, RecvFlags::DONTWAIT) {
        heard.push((u16::from_be_bytes([bytes[36], bytes[37]]), length));
    }
    heard
}

const WHOLE: usize = HEADERS + 100;

#[test]
fn slot_delivers_the_intersection_and_gives_it_back() {
    let traffic = Traffic::new();
    let [a, b, c] = traffic.ports();
    let Some(guard) = guard([a, b], 0) else {
        return;
    };
    let (socket, slot) = armed(&guard);
    let (other, _other_slot) = armed(&guard);
    let grant = vec![(a, WHOLE), (b, WHOLE)];
    assert_eq!(traffic.heard(&socket), grant);

    install(&slot, &to_port(b, u32::MAX));
    assert_eq!(traffic.heard(&socket), [(b, WHOLE)], "narrower");
    install(&slot, &to_port(c, u32::MAX));
    assert_eq!(traffic.heard(&socket), [], "disjoint");
    install(&slot, &program(&[(0x06, 0, 0, u32::MAX)]));
    assert_eq!(traffic.heard(&socket), grant, "wider");
    install_part(&slot, None).unwrap();
    assert_eq!(traffic.heard(&socket), [], "nothing");
    slot.clear().unwrap();
    assert_eq!(traffic.heard(&socket), grant, "taken off");
    assert_eq!(slot.clear(), Err(Errno::NOENT));

    let each_time = [grant.clone(), grant].concat();
    assert_eq!(drain(&other)[..4], each_time[..], "the other socket");
}

#[test]
fn own_length_is_honoured_and_never_more_than_the_guards() {
    let traffic = Traffic::new();
    let [a, b, _] = traffic.ports();
    let Some(guard) = guard([a, b], 0) else {
        return;
    };
    let (socket, slot) = armed(&guard);
    for (length, delivered) in [(1, 1), (60, 60), (142, 142), (143, 142), (u32::MAX, 142)] {
        install(&slot, &to_port(a, length));
        traffic.send();
        let heard: Vec<usize> = drain(&socket).iter().map(|(_, length)| *length).collect();
        assert_eq!(heard, [delivered], "ret #{length}");
    }
    // ld #44; ret a
    install(&slot, &program(&[(0x00, 0, 0, 44), (0x16, 0, 0, 0)]));
    assert_eq!(traffic.heard(&socket), [(a, 44), (b, 44)]);
    // ld ifindex; ret a: the test of the device has to be jumped over.
    install(
        &slot,
        &program(&[(0x20, 0, 0, 0xffff_f008), (0x16, 0, 0, 0)]),
    );
    traffic.send();
    let heard: Vec<usize> = drain(&socket).iter().map(|(_, length)| *length).collect();
    assert_eq!(heard, [1, 1], "loopback's index");
}

#[test]
fn packets_that_the_own_filter_drops_do_not_count() {
    let traffic = Traffic::new();
    let [a, b, _] = traffic.ports();
    let Some(guard) = guard([a, b], 3) else {
        return;
    };
    let (socket, slot) = armed(&guard);
    install(&slot, &to_port(b, 50));
    for sent in 1..=5 {
        traffic.send();
        let state = guard.state().unwrap();
        assert_eq!(state.packets, 3.min(sent));
        assert_eq!(state.bytes, 50 * state.packets);
        assert_eq!(state.ended == ended::PACKETS, sent >= 3);
    }
    assert_eq!(drain(&socket), [(b, 50); 3]);
    // The end is the session's, whatever is in the slot.
    slot.clear().unwrap();
    assert_eq!(traffic.heard(&socket), []);
}

#[test]
fn empty_slot_when_nobody_holds_it_is_the_grant() {
    let traffic = Traffic::new();
    let [a, b, _] = traffic.ports();
    let Some(guard) = guard([a, b], 0) else {
        return;
    };
    let (socket, slot) = armed(&guard);
    install(&slot, &to_port(b, u32::MAX));
    assert_eq!(traffic.heard(&socket), [(b, WHOLE)]);
    drop((slot, guard)); // as if the agent had died
    let start = Instant::now();
    loop {
        let heard = traffic.heard(&socket);
        if heard == [(a, WHOLE), (b, WHOLE)] {
            break;
        }
        assert_eq!(heard, [(b, WHOLE)], "not the one and not the other");
        assert!(start.elapsed() < Duration::from_secs(5), "{heard:?}");
    }
}

#[test]
fn store_is_used_up_and_refilled() {
    let Some(guard) = guard([1, 2], 0) else {
        return;
    };
    let instances = guard.instances();
    instances.refill();
    let stored = || instances.store().raw.len();
    assert_eq!(stored(), RAW_IN_STORE);
    let kept: Vec<_> = (0..RAW_IN_STORE + 2).map(|_| armed(&guard)).collect();
    assert_eq!((stored(), kept.len()), (0, RAW_IN_STORE + 2));
    instances.refill();
    assert_eq!(stored(), RAW_IN_STORE);
    assert!(instances.take(SocketKind::Cooked).unwrap().is_none());
}

#[test]
fn what_the_verifier_refuses_leaves_the_slot_as_it_was() {
    let traffic = Traffic::new();
    let [a, b, _] = traffic.ports();
    let Some(guard) = guard([a, b], 0) else {
        return;
    };
    let (socket, slot) = armed(&guard);
    install(&slot, &to_port(a, u32::MAX));
    let reads_r9 = insn(0xbf, 0, 9, 0);
    let error = install_part(&slot, Some(&[reads_r9])).unwrap_err();
    assert_eq!(Errno::from_io_error(&error.error), Some(Errno::ACCESS));
    assert_eq!(traffic.heard(&socket), [(a, WHOLE)]);
}

#[test]
fn what_the_verifier_refuses_of_a_grant_comes_with_its_words() {
    let reads_r9 = vec![insn(0xbf, 0, 9, 0)];
    if let Some(refused) = load([1, 2], 0, reads_r9).and_then(Result::err) {
        assert!(refused.to_string().contains("R9 !read_ok"), "{refused}");
    }
}

#[test]
fn what_no_socket_has_room_for_is_refused_when_it_is_loaded() {
    let room = std::fs::read_to_string("/proc/sys/net/core/optmem_max").unwrap();
    let room: usize = room.trim().parse().unwrap();
    // `r0 = 0`, as often as it takes; the verifier leaves it all in.
    let long = vec![insn(0xb7, 0, 0, 0); room / 8 + 1];
    if let Some(loaded) = load([1, 2], 0, long) {
        let refused = loaded.err().unwrap();
        assert!(
            matches!(refused, GuardError::DoesNotFit { .. }),
            "{refused}"
        );
        assert!(refused.to_string().contains("net.core.optmem_max"));
    }
}

#[test]
fn own_filter_sees_nothing_that_the_grant_does_not_give() {
    // How long it runs can be measured from outside, and tells what it has looked at.
    let traffic = Traffic::new();
    let [a, b, _] = traffic.ports();
    let Some(guard) = guard([a, b], 0) else {
        return;
    };
    let (socket, slot) = armed(&guard);
    install_part(&slot, Some(&counting(&guard))).unwrap();
    assert_eq!(traffic.heard(&socket), [(a, WHOLE), (b, WHOLE)]);
    assert_eq!(
        guard.state().unwrap().early_tick,
        2,
        "seen by the own filter"
    );
}

/// Accepts everything, and counts in a word that a guard without a deadline does not use.
fn counting(guard: &Guard) -> Vec<EbpfInsn> {
    const EARLY_TICK: i32 = 24;
    const CB: i16 = 48;
    let is_state = |fd: &&OwnedFd| {
        let about = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
        std::fs::read_to_string(about)
            .unwrap()
            .contains("value_size:\t32\n")
    };
    let state = guard.instances()._maps.iter().find(is_state).unwrap();
    vec![
        insn(0xbf, 6, 1, 0),                 // r6 = r1
        insn(0x18, 1, 2, state.as_raw_fd()), // r1 = the word
        insn(0x00, 0, 0, EARLY_TICK),
        insn(0xb7, 2, 0, 1),        // r2 = 1
        insn(0xdb, 1, 2, 0),        // lock *r1 += r2
        insn(0xb7, 2, 0, i32::MAX), // the length that it wants
        // From a register: before Linux 6.4 nothing else may be stored there.
        EbpfInsn {
            off: CB,
            ..insn(0x63, 6, 2, 0)
        },
        insn(0xbf, 1, 6, 0), // r1 = r6
    ]
}
