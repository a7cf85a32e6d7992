//! The RAM of a machine, which may grow.
//!
//! ```text
//!   span (host memory, one mapping)              span above the device hole
//!   |── region ──|─ part ─|─ part ─| ...         |─ part ─| ...
//!                         ▲ top: what lies above is not the guest's yet
//! ```
//!
//! Host memory for all of it is laid out at the start and costs nothing until it is written; regions at or above `top`
//! are not there to anybody.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};

use crate::code::{CodePages, WriteTracker};
use crate::mapping::Mapping;
use crate::{Error, region};

/// The least that is added at once: a block of Linux's memory hot-plug on machines below 64 GiB.
const PART: u64 = 128 << 20;
/// The most parts: each is a memory slot of KVM, of which there are some hundreds on old hosts.
const PARTS: u64 = 256;

/// Guest RAM, shared by processors and devices. Clones are the same memory.
#[derive(Debug, Clone)]
pub struct GuestMemory {
    regions: GuestMemoryMmap<WriteTracker>,
    /// First address beyond the regions that are there.
    top: Arc<AtomicU64>,
    spans: Arc<[Span]>,
}

/// Guest physical addresses behind which there is one piece of host memory.
#[derive(Debug, Clone)]
pub struct Span {
    /// The addresses, also of what has not been added yet.
    pub range: Range<u64>,
    host: Arc<Mapping>,
}

impl Span {
    /// Where it is in host memory.
    pub fn pointer(&self) -> *mut u8 {
        self.host.start()
    }
}

/// `ranges` cut into what is added at once.
pub(crate) fn parts(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let all: u64 = ranges.iter().map(|range| range.end.saturating_sub(range.start)).sum();
    let part = all.div_ceil(PARTS).div_ceil(PART).max(1).next_power_of_two() * PART;
    let mut parts = Vec::new();
    for range in ranges {
        let mut start = range.start;
        while start < range.end {
            let end = start.saturating_add(part).min(range.end);
            parts.push(start..end);
            start = end;
        }
    }
    parts
}

impl GuestMemory {
    /// RAM with regions at `ranges`, which ascend; those below `top` are there from the start.
    pub(crate) fn new(ranges: &[Range<u64>], top: u64, code: &Arc<CodePages>) -> Result<Self, Error> {
        let mut joined: Vec<Range<u64>> = Vec::new();
        for range in ranges {
            match joined.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => joined.push(range.clone()),
            }
        }
        let span = |range: Range<u64>| {
            let size = range.end.saturating_sub(range.start);
            let bytes = usize::try_from(size).map_err(|_| Error::Size(size))?;
            let host = Arc::new(Mapping::new(bytes).map_err(|source| Error::Map { size, source })?);
            Ok(Span { range, host })
        };
        let spans: Vec<Span> = joined.into_iter().map(span).collect::<Result<_, Error>>()?;
        let mut regions = Vec::with_capacity(ranges.len());
        for range in ranges {
            for span in spans.iter().filter(|span| span.range.contains(&range.start)) {
                regions.push(region(range, &span.host, range.start - span.range.start, code)?);
            }
        }
        let regions = GuestMemoryMmap::from_regions(regions).map_err(Error::Regions)?;
        Ok(Self { regions, top: Arc::new(AtomicU64::new(top)), spans: spans.into() })
    }

    /// First address beyond the RAM that is there.
    #[inline]
    pub fn top(&self) -> u64 {
        self.top.load(Ordering::Acquire)
    }

    /// The pieces of host memory behind it, from low to high addresses.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// What [`Self::grow`] would add.
    pub fn next(&self) -> Option<Range<u64>> {
        self.next_above(self.top())
    }

    fn next_above(&self, top: u64) -> Option<Range<u64>> {
        let region = self.regions.iter().find(|region| region.start_addr().0 >= top)?;
        Some(region.start_addr().0..region.start_addr().0 + region.len())
    }

    /// Bytes that can be added.
    pub fn absent(&self) -> u64 {
        let top = self.top();
        self.regions.iter().filter(|region| region.start_addr().0 >= top).map(GuestMemoryRegion::len).sum()
    }

    /// Adds the next part, full of zeroes; `None` if there is no more.
    pub fn grow(&self) -> Option<Range<u64>> {
        loop {
            let top = self.top();
            let next = self.next_above(top)?;
            if self.top.compare_exchange(top, next.end, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return Some(next);
            }
        }
    }
}

