//! Whoever captures on this host, governed or not.
//!
//! Where the kernel runs programs on security hooks, one of them is asked before any process gets a packet
//! socket: it can refuse, and it knows the file that the process executes, by its inode. Whoever only observes is told
//! when there is a socket, so that of those who lack the capability for one nothing is said. Elsewhere a
//! program on the tracepoint behind every system call tells of those that were got
//! (`tp_btf/sys_exit`: Linux 5.5, <https://github.com/torvalds/linux/blob/v5.5/include/trace/events/syscalls.h#L43>).

mod sockets;

use std::{
    fs::{self, File},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::fs::MetadataExt,
    },
};

use aya::maps::{Array, Map, MapData, RingBuf};
use capwarden_abi::host::{CallTerms, HookTerms, NO_DESCRIPTOR, Socket};
use rustix::io::Errno;

use super::{
    bpf::{self, ProgramKind},
    btf::Types,
    lsm::{
        BackstopError,
        attach::{self, HOOK},
        proof,
    },
    object::{self, Linked},
};

pub use sockets::{Capturer, capturers, is_governed, program_file};

static ON_HOOK: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/host_hook.o"));
static ON_CALL: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/host_call.o"));

/// What tells of packet sockets. It ends, and with it whatever it refuses, when this is dropped.
pub struct HostWatch {
    events: RingBuf<MapData>,
    lost: Array<MapData, u64>,
    by: WatchedBy,
    _link: OwnedFd,
    /// The kernel forgets that a file is allowed once nobody has it open.
    _allowed: Vec<File>,
}

/// How it is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchedBy {
    /// On a security hook, before the socket is made.
    Hook,
    /// On a tracepoint, after that.
    Call,
}

/// Somebody who asked for a packet socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The process.
    pub process: u32,
    /// Its effective user.
    pub user: u32,
    /// The name that it gives itself: for people, never for decisions.
    pub name: String,
    /// The name of the file that it executes, without its directory; none if it is not known.
    pub program: Option<String>,
    /// The descriptor that it got; none if that is not known, or it was refused.
    pub descriptor: Option<u32>,
    /// It got none.
    pub refused: bool,
}

impl HostWatch {
    /// Refuses everybody packet sockets who does not execute one of these files. Sockets that are there stay.
    ///
    /// # Errors
    /// If the kernel does not run programs on security hooks.
    pub fn lockdown(allowed: Vec<File>) -> Result<Self, BackstopError> {
        Self::on_hook(allowed, true)
    }

    /// Tells of whoever does not execute one of these files. On a tracepoint, of everybody; why it is done
    /// there is told too.
    ///
    /// # Errors
    /// If the kernel lets neither be watched.
    pub fn observe(allowed: Vec<File>) -> Result<(Self, Option<BackstopError>), BackstopError> {
        match Self::on_hook(allowed, false) {
            Ok(watch) => Ok((watch, None)),
            Err(why) => Ok((Self::on_call()?, Some(why))),
        }
    }

    /// How it is watched.
    pub fn by(&self) -> WatchedBy {
        self.by
    }

    /// The next one that is waiting.
    pub fn next_asked(&mut self) -> Option<Asked> {
        loop {
            let item = self.events.next()?;
            if let Some(socket) = read(&item) {
                return Some(Asked::of(&socket));
            }
        }
    }

    /// How many there have been that nothing could be told of, as there was no room for more.
    pub fn lost(&self) -> u64 {
        self.lost.get(&0, 0).unwrap_or(0)
    }

    fn on_hook(allowed: Vec<File>, lockdown: bool) -> Result<Self, BackstopError> {
        attach::is_active()?;
        let types = |error: Box<dyn std::error::Error>| BackstopError::Types(error.to_string());
        let kernel = Types::of_this_kernel()?;
        let terms = hook_terms(&kernel, lockdown).map_err(types)?;
        // SAFETY: `#[repr(C)]` integers only, no padding: every byte is initialised.
        let bytes = unsafe { object::bytes(&terms) };
        let mut linked = Linked::new(ON_HOOK, ("TERMS", bytes))?;
        let files = linked.take("ALLOWED")?;
        for file in &allowed {
            bpf::store(files.as_fd(), file.as_fd(), &[1])
                .map_err(|errno| BackstopError::Map(format!("ALLOWED: {errno}")))?;
        }
        let tasks = linked.take("TASKS")?;
        let after = kernel.function("bpf_lsm_socket_post_create");
        let (program, hook, target) = match after.filter(|_| !lockdown) {
            Some(target) => ("made", "socket_post_create", Some(target)),
            None => (
                "ask",
                "socket_create",
                kernel.function("bpf_lsm_socket_create"),
            ),
        };
        let target = target.ok_or_else(|| types("it has no socket_create".into()))?;
        let kind = ProgramKind { target, ..HOOK };
        let watch = Self::attach(linked, program, hook, kind, WatchedBy::Hook, allowed)?;
        proof::refuses(tasks.as_fd(), proof::What::Sockets)?;
        Ok(watch)
    }

    fn on_call() -> Result<Self, BackstopError> {
        Self::on_call_with(object::create)
    }

