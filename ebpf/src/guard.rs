//! The guard: the program on every capture socket of a session.
//!
//! The agent puts the session's translated capture filters in front of these instructions (see
//! `agent/src/kernel/link.rs`), so what runs here is only reached by packets that the filters
//! accept. The rest of the chain, in order: ended or revoked → interface → deadline → loopback's outgoing
//! copy → the process's own filter, if it has attached one → trim → byte and packet budgets → counted by protocol. The
//! own filter is a program of its own, with a guard behind it (see
//! `agent/src/kernel/instance.rs`). It stands where only packets come by that the grant gives: how
//! long it runs can be measured from outside. The return value is the number of bytes delivered;
//! 0 drops (the same for `recv`, for TPACKET v1–v3 rings and for cooked sockets).
//!
//! A socket cannot tell the program whose it is (`bpf_get_socket_cookie` gives the *sender's*
//! cookie). So each session has maps and constants of its own, and each socket a copy of the
//! program.
//!
//! Needs Linux 5.12 for atomics that return a value (`BPF_FETCH`, `BPF_CMPXCHG`):
//! <https://github.com/torvalds/linux/blob/v5.12/kernel/bpf/verifier.c#L3606>
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "see budget.rs")]

mod budget;
mod headers;
mod protocol;

use core::ptr;

use aya_ebpf::{
    helpers::{bpf_jiffies64, bpf_ktime_get_boot_ns},
    macros::{map, socket_filter},
    maps::{Array, ProgramArray, RingBuf},
    programs::SkBuffContext,
};
use budget::Counter;
use capwarden_abi::{
    Control, LINK_NETWORK, MAX_INTERFACES, OWN_LENGTH, PAYLOAD_FULL, State, Terms, ended,
    protocol::{Protocols, SLOTS, TAGGED},
};

/// Written by the agent before the object is loaded; frozen after.
#[unsafe(no_mangle)]
static TERMS: Terms = Terms {
    packets: 0,
    bytes: 0,
    deadline: 1,
    snap: 0,
    payload: 0,
    link: 0,
    any_interface: 0,
};

#[map]
static STATE: Array<State> = Array::with_max_entries(1, 0);

#[map]
static CONTROL: Array<Control> = Array::with_max_entries(1, 0);

/// What was delivered, by protocol.
#[map]
static PROTOCOLS: Array<Protocols> = Array::with_max_entries(1, 0);

/// One `u64` (see [`ended`]) when the guard ends the session by itself. Far larger than what one
/// session can say, as the smallest ring that the kernel makes is a page.
#[map]
static ENDS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Where a socket's own filter is looked for. The agent puts an array of the socket's own in place
/// of this one.
#[map]
static OWN: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// How far away the deadline must be, in nanoseconds, for one look at the clock to do for a whole
/// kernel tick (10 ms at most). Reading the clock costs more than all else here. The margin is
/// for ticks that come late: each CPU notices after five that they have stopped (Linux 5.18,
/// <https://github.com/torvalds/linux/blob/v5.18/kernel/time/tick-sched.c>). `jiffies` stand
/// still while the host is suspended, so the first look after that is at most a tick late.
const FAR: u64 = 250_000_000;

/// The word of `__sk_buff.cb` that a number passes through on its way (see [`some_number`]).
const PASSAGE: usize = 1;

/// Loopback has this index in every network namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;
/// `PACKET_OUTGOING` of `<linux/if_packet.h>`.
const PACKET_OUTGOING: u32 = 4;

/// For `SOCK_RAW` sockets: packets begin with the link header.
#[socket_filter]
fn guard_raw(ctx: SkBuffContext) -> i64 {
    // SAFETY: a valid static; volatile, since the compiler must not fold the placeholder in.
    let link = unsafe { ptr::read_volatile(&raw const TERMS.link) };
    // Even where every interface is granted: the filters were compiled for one link type, and the
    // agent lists the interfaces that have it.
    guard::<true>(&ctx, link, false)
}

/// The same behind a process's own filter.
#[socket_filter]
fn own_raw(ctx: SkBuffContext) -> i64 {
    // SAFETY: as above.
    let link = unsafe { ptr::read_volatile(&raw const TERMS.link) };
    guard::<false>(&ctx, link, false)
}

/// For `SOCK_DGRAM` ("cooked") sockets: packets begin with the network header.
#[socket_filter]
fn guard_cooked(ctx: SkBuffContext) -> i64 {
    // SAFETY: as above.
    let any_interface = unsafe { ptr::read_volatile(&raw const TERMS.any_interface) };
    guard::<true>(&ctx, LINK_NETWORK, any_interface != 0)
}

/// The same behind a process's own filter.
#[socket_filter]
fn own_cooked(ctx: SkBuffContext) -> i64 {
    // SAFETY: as above.
    let any_interface = unsafe { ptr::read_volatile(&raw const TERMS.any_interface) };
    guard::<false>(&ctx, LINK_NETWORK, any_interface != 0)
}

