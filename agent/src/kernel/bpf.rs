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
const PROG_ATTACH: c_long = 8;
const RAW_TRACEPOINT_OPEN: c_long = 17;
const PROG_DETACH: c_long = 9;
const PROG_GET_NEXT_ID: c_long = 11;
const PROG_GET_FD_BY_ID: c_long = 13;
const OBJ_GET_INFO: c_long = 15;
const BTF_LOAD: c_long = 18;
const MAP_FREEZE: c_long = 22;

const MAP_TYPE_PROG_ARRAY: u32 = 3;
const SOCKET_FILTER: ProgramKind = ProgramKind {
    program: 1,
    attach: 0,
    target: 0,
};

/// What a program is for: `BPF_PROG_TYPE_*`, and `BPF_CGROUP_*` or the like where that makes a difference.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProgramKind {
    pub(super) program: u32,
    pub(super) attach: u32,
    /// The function of the kernel that it is for, by its number in the kernel's type information; or 0.
    pub(super) target: u32,
}

impl ProgramKind {
    /// For programs on a tracepoint, by the number of its type: `BPF_PROG_TYPE_TRACING`, `BPF_TRACE_RAW_TP`.
    pub(super) const fn on_tracepoint(target: u32) -> Self {
        Self {
            program: 26,
            attach: 23,
            target,
        }
    }
}

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
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; NAME],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
}

const NAME: usize = 16;

/// For `BPF_MAP_CREATE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CreateAttributes {
    pub(super) map_type: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) map_flags: u32,
    /// The number of a map of the kind that a map of maps is to hold.
    pub(super) inner_map_fd: u32,
    pub(super) numa_node: u32,
    pub(super) map_name: [u8; NAME],
    pub(super) map_ifindex: u32,
    /// The number of the type information that the next two are in.
    pub(super) btf_fd: u32,
    pub(super) btf_key_type_id: u32,
    pub(super) btf_value_type_id: u32,
}

