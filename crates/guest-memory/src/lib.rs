//! Guest memory: the RAM of a virtual machine as `vm-memory` regions, and the record of which of its
//! pages hold code that a processor has decoded ([`CodePages`]).
//!
//! Whoever writes guest RAM, a processor's store or a device's DMA, must make decoded code of that page
//! invalid. Writes through `vm-memory`'s [`vm_memory::Bytes`] and volatile slices do so by themselves,
//! because the regions' bitmap is a [`WriteTracker`]. Whoever writes through a raw host pointer (a
//! processor, the kernel on behalf of io_uring) calls [`CodePages::written`] *after* the write.
//!
//! ```text
//! 0            3 GiB        4 GiB
//! |── low RAM ──|  devices   |── high RAM ──
//! ```
//!
//! What processors find from 768 KiB to 1 MiB, a chipset decides ([`Shadow`]).
//!
//! RAM may grow while the guest runs ([`GuestMemory::grow`]), by parts that were laid out at the start.

mod code;
mod mapping;
mod ram;
mod shadow;

pub use code::{CodePages, PageState, WriteTracker};
pub use ram::{GuestMemory, Span};
pub use shadow::{Attributes, SHADOW, SHADOW_SEGMENT, SHADOW_SEGMENTS, Shadow};

use std::io;
use std::ops::Range;
use std::sync::Arc;

use thiserror::Error;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestRegionMmap};

use mapping::Mapping;

/// Size of a guest page, in bytes.
pub const PAGE_SIZE: u64 = 4096;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
/// First address of the hole below 4 GiB that belongs to devices.
pub const DEVICE_HOLE_START: u64 = 0xc000_0000;
/// First address above that hole.
pub const DEVICE_HOLE_END: u64 = 0x1_0000_0000;

/// Why guest RAM cannot be had.
#[derive(Debug, Error)]
pub enum Error {
    /// The size is zero or not a whole number of pages.
    #[error("memory size {0:#x} is not a positive multiple of 4 KiB")]
    Size(u64),
    /// The host refused the mapping.
    #[error("cannot map {size:#x} bytes of guest memory")]
    Map {
        /// Bytes asked for.
        size: u64,
        /// The host's reason.
        #[source]
        source: io::Error,
    },
    /// The regions do not fit together.
    #[error("guest memory regions do not fit together")]
    Regions(#[source] vm_memory::GuestRegionCollectionError),
}

/// What the RAM of a machine is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// Bytes that the machine starts with, around the device hole.
    pub size: u64,
    /// What can be added later, from low to high addresses, above what the machine starts with.
    pub more: Vec<Range<u64>>,
    /// ROM beside it, whose code is recorded too.
    pub rom: Range<u64>,
}

/// RAM of `size` bytes laid around the device hole: private anonymous memory that the host may back by
/// huge pages and KVM map by them, with the record of its code pages.
///
/// # Errors
/// When `size` is not a positive multiple of [`PAGE_SIZE`] or the host refuses the mapping.
pub fn allocate(size: u64) -> Result<(GuestMemory, Arc<CodePages>), Error> {
    allocate_as(&Layout { size, ..Layout::default() })
}

/// As [`allocate`], for `layout`. What can be added is address space of the host only until it is written.
///
/// # Errors
/// As [`allocate`], and when the ranges to be added do not lie above each other.
pub fn allocate_as(layout: &Layout) -> Result<(GuestMemory, Arc<CodePages>), Error> {
    let &Layout { size, ref more, ref rom } = layout;
    if size == 0 || !size.is_multiple_of(PAGE_SIZE) {
        return Err(Error::Size(size));
    }
    let low = size.min(DEVICE_HOLE_START);
    let mut ranges = Vec::with_capacity(2);
    ranges.push(0..low);
    if size > low {
        ranges.push(DEVICE_HOLE_END..DEVICE_HOLE_END + (size - low));
    }
    let present = ranges.last().map_or(0, |range| range.end);
    ranges.extend(ram::parts(more));
    let top = ranges.last().map_or(0, |range| range.end);
    let rom = rom.start >> PAGE_SHIFT..rom.end >> PAGE_SHIFT;
    let code = Arc::new(CodePages::with_rom(top >> PAGE_SHIFT, rom));
    let memory = GuestMemory::new(&ranges, present, &code)?;
    Ok((memory, code))
}

/// Memory of its own with `bytes` at `base`: ROM that processors run code from.
///
/// # Errors
/// When `bytes` is no whole number of pages or the host refuses the mapping.
pub fn rom(base: u64, bytes: &[u8]) -> Result<GuestMemory, Error> {
    let size = bytes.len() as u64;
    if size == 0 || !size.is_multiple_of(PAGE_SIZE) || !base.is_multiple_of(PAGE_SIZE) {
        return Err(Error::Size(size));
    }
    // Code that is decoded from it never changes: nobody has to be told.
    let (range, code) = (base..base + size, Arc::new(CodePages::new(0)));
    let memory = GuestMemory::new(std::slice::from_ref(&range), range.end, &code)?;
    memory.write_slice(bytes, GuestAddress(base)).map_err(|_| Error::Size(size))?;
    Ok(memory)
}

