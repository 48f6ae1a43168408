//! Memory for system calls' arguments, below 4 GiB, so that 32-bit calls reach it.

use std::{ffi::CStr, ptr};

const SIZE: usize = 1 << 20;
const ALIGNED: usize = 16;

/// Room for arguments. Nothing in it is given back: attackers do not live long.
#[derive(Debug)]
pub(crate) struct Memory {
    start: *mut u8,
    used: usize,
}

impl Memory {
    pub(crate) fn new() -> Self {
        #[cfg(target_arch = "x86_64")]
        const LOW: i32 = libc::MAP_32BIT;
        #[cfg(not(target_arch = "x86_64"))]
        const LOW: i32 = 0;
        // SAFETY: a new mapping, where nothing is.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | LOW,
                -1,
                0,
            )
        };
        assert!(start != libc::MAP_FAILED, "no memory below 4 GiB");
        Self {
            start: start.cast(),
            used: 0,
        }
    }

    /// So many zeros; their address.
    pub(crate) fn zeros(&mut self, count: usize) -> u64 {
        let address = self.start.wrapping_add(self.used);
        self.used += count.next_multiple_of(ALIGNED);
        assert!(self.used <= SIZE, "an attacker needs too much memory");
        address.addr() as u64
    }

    /// A page of zeros, by itself; its address.
    pub(crate) fn page(&mut self) -> u64 {
        const PAGE: usize = 4096;
        self.used = self.used.next_multiple_of(PAGE);
        self.zeros(PAGE)
    }

    /// Bytes; their address.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> u64 {
        let address = self.zeros(bytes.len());
        self.write(address, bytes);
        address
    }

    /// A string with its final zero; its address.
    pub(crate) fn text(&mut self, text: &CStr) -> u64 {
        self.put(text.to_bytes_with_nul())
    }

    /// Writes to an address that was given out.
    pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
        let to = self.place(address, bytes.len());
        // SAFETY: within the mapping, which no reference points into.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// Reads from an address that was given out.
    pub(crate) fn read(&self, address: u64, count: usize) -> Vec<u8> {
        let from = self.place(address, count);
        let mut bytes = vec![0; count];
        // SAFETY: within the mapping, which no reference points into.
        unsafe { ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), count) };
        bytes
    }

    pub(crate) fn read_u32(&self, address: u64) -> u32 {
        let bytes = self.read(address, 4);
        bytes
            .try_into()
            .map_or(0, |bytes: [u8; 4]| u32::from_ne_bytes(bytes))
    }

    fn place(&self, address: u64, count: usize) -> *mut u8 {
        let offset = usize::try_from(address)
            .unwrap_or(usize::MAX)
            .saturating_sub(self.start.addr());
        assert!(offset.saturating_add(count) <= SIZE, "not our memory");
        self.start.wrapping_add(offset)
    }
}
