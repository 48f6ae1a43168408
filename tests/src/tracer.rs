//! Ends a process exactly at a system call of its own, by ptrace: the places where an agent can die.
#![allow(unsafe_code, reason = "ptrace has no safe wrapper")]

use std::{
    collections::BTreeMap, io, mem, os::unix::process::ExitStatusExt as _, process::ExitStatus, ptr,
};

use anyhow::{Context as _, Result, bail};
use libc::{c_int, c_long, c_uint, c_void, pid_t};

/// One system call of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Its number.
    pub call: c_long,
    /// How many of that number the process, in all its threads, begins before it.
    pub before: u32,
    /// Whether the call has been done.
    pub done: bool,
}

/// How often a process began each system call.
pub type Calls = BTreeMap<c_long, u32>;

/// A stop for a system call, as the kernel reports it with `PTRACE_O_TRACESYSGOOD`.
const CALL_STOP: c_int = libc::SIGTRAP | 0x80;

/// Follows a child of this process and all its threads, but no child of its own, to their end, and returns how that
/// was. It is killed at `point`, if it gets there. Nobody else of this process may wait for it meanwhile, not even
/// to see whether it has ended, or its stops would get lost.
pub fn follow(pid: u32, point: Option<Point>) -> Result<(Calls, ExitStatus)> {
    let leader = pid_t::try_from(pid)?;
    let options = libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEEXEC
        | libc::PTRACE_O_EXITKILL;
    request(libc::PTRACE_SEIZE, leader, options).context("PTRACE_SEIZE")?;
    request(libc::PTRACE_INTERRUPT, leader, 0).context("PTRACE_INTERRUPT")?;
    let mut calls = Calls::new();
    let mut within: BTreeMap<pid_t, c_long> = BTreeMap::new();
    let mut end = None;
    while let Some((thread, status)) = wait()? {
        if !libc::WIFSTOPPED(status) {
            if thread == leader {
                end = Some(ExitStatus::from_raw(status));
            }
            continue;
        }
        let signal = libc::WSTOPSIG(status);
        let mut deliver = 0;
        if signal == CALL_STOP {
            let here = match step(thread)? {
                Some(Step::Begins(call)) => {
                    within.insert(thread, call);
                    let before = calls.entry(call).or_insert(0);
                    let here = Point {
                        call,
                        before: *before,
                        done: false,
                    };
                    *before += 1;
                    Some(here)
                }
                Some(Step::Done) => within.remove(&thread).map(|call| Point {
                    call,
                    before: calls.get(&call).map_or(0, |count| count - 1),
                    done: true,
                }),
                None => None,
            };
            if here.is_some() && here == point {
                // SAFETY: no pointers.
                unsafe { libc::kill(leader, libc::SIGKILL) };
                continue;
            }
        } else if status >> 16 == 0 {
            deliver = signal;
        }
        match request(libc::PTRACE_SYSCALL, thread, deliver) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {} // it is being killed
            resumed => resumed.context("PTRACE_SYSCALL")?,
        }
    }
    Ok((calls, end.context("its end was not seen")?))
}

enum Step {
    Begins(c_long),
    Done,
}

/// What a thread has stopped for. None if it is being killed.
fn step(thread: pid_t) -> Result<Option<Step>> {
    // SAFETY: all zeros is a valid value of this plain C structure.
    let mut info: libc::ptrace_syscall_info = unsafe { mem::zeroed() };
    let size: *mut c_void = ptr::without_provenance_mut(size_of_val(&info));
    let request = libc::PTRACE_GET_SYSCALL_INFO;
    // SAFETY: the size and the pointer describe `info`.
    let got = unsafe { libc::ptrace(request, thread, size, &raw mut info) };
    if got < 0 {
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::ESRCH) {
            return Ok(None);
        }
        bail!("PTRACE_GET_SYSCALL_INFO: {error}");
    }
    Ok(match info.op {
        libc::PTRACE_SYSCALL_INFO_ENTRY => {
            // SAFETY: this is the part that the kernel fills in then.
            let entry = unsafe { info.u.entry };
            Some(Step::Begins(c_long::try_from(entry.nr)?))
        }
        libc::PTRACE_SYSCALL_INFO_EXIT => Some(Step::Done),
        _ => None,
    })
}

fn request(request: c_uint, thread: pid_t, data: c_int) -> io::Result<()> {
    let nothing: *mut c_void = ptr::null_mut();
    let data: *mut c_void = ptr::without_provenance_mut(usize::try_from(data).unwrap_or(0));
    // SAFETY: the requests made here take numbers.
    if unsafe { libc::ptrace(request, thread, nothing, data) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The next of those that this thread traces that stops or ends; none if there is none any more.
fn wait() -> Result<Option<(pid_t, c_int)>> {
    let mut status = 0;
    loop {
        // SAFETY: `status` outlives the call.
        let thread =
            unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        if thread > 0 {
            return Ok(Some((thread, status)));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ECHILD) => return Ok(None),
            Some(libc::EINTR) => {}
            _ => return Err(error).context("waitpid"),
        }
    }
}
