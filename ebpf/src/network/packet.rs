//! Every packet of every socket, in both directions.

use core::ptr;

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{bpf_get_socket_cookie, bpf_sk_fullsock, bpf_skb_load_bytes},
    programs::{SkBuffContext, SockOpsContext},
};
use capwarden_abi::network::{Event, MAPPED, Peer, SocketTag, ended, event, protocol, role};

use crate::{
    budget::Counter,
    maps::{PEERS, TAGS, TOTALS},
    rules::{Endpoint, Owner, Use, find},
    slot::Slot,
};

const TCP_LISTEN: u32 = 10;
const AF_INET: u32 = 2;

/// Where the second header of an IPv6 packet begins.
const V6_HEADER: u32 = 40;

#[inline(always)]
pub fn passes<const IN: bool>(ctx: &SkBuffContext) -> bool {
    let skb = ctx.skb.skb;
    // SAFETY: the context is valid for as long as the program runs, and what it names is the
    // kernel's.
    let (socket, tag) = unsafe {
        let socket = (*skb).__bindgen_anon_2.sk;
        if socket.is_null() {
            return false;
        }
        let socket = bpf_sk_fullsock(socket);
        if socket.is_null() {
            return false;
        }
        (socket, TAGS.get(socket))
    };
    if tag.is_null() {
        if let Some(totals) = TOTALS.get_ptr_mut(0) {
            // SAFETY: a live map value, written by these programs only.
            unsafe { Counter::new(&raw mut (*totals).untagged) }.add(1);
        }
        return false;
    }
    let Some(slot) = Owner::of(tag).slot() else {
        return false;
    };
    if !IN && slot.resets() != 0 && is_reset(skb) {
        return true;
    }
    let passes = slot.goes_on()
        && may_use::<IN>(skb, socket, tag, slot)
        && (IN || goes_where_it_says(skb))
        && fits::<IN>(skb, slot);
    if !passes {
        slot.dropped().add(1);
    }
    passes
}

/// Whether it ends a TCP connection at once, and says nothing else.
#[inline(always)]
fn is_reset(skb: *mut __sk_buff) -> bool {
    const V4_HEADER: u32 = 20;
    const V4_PROTOCOL: u32 = 9;
    const V6_PROTOCOL: u32 = 6;
    const RESET: u8 = 4;
    let Some(first) = load::<u8>(skb, 0) else {
        return false;
    };
    let (place, segment) = if first == 0x45 {
        (V4_PROTOCOL, V4_HEADER)
    } else if first >> 4 == 6 {
        (V6_PROTOCOL, V6_HEADER)
    } else {
        return false;
    };
    if load::<u8>(skb, place) != Some(protocol::TCP) {
        return false;
    }
    let Some([offset, flags]) = load::<[u8; 2]>(skb, segment + 12) else {
        return false;
    };
    // SAFETY: the context is valid for as long as the program runs.
    let length = unsafe { ptr::read_volatile(&raw const (*skb).len) };
    flags & RESET != 0 && length == segment + u32::from(offset >> 4) * 4
}

/// Interface, and what the socket is for.
#[inline(always)]
fn may_use<const IN: bool>(
    skb: *mut __sk_buff,
    socket: *mut bpf_sock,
    tag: *const SocketTag,
    slot: Slot,
) -> bool {
    // SAFETY: as above; volatile, so that each field is read in the width that it may be read in.
    let (ifindex, number, state, peer, roles) = unsafe {
        (
            ptr::read_volatile(&raw const (*skb).ifindex),
            ptr::read_volatile(&raw const (*socket).protocol),
            ptr::read_volatile(&raw const (*socket).state),
            ptr::read_volatile(&raw const (*socket).dst_port),
            (*tag).role,
        )
    };
    if !slot.grants_interface(ifindex) || roles & role::DEAD != 0 {
        return false;
    }
    if number == u32::from(protocol::TCP) {
        if state != TCP_LISTEN {
            return true;
        }
        if !listens(socket, tag, roles) {
            return false;
        }
        // Before there is a connection, so that what it would bring is not heard at all.
        let cap = slot.accepted_cap();
        if IN && cap != 0 && slot.accepted().get() >= cap {
            slot.refuses(event::ACCEPTED, Event::default());
            return false;
        }
        return true;
    }
    if number != u32::from(protocol::UDP) {
        return false;
    }
    if peer != 0 || !IN {
        return true; // the kernel compares the peer; `sendto` was asked
    }
    let Some(from) = sender(skb) else {
        return false;
    };
    if listens(socket, tag, roles) {
        let known = Peer {
            // SAFETY: the context that the kernel gave.
            socket: unsafe { bpf_get_socket_cookie(skb.cast()) },
            address: from.address,
            port: from.port.into(),
            unused: 0,
        };
        if PEERS.get_ptr(&known).is_none() {
            let _ = PEERS.insert(&known, &1, 0); // who is not there gets no answer
        }
        return true;
    }
    !find(Use::Connect, &from, Owner::of(tag)).is_nobody()
}

