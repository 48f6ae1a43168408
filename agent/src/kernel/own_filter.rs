//! `SO_ATTACH_FILTER` and `SO_DETACH_FILTER`, read from a governed process that waits in the call.
//!
//! The order in which the kernel looks at things, and so the error that it gives, is kept:
//! <https://github.com/torvalds/linux/blob/v5.14/net/core/sock.c#L834>,
//! <https://github.com/torvalds/linux/blob/v5.14/net/core/filter.c#L1475>.

use std::{fs::File, os::unix::fs::FileExt};

use rustix::io::Errno;

use super::notify::Notification;
use crate::filter::{Insn, KERNEL_INSTRUCTIONS};

const SO_ATTACH_FILTER: u32 = 26;
/// `sizeof(int)`: no socket option is shorter.
const SHORTEST: u32 = 4;
/// `struct sock_fprog`: a length of 16 bits, padding, a pointer.
const PROGRAM_HEADER: u32 = 16;
/// `struct sock_filter`
const INSTRUCTION: usize = 8;

/// What a process wants to be done about the filter of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FilterCall {
    /// Put on the one that [`read`] gives.
    Attach,
    /// Take it off.
    Detach,
}

impl FilterCall {
    /// What is said without the caller's memory. What stands behind the pointer means nothing where one is taken off; the
    /// kernel looks whether there is anything, which is not looked at here.
    ///
    /// # Errors
    /// `EINVAL`, as the kernel would say.
    pub(super) fn of(call: &Notification) -> Result<Self, Errno> {
        let length = call.number_argument(4);
        if length.cast_signed() < 0 || length < SHORTEST {
            return Err(Errno::INVAL);
        }
        Ok(match call.number_argument(2) {
            SO_ATTACH_FILTER => Self::Attach,
            _ => Self::Detach,
        })
    }
}

/// Reads the filter that is to be put on: at most [`KERNEL_INSTRUCTIONS`] and at least one. True of the caller only if its
/// call still waits afterwards. Takes as long as the caller's memory does.
///
/// # Errors
/// What the kernel would say: `EINVAL` or `EFAULT`.
pub(super) fn read(call: &Notification) -> Result<Vec<Insn>, Errno> {
    let [_, _, _, value, _] = call.arguments;
    let length = call.number_argument(4);
    let memory = File::open(format!("/proc/{}/mem", call.thread)).map_err(|_| Errno::FAULT)?;
    let mut header = [0_u8; PROGRAM_HEADER as usize];
    // The kernel reads the number before it looks at the length.
    let (number, _) = header.split_at_mut(SHORTEST as usize);
    read_exact(&memory, value, number)?;
    if length != PROGRAM_HEADER {
        return Err(Errno::INVAL);
    }
    read_exact(&memory, value, &mut header)?;
    let [l0, l1, _, _, _, _, _, _, pointer @ ..] = header;
    let count = usize::from(u16::from_ne_bytes([l0, l1]));
    let pointer = u64::from_ne_bytes(pointer);
    if pointer == 0 || count == 0 || count > KERNEL_INSTRUCTIONS {
        return Err(Errno::INVAL);
    }
    let mut bytes = vec![0; count * INSTRUCTION];
    read_exact(&memory, pointer, &mut bytes)?;
    let (insns, _) = bytes.as_chunks::<INSTRUCTION>();
    let insns = insns.iter().map(|&[c0, c1, jt, jf, k @ ..]| {
        Insn::new(u16::from_ne_bytes([c0, c1]), jt, jf, u32::from_ne_bytes(k))
    });
    Ok(insns.collect())
}

fn read_exact(memory: &File, address: u64, bytes: &mut [u8]) -> Result<(), Errno> {
    memory
        .read_exact_at(bytes, address)
        .map_err(|_| Errno::FAULT)
}
