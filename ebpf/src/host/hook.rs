//! Every process of the host that asks for a packet socket: refused unless its program is allowed, or
//! only told of. Whoever executes the allowed file is allowed, whatever that is called.
//!
//! What the kernel asks for by itself passes. Sockets are handed on, and captured by otherwise, unseen: this is about
//! programs that capture, not about attackers with the privileges that it takes.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "see budget.rs")]

#[path = "../budget.rs"]
#[allow(dead_code, reason = "this object needs less of it")]
mod budget;
#[path = "../storage.rs"]
#[allow(dead_code, reason = "this object needs less of it")]
mod storage;
#[path = "../structures.rs"]
mod structures;
mod telling;
#[path = "../whose.rs"]
mod whose;

use core::ptr;

use aya_ebpf::{
    helpers::generated::{bpf_get_current_uid_gid, bpf_probe_read_kernel_str},
    macros::{lsm, map},
    programs::LsmContext,
};
use capwarden_abi::host::{HookTerms, NO_DESCRIPTOR, PROGRAM, Socket};
use storage::{FileStorage, TaskStorage};
use structures::Structure;

/// Written by the agent before the object is loaded; frozen after.
#[unsafe(no_mangle)]
static TERMS: HookTerms = HookTerms {
    task_memory: 0,
    memory_program: 0,
    file_inode: 0,
    file_dentry: 0,
    dentry_name: 0,
    namespace_device: 0,
    namespace_inode: 0,
    lockdown: 0,
};

macro_rules! term {
    ($member:ident) => {
        // SAFETY: a valid static; volatile, since the compiler must not fold the zeros in.
        unsafe { ptr::read_volatile(&raw const TERMS.$member) }
    };
}

/// Files whose execution is allowed to capture.
#[map]
static ALLOWED: FileStorage = FileStorage::new();

/// Tasks that are refused whatever they execute: by one of these the agent finds out whether it is asked.
#[map]
static TASKS: TaskStorage = TaskStorage::new();

const PASS: i32 = 0;
const REFUSE: i32 = -1; // EPERM

/// Before there is a socket, and before the kernel looks whether whoever asks has the capability for one.
#[lsm(hook = "socket_create")]
fn ask(ctx: LsmContext) -> i32 {
    judge(ctx.arg(0), ctx.arg(3))
}

/// Once there is one: who has no capability does not come as far as this.
#[lsm(hook = "socket_post_create")]
fn made(ctx: LsmContext) -> i32 {
    judge(ctx.arg(1), ctx.arg(4))
}

#[inline(always)]
fn judge(family: u32, by_the_kernel: u32) -> i32 {
    const PACKET: u32 = 17;
    if family != PACKET || by_the_kernel != 0 {
        return PASS;
    }
    let task = whose::task();
    if TASKS.get(task).is_some() {
        return REFUSE;
    }
    let program = Structure::new(task)
        .and_then(|task| task.follow(term!(task_memory)))
        .and_then(|memory| memory.follow(term!(memory_program)));
    let inode = program.and_then(|file| file.follow(term!(file_inode)));
    if inode.is_some_and(|inode| ALLOWED.has(inode.pointer())) {
        return PASS;
    }
    let lockdown = term!(lockdown);
    tell(program, lockdown);
    if lockdown == 0 { PASS } else { REFUSE }
}

#[inline(always)]
fn tell(program: Option<Structure>, refused: u32) {
    let (process, _) = whose::numbers(term!(namespace_device), term!(namespace_inode));
    let mut socket = Socket {
        process,
        // SAFETY: no requirements.
        user: unsafe { bpf_get_current_uid_gid() } as u32,
        refused,
        descriptor: NO_DESCRIPTOR,
        name: whose::name(),
        program: [0; PROGRAM],
    };
    let name = program
        .and_then(|file| file.follow(term!(file_dentry)))
        .map(|entry| entry.read::<*const u8>(term!(dentry_name)));
    if let Some(name) = name {
        // SAFETY: the buffer has as many bytes as are named; the helper checks the address.
        unsafe {
            bpf_probe_read_kernel_str(
                ptr::from_mut(&mut socket.program).cast(),
                PROGRAM as u32,
                name.cast(),
            );
        }
    }
    telling::tell(socket);
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// GPL helpers want a GPL-compatible licence string.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
