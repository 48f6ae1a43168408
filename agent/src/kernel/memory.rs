//! What the allocator keeps of the system's memory.

/// Gives back what was needed to start: compiling policies, filters and programs for the kernel takes tens
/// of MiB that nobody uses again, in pieces between others that the allocator would keep.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and the allocator locks what it looks at.
    unsafe {
        libc::malloc_trim(0);
    }
}
