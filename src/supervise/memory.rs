//! The supervisor's own memory: none of it ends in a file, and what the start took of it is given back.

/// Secrets pass through this process: its memory must not end in a file.
pub(super) fn stays_here() {
    if let Err(e) = crate::coredump::forbid() {
        log::warn!("core dumps of the supervisor could not be forbidden: {e}");
    }
}

/// Gives back what is free of it. The store was read as a whole, which takes several times what is kept of it, and the
/// allocator keeps such room for the next time; there is none.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)] // the allocator has no safe interface for this
    // SAFETY: malloc_trim takes the allocator's own locks and only releases pages that hold no live allocation.
    unsafe {
        libc::malloc_trim(0);
    }
}
