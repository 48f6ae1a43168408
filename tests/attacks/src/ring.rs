//! io_uring, by hand: one request, one answer.

use std::ptr;

use crate::{
    attacker::Attacker,
    sys::{Answer, native, number},
};

const SUBMISSIONS: u64 = 0;
const ENTRIES: u64 = 0x1000_0000;
const SIZE: usize = 4096;

/// `IORING_OP_SOCKET` (Linux 5.19).
pub(crate) const OP_SOCKET: u8 = 45;

/// One request: the operation, and what stands where `fd`, `off`, `len` do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) operation: u8,
    pub(crate) fd: i32,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

/// Makes a ring through the attack's door, and asks for one thing.
pub(crate) fn ask(attacker: &mut Attacker, request: Request) -> Answer {
    let parameters = attacker.memory.zeros(120);
    let ring = attacker.attack(number::IO_URING_SETUP, [4, parameters, 0, 0, 0, 0])?;
    let offset = |at: u64| attacker.memory.read_u32(parameters + at) as usize;
    let (tail, array) = (offset(44), offset(64));
    let (head_of_answers, mask, answers) = (offset(80), offset(88), offset(100));
    let submissions = map(ring, SUBMISSIONS)?;
    let entries = map(ring, ENTRIES)?;
    let mut entry = [0_u8; 64];
    entry[0] = request.operation;
    entry[4..8].copy_from_slice(&request.fd.to_ne_bytes());
    entry[8..16].copy_from_slice(&request.offset.to_ne_bytes());
    entry[24..28].copy_from_slice(&request.length.to_ne_bytes());
    for (at, byte) in entry.into_iter().enumerate() {
        // SAFETY: the first entry is within the mapping.
        unsafe { ptr::write_volatile(entries.wrapping_add(at), byte) };
    }
    write(submissions, array, 0);
    write(submissions, tail, 1);
    native(libc::SYS_io_uring_enter, [ring, 1, 1, 1, 0, 0])?;
    let place = (read(submissions, head_of_answers) & read(submissions, mask)) as usize;
    let result = read(submissions, answers + 16 * place + 8).cast_signed();
    match u64::try_from(result) {
        Ok(result) => Ok(result),
        Err(_) => Err(-result),
    }
}

fn map(ring: u64, offset: u64) -> Result<*mut u8, i32> {
    const SHARED: u64 = 1;
    let arguments = [0, SIZE as u64, 3, SHARED, ring, offset];
    let at = native(libc::SYS_mmap, arguments)?;
    Ok(ptr::with_exposed_provenance_mut(usize::try_from(at).unwrap_or(0)))
}

fn write(ring: *mut u8, at: usize, value: u32) {
    // SAFETY: the kernel has said that this number is there.
    unsafe { ptr::write_volatile(ring.wrapping_add(at).cast::<u32>(), value) };
}

fn read(ring: *mut u8, at: usize) -> u32 {
    // SAFETY: the kernel has said that this number is there.
    unsafe { ptr::read_volatile(ring.wrapping_add(at).cast::<u32>()) }
}
