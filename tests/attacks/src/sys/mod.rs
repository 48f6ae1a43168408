//! System calls by every door that this processor has, and memory that all of them can reach.
//!
//! An attacker hands the kernel whatever it likes, so these functions are not `unsafe`: what they
//! point the kernel at is in a [`Memory`](memory::Memory), which no Rust value lives in, or is
//! checked by the kernel, which says `EFAULT`.

pub(crate) mod memory;
pub(crate) mod number;
pub(crate) mod process;
pub(crate) mod segment;

use number::Number;
use serde::{Deserialize, Serialize};

/// What a system call returned, or its errno.
pub(crate) type Answer = Result<u64, i32>;

/// A door into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    /// The processor's own.
    Native,
    /// `int 0x80`: a 64-bit program may use it, and the kernel takes it for a 32-bit one.
    I386,
    /// The native door, with bit 30 set in the number.
    X32,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Native, Self::I386, Self::X32];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::I386 => "i386",
            Self::X32 => "x32",
        }
    }
}

const X32_BIT: u64 = 0x4000_0000;

/// A system call through a door.
pub(crate) fn call(way: Way, number: Number, arguments: [u64; 6]) -> Answer {
    answer(match way {
        Way::Native => raw(number.native, arguments),
        Way::I386 => i386(number.i386, arguments),
        Way::X32 => raw(number.x32 | X32_BIT, arguments),
    })
}

/// A native system call by its bare number, which may have junk above its 32 bits.
pub(crate) fn numbered(number: u64, arguments: [u64; 6]) -> Answer {
    answer(raw(number, arguments))
}

/// A native system call.
pub(crate) fn native(number: libc::c_long, arguments: [u64; 6]) -> Answer {
    answer(raw(number.cast_unsigned(), arguments))
}

fn answer(result: i64) -> Answer {
    match result {
        -4095..=-1 => Err(i32::try_from(-result).unwrap_or(libc::EIO)),
        result => Ok(result.cast_unsigned()),
    }
}

#[cfg(target_arch = "x86_64")]
fn raw(number: u64, [a, b, c, d, e, f]: [u64; 6]) -> i64 {
    let result;
    // SAFETY: the kernel touches no memory but what the arguments point at (see the module), and
    // no registers but those named.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            out("rcx") _, out("r11") _,
        );
    }
    result
}

#[cfg(target_arch = "x86_64")]
fn i386(number: u64, [a, b, c, d, e, f]: [u64; 6]) -> i64 {
    let result: u64;
    // SAFETY: as above; what the compiler keeps for itself (rbx, rbp) is put back.
    unsafe {
        std::arch::asm!(
            "push rbx",
            "push rbp",
            "mov ebx, r12d",
            "mov ebp, r13d",
            "int 0x80",
            "pop rbp",
            "pop rbx",
            inlateout("rax") number => result,
            in("r12") a, in("rcx") b, in("rdx") c, in("rsi") d, in("rdi") e, in("r13") f,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    // The low half is the answer, as a signed number.
    let [b0, b1, b2, b3, ..] = result.to_le_bytes();
    i32::from_le_bytes([b0, b1, b2, b3]).into()
}

#[cfg(not(target_arch = "x86_64"))]
fn raw(number: u64, [a, b, c, d, e, f]: [u64; 6]) -> i64 {
    let number = number.cast_signed();
    // SAFETY: see the module.
    match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
        -1 => -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        result => result,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn i386(_: u64, _: [u64; 6]) -> i64 {
    -i64::from(libc::ENOSYS)
}
