//! Executable memory: one stretch mapped twice, once writable and once executable, so that no page is both.
//!
//! The memory is anonymous: `perf` looks for names of code in such memory in `/tmp/perf-PID.map`.

use std::io;
use std::ptr::NonNull;

/// A bounded stretch of generated code that only grows, until it is cleared as a whole.
pub struct Arena {
    writable: NonNull<u8>,
    executable: NonNull<u8>,
    size: usize,
    used: usize,
}

// SAFETY: the mappings belong to the arena alone; moving it to another thread moves that ownership.
unsafe impl Send for Arena {}

/// Every piece begins at a multiple of this.
const ALIGNMENT: usize = 16;

impl Arena {
    /// An empty arena of `size` bytes.
    ///
    /// # Errors
    /// When the host refuses the memory or its executable mapping.
    pub fn new(size: usize) -> io::Result<Self> {
        let (read, write, exec) = (libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC);
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let writable = unsafe { libc::mmap(std::ptr::null_mut(), size, read | write, flags, -1, 0) };
        let writable = mapped(writable)?;
        // SAFETY: of a shared mapping, an old size of 0 maps the same pages a second time elsewhere.
        let again = unsafe { libc::mremap(writable.as_ptr().cast(), 0, size, libc::MREMAP_MAYMOVE) };
        let executable = mapped(again).inspect_err(|_| {
            // SAFETY: the mapping was made above and nothing refers to it.
            unsafe { libc::munmap(writable.as_ptr().cast(), size) };
        })?;
        let arena = Self { writable, executable, size, used: 0 };
        // SAFETY: the mapping was made above and nothing refers to it.
        if unsafe { libc::mprotect(executable.as_ptr().cast(), size, read | exec) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(arena)
    }

    /// Copies `code` into the arena; its executable address, or `None` if there is no room.
    pub fn add(&mut self, code: &[u8]) -> Option<NonNull<u8>> {
        let end = self.used.checked_add(code.len())?;
        if end > self.size {
            return None;
        }
        // SAFETY: `used..end` lies within both mappings and holds no code that anyone runs.
        let at = unsafe {
            std::ptr::copy_nonoverlapping(code.as_ptr(), self.writable.as_ptr().add(self.used), code.len());
            self.executable.add(self.used)
        };
        self.used = end.next_multiple_of(ALIGNMENT);
        Some(at)
    }

    /// Executable address of the next piece.
    pub fn next(&self) -> u64 {
        self.executable.as_ptr().addr() as u64 + self.used as u64
    }

    /// Executable address of the first piece.
    pub fn start(&self) -> u64 {
        self.executable.as_ptr().addr() as u64
    }

    /// Bytes that are free.
    pub fn room(&self) -> usize {
        self.size.saturating_sub(self.used)
    }

    /// Overwrites code at an executable address. Nobody but the caller's thread may run it.
    pub fn patch(&mut self, at: u64, bytes: &[u8]) {
        let Some(offset) = (at as usize).checked_sub(self.executable.as_ptr().addr()) else { return };
        if offset + bytes.len() > self.used {
            return;
        }
        // SAFETY: the bytes lie within the code that has been added, so within the writable mapping.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.writable.as_ptr().add(offset), bytes.len())
        };
    }

    /// Forgets all code. Nobody may run it any more.
    pub fn clear(&mut self) {
        self.used = 0;
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: both mappings were made by `new` with this size.
        unsafe {
            libc::munmap(self.writable.as_ptr().cast(), self.size);
            libc::munmap(self.executable.as_ptr().cast(), self.size);
        }
    }
}

/// What MMAP and MREMAP answer.
fn mapped(at: *mut libc::c_void) -> io::Result<NonNull<u8>> {
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(at.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))
}
