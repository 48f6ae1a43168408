//! Fork tagging: which call a process descends from.
//!
//! Capture servers start their capture detached, in its own session and process group, and may be
//! dead before the capture opens its socket; neither group, session nor parent survives that. So
//! each process is tagged when it is forked: with its parent's tag, or, where the parent belongs
//! to no session, with the session whose call is open right then.
//!
//! Of sessions for programs, it also counts the processes that run, and ends whoever forks beyond
//! their cap. The server itself, whose call starts the first of them, is never ended for that.
//!
//! `tp_btf` programs need Linux 5.5; the tracepoint runs in the parent:
//! <https://github.com/torvalds/linux/blob/v5.5/kernel/fork.c#L2380>
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "see budget.rs")]

mod budget;

use core::ptr;

use aya_ebpf::{
    helpers::{
        bpf_probe_read_kernel,
        generated::{bpf_get_current_cgroup_id, bpf_send_signal},
    },
    macros::{btf_tracepoint, map},
    maps::{HashMap, RingBuf},
    programs::BtfTracePointContext,
};
use budget::Counter;
use capwarden_abi::{ProgramControl, ProgramCounts, ProgramEvent, Tag, TaskOffsets};

/// Written by the agent before the object is loaded; frozen after.
#[unsafe(no_mangle)]
static OFFSETS: TaskOffsets = TaskOffsets {
    pid: 0,
    tgid: 0,
    group_leader: 0,
    thread_pid: 0,
    signal: 0,
    signal_live: 0,
    pid_level: 0,
    pid_numbers: 0,
    upid_size: 0,
    upid_nr: 0,
    upid_ns: 0,
    namespace_inode: 0,
    agent_namespace: 0,
};

/// Governed processes, of one server: 0.7 MB. When it is full, new processes stay untagged, and so get no socket.
#[map]
static TAGS: HashMap<u32, Tag> = HashMap::with_max_entries(8_192, 0);

/// Server → the session whose call is open.
#[map]
static WINDOWS: HashMap<u32, u32> = HashMap::with_max_entries(1_024, 0);

/// Sessions for programs. The agent writes it, and keeps one until its processes are gone.
#[map]
static PROGRAMS: HashMap<u32, ProgramControl> = HashMap::with_max_entries(128, 0);

/// What is counted of them.
#[map]
static PROGRAM_COUNTS: HashMap<u32, ProgramCounts> = HashMap::with_max_entries(128, 0);

/// [`ProgramEvent`]s. What does not fit, the agent finds when it next looks.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(16 * 1024, 0);

/// PID namespaces nest at most this deep (`MAX_PID_NS_LEVEL`).
const MAX_LEVEL: u32 = 32;

type Task = *const u8;

#[btf_tracepoint(function = "sched_process_fork")]
fn tag_fork(ctx: BtfTracePointContext) -> i32 {
    let (parent, child): (Task, Task) = (ctx.arg(0), ctx.arg(1));
    let _ = inherit(parent, child);
    0
}

#[btf_tracepoint(function = "sched_process_exit")]
fn forget_exit(ctx: BtfTracePointContext) -> i32 {
    let task: Task = ctx.arg(0);
    let _ = forget(task);
    0
}

#[inline(always)]
fn inherit(parent: Task, child: Task) -> Option<()> {
    let offsets = offsets();
    if read::<u32>(child, offsets.pid)? != read::<u32>(child, offsets.tgid)? {
        return None; // a thread: it shares its process's tag
    }
    let leader: Task = read(parent, offsets.group_leader)?;
    let parent_number = number(leader, &offsets)?;
    // SAFETY: the value is copied out at once.
    let mut tag = unsafe { *TAGS.get(parent_number)? };
    let parents = tag.session;
    if tag.session == 0 {
        // SAFETY: as above.
        tag.session = unsafe { WINDOWS.get(tag.server) }.copied().unwrap_or(0);
    }
    let child_number = number(child, &offsets)?;
    TAGS.insert(child_number, tag, 0).ok()?;
    if tag.session != 0 {
        started(tag.session, parents, child_number);
    }
    Some(())
}

/// One more process belongs to a session, forked by one of these.
#[inline(always)]
fn started(session: u32, parents: u32, child: u32) {
    let (Some(control), Some(counts)) = (
        PROGRAMS.get_ptr(session),
        PROGRAM_COUNTS.get_ptr_mut(session),
    ) else {
        return; // a capture's
    };
    // SAFETY: live map values; the counts are written by these programs only.
    let (control, running, peak, over) = unsafe {
        (
            ptr::read_volatile(control),
            Counter::new(&raw mut (*counts).running),
            Counter::new(&raw mut (*counts).peak),
            Counter::new(&raw mut (*counts).over),
        )
    };
    let now = running.add(1);
    peak.raise(now);
    let too_many = control.processes != 0 && now > control.processes;
    if too_many && over.set_once(1) {
        tell(session, 0);
    }
    if parents == session && (too_many || control.ended != 0) {
        const KILL: u32 = 9;
        // SAFETY: it is the parent that runs this.
        unsafe { bpf_send_signal(KILL) };
    }
    // SAFETY: no requirements.
    if unsafe { bpf_get_current_cgroup_id() } != control.cgroup {
        tell(session, child);
    }
}

#[inline(always)]
fn tell(session: u32, process: u32) {
    let _ = EVENTS.output::<ProgramEvent>(ProgramEvent { session, process }, 0);
}

#[inline(always)]
fn forget(task: Task) -> Option<()> {
    let offsets = offsets();
    let signal: *const u8 = read(task, offsets.signal)?;
    if read::<u32>(signal, offsets.signal_live)? != 0 {
        return None; // other threads of the process go on
    }
    let leader: Task = read(task, offsets.group_leader)?;
    let number = number(leader, &offsets)?;
    // SAFETY: the value is copied out at once.
    let tag = unsafe { *TAGS.get(number)? };
    TAGS.remove(number).ok()?;
    if let Some(counts) = PROGRAM_COUNTS.get_ptr_mut(tag.session) {
        // SAFETY: a live map value, written by these programs only.
        unsafe { Counter::new(&raw mut (*counts).running) }.give_back(1);
    }
    Some(())
}

/// The process's id in the agent's PID namespace; none if it is not visible there.
#[inline(always)]
fn number(task: Task, offsets: &TaskOffsets) -> Option<u32> {
    let pid: *const u8 = read(task, offsets.thread_pid)?;
    let level: u32 = read(pid, offsets.pid_level)?;
    let mut entry = 0;
    while entry < MAX_LEVEL {
        if entry > level {
            return None;
        }
        let upid = offsets.pid_numbers + entry * offsets.upid_size;
        let namespace: *const u8 = read(pid, upid + offsets.upid_ns)?;
        if read::<u32>(namespace, offsets.namespace_inode)? == offsets.agent_namespace {
            return read(pid, upid + offsets.upid_nr);
        }
        entry += 1;
    }
    None
}

#[inline(always)]
fn read<T>(base: *const u8, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address and fails instead of faulting.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset as usize).cast::<T>()) }.ok()
}

#[inline(always)]
fn offsets() -> TaskOffsets {
    // SAFETY: a valid static; volatile, since the compiler must not fold the zeros in.
    unsafe { ptr::read_volatile(&raw const OFFSETS) }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// `bpf_probe_read_kernel` is for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
