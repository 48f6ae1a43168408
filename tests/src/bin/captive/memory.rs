//! Memory that arguments point at: a filter and an address that are right now and then, a page that ends, one that
//! is not there.
#![allow(
    unsafe_code,
    reason = "pages are mapped, and changed while the kernel reads them"
)]

use std::{
    io, ptr,
    sync::atomic::{AtomicU64, Ordering},
};

use capwarden_tests::dice::Dice;

const PAGE: usize = 4_096;
/// Words at the begin of the first page: a filter's header, its instruction, an address to bind to.
const WORDS: usize = 8;

/// Two pages, and a third that cannot be read. It is never unmapped.
pub(crate) struct Memory {
    begin: u64,
    words: &'static [AtomicU64; WORDS],
}

impl Memory {
    pub(crate) fn new() -> io::Result<Self> {
        let (all, private) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: it is new memory, wherever the kernel likes.
        let begin = unsafe { libc::mmap(ptr::null_mut(), 3 * PAGE, all, private, -1, 0) };
        if begin == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: within what was just mapped, which nobody refers to.
        unsafe { libc::mprotect(begin.wrapping_byte_add(2 * PAGE), PAGE, libc::PROT_NONE) };
        // SAFETY: the page is there for ever, is zeroed, and is only ever used as these.
        let words = unsafe { &*begin.cast::<[AtomicU64; WORDS]>() };
        let memory = Self {
            begin: u64::try_from(begin.addr()).unwrap_or(0),
            words,
        };
        memory.change(&mut Dice::new(1));
        Ok(memory)
    }

    /// Where an argument may point.
    pub(crate) fn address(&self, dice: &mut Dice) -> u64 {
        let at = |offset: usize| self.begin + u64::try_from(offset).unwrap_or(0);
        match dice.roll(10) {
            0 => 0,
            1 => u64::MAX - u64::try_from(dice.roll(64)).unwrap_or(0),
            2 => 0xffff_8000_0000_0000,
            3 => at(2 * PAGE - dice.roll(24)), // it crosses into the page that cannot be read
            4 => at(2 * PAGE + dice.roll(PAGE)),
            5 => at(dice.roll(2 * PAGE)),
            6 | 7 => at(0),
            _ => at(24),
        }
    }

    /// Makes everything right, or something of it wrong.
    pub(crate) fn change(&self, dice: &mut Dice) {
        const ACCEPT: u64 = 0xffff_ffff_0000_0006; // ret #-1
        let count = match dice.roll(6) {
            0 => u64::try_from(dice.roll(1 << 16)).unwrap_or(0),
            _ => 1,
        };
        let instruction = match dice.roll(6) {
            0 => u64::try_from(dice.roll(usize::MAX)).unwrap_or(0),
            _ => ACCEPT,
        };
        let pointer = match dice.roll(6) {
            0 => self.address(dice),
            _ => self.begin + 16,
        };
        // AF_PACKET, ETH_P_ALL, any interface; or another family, protocol and interface.
        let address = match dice.roll(6) {
            0 => u64::try_from(dice.roll(usize::MAX)).unwrap_or(0),
            _ => 0x0300_0011,
        };
        for (word, value) in self
            .words
            .iter()
            .zip([count, pointer, instruction, address])
        {
            word.store(value, Ordering::Relaxed);
        }
    }
}
