//! Addresses that a process names: `bind`, `connect`, `sendto`.

use core::ptr;

use aya_ebpf::{
    bindings::bpf_sock,
    helpers::generated::bpf_get_socket_cookie,
    programs::{SockAddrContext, SockContext},
};
use capwarden_abi::network::{Event, Peer, SocketTag, event, protocol, role};

use crate::{
    maps::{PEERS, TAGS},
    rules::{Endpoint, Owner, Use, find},
    slot,
};

/// What was named, and for which socket.
pub struct Named {
    to: Endpoint,
    socket: *mut bpf_sock,
}

impl Named {
    #[inline(always)]
    pub fn v4(ctx: &SockAddrContext) -> Self {
        // SAFETY: the context is valid for as long as the program runs. Volatile, so that each
        // field is read in the one width that the kernel lets it be read in.
        unsafe {
            let named = ctx.sock_addr;
            let address = ptr::read_volatile(&raw const (*named).user_ip4);
            Self {
                to: Endpoint::v4(address, port(ctx), protocol(ctx)),
                socket: socket(ctx),
            }
        }
    }

    #[inline(always)]
    pub fn v6(ctx: &SockAddrContext) -> Self {
        // SAFETY: as above.
        unsafe {
            let words = (&raw const (*ctx.sock_addr).user_ip6).cast::<u32>();
            let address = [
                ptr::read_volatile(words),
                ptr::read_volatile(words.add(1)),
                ptr::read_volatile(words.add(2)),
                ptr::read_volatile(words.add(3)),
            ];
            Self {
                to: Endpoint {
                    address,
                    port: port(ctx),
                    protocol: protocol(ctx),
                },
                socket: socket(ctx),
            }
        }
    }

    #[inline(always)]
    fn event(&self, event: u32) -> Event {
        Event {
            event,
            address: self.to.address,
            port: self.to.port.into(),
            detail: self.to.protocol.into(),
            ..Event::default()
        }
    }

    /// The tag that the socket has; null if none.
    #[inline(always)]
    fn tag(&self) -> *mut SocketTag {
        // SAFETY: the kernel's socket.
        unsafe { TAGS.get(self.socket) }
    }
}

#[inline(always)]
fn port(ctx: &SockAddrContext) -> u16 {
    // SAFETY: as above.
    let port = unsafe { ptr::read_volatile(&raw const (*ctx.sock_addr).user_port) };
    u16::from_be(port as u16)
}

#[inline(always)]
fn protocol(ctx: &SockAddrContext) -> u8 {
    // SAFETY: as above.
    unsafe { ptr::read_volatile(&raw const (*ctx.sock_addr).protocol) as u8 }
}

#[inline(always)]
fn socket(ctx: &SockAddrContext) -> *mut bpf_sock {
    // SAFETY: as above.
    unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk }
}

/// Whether the socket may be bound to it. A port that the kernel chooses may always be: most
/// programs that do so want to connect. It makes no listener, as nothing is tagged here.
#[inline(always)]
pub fn may_bind(named: &Named) -> bool {
    if named.to.port == 0 {
        return true;
    }
    let own = Owner::of(named.tag());
    let may = !find(Use::Listen, &named.to, own).is_nobody();
    if !may {
        slot::tell(named.event(event::BIND));
    }
    may
}

#[inline(always)]
pub fn bound_v4(ctx: &SockContext) -> Endpoint {
    // SAFETY: the context is valid for as long as the program runs; volatile as above.
    unsafe {
        let socket = ctx.sock;
        let address = ptr::read_volatile(&raw const (*socket).src_ip4);
        let port = ptr::read_volatile(&raw const (*socket).src_port);
        let protocol = ptr::read_volatile(&raw const (*socket).protocol);
        Endpoint::v4(address, port as u16, protocol as u8)
    }
}

#[inline(always)]
pub fn bound_v6(ctx: &SockContext) -> Endpoint {
    // SAFETY: as above.
    unsafe {
        let socket = ctx.sock;
        let words = (&raw const (*socket).src_ip6).cast::<u32>();
        Endpoint {
            address: [
                ptr::read_volatile(words),
                ptr::read_volatile(words.add(1)),
                ptr::read_volatile(words.add(2)),
                ptr::read_volatile(words.add(3)),
            ],
            port: ptr::read_volatile(&raw const (*socket).src_port) as u16,
            protocol: ptr::read_volatile(&raw const (*socket).protocol) as u8,
        }
    }
}

/// The socket has been bound, to this. Without a rule it stays as it was: what is not tagged as a
/// listener is never heard.
#[inline(always)]
pub fn bound(ctx: &SockContext, to: Endpoint) {
    // SAFETY: the context of these programs is the kernel's socket.
    let own = Owner::of(unsafe { TAGS.get(ctx.sock) });
    let found = find(Use::Listen, &to, own);
    if found.is_nobody() {
        return;
    }
    let new = SocketTag {
        generation: found.generation,
        slot: found.slot,
        role: 0,
        address: to.address,
        port: to.port.into(),
        unused: 0,
    };
    // SAFETY: as above. The socket is locked while it is bound, but not while a datagram is sent, which
    // may tag it for somebody else in between: such a socket does not listen.
    unsafe {
        let tag = TAGS.get_or_insert(ctx.sock, new);
        if !tag.is_null() && Owner::of(tag) == found {
            (*tag).address = to.address;
            (*tag).port = to.port.into();
            (*tag).role |= role::LISTENS;
            if let Some(slot) = found.slot() {
                slot.listeners().add(1);
            }
        }
    }
}

/// Whether the socket may send there, as `what` it was named. Tags it.
#[inline(always)]
pub fn may_send(ctx: &SockAddrContext, named: &Named, what: u32) -> bool {
    let tag = named.tag();
    if answers(ctx, named, tag) {
        return true;
    }
    // To the kernel `0.0.0.0` means the host itself, by an address that is not named.
    let found = find(Use::Connect, &named.to, Owner::of(tag));
    if found.is_nobody() || named.to.is_unspecified() {
        slot::tell(named.event(what));
        return false;
    }
    if named.to.protocol == protocol::TCP {
        let Some(slot) = found.slot() else {
            return false;
        };
        let refused = named.event(event::MADE);
        if !slot.admits(slot.made(), slot.made_cap(), event::MADE, refused) {
            return false;
        }
    }
    let new = SocketTag {
        generation: found.generation,
        slot: found.slot,
        role: 0,
        address: [0; 4],
        port: 0,
        unused: 0,
    };
    // SAFETY: the kernel's socket. The bits of a role are only ever added here, and the socket is
    // locked where they are.
    unsafe {
        let tag = TAGS.get_or_insert(named.socket, new);
        if tag.is_null() || Owner::of(tag) != found {
            return false; // no memory; or somebody else was faster, for another slot
        }
        (*tag).role |= role::CONNECTS;
    }
    true
}

/// Whether it answers somebody who has sent to this listener, which needs no rule.
#[inline(always)]
fn answers(ctx: &SockAddrContext, named: &Named, tag: *mut SocketTag) -> bool {
    // SAFETY: a live map value.
    if tag.is_null()
        || unsafe { (*tag).role } & role::LISTENS == 0
        || named.to.protocol != protocol::UDP
    {
        return false;
    }
    let peer = Peer {
        // SAFETY: the context that the kernel gave.
        socket: unsafe { bpf_get_socket_cookie(ctx.sock_addr.cast()) },
        address: named.to.address,
        port: named.to.port.into(),
        unused: 0,
    };
    PEERS.get_ptr(&peer).is_some() && Owner::of(tag).goes_on()
}
