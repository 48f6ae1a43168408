//! Counters that all sockets of a session share.
//!
//! `core::sync::atomic` offers no read-modify-write for the BPF target, though the instructions
//! exist since Linux 5.12, so the compiler's intrinsics are called directly. Their ordering is
//! load-bearing: with `Relaxed`, LLVM 22 emits an add that returns nothing, and the caller
//! compares garbage.

use core::intrinsics::{
    AtomicOrdering::{AcqRel, Acquire},
    atomic_cxchg, atomic_xadd, atomic_xsub,
};

/// A counter in a map.
#[derive(Clone, Copy)]
pub struct Counter(*mut u64);

impl Counter {
    /// # Safety
    /// `value` points into a live map value and is only written through a `Counter`.
    #[inline(always)]
    pub const unsafe fn new(value: *mut u64) -> Self {
        Self(value)
    }

    /// Adds, and returns the sum.
    #[inline(always)]
    pub fn add(self, amount: u64) -> u64 {
        // SAFETY: the constructor's promise.
        unsafe { atomic_xadd::<u64, u64, { AcqRel }>(self.0, amount) }.wrapping_add(amount)
    }

    /// Takes back what `add` added.
    #[inline(always)]
    pub fn give_back(self, amount: u64) {
        // SAFETY: the constructor's promise.
        unsafe { atomic_xsub::<u64, u64, { AcqRel }>(self.0, amount) };
    }

    #[inline(always)]
    pub fn get(self) -> u64 {
        // SAFETY: the constructor's promise.
        unsafe { self.0.read_volatile() }
    }

    /// Sets the counter to `value` if it is 0; true for the one caller that did.
    #[inline(always)]
    pub fn set_once(self, value: u64) -> bool {
        // SAFETY: the constructor's promise.
        unsafe { atomic_cxchg::<u64, { AcqRel }, { Acquire }>(self.0, 0, value) }.1
    }

    /// Makes it at least `value`, unless many others do the same at this moment.
    #[inline(always)]
    pub fn raise(self, value: u64) {
        let mut times = 0;
        while times < 8 {
            let before = self.get();
            if before >= value {
                return;
            }
            // SAFETY: the constructor's promise.
            if unsafe { atomic_cxchg::<u64, { AcqRel }, { Acquire }>(self.0, before, value) }.1 {
                return;
            }
            times += 1;
        }
    }
}
