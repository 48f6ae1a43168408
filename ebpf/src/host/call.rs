//! Packet sockets that any process of the host has got, told of when the system call returns: for kernels that do
//! not run programs on security hooks. It runs for every system call of every process, for as long as it is attached,
//! which costs each about as much as the comparison of a number.
//!
//! `socketcall`, by which old 32-bit programs make sockets, is not looked into.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "see budget.rs")]

#[path = "../budget.rs"]
#[allow(dead_code, reason = "this object needs less of it")]
mod budget;
mod telling;
#[path = "../whose.rs"]
mod whose;

use core::ptr;

use aya_ebpf::{
    helpers::{bpf_probe_read_kernel, generated::bpf_get_current_uid_gid},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use capwarden_abi::host::{CallTerms, PROGRAM, Socket};

/// Written by the agent before the object is loaded; frozen after.
#[unsafe(no_mangle)]
static TERMS: CallTerms = CallTerms {
    number: 0,
    first: 0,
    second: 0,
    socket: 0,
    other_socket: 0,
    other_first: 0,
    other_second: 0,
    namespace_device: 0,
    namespace_inode: 0,
    unused: 0,
};

macro_rules! term {
    ($member:ident) => {
        // SAFETY: a valid static; volatile, since the compiler must not fold the zeros in.
        unsafe { ptr::read_volatile(&raw const TERMS.$member) }
    };
}

#[btf_tracepoint(function = "sys_exit")]
fn returned(ctx: BtfTracePointContext) -> i32 {
    let _ = look(ctx.arg(0), ctx.arg(1));
    0
}

#[inline(always)]
fn look(registers: *const u8, result: i64) -> Option<()> {
    const INET: u32 = 2;
    const PACKET: u32 = 17;
    const OLD_PACKET: u32 = 10;
    if result < 0 {
        return None;
    }
    let number = read(registers, term!(number))?;
    let (first, second) = if number == term!(socket) {
        (term!(first), term!(second))
    } else if number == term!(other_socket) {
        (term!(other_first), term!(other_second))
    } else {
        return None;
    };
    let (family, kind) = (read(registers, first)?, read(registers, second)?);
    if family != PACKET && !(family == INET && kind & 0xf == OLD_PACKET) {
        return None;
    }
    let (process, _) = whose::numbers(term!(namespace_device), term!(namespace_inode));
    let socket = Socket {
        process,
        // SAFETY: no requirements.
        user: unsafe { bpf_get_current_uid_gid() } as u32,
        refused: 0,
        descriptor: result as u32,
        name: whose::name(),
        program: [0; PROGRAM],
    };
    telling::tell(socket);
    Some(())
}

/// The low half of a register, which is all that the kernel looks at.
#[inline(always)]
fn read(registers: *const u8, offset: u32) -> Option<u32> {
    // SAFETY: the helper checks the address and fails instead of faulting.
    unsafe { bpf_probe_read_kernel(registers.wrapping_add(offset as usize).cast::<u32>()) }.ok()
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// GPL helpers want a GPL-compatible licence string.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
