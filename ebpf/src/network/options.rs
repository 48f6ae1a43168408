//! Socket options that would send packets elsewhere, or later than they are counted.
//!
//! What holds does not rest on this: each packet's interface, headers and socket are looked at.
//! But a process that is refused here knows why nothing comes.

use core::ptr;

use aya_ebpf::programs::SockoptContext;
use capwarden_abi::network::{BASELINE, Event, event};

use crate::{
    maps::TAGS,
    rules::Owner,
    slot::{self, Slot},
};

const SOL_IP: i32 = 0;
const SOL_SOCKET: i32 = 1;
const SOL_TCP: i32 = 6;
const SOL_UDP: i32 = 17;
const SOL_IPV6: i32 = 41;

const SO_BINDTODEVICE: i32 = 25;
const SO_TXTIME: i32 = 61;
const SO_BINDTOIFINDEX: i32 = 62;
const IP_OPTIONS: i32 = 4;
const IP_FREEBIND: i32 = 15;
const IP_TRANSPARENT: i32 = 19;
const IPV6_2292RTHDR: i32 = 5;
const IPV6_2292PKTOPTIONS: i32 = 6;
const IPV6_RTHDR: i32 = 57;
const IPV6_TRANSPARENT: i32 = 75;
const IPV6_FREEBIND: i32 = 78;
const TCP_REPAIR: i32 = 19;
const TCP_ULP: i32 = 31;
const UDP_ENCAP: i32 = 100;

#[inline(always)]
pub fn may_set(ctx: &SockoptContext) -> bool {
    // SAFETY: the context is valid for as long as the program runs.
    let (level, option, length) = unsafe {
        (
            ptr::read_volatile(&raw const (*ctx.sockopt).level),
            ptr::read_volatile(&raw const (*ctx.sockopt).optname),
            ptr::read_volatile(&raw const (*ctx.sockopt).optlen),
        )
    };
    let may = match (level, option) {
        (SOL_SOCKET, SO_BINDTODEVICE) => value::<u8>(ctx) == Some(0) || any_interface(ctx),
        (SOL_SOCKET, SO_BINDTOIFINDEX) => {
            value::<u32>(ctx).is_some_and(|index| index == 0 || granted(ctx, index))
        }
        (SOL_SOCKET, SO_TXTIME)
        | (SOL_IP, IP_OPTIONS | IP_FREEBIND | IP_TRANSPARENT)
        | (
            SOL_IPV6,
            IPV6_2292RTHDR | IPV6_2292PKTOPTIONS | IPV6_RTHDR | IPV6_TRANSPARENT | IPV6_FREEBIND,
        )
        | (SOL_TCP, TCP_REPAIR)
        | (SOL_UDP, UDP_ENCAP) => false,
        // Others carry data past the socket's packets.
        (SOL_TCP, TCP_ULP) => value::<[u8; 3]>(ctx) == Some(*b"tls"),
        _ => true,
    };
    if !may {
        slot::tell(Event {
            event: event::OPTION,
            port: option as u32,
            detail: level as u32,
            ..Event::default()
        });
    }
    // The kernel hands over a page at most, and wants to hear that the rest is not changed.
    const PAGE: i32 = 4096;
    if may && length > PAGE {
        // SAFETY: as above.
        unsafe { ptr::write_volatile(&raw mut (*ctx.sockopt).optlen, 0) };
    }
    may
}

/// The beginning of the option's value.
#[inline(always)]
fn value<T: Copy>(ctx: &SockoptContext) -> Option<T> {
    // SAFETY: the kernel's bounds of the value are compared before it is read.
    unsafe {
        let start = (*ctx.sockopt).__bindgen_anon_2.optval.cast::<u8>();
        let end = (*ctx.sockopt).__bindgen_anon_3.optval_end.cast::<u8>();
        let behind = start.wrapping_add(size_of::<T>());
        (behind <= end).then(|| ptr::read_unaligned(start.cast::<T>()))
    }
}

/// The socket's slot; for a socket that has none, the baseline.
#[inline(always)]
fn of(ctx: &SockoptContext) -> Option<Slot> {
    // SAFETY: the kernel's socket.
    unsafe {
        let socket = (*ctx.sockopt).__bindgen_anon_1.sk;
        let tag = TAGS.get(socket);
        if tag.is_null() {
            Slot::current(BASELINE)
        } else {
            Owner::of(tag).slot()
        }
    }
}

/// A device's name cannot be looked up here.
#[inline(always)]
fn any_interface(ctx: &SockoptContext) -> bool {
    of(ctx).is_some_and(|slot| slot.any_interface() != 0)
}

#[inline(always)]
fn granted(ctx: &SockoptContext, index: u32) -> bool {
    of(ctx).is_some_and(|slot| slot.grants_interface(index))
}