/// Whether the socket is the listener that it was when a rule let it be bound: bound sockets can
/// come loose when they are disconnected.
#[inline(always)]
fn listens(socket: *mut bpf_sock, tag: *const SocketTag, roles: u32) -> bool {
    if roles & role::LISTENS == 0 {
        return false;
    }
    // SAFETY: as above.
    unsafe {
        let port = ptr::read_volatile(&raw const (*socket).src_port);
        let [a, b, c, d] = (*tag).address;
        if port != (*tag).port {
            return false;
        }
        if a == 0 && b == 0 && d == 0 && (c == 0 || c == MAPPED) {
            return true;
        }
        let words = (&raw const (*socket).src_ip6).cast::<u32>();
        let is_v4 = ptr::read_volatile(&raw const (*socket).family) == AF_INET;
        if is_v4 {
            a == 0 && b == 0 && c == MAPPED && d == ptr::read_volatile(&raw const (*socket).src_ip4)
        } else {
            a == ptr::read_volatile(words)
                && b == ptr::read_volatile(words.add(1))
                && c == ptr::read_volatile(words.add(2))
                && d == ptr::read_volatile(words.add(3))
        }
    }
}

/// Whose datagram it is. None for one that hides it behind headers.
#[inline(always)]
fn sender(skb: *mut __sk_buff) -> Option<Endpoint> {
    const SOURCE_V4: u32 = 12;
    const SOURCE_V6: u32 = 8;
    const NEXT_HEADER: u32 = 6;
    let first: u8 = load(skb, 0)?;
    if first >> 4 == 4 {
        let address = load(skb, SOURCE_V4)?;
        let header = u32::from(first & 0xf) * 4;
        let port: u16 = load(skb, header)?;
        return Some(Endpoint::v4(address, u16::from_be(port), protocol::UDP));
    }
    if load::<u8>(skb, NEXT_HEADER)? != protocol::UDP {
        return None;
    }
    let port: u16 = load(skb, V6_HEADER)?;
    Some(Endpoint {
        address: load(skb, SOURCE_V6)?,
        port: u16::from_be(port),
        protocol: protocol::UDP,
    })
}

/// Whether the packet goes to the address that its socket named: a source route sends it to another
/// first. IPv4 options are dropped as a whole; of IPv6 headers, those that TCP and UDP have by
/// themselves pass (a jumbo packet's option, a fragment's header).
#[inline(always)]
fn goes_where_it_says(skb: *mut __sk_buff) -> bool {
    const NO_OPTIONS: u8 = 0x45;
    const NEXT_HEADER: u32 = 6;
    const HOP_BY_HOP: u8 = 0;
    const FRAGMENT: u8 = 44;
    let Some(first) = load::<u8>(skb, 0) else {
        return false;
    };
    if first >> 4 == 4 {
        return first == NO_OPTIONS;
    }
    let Some(mut next) = load::<u8>(skb, NEXT_HEADER) else {
        return false;
    };
    if next == HOP_BY_HOP || next == FRAGMENT {
        next = load(skb, V6_HEADER).unwrap_or(u8::MAX);
    }
    next == protocol::TCP || next == protocol::UDP
}

/// Takes the packet from the budgets. The one that does not fit ends the session; so does the one
/// after which nothing would.
#[inline(always)]
fn fits<const IN: bool>(skb: *mut __sk_buff, slot: Slot) -> bool {
    // SAFETY: as above.
    let (length, segments) = unsafe {
        (
            u64::from(ptr::read_volatile(&raw const (*skb).len)),
            u64::from(ptr::read_volatile(&raw const (*skb).gso_segs)).max(1),
        )
    };
    let (bytes, byte_cap, byte_reason) = if IN {
        (slot.bytes_in(), slot.bytes_in_cap(), ended::BYTES_IN)
    } else {
        (slot.bytes_out(), slot.bytes_out_cap(), ended::BYTES_OUT)
    };
    let total_bytes = bytes.add(length);
    if byte_cap != 0 && total_bytes > byte_cap {
        bytes.give_back(length);
        slot.end(byte_reason);
        return false;
    }
    let packet_cap = slot.packet_cap();
    let total_packets = slot.packets().add(segments);
    if packet_cap != 0 && total_packets > packet_cap {
        slot.packets().give_back(segments);
        bytes.give_back(length);
        slot.end(ended::PACKETS);
        return false;
    }
    if packet_cap != 0 && total_packets == packet_cap {
        slot.end(ended::PACKETS);
    } else if byte_cap != 0 && total_bytes == byte_cap {
        slot.end(byte_reason);
    }
    true
}

/// A connection was accepted: counted, or dead from the start.
#[inline(always)]
pub fn accepted(ctx: &SockOpsContext) {
    // SAFETY: the context is valid for as long as the program runs.
    let socket = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if socket.is_null() {
        return;
    }
    // SAFETY: the kernel's socket.
    let tag = unsafe { TAGS.get(socket) };
    let Some(slot) = Owner::of(tag).slot() else {
        return; // nothing of it passes
    };
    if !slot.admits(
        slot.accepted(),
        slot.accepted_cap(),
        event::ACCEPTED,
        Event::default(),
    ) {
        // SAFETY: a live map value of a socket that nobody else has yet.
        unsafe { (*tag).role |= role::DEAD };
    }
}

#[inline(always)]
fn load<T: Copy>(skb: *mut __sk_buff, offset: u32) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes as many bytes as it is told, or none and says so.
    unsafe {
        let size = size_of::<T>() as u32;
        let failed = bpf_skb_load_bytes(skb.cast(), offset, value.as_mut_ptr().cast(), size);
        (failed == 0).then(|| value.assume_init())
    }
}
