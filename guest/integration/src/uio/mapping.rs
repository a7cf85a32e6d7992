//! Memory that is shared with the host.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::libc::c_void;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::ring::Memory;

/// The rings of a channel.
pub(super) struct Mapping {
    start: NonNull<c_void>,
    length: usize,
}

impl Mapping {
    /// Maps the first `length` bytes of `file`.
    pub(super) fn new(file: &File, length: usize) -> io::Result<Self> {
        let size = NonZeroUsize::new(length).ok_or(io::ErrorKind::InvalidInput)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let start = unsafe { mmap(None, size, access, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Self { start, length })
    }

    /// The address of `count` bytes at `at`.
    ///
    /// # Panics
    /// If they are not in the mapping.
    fn place(&self, at: usize, count: usize) -> *mut u8 {
        assert!(
            at.checked_add(count).is_some_and(|end| end <= self.length),
            "{at}+{count} of {}",
            self.length
        );
        // SAFETY: the offset is within the mapping.
        unsafe { self.start.as_ptr().cast::<u8>().add(at) }
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4), "{at}");
        // SAFETY: four bytes of the mapping, aligned as the mapping is to a page, which live as long as self; whoever
        // shares them changes whole words.
        unsafe { AtomicU32::from_ptr(self.place(at, 4).cast()) }
    }
}

impl Memory for Mapping {
    fn length(&self) -> usize {
        self.length
    }

    fn load(&self, at: usize) -> u32 {
        self.word(at).load(Ordering::SeqCst)
    }

    fn store(&mut self, at: usize, value: u32) {
        self.word(at).store(value, Ordering::SeqCst);
    }

    fn read(&self, at: usize, bytes: &mut [u8]) {
        let from = self.place(at, bytes.len());
        for (index, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: `place` has checked the range. Volatile, since the host may write meanwhile.
            *byte = unsafe { from.add(index).read_volatile() };
        }
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        let to = self.place(at, bytes.len());
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: as in `read`.
            unsafe { to.add(index).write_volatile(*byte) };
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing borrows from it any more.
        if let Err(error) = unsafe { munmap(self.start, self.length) } {
            eprintln!("bodhi-integration: munmap: {error}");
        }
    }
}
