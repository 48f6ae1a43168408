//! The few `bpf` calls that the agent makes itself.
//!
//! A session needs many programs over the same few maps: one for each of its sockets. aya loads one
//! program of one object file, once, so its parser is used and its loader is not.

use std::{
    ffi::{CStr, c_long},
    io::Error,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use rustix::io::Errno;

use super::sys::last_error;
use crate::filter::EbpfInsn;

const MAP_CREATE: c_long = 0;
const MAP_UPDATE_ELEM: c_long = 2;
const MAP_DELETE_ELEM: c_long = 3;
const PROG_LOAD: c_long = 5;
const MAP_FREEZE: c_long = 22;

const MAP_TYPE_PROG_ARRAY: u32 = 3;
const PROG_TYPE_SOCKET_FILTER: u32 = 1;

/// Bytes of the verifier's log that are kept, and what it says of itself: enough for its last
/// words, which are the reason.
const LOG_BYTES: usize = 1 << 20;
const LOG_KEPT: usize = 2_000;
const LOG_LEVEL: u32 = 1;

/// Calls that signals may interrupt before one fails for it.
const ATTEMPTS: usize = 10;

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct LoadAttributes {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
}

/// For `BPF_MAP_CREATE`.
#[repr(C)]
struct CreateAttributes {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// For `BPF_MAP_UPDATE_ELEM`, `BPF_MAP_DELETE_ELEM` and `BPF_MAP_FREEZE`, which begin alike.
#[repr(C)]
struct ElementAttributes {
    map_fd: u32,
    unused: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Why a program could not be loaded.
#[derive(Debug, thiserror::Error)]
#[error("{error}{}{log}", if log.is_empty() { "" } else { ": " })]
pub struct LoadError {
    /// The system call's error.
    pub error: Error,
    /// The end of what the verifier said; may be empty.
    pub log: String,
}

impl From<Errno> for LoadError {
    fn from(errno: Errno) -> Self {
        Self {
            error: errno.into(),
            log: String::new(),
        }
    }
}

/// Loads a socket filter.
pub(super) fn load_socket_filter(insns: &[EbpfInsn], licence: &CStr) -> Result<OwnedFd, LoadError> {
    Ok(load(&encode(insns), licence, &mut [])?)
}

/// The same for a program of the agent's own: if the verifier refuses it, it is asked for its words,
/// which takes it far longer than the answer.
pub(super) fn load_or_explain(insns: &[EbpfInsn], licence: &CStr) -> Result<OwnedFd, LoadError> {
    let bytes = encode(insns);
    let errno = match load(&bytes, licence, &mut []) {
        Ok(program) => return Ok(program),
        Err(errno) => errno,
    };
    let mut log = vec![0; LOG_BYTES];
    if let Ok(program) = load(&bytes, licence, &mut log) {
        return Ok(program); // memory was short for a moment
    }
    let log = CStr::from_bytes_until_nul(&log).unwrap_or_default();
    let log = log.to_string_lossy();
    let from = log.ceil_char_boundary(log.len().saturating_sub(LOG_KEPT));
    Err(LoadError {
        error: errno.into(),
        log: log.get(from..).unwrap_or_default().trim_end().to_owned(),
    })
}

fn encode(insns: &[EbpfInsn]) -> Vec<[u8; 8]> {
    insns.iter().map(|insn| insn.to_bytes()).collect()
}

fn load(insns: &[[u8; 8]], licence: &CStr, log: &mut [u8]) -> Result<OwnedFd, Errno> {
    let attributes = LoadAttributes {
        prog_type: PROG_TYPE_SOCKET_FILTER,
        insn_cnt: u32::try_from(insns.len()).map_err(|_| Errno::TOOBIG)?,
        insns: address(insns.as_ptr()),
        license: address(licence.as_ptr()),
        log_level: if log.is_empty() { 0 } else { LOG_LEVEL },
        log_size: u32::try_from(log.len()).map_err(|_| Errno::TOOBIG)?,
        log_buf: if log.is_empty() {
            0
        } else {
            address(log.as_mut_ptr())
        },
    };
    // SAFETY: the attributes describe `insns`, `licence` and `log`, which outlive the call; the
    // kernel writes to `log` only, and no more than its length.
    descriptor(unsafe { call(PROG_LOAD, &attributes) }?)
}

/// A program array with one entry, which is empty.
pub(super) fn program_array() -> Result<OwnedFd, Errno> {
    let word = 4;
    let attributes = CreateAttributes {
        map_type: MAP_TYPE_PROG_ARRAY,
        key_size: word,
        value_size: word,
        max_entries: 1,
        map_flags: 0,
    };
    // SAFETY: no pointers.
    descriptor(unsafe { call(MAP_CREATE, &attributes) }?)
}

/// Puts a program into the only entry of a program array.
pub(super) fn set_program(array: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let program = program.as_raw_fd();
    write_entry(array, address(&raw const program))
}

/// Empties the only entry of a program array; `ENOENT` if it is empty.
pub(super) fn clear_program(array: BorrowedFd<'_>) -> Result<(), Errno> {
    let key = 0_u32;
    let attributes = element(array, address(&raw const key), 0)?;
    // SAFETY: the key is as long as the array's keys, and outlives the call.
    unsafe { call(MAP_DELETE_ELEM, &attributes) }.map(drop)
}

/// Writes the only entry of an array, after which nobody can write to it: the verifier then takes
/// its bytes for constants.
///
/// # Errors
/// `EINVAL` if `value` is shorter than the array's values, which its creator has to know.
pub(super) fn write_constants(
    array: BorrowedFd<'_>,
    value: &[u8],
    value_size: u32,
) -> Result<(), Errno> {
    if u32::try_from(value.len()) != Ok(value_size) {
        return Err(Errno::INVAL);
    }
    write_entry(array, address(value.as_ptr()))?;
    let attributes = element(array, 0, 0)?;
    // SAFETY: no pointers.
    unsafe { call(MAP_FREEZE, &attributes) }.map(drop)
}

/// `value` points to as many bytes as the map's values have.
fn write_entry(array: BorrowedFd<'_>, value: u64) -> Result<(), Errno> {
    let key = 0_u32;
    let attributes = element(array, address(&raw const key), value)?;
    // SAFETY: key and value are as long as the array's, which both callers see to, and outlive
    // the call.
    unsafe { call(MAP_UPDATE_ELEM, &attributes) }.map(drop)
}

fn element(map: BorrowedFd<'_>, key: u64, value: u64) -> Result<ElementAttributes, Errno> {
    Ok(ElementAttributes {
        map_fd: u32::try_from(map.as_raw_fd()).map_err(|_| Errno::BADF)?,
        unused: 0,
        key,
        value,
        flags: 0,
    })
}

fn address<T>(pointer: *const T) -> u64 {
    u64::try_from(pointer.expose_provenance()).unwrap_or(0)
}

/// # Safety
/// The attributes belong to the command, and what they point at is valid for it.
unsafe fn call<T>(command: c_long, attributes: &T) -> Result<c_long, Errno> {
    let mut attempts = 1..=ATTEMPTS;
    loop {
        let last = attempts.next().is_none();
        let pointer = std::ptr::from_ref(attributes);
        // SAFETY: the kernel takes attributes that are shorter than its own for zeroes behind
        // them; the rest is the caller's promise.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, pointer, size_of::<T>()) };
        if result >= 0 {
            return Ok(result);
        }
        match last_error() {
            // The verifier gives up for a signal.
            Errno::INTR | Errno::AGAIN if !last => {}
            errno => return Err(errno),
        }
    }
}

fn descriptor(result: c_long) -> Result<OwnedFd, Errno> {
    let fd = i32::try_from(result).map_err(|_| Errno::BADF)?;
    // SAFETY: the call returned a new descriptor that nobody else owns. The kernel makes it
    // close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