/// `LOOK`: for an own filter, which goes on in a guard that does not.
#[inline(always)]
fn guard<const LOOK: bool>(ctx: &SkBuffContext, link: u32, any_interface: bool) -> i64 {
    // SAFETY: as above.
    let terms = unsafe { ptr::read_volatile(&raw const TERMS) };
    let (Some(state), Some(control)) = (STATE.get_ptr_mut(0), CONTROL.get_ptr(0)) else {
        return 0;
    };
    // SAFETY: the map outlives the program; nobody but guards writes these.
    let (packets, bytes, ended) = unsafe {
        (
            Counter::new(&raw mut (*state).packets),
            Counter::new(&raw mut (*state).bytes),
            Counter::new(&raw mut (*state).ended),
        )
    };
    // SAFETY: a read of a live map value that the agent writes word by word.
    let revoked = unsafe { ptr::read_volatile(&raw const (*control).revoked) };
    if revoked != 0 || ended.get() != ended::NO {
        return 0;
    }

    // SAFETY: the context pointer is valid for as long as the program runs.
    let (ifindex, packet_type, length) = unsafe {
        let skb = ctx.skb.skb;
        ((*skb).ifindex, (*skb).pkt_type, (*skb).len)
    };
    if !any_interface && !granted(control, ifindex) {
        return 0;
    }
    if terms.deadline != 0 {
        // SAFETY: the helpers have no requirements; the tick is one word, and a stale one only
        // costs another look at the clock.
        unsafe {
            let tick = bpf_jiffies64();
            let early_tick = &raw mut (*state).early_tick;
            if early_tick.read_volatile() != tick {
                let now = bpf_ktime_get_boot_ns();
                if now >= terms.deadline {
                    end(ended, ended::DEADLINE);
                    return 0;
                }
                if terms.deadline - now > FAR {
                    early_tick.write_volatile(tick);
                }
            }
        }
    }
    // Loopback shows each packet twice; libpcap drops this copy too.
    if ifindex == LOOPBACK && packet_type == PACKET_OUTGOING {
        return 0;
    }

    let mut delivered = length.min(terms.snap);
    if LOOK {
        // SAFETY: nothing is held here; without a program in the array this does nothing.
        unsafe { OWN.tail_call(ctx, 0) };
    } else {
        // How much the process's own filter wants of the packet.
        // SAFETY: as above.
        delivered = delivered.min(unsafe { (*ctx.skb.skb).cb[OWN_LENGTH] });
    }
    if terms.payload != PAYLOAD_FULL {
        let keep = headers::end(ctx, link).saturating_add(terms.payload);
        delivered = delivered.min(keep);
    }
    if delivered == 0 {
        return 0;
    }

    let size = u64::from(delivered);
    let total_bytes = bytes.add(size);
    if terms.bytes != 0 && total_bytes > terms.bytes {
        bytes.give_back(size);
        end(ended, ended::BYTES);
        return 0;
    }
    let total_packets = packets.add(1);
    if terms.packets != 0 && total_packets > terms.packets {
        packets.give_back(1);
        bytes.give_back(size);
        end(ended, ended::PACKETS);
        return 0;
    }
    // The last packet that fits ends the session, not the first that does not.
    if terms.packets != 0 && total_packets == terms.packets {
        end(ended, ended::PACKETS);
    } else if terms.bytes != 0 && total_bytes == terms.bytes {
        end(ended, ended::BYTES);
    }
    let (slot, tagged) = protocol::slot(ctx, link);
    let of_which = some_number(ctx, slot | u32::from(tagged) << 16);
    count(of_which & 0xffff);
    if of_which >> 16 != 0 {
        count(TAGGED);
    }
    i64::from(delivered)
}

/// The same number, of which the verifier forgets which it is: it looks at what follows once, and not once for
/// each way that a packet's headers can lead there.
#[inline(always)]
fn some_number(ctx: &SkBuffContext, number: u32) -> u32 {
    // SAFETY: the context pointer is valid, and a program may write these words; the kernel empties them for
    // whoever is next.
    unsafe {
        let word = &raw mut (*ctx.skb.skb).cb[PASSAGE];
        word.write_volatile(number);
        word.read_volatile()
    }
}

/// Counts a packet that is delivered.
#[inline(always)]
fn count(slot: u32) {
    if let Some(protocols) = PROTOCOLS.get_ptr_mut(0) {
        let slot = slot as usize % SLOTS;
        // SAFETY: the slot is one of the map's value, which nobody but guards writes.
        unsafe { Counter::new((&raw mut (*protocols).slots).cast::<u64>().add(slot)) }.add(1);
    }
}

#[inline(always)]
fn granted(control: *const Control, ifindex: u32) -> bool {
    // SAFETY: reads of a live map value; the agent's updates are word-sized.
    let count = unsafe { ptr::read_volatile(&raw const (*control).interface_count) };
    let mut entry = 0;
    while entry < MAX_INTERFACES {
        if entry as u32 >= count {
            return false;
        }
        // SAFETY: `entry` is below the array's length.
        let candidate = unsafe {
            ptr::read_volatile((&raw const (*control).interfaces).cast::<u32>().add(entry))
        };
        if candidate == ifindex {
            return ifindex != 0;
        }
        entry += 1;
    }
    false
}

/// Ends the session, once; whoever gets there first says why.
#[inline(always)]
fn end(ended: Counter, reason: u64) {
    if ended.set_once(reason) {
        // A full ring only delays the news: the agent also looks at the state itself.
        let _ = ENDS.output::<u64>(reason, 0);
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// GPL helpers (`bpf_ktime_get_boot_ns` among them) want a GPL-compatible licence string.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
