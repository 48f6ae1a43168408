//! Other programs that ask.

use std::{ffi::CString, os::unix::ffi::OsStrExt};

use libc::{ENOENT, EOPNOTSUPP};

use crate::{
    attacker::Attacker,
    row::{Outcome, Seen},
    sys::{native, process},
};

/// Executes this program as a helper, which makes a socket if it can, and says so by its status.
fn execute(path: &std::path::Path) -> Outcome {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| ENOENT)?;
    let child = process::fork().map_err(|_| libc::EAGAIN)?;
    if child == 0 {
        let words = [path.as_ptr(), c"helper".as_ptr(), std::ptr::null()];
        // SAFETY: strings with their final zeros, and a null behind them.
        unsafe { libc::execv(path.as_ptr(), words.as_ptr()) };
        process::exit(126);
    }
    let status = process::wait(child);
    if libc::WIFSIGNALED(status) {
        return Ok(Seen::Killed(libc::WTERMSIG(status)));
    }
    if !libc::WIFEXITED(status) {
        return Seen::broken(format!("the helper ended with {status}"));
    }
    match libc::WEXITSTATUS(status) {
        0 => Seen::won("a packet socket"),
        1 => Seen::nothing("it runs, and gets no socket"),
        126 => Err(EOPNOTSUPP),
        status => Seen::broken(format!("the helper exits with {status}")),
    }
}

pub(super) fn setuid(a: &mut Attacker) -> Outcome {
    execute(&a.world.helpers.join("setuid"))
}

pub(super) fn file_capabilities(a: &mut Attacker) -> Outcome {
    execute(&a.world.helpers.join("powerful"))
}

pub(super) fn from_memory(a: &mut Attacker) -> Outcome {
    let name = a.memory.text(c"attacks");
    let file = native(libc::SYS_memfd_create, [name, 0, 0, 0, 0, 0])?;
    let program = std::fs::read("/proc/self/exe").map_err(|_| ENOENT)?;
    let path = std::path::PathBuf::from(format!("/proc/self/fd/{file}"));
    std::fs::write(&path, program).map_err(|_| libc::EIO)?;
    execute(&path)
}

/// A 32-bit program: `socket(AF_PACKET, SOCK_RAW, ETH_P_ALL)`, then `exit` with 0 if that is a
/// descriptor and 1 if not.
pub(super) fn small_program(a: &mut Attacker) -> Outcome {
    const START: u32 = 0x0800_0000;
    const HEADERS: u32 = 52 + 32;
    const CODE: &[u8] = &[
        0xb8, 0x67, 0x01, 0, 0, // mov eax, 359
        0xbb, 17, 0, 0, 0, // mov ebx, AF_PACKET
        0xb9, 3, 0, 0, 0, // mov ecx, SOCK_RAW
        0xba, 0, 3, 0, 0, // mov edx, ETH_P_ALL
        0xcd, 0x80, // int 0x80
        0xc1, 0xe8, 31, // shr eax, 31
        0x89, 0xc3, // mov ebx, eax
        0xb8, 1, 0, 0, 0, // mov eax, 1
        0xcd, 0x80, // int 0x80
    ];
    let length = HEADERS + u32::try_from(CODE.len()).unwrap_or(0);
    let mut program = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    program.extend([2, 0, 3, 0]); // executable, of an i386
    for word in [1, START + HEADERS, 52, 0, 0] {
        program.extend(u32::to_le_bytes(word));
    }
    for half in [52, 32, 1, 0, 0, 0] {
        program.extend(u16::to_le_bytes(half));
    }
    // To be loaded as it is, to be read and executed.
    for word in [1, 0, START, START, length, length, 5, 0x1000] {
        program.extend(u32::to_le_bytes(word));
    }
    program.extend(CODE);
    let name = a.memory.text(c"small");
    let file = native(libc::SYS_memfd_create, [name, 0, 0, 0, 0, 0])?;
    let path = std::path::PathBuf::from(format!("/proc/self/fd/{file}"));
    std::fs::write(&path, program).map_err(|_| libc::EIO)?;
    execute(&path)
}
