//! What lets no frame out that a capture socket sends: one program for each direction out of an
//! interface.
//!
//! Capture sockets carry [`INJECTION_MARK`], and so does all that they send; whoever holds one cannot
//! change that. Frames without it go on to whatever else is attached.
//!
//! It runs as tcx (Linux 6.6) and, before that, as a classifier with direct actions; both know these
//! two answers by the same numbers.
#![no_std]
#![no_main]

use aya_ebpf::{macros::classifier, programs::TcContext};
use capwarden_abi::INJECTION_MARK;

/// `TCX_NEXT`, `TC_ACT_UNSPEC`
const NEXT: i32 = -1;
/// `TCX_DROP`, `TC_ACT_SHOT`: the sender is told `ENOBUFS`.
const DROP: i32 = 2;

#[classifier]
fn egress(ctx: TcContext) -> i32 {
    // SAFETY: the kernel gives the program a valid context.
    let mark = unsafe { (*ctx.skb.skb).mark };
    if mark == INJECTION_MARK { DROP } else { NEXT }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