/// Gives the host's memory behind `len` bytes of RAM at `gpa` back: they read as zeroes from then on, until they are
/// written again. Both are multiples of [`PAGE_SIZE`].
///
/// # Errors
/// When the range is not RAM as a whole, or the host refuses. A part of it may have been given back then.
pub fn discard(memory: &GuestMemory, code: &CodePages, gpa: u64, len: u64) -> io::Result<()> {
    if !gpa.is_multiple_of(PAGE_SIZE) || !len.is_multiple_of(PAGE_SIZE) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let bytes = usize::try_from(len).map_err(io::Error::other)?;
    for slice in memory.get_slices(GuestAddress(gpa), bytes) {
        let slice = slice.map_err(io::Error::other)?;
        let guard = slice.ptr_guard_mut();
        // SAFETY: the range is RAM, which private anonymous memory is behind; nobody has a Rust reference to it.
        if unsafe { libc::madvise(guard.as_ptr().cast(), guard.len(), libc::MADV_DONTNEED) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    code.range_written(gpa, len);
    Ok(())
}

/// The region `range`, which lies in `host` from `offset` on.
fn region(
    range: &Range<u64>,
    host: &Arc<Mapping>,
    offset: u64,
    code: &Arc<CodePages>,
) -> Result<GuestRegionMmap<WriteTracker>, Error> {
    let size = range.end.saturating_sub(range.start);
    let no_room = || Error::Size(size);
    let (bytes, offset) =
        (usize::try_from(size).map_err(|_| no_room())?, usize::try_from(offset).map_err(|_| no_room())?);
    let start = host.part(offset, bytes).ok_or_else(no_room)?;
    let tracker = WriteTracker::new(Arc::clone(code), range.start, Arc::clone(host));
    let builder = MmapRegionBuilder::new_with_bitmap(bytes, tracker)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_ANONYMOUS | libc::MAP_PRIVATE | libc::MAP_NORESERVE);
    // SAFETY: the range is a part of a mapping, `bytes` long, which stays while the region does: its tracker holds it.
    let builder = unsafe { builder.with_raw_mmap_pointer(start) };
    let mapping = builder.build().map_err(|error| Error::Map { size, source: io::Error::other(error) })?;
    GuestRegionMmap::new(mapping, GuestAddress(range.start)).ok_or_else(no_room)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestMemoryRegion;

    #[test]
    fn discarded_pages_read_as_zeroes_and_their_code_is_invalid() {
        let (memory, code) = allocate(4 * PAGE_SIZE).unwrap();
        memory.write_slice(&[7; 3 * PAGE_SIZE as usize], GuestAddress(0)).unwrap();
        let word = code.mark(1);
        discard(&memory, &code, PAGE_SIZE, PAGE_SIZE).unwrap();
        assert_ne!(code.state(1), word);
        let byte = |gpa| memory.read_obj::<u8>(GuestAddress(gpa)).unwrap();
        assert_eq!(
            [0, PAGE_SIZE - 1, PAGE_SIZE, 2 * PAGE_SIZE - 1, 2 * PAGE_SIZE].map(byte),
            [7, 7, 0, 0, 7]
        );
    }

    #[test]
    fn what_is_no_memory_or_no_whole_page_cannot_be_discarded() {
        let (memory, code) = allocate(4 * PAGE_SIZE).unwrap();
        for (gpa, len) in [(1, PAGE_SIZE), (0, 1), (3 * PAGE_SIZE, 2 * PAGE_SIZE), (!0xfff, PAGE_SIZE)] {
            assert!(discard(&memory, &code, gpa, len).is_err());
        }
    }

    #[test]
    fn memory_beyond_three_gib_continues_at_four_gib() {
        let (memory, _) = allocate(DEVICE_HOLE_START + 2 * PAGE_SIZE).unwrap();
        let regions: Vec<_> = memory.iter().map(|r| (r.start_addr().0, r.len())).collect();
        assert_eq!(regions, [(0, DEVICE_HOLE_START), (DEVICE_HOLE_END, 2 * PAGE_SIZE)]);
    }

    #[test]
    fn a_device_write_ends_the_code_of_its_pages_only() {
        let (memory, code) = allocate(8 * PAGE_SIZE).unwrap();
        let (first, second, third) = (code.mark(1), code.mark(2), code.mark(3));
        memory.write_slice(&[0; 16], GuestAddress(2 * PAGE_SIZE - 8)).unwrap();
        assert_ne!(code.state(1), first);
        assert_ne!(code.state(2), second);
        assert_eq!(code.state(3), third);
    }

    #[test]
    fn sizes_that_are_no_pages_are_refused() {
        assert!(matches!(allocate(0), Err(Error::Size(0))));
        assert!(matches!(allocate(4095), Err(Error::Size(4095))));
    }
}
