//! The backstop: programs on Linux security hooks, which refuse governed processes a second time what
//! seccomp, the lost capabilities and Landlock have refused them already, and what only these hooks can.
//!
//! | hook | refused to a governed process |
//! |---|---|
//! | `socket_create` | sockets that see other traffic than their own: the agent makes its capture sockets |
//! | `socket_bind` | giving a packet socket a protocol and an interface, if no agent has armed it |
//! | `socket_sendmsg` | sending frames by a packet socket |
//! | `socket_setsockopt` | options of packet sockets by which packets get past the guard, or frames out |
//! | `file_receive` | taking from others a socket of these kinds that is not armed; programs, maps and their like |
//! | `userns_create`, `bpf` | everything |
//! | `ptrace_access_check` | looking into processes outside its tree |
//! | `unix_stream_connect` | services that start programs for whoever asks |
//! | `task_alloc` | nothing: a process belongs to the tree of whoever has forked it |
//!
//! Whose process it is, the storage of its task says, and its cgroup besides (`member.rs`). Every hook asks first
//! what costs least; for who is not governed, most calls end after a comparison of the socket's family.
#![no_std]
#![no_main]

mod deputies;
mod file;
mod maps;
mod member;
mod offsets;
mod socket;
#[path = "../storage.rs"]
#[allow(dead_code, reason = "this object needs less of it")]
mod storage;
#[path = "../structures.rs"]
mod structures;
#[path = "../whose.rs"]
mod whose;

use core::ffi::c_void;

use aya_ebpf::{macros::lsm, programs::LsmContext};
use capwarden_abi::lsm::{Denial, Ward, hook};

use offsets::offset;
use structures::Structure;

/// What hooks answer with.
const PASS: i32 = 0;
const REFUSE: i32 = -1; // EPERM
const TRY_AGAIN: i32 = -11; // EAGAIN

#[lsm(hook = "task_alloc")]
fn inherit(ctx: LsmContext) -> i32 {
    let child: *mut c_void = ctx.arg(0);
    let Some(ward) = member::tag_of_current() else {
        return PASS;
    };
    // A process without its parent's tag must not be.
    match member::tag(child, ward) {
        true => PASS,
        false => TRY_AGAIN,
    }
}

#[lsm(hook = "socket_create")]
fn create(ctx: LsmContext) -> i32 {
    let (family, kind, protocol): (u32, u32, u32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    let by_the_kernel: u32 = ctx.arg(3);
    if by_the_kernel != 0 || socket::harmless(family, kind, protocol) {
        return PASS;
    }
    refuse_governed(hook::CREATE, [family, kind, protocol])
}

#[lsm(hook = "socket_bind")]
fn bind(ctx: LsmContext) -> i32 {
    match socket::of(ctx.arg(0)) {
        Some(socket) if socket.is_packet() && !socket.is_armed() => {
            refuse_governed(hook::BIND, [0; 3])
        }
        _ => PASS,
    }
}

#[lsm(hook = "socket_sendmsg")]
fn send(ctx: LsmContext) -> i32 {
    match socket::of(ctx.arg(0)) {
        Some(socket) if socket.is_packet() => refuse_governed(hook::SEND, [0; 3]),
        _ => PASS,
    }
}

#[lsm(hook = "socket_setsockopt")]
fn set_option(ctx: LsmContext) -> i32 {
    let (level, option): (u32, u32) = (ctx.arg(1), ctx.arg(2));
    if !socket::loosens(level, option) {
        return PASS;
    }
    match socket::of(ctx.arg(0)) {
        Some(socket) if socket.is_packet() => refuse_governed(hook::OPTION, [level, option, 0]),
        _ => PASS,
    }
}

#[lsm(hook = "file_receive")]
fn receive(ctx: LsmContext) -> i32 {
    let file: *mut c_void = ctx.arg(0);
    if let Some(socket) = socket::of_file(file) {
        let (family, kind, protocol) = socket.kind();
        if socket::harmless(family, kind, protocol) || (socket.is_packet() && socket.is_armed()) {
            return PASS;
        }
        return refuse_governed(hook::RECEIVE_SOCKET, [family, kind, protocol]);
    }
    if file::is_privileged_object(file) {
        return refuse_governed(hook::RECEIVE_OBJECT, [0; 3]);
    }
    PASS
}

#[lsm(hook = "userns_create")]
fn new_user_namespace(_: LsmContext) -> i32 {
    refuse_governed(hook::NAMESPACE, [0; 3])
}

#[lsm(hook = "bpf")]
fn bpf(ctx: LsmContext) -> i32 {
    let command: u32 = ctx.arg(0);
    refuse_governed(hook::BPF, [command, 0, 0])
}

#[lsm(hook = "ptrace_access_check")]
fn trace(ctx: LsmContext) -> i32 {
    /// Somebody only wants to know whether it may: `/proc` does, whenever it is listed.
    const NO_AUDIT: u32 = 4;
    let (other, mode): (*mut c_void, u32) = (ctx.arg(0), ctx.arg(1));
    let Some(ward) = member::ward_of_current() else {
        return PASS;
    };
    if member::tag_of(other).is_some_and(|theirs| theirs.number == ward.number) {
        return PASS;
    }
    if mode & NO_AUDIT == 0 {
        let process = Structure::new(other).map_or(0, |task| task.read(offset!(task_process)));
        tell(hook::PTRACE, ward, [process, mode, 0]);
    }
    REFUSE
}

#[lsm(hook = "unix_stream_connect")]
fn connect(ctx: LsmContext) -> i32 {
    let Some(ward) = member::ward_of_current() else {
        return PASS;
    };
    let listener: *const u8 = ctx.arg(1);
    match deputies::which(listener) {
        Some(number) if number >= u32::BITS || ward.reach & (1 << number) == 0 => {
            tell(hook::CONNECT, ward, [number, 0, 0]);
            REFUSE
        }
        _ => PASS,
    }
}

/// Refuses, if whoever calls is governed.
#[inline(always)]
fn refuse_governed(hook: u32, details: [u32; 3]) -> i32 {
    let Some(ward) = member::ward_of_current() else {
        return PASS;
    };
    tell(hook, ward, details);
    REFUSE
}

/// What does not fit into the queue is refused all the same.
#[inline(always)]
fn tell(hook: u32, ward: Ward, details: [u32; 3]) {
    let (process, thread) = whose::numbers(offset!(namespace_device), offset!(namespace_inode));
    let denial = Denial {
        hook,
        ward: ward.number,
        process,
        thread,
        details,
        unused: 0,
        name: whose::name(),
    };
    let _ = maps::EVENTS.output::<Denial>(denial, 0);
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// GPL helpers want a GPL-compatible licence string.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
