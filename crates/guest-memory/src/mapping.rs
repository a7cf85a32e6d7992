//! Host memory behind a region of guest RAM.

use std::io;
use std::ptr::NonNull;

/// What a huge page of the host is aligned to: 2 MiB.
pub const HUGE_PAGE: usize = 2 << 20;

/// Private anonymous memory that begins at a multiple of [`HUGE_PAGE`], as guest RAM does. A processor's second-level
/// page tables have a huge page only where the guest's address and the host's agree to that multiple, and `mmap` alone
/// does not see to it before Linux 6.7.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: an address range, which is used through `vm-memory` alone.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes, a positive multiple of the page size, readable and writable. The host may back them by huge
    /// pages.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn new(len: usize) -> io::Result<Self> {
        let reserved = len.checked_add(HUGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let flags = libc::MAP_ANONYMOUS | libc::MAP_PRIVATE | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), reserved, libc::PROT_NONE, flags, -1, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let before = (address as usize).next_multiple_of(HUGE_PAGE) - address as usize;
        let start = address.cast::<u8>().wrapping_add(before);
        let after = reserved - before - len;
        let rest = [(address, before), (start.wrapping_add(len).cast(), after)];
        for (unused, len) in rest.into_iter().filter(|(_, len)| *len > 0) {
            // SAFETY: a part of the mapping just made, which nothing uses.
            unsafe { libc::munmap(unused, len) };
        }
        // SAFETY: as above; nothing uses it yet.
        let allowed = unsafe { libc::mprotect(start.cast(), len, libc::PROT_READ | libc::PROT_WRITE) };
        let mapping = Self { start: NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?, len };
        if allowed != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the range is the mapping's; the advice changes no contents. Its failure (a kernel without transparent
        // huge pages) costs speed only.
        unsafe { libc::madvise(start.cast(), len, libc::MADV_HUGEPAGE) };
        Ok(mapping)
    }

    /// Where it begins.
    pub fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Where its `len` bytes from `offset` on begin; `None` if it has none there.
    pub fn part(&self, offset: usize, len: usize) -> Option<*mut u8> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        inside.then(|| self.start().wrapping_add(offset))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this mapping's, and who uses it holds it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_begins_at_a_huge_page() {
        // Mappings of odd sizes between, so that the kernel's own choice is no multiple.
        let mappings: Vec<_> = (1..9).map(|pages| Mapping::new(pages * 4096).unwrap()).collect();
        for mapping in &mappings {
            assert!((mapping.start() as usize).is_multiple_of(HUGE_PAGE));
        }
    }
}
