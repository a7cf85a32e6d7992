//! The memory that requests transfer data from and to.

use std::io;
use std::marker::PhantomData;

use guest_memory::GuestMemory;
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::disk::SubmitError;

/// A range of guest physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestRange {
    /// First address.
    pub gpa: u64,
    /// Bytes.
    pub len: u64,
}

/// Host memory that a disk transfers data from or to: a buffer, or guest RAM that processors may access at
/// the same time. Therefore its bytes are reached by the kernel or by volatile copies only.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Segment<'a> {
    iovec: libc::iovec,
    memory: PhantomData<&'a ()>,
}

// SAFETY: a segment is an address and a length; whoever makes one answers for the memory, and transfers
// are atomic copies by the kernel as far as other threads are concerned.
unsafe impl Send for Segment<'_> {}
// SAFETY: as above.
unsafe impl Sync for Segment<'_> {}

impl std::fmt::Debug for Segment<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Segment({:p}, {:#x})", self.iovec.iov_base, self.iovec.iov_len)
    }
}

impl<'a> From<&'a mut [u8]> for Segment<'a> {
    fn from(data: &'a mut [u8]) -> Self {
        let iovec = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
        Self { iovec, memory: PhantomData }
    }
}

impl<'a> Segment<'a> {
    /// Memory to be read only: must be given to writes alone, hence private to this crate.
    pub(crate) fn for_writing(data: &'a [u8]) -> Self {
        let iovec = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
        Self { iovec, memory: PhantomData }
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.iovec.iov_len
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.iovec.iov_len == 0
    }

    /// The part of at most `len` bytes from byte `start`.
    pub fn part(&self, start: usize, len: usize) -> Self {
        let start = start.min(self.len());
        // SAFETY: `start` is at most the length, so the address is in the segment or one past its end.
        let base = unsafe { self.iovec.iov_base.cast::<u8>().add(start) };
        let iovec = libc::iovec { iov_base: base.cast(), iov_len: len.min(self.len() - start) };
        Self { iovec, memory: PhantomData }
    }

    pub(crate) fn as_iovecs(segments: &[Self]) -> &[libc::iovec] {
        // SAFETY: `Segment` is a transparent wrapper of `iovec`.
        unsafe { std::slice::from_raw_parts(segments.as_ptr().cast(), segments.len()) }
    }

    /// Segments of addresses that [`resolve`] has put there.
    ///
    /// # Safety
    /// The memory must stay mapped for `'s`.
    pub(crate) unsafe fn from_iovecs<'s>(iovecs: &'s [libc::iovec]) -> &'s [Segment<'s>] {
        // SAFETY: `Segment` is a transparent wrapper of `iovec`; the memory is the caller's promise.
        unsafe { std::slice::from_raw_parts(iovecs.as_ptr().cast(), iovecs.len()) }
    }
}

/// Bytes of all segments together.
pub(crate) fn total(segments: &[Segment<'_>]) -> u64 {
    segments.iter().map(|segment| segment.len() as u64).sum()
}

/// Calls `piece` for every piece of host memory of `ranges`, in order.
fn pieces(
    memory: &GuestMemory,
    ranges: &[GuestRange],
    mut piece: impl FnMut(*mut u8, usize),
) -> Result<(), SubmitError> {
    for range in ranges {
        let len = usize::try_from(range.len).map_err(|_| SubmitError::Memory)?;
        range.gpa.checked_add(range.len).ok_or(SubmitError::Memory)?;
        for slice in GuestMemoryBackend::get_slices(memory, GuestAddress(range.gpa), len) {
            let slice = slice.map_err(|_| SubmitError::Memory)?;
            piece(slice.ptr_guard_mut().as_ptr(), slice.len());
        }
    }
    Ok(())
}

/// Puts the host addresses of `ranges` into `iovecs`, neighbours merged. Returns the bytes of all ranges.
pub(crate) fn resolve(
    memory: &GuestMemory,
    ranges: &[GuestRange],
    iovecs: &mut Vec<libc::iovec>,
) -> Result<u64, SubmitError> {
    iovecs.clear();
    let mut total = 0;
    pieces(memory, ranges, |base, len| {
        total += len as u64;
        match iovecs.last_mut() {
            Some(last) if last.iov_base as usize + last.iov_len == base as usize => last.iov_len += len,
            _ if len == 0 => {}
            _ => iovecs.push(libc::iovec { iov_base: base.cast(), iov_len: len }),
        }
    })?;
    Ok(total)
}

/// The segments of `ranges`, which live as long as the memory.
pub(crate) fn segments<'a>(memory: &'a GuestMemory, ranges: &[GuestRange]) -> io::Result<Vec<Segment<'a>>> {
    let mut segments = Vec::with_capacity(ranges.len());
    pieces(memory, ranges, |base, len| {
        let iovec = libc::iovec { iov_base: base.cast(), iov_len: len };
        segments.push(Segment { iovec, memory: PhantomData });
    })?;
    Ok(segments)
}

/// Tells the record of code pages that `ranges` have been written behind its back.
pub(crate) fn mark_written(memory: &GuestMemory, ranges: &[GuestRange]) {
    for range in ranges {
        let len = usize::try_from(range.len).unwrap_or(usize::MAX);
        for slice in GuestMemoryBackend::get_slices(memory, GuestAddress(range.gpa), len).flatten() {
            slice.bitmap().mark_dirty(0, slice.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guest_memory::{DEVICE_HOLE_END, DEVICE_HOLE_START, PAGE_SIZE};

    #[test]
    fn neighbouring_ranges_become_one_piece() {
        let (memory, _) = guest_memory::allocate(16 * PAGE_SIZE).unwrap();
        let ranges = [
            GuestRange { gpa: 0x1000, len: 0x1000 },
            GuestRange { gpa: 0x2000, len: 0x1000 },
            GuestRange { gpa: 0x5000, len: 0x200 },
        ];
        let mut iovecs = Vec::new();
        assert_eq!(resolve(&memory, &ranges, &mut iovecs), Ok(0x2200));
        let lengths: Vec<_> = iovecs.iter().map(|iovec| iovec.iov_len).collect();
        assert_eq!(lengths, [0x2000, 0x200]);
    }

    #[test]
    fn ranges_outside_ram_are_refused() {
        let (memory, _) = guest_memory::allocate(DEVICE_HOLE_START + PAGE_SIZE).unwrap();
        let mut iovecs = Vec::new();
        for (gpa, len) in [
            (DEVICE_HOLE_START - 0x1000, 0x1001),
            (DEVICE_HOLE_START, 1),
            (DEVICE_HOLE_END + PAGE_SIZE - 1, 2),
            (u64::MAX - 1, 4),
            (0, u64::MAX),
        ] {
            assert_eq!(
                resolve(&memory, &[GuestRange { gpa, len }], &mut iovecs),
                Err(SubmitError::Memory),
                "{gpa:#x}+{len:#x}"
            );
        }
    }

    #[test]
    fn a_read_behind_the_back_ends_the_code_of_its_pages() {
        let (memory, code) = guest_memory::allocate(16 * PAGE_SIZE).unwrap();
        let (first, second) = (code.mark(3), code.mark(4));
        mark_written(&memory, &[GuestRange { gpa: 0x3ff0, len: 16 }]);
        assert_ne!(code.state(3), first);
        assert_eq!(code.state(4), second);
    }
}