/// For `BPF_PROG_ATTACH`.
#[repr(C)]
struct AttachAttributes {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// For `BPF_RAW_TRACEPOINT_OPEN`.
#[repr(C)]
struct LinkAttributes {
    name: u64,
    prog_fd: u32,
    unused: u32,
}

/// For `BPF_PROG_ATTACH` and `BPF_PROG_DETACH` where several programs have an order (Linux 6.6).
#[repr(C)]
struct OrderedAttributes {
    plain: AttachAttributes,
    replace_bpf_fd: u32,
    relative_fd: u32,
    expected_revision: u64,
}

/// For `BPF_PROG_GET_NEXT_ID` and `BPF_PROG_GET_FD_BY_ID`.
#[repr(C)]
#[derive(Default)]
struct IdAttributes {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// For `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct InfoAttributes {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// For `BPF_BTF_LOAD`.
#[repr(C)]
struct BtfAttributes {
    btf: u64,
    btf_log_buf: u64,
    btf_size: u32,
    btf_log_size: u32,
    btf_log_level: u32,
    unused: u32,
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
    Ok(load(SOCKET_FILTER, "", &encode(insns), licence, &mut [])?)
}

/// The same for a program of the agent's own: if the verifier refuses it, it is asked for its words,
/// which takes it far longer than the answer.
pub(super) fn load_or_explain(insns: &[EbpfInsn], licence: &CStr) -> Result<OwnedFd, LoadError> {
    load_kind_or_explain(SOCKET_FILTER, &encode(insns), licence)
}

/// The same for a program of any kind, as the kernel reads it.
pub(super) fn load_kind_or_explain(
    kind: ProgramKind,
    insns: &[[u8; 8]],
    licence: &CStr,
) -> Result<OwnedFd, LoadError> {
    load_named(kind, "", insns, licence)
}

/// The same, with a name of at most 15 letters, digits, `_` or `.` that the kernel shows.
pub(super) fn load_named(
    kind: ProgramKind,
    name: &str,
    insns: &[[u8; 8]],
    licence: &CStr,
) -> Result<OwnedFd, LoadError> {
    let errno = match load(kind, name, insns, licence, &mut []) {
        Ok(program) => return Ok(program),
        Err(errno) => errno,
    };
    let mut log = vec![0; LOG_BYTES];
    if let Ok(program) = load(kind, name, insns, licence, &mut log) {
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

fn load(
    kind: ProgramKind,
    name: &str,
    insns: &[[u8; 8]],
    licence: &CStr,
    log: &mut [u8],
) -> Result<OwnedFd, Errno> {
    let mut prog_name = [0; NAME];
    for (place, byte) in prog_name.iter_mut().take(NAME - 1).zip(name.bytes()) {
        *place = byte;
    }
    let attributes = LoadAttributes {
        prog_type: kind.program,
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
        kern_version: 0,
        prog_flags: 0,
        prog_name,
        prog_ifindex: 0,
        expected_attach_type: kind.attach,
        prog_btf_fd: 0,
        func_info_rec_size: 0,
        func_info: 0,
        func_info_cnt: 0,
        line_info_rec_size: 0,
        line_info: 0,
        line_info_cnt: 0,
        attach_btf_id: kind.target,
    };
    // SAFETY: the attributes describe `insns`, `licence` and `log`, which outlive the call; the
    // kernel writes to `log` only, and no more than its length.
    descriptor(unsafe { call(PROG_LOAD, &attributes) }?)
}

/// A program array with one entry, which is empty.
pub(super) fn program_array() -> Result<OwnedFd, Errno> {
    let word = 4;
    create_map(&CreateAttributes {
        map_type: MAP_TYPE_PROG_ARRAY,
        key_size: word,
        value_size: word,
        max_entries: 1,
        ..CreateAttributes::default()
    })
}

/// A map of any kind.
pub(super) fn create_map(attributes: &CreateAttributes) -> Result<OwnedFd, Errno> {
    // SAFETY: no pointers.
    descriptor(unsafe { call(MAP_CREATE, attributes) }?)
}

/// Loads type information, which some maps cannot be made without.
pub(super) fn load_types(blob: &[u8]) -> Result<OwnedFd, Errno> {
    let attributes = BtfAttributes {
        btf: address(blob.as_ptr()),
        btf_log_buf: 0,
        btf_size: u32::try_from(blob.len()).map_err(|_| Errno::TOOBIG)?,
        btf_log_size: 0,
        btf_log_level: 0,
        unused: 0,
    };
    // SAFETY: the attributes describe `blob`, which outlives the call.
    descriptor(unsafe { call(BTF_LOAD, &attributes) }?)
}

/// Attaches a program to a cgroup, beside others. It stays until the cgroup is removed and the last
/// socket that was made in it is closed, whoever dies: a link would go with its last descriptor.
pub(super) fn attach_to_cgroup(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    kind: ProgramKind,
) -> Result<(), Errno> {
    const ALLOW_MULTI: u32 = 1 << 1;
    let attributes = AttachAttributes {
        target_fd: u32::try_from(cgroup.as_raw_fd()).map_err(|_| Errno::BADF)?,
        attach_bpf_fd: u32::try_from(program.as_raw_fd()).map_err(|_| Errno::BADF)?,
        attach_type: kind.attach,
        attach_flags: ALLOW_MULTI,
    };
    // SAFETY: no pointers.
    unsafe { call(PROG_ATTACH, &attributes) }.map(drop)
}

/// Attaches a program to the function of the kernel that it was loaded for, for as long as what this
/// returns is kept.
pub(super) fn attach_to_function(program: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let attributes = LinkAttributes {
        name: 0,
        prog_fd: u32::try_from(program.as_raw_fd()).map_err(|_| Errno::BADF)?,
        unused: 0,
    };
    // SAFETY: no pointers: a program that has a function is not attached by name.
    descriptor(unsafe { call(RAW_TRACEPOINT_OPEN, &attributes) }?)
}

/// Gives a process, by its pidfd, or a socket a value in a map that is storage of such. `value` is as long as the
/// map's values.
pub(super) fn store(
    map: BorrowedFd<'_>,
    owner: BorrowedFd<'_>,
    value: &[u64; 1],
) -> Result<(), Errno> {
    let owner = owner.as_raw_fd();
    let attributes = element(map, address(&raw const owner), address(value.as_ptr()))?;
    // SAFETY: the key is a descriptor's number, as the map wants it; every map that this is used for has values of
    // eight bytes; both outlive the call.
    unsafe { call(MAP_UPDATE_ELEM, &attributes) }.map(drop)
}

const TCX_EGRESS: u32 = 47;
/// In front of what is attached there.
const BEFORE: u32 = 1 << 3;

/// Attaches a program to the way out of an interface, in front of others (Linux 6.6). It stays until
/// it is detached or the interface goes, whoever dies. `EEXIST` if it is there.
pub(super) fn attach_to_egress(index: u32, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let attributes = egress(index, program, BEFORE)?;
    // SAFETY: no pointers.
    unsafe { call(PROG_ATTACH, &attributes) }.map(drop)
}

/// Takes it away.
pub(super) fn detach_from_egress(index: u32, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let attributes = egress(index, program, 0)?;
    // SAFETY: no pointers.
    unsafe { call(PROG_DETACH, &attributes) }.map(drop)
}

fn egress(index: u32, program: BorrowedFd<'_>, flags: u32) -> Result<OrderedAttributes, Errno> {
    Ok(OrderedAttributes {
        plain: AttachAttributes {
            target_fd: index,
            attach_bpf_fd: u32::try_from(program.as_raw_fd()).map_err(|_| Errno::BADF)?,
            attach_type: TCX_EGRESS,
            attach_flags: flags,
        },
        replace_bpf_fd: 0,
        relative_fd: 0,
        expected_revision: 0,
    })
}

/// All programs that are loaded, as far as the agent may know of them.
pub(super) fn programs() -> impl Iterator<Item = OwnedFd> {
    let mut last = 0;
    std::iter::from_fn(move || {
        loop {
            let mut next = IdAttributes {
                id: last,
                ..IdAttributes::default()
            };
            // SAFETY: no pointers; the kernel writes the next id into the attributes.
            unsafe { call_mut(PROG_GET_NEXT_ID, &mut next) }.ok()?;
            last = next.next_id;
            let found = IdAttributes {
                id: last,
                ..IdAttributes::default()
            };
            // SAFETY: no pointers.
            match unsafe { call(PROG_GET_FD_BY_ID, &found) } {
                Ok(program) => return descriptor(program).ok(),
                Err(Errno::NOENT) => {} // it has just gone
                Err(_) => return None,
            }
        }
    })
}

/// The name that a program was loaded with.
pub(super) fn program_name(program: BorrowedFd<'_>) -> Result<String, Errno> {
    let info = info(program)?;
    let name = info.get(INFO_NAME..).unwrap_or_default();
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// The user who loaded a program.
pub(super) fn loader(program: BorrowedFd<'_>) -> Result<u32, Errno> {
    const CREATED_BY: usize = 48;
    let info = info(program)?;
    let user = info.get(CREATED_BY..).and_then(|user| user.first_chunk());
    user.copied().map(u32::from_ne_bytes).ok_or(Errno::INVAL)
}

/// Where the name is in `struct bpf_prog_info`.
const INFO_NAME: usize = 64;

/// `struct bpf_prog_info` of a program, as far as its name.
fn info(program: BorrowedFd<'_>) -> Result<[u8; INFO_NAME + NAME], Errno> {
    let mut info = [0_u8; INFO_NAME + NAME];
    let attributes = InfoAttributes {
        bpf_fd: u32::try_from(program.as_raw_fd()).map_err(|_| Errno::BADF)?,
        info_len: u32::try_from(info.len()).map_err(|_| Errno::INVAL)?,
        info: address(info.as_mut_ptr()),
    };
    // SAFETY: the kernel writes to `info` no more than its length; the numbers in it that say how much
    // else is wanted are 0.
    unsafe { call(OBJ_GET_INFO, &attributes) }?;
    Ok(info)
}

/// Puts a map into the only entry of a map of maps, in the place of the one that is there. When this
/// returns, no program runs any more that has found that one.
pub(super) fn set_inner_map(outer: BorrowedFd<'_>, inner: BorrowedFd<'_>) -> Result<(), Errno> {
    let inner = inner.as_raw_fd();
    write_entry(outer, address(&raw const inner))
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
/// As for [`call`]; the kernel may write to the attributes.
unsafe fn call_mut<T>(command: c_long, attributes: &mut T) -> Result<c_long, Errno> {
    let pointer = std::ptr::from_mut(attributes);
    // SAFETY: the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, pointer, size_of::<T>()) };
    if result >= 0 {
        Ok(result)
    } else {
        Err(last_error())
    }
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