    fn on_call_with(
        create: impl Fn(&aya_obj::Map) -> Result<OwnedFd, Errno>,
    ) -> Result<Self, BackstopError> {
        let types = |error: Box<dyn std::error::Error>| BackstopError::Types(error.to_string());
        let kernel = Types::of_this_kernel()?;
        let terms = call_terms(&kernel).map_err(types)?;
        // SAFETY: `#[repr(C)]` integers only, no padding: every byte is initialised.
        let bytes = unsafe { object::bytes(&terms) };
        let linked = Linked::with(ON_CALL, ("TERMS", bytes), create)?;
        let target = kernel.function("btf_trace_sys_exit");
        let target = target.ok_or_else(|| types("it has no sys_exit".into()))?;
        let kind = ProgramKind::on_tracepoint(target);
        Self::attach(
            linked,
            "returned",
            "sys_exit",
            kind,
            WatchedBy::Call,
            Vec::new(),
        )
    }

    fn attach(
        mut linked: Linked,
        name: &str,
        place: &'static str,
        kind: ProgramKind,
        by: WatchedBy,
        allowed: Vec<File>,
    ) -> Result<Self, BackstopError> {
        let map = |error: aya::maps::MapError| BackstopError::Map(error.to_string());
        let events = MapData::from_fd(linked.take("EVENTS")?).map_err(map)?;
        let events = RingBuf::try_from(Map::RingBuf(events)).map_err(map)?;
        let lost = MapData::from_fd(linked.take("LOST")?).map_err(map)?;
        let lost = Array::try_from(Map::Array(lost)).map_err(map)?;
        let code = linked.program(name)?;
        let program = bpf::load_kind_or_explain(kind, &code, linked.licence())
            .map_err(|error| BackstopError::Program(place, error.to_string()))?;
        let link = bpf::attach_to_function(program.as_fd())
            .map_err(|errno| BackstopError::Attach(place, errno))?;
        Ok(Self {
            events,
            lost,
            by,
            _link: link,
            _allowed: allowed,
        })
    }
}

impl AsRawFd for HostWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.events.as_raw_fd()
    }
}

impl std::fmt::Debug for HostWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostWatch")
            .field("by", &self.by)
            .finish_non_exhaustive()
    }
}

impl Asked {
    fn of(socket: &Socket) -> Self {
        let text = |bytes: &[u8]| {
            let text = bytes.split(|byte| *byte == 0).next();
            String::from_utf8_lossy(text.unwrap_or_default()).into_owned()
        };
        let refused = socket.refused != 0;
        Self {
            process: socket.process,
            user: socket.user,
            name: text(&socket.name),
            program: Some(text(&socket.program)).filter(|program| !program.is_empty()),
            descriptor: (!refused && socket.descriptor != NO_DESCRIPTOR)
                .then_some(socket.descriptor),
            refused,
        }
    }
}

fn read(bytes: &[u8]) -> Option<Socket> {
    if bytes.len() < size_of::<Socket>() {
        return None;
    }
    // SAFETY: there are enough bytes, and any are valid for plain integers.
    Some(unsafe { bytes.as_ptr().cast::<Socket>().read_unaligned() })
}

fn hook_terms(types: &Types, lockdown: bool) -> Result<HookTerms, Box<dyn std::error::Error>> {
    let namespace = fs::metadata("/proc/self/ns/pid")?;
    let at = |structure, member| types.offset(structure, &[member]);
    Ok(HookTerms {
        task_memory: at("task_struct", "mm")?,
        memory_program: at("mm_struct", "exe_file")?,
        file_inode: at("file", "f_inode")?,
        file_dentry: at("file", "f_path")? + at("path", "dentry")?,
        dentry_name: at("dentry", "d_name")? + at("qstr", "name")?,
        namespace_device: u32::try_from(namespace.dev())?,
        namespace_inode: u32::try_from(namespace.ino())?,
        lockdown: lockdown.into(),
    })
}

/// On x86, 32-bit programs have a table of their own, in which 359 is `socket`: a number that the other
/// table leaves out.
#[cfg(target_arch = "x86_64")]
fn call_terms(types: &Types) -> Result<CallTerms, Box<dyn std::error::Error>> {
    const OTHER_SOCKET: u32 = 359;
    let namespace = fs::metadata("/proc/self/ns/pid")?;
    let register = |name| types.offset("pt_regs", &[name]);
    Ok(CallTerms {
        number: register("orig_ax")?,
        first: register("di")?,
        second: register("si")?,
        socket: u32::try_from(libc::SYS_socket)?,
        other_socket: OTHER_SOCKET,
        other_first: register("bx")?,
        other_second: register("cx")?,
        namespace_device: u32::try_from(namespace.dev())?,
        namespace_inode: u32::try_from(namespace.ino())?,
        unused: 0,
    })
}

/// On 64-bit Arm, the first register has the result by then; where the call's own was is kept. 281 is `socket` in
/// the table of 32-bit programs, and `execveat` in the other, whose first argument is no address family.
#[cfg(target_arch = "aarch64")]
fn call_terms(types: &Types) -> Result<CallTerms, Box<dyn std::error::Error>> {
    let namespace = fs::metadata("/proc/self/ns/pid")?;
    let (first, second) = (
        types.offset("pt_regs", &["orig_x0"])?,
        types.offset("user_pt_regs", &["regs"])? + 8,
    );
    Ok(CallTerms {
        number: types.offset("pt_regs", &["syscallno"])?,
        first,
        second,
        socket: u32::try_from(libc::SYS_socket)?,
        other_socket: 281,
        other_first: first,
        other_second: second,
        namespace_device: u32::try_from(namespace.dev())?,
        namespace_inode: u32::try_from(namespace.ino())?,
        unused: 0,
    })
}

#[cfg(test)]
mod tests;
