//! Gives memory back when the agent falls idle: there is one in every container, and most are idle most of the time.
//!
//! Two things grow with a rush and do not shrink by themselves: the heap's free pages, and the pages of the program
//! file that were mapped along the way (the kernel maps sixteen at a time, however few are needed). Both come back
//! by page faults when they are needed again. Never touches anything but these.

/// Gives back what is not needed now. Takes well under a millisecond; the next request takes some page faults more.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    trim_heap();
    for (start, length) in text() {
        unmap_pages(start, length);
    }
}

#[cfg(target_env = "gnu")]
fn trim_heap() {
    #[allow(unsafe_code)] // the allocator has no safe interface for this
    // SAFETY: malloc_trim takes the allocator's own locks and only releases pages that hold no live allocation.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn unmap_pages(start: usize, length: usize) {
    #[allow(unsafe_code)] // madvise takes an address
    // SAFETY: the range is a private, executable, never writable mapping of the program file, as the kernel itself lists
    // it, and stays mapped: the next access reads the same bytes from the file. No Rust object lives there.
    unsafe {
        libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED);
    }
}

/// The mappings that hold the program's code.
fn text() -> Vec<(usize, usize)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines().filter_map(text_mapping).collect()
}

/// Start and length, if a line of `maps` is a private mapping of code from a file.
fn text_mapping(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, rights) = (fields.next()?, fields.next()?);
    let file = fields.nth(3)?;
    if rights != "r-xp" || !file.starts_with('/') {
        return None;
    }
    let (from, to) = range.split_once('-')?;
    let (from, to) = (
        usize::from_str_radix(from, 16).ok()?,
        usize::from_str_radix(to, 16).ok()?,
    );
    Some((from, to.checked_sub(from)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_from_files_is_chosen() {
        let code = "7f0000001000-7f0000003000 r-xp 00207000 fe:01 42                 /usr/bin/berth";
        assert_eq!(text_mapping(code), Some((0x7f00_0000_1000, 0x2000)));
        assert_eq!(text_mapping(&code.replace("r-xp", "rw-p")), None);
        assert_eq!(text_mapping(&code.replace("r-xp", "r--p")), None);
        assert_eq!(text_mapping("7ffd1000-7ffd3000 r-xp 00000000 00:00 0    [vdso]"), None);
        assert_eq!(text_mapping("7ffd1000-7ffd3000 r-xp 00000000 00:00 0"), None);
        give_back();
        assert!(!text().is_empty(), "and the program still runs");
    }
}
