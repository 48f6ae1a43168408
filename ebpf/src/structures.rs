//! Members of kernel structures. Where they are, the agent has read from the running kernel's own type
//! information; the verifier takes that for constants, and so knows the type of what is read.

use core::ptr;

/// A structure that a hook was given, or that was found by following pointers from there.
#[derive(Clone, Copy)]
pub struct Structure(*const u8);

impl Structure {
    /// None for a null pointer.
    #[inline(always)]
    pub fn new<T>(pointer: *const T) -> Option<Self> {
        (!pointer.is_null()).then_some(Self(pointer.cast()))
    }

    /// A member.
    #[inline(always)]
    pub fn read<T: Copy>(self, offset: u32) -> T {
        // SAFETY: the verifier checks the member's place and size by the structure's type, and has the
        // kernel read zeros where the structure has gone.
        unsafe { ptr::read_volatile(self.0.wrapping_add(offset as usize).cast()) }
    }

    /// The structure that a member points at.
    #[inline(always)]
    pub fn follow(self, offset: u32) -> Option<Self> {
        Self::new(self.read::<*const u8>(offset))
    }

    /// For helpers that want one of its type.
    #[inline(always)]
    pub fn pointer<T>(self) -> *mut T {
        self.0.cast_mut().cast()
    }
}