impl GuestMemoryBackend for GuestMemory {
    type R = GuestRegionMmap<WriteTracker>;

    #[inline]
    fn find_region(&self, address: GuestAddress) -> Option<&Self::R> {
        if address.0 >= self.top() {
            return None;
        }
        self.regions.find_region(address)
    }

    fn iter(&self) -> impl Iterator<Item = &Self::R> {
        let top = self.top();
        self.regions.iter().take_while(move |region| region.start_addr().0 < top)
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;
    use crate::{DEVICE_HOLE_END, DEVICE_HOLE_START, Layout, allocate, allocate_as};

    const START: u64 = 2 * PART;

    fn ranges([start, end]: [u64; 2]) -> Vec<Range<u64>> {
        let range = start..end;
        vec![range]
    }

    fn machine(more: &[Range<u64>]) -> GuestMemory {
        let layout = Layout { size: START, more: more.to_vec(), rom: 0..0 };
        allocate_as(&layout).unwrap().0
    }

    #[test]
    fn what_has_not_been_added_is_no_memory() {
        let memory = machine(&ranges([START, 4 * PART]));
        let write = |gpa| memory.write_obj(7_u8, GuestAddress(gpa));
        assert!(write(START - 1).is_ok() && write(START).is_err());
        // Nor is what reaches into it.
        assert!(memory.write_slice(&[1; 4096], GuestAddress(START - 2048)).is_err());
        assert_eq!((memory.iter().count(), memory.absent()), (1, 2 * PART));
        assert_eq!(memory.next(), Some(START..3 * PART));
        assert_eq!(memory.clone().grow(), Some(START..3 * PART));
        assert!(write(START).is_ok() && write(3 * PART - 1).is_ok() && write(3 * PART).is_err());
        assert_eq!((memory.iter().count(), memory.absent(), memory.top()), (2, PART, 3 * PART));
    }

    #[test]
    fn growth_goes_on_above_the_device_hole_and_ends() {
        let low = DEVICE_HOLE_START - PART..DEVICE_HOLE_START;
        let high = DEVICE_HOLE_END..DEVICE_HOLE_END + PART + 4096;
        let memory = machine(&[low.clone(), high.clone()]);
        assert_eq!(memory.grow(), Some(low));
        assert_eq!(memory.grow(), Some(high.start..high.start + PART));
        assert_eq!(memory.grow(), Some(high.start + PART..high.end));
        assert_eq!((memory.grow(), memory.next(), memory.absent()), (None, None, 0));
        assert!(!memory.check_range(GuestAddress(DEVICE_HOLE_START), 1));
        assert_eq!(memory.spans().len(), 3);
        assert_eq!(allocate(START).unwrap().0.grow(), None);
    }

    #[test]
    fn large_memory_grows_by_large_parts() {
        let sizes = |size: u64| {
            let parts = parts(&ranges([PART, PART + size]));
            (parts.len() as u64, parts.iter().map(|part| part.end - part.start).max().unwrap() / PART)
        };
        assert_eq!(sizes(PARTS * PART), (PARTS, 1));
        assert_eq!(sizes(PARTS * PART + PART), (PARTS / 2 + 1, 2));
        assert_eq!(sizes(8192 * PART), (PARTS, 32));
    }

    #[test]
    fn neighbouring_ranges_are_one_piece_of_host_memory() {
        let memory = machine(&ranges([START, 4 * PART]));
        let [span] = memory.spans() else { panic!("{:?}", memory.spans()) };
        assert_eq!(span.range, 0..4 * PART);
        memory.grow();
        memory.write_obj(9_u8, GuestAddress(START)).unwrap();
        let slice = memory.get_slices(GuestAddress(START), 1).next().unwrap().unwrap();
        assert_eq!(slice.ptr_guard().as_ptr(), span.pointer().wrapping_add(START as usize).cast_const());
    }
}
