//! Addresses beyond RAM.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use counters::Counter;

use super::{SharedMemory, lock};

/// How many unclaimed pages the log tells of.
const TOLD: usize = 64;

#[derive(Clone)]
struct Range {
    base: u64,
    size: u64,
    device: SharedMemory,
    exits: Counter,
}

/// Ranges sorted by address; none overlaps another.
#[derive(Default)]
pub(super) struct MemoryBus {
    ranges: RwLock<Vec<Range>>,
    told: Mutex<HashSet<u64>>,
}

impl MemoryBus {
    /// Gives `size` bytes from `base` to `device`, unless part of them is taken.
    pub(super) fn claim(&self, device: SharedMemory, exits: Counter, base: u64, size: u64) {
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        let at = ranges.partition_point(|range| range.base < base);
        let end = base.saturating_add(size);
        let before_is_clear = at.checked_sub(1).is_none_or(|before| ranges[before].end() <= base);
        let after_is_clear = ranges.get(at).is_none_or(|after| end <= after.base);
        if before_is_clear && after_is_clear {
            ranges.insert(at, Range { base, size, device, exits });
        } else {
            tracing::warn!("addresses {base:#x} to {end:#x} are claimed twice: the first claim stands");
        }
    }

    /// Takes the range at `base` away from `device`.
    pub(super) fn release(&self, device: &SharedMemory, base: u64) {
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        ranges.retain(|range| range.base != base || !Arc::ptr_eq(&range.device, device));
    }

    /// The range that holds `gpa`, with the offset into it.
    fn at(&self, gpa: u64) -> Option<(Range, u64)> {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let behind = ranges.partition_point(|range| range.base <= gpa);
        let range = ranges.get(behind.checked_sub(1)?)?;
        let offset = gpa - range.base;
        (offset < range.size).then(|| (range.clone(), offset))
    }

    pub(super) fn read(&self, gpa: u64, data: &mut [u8]) {
        data.fill(0xff);
        match self.at(gpa) {
            Some((range, offset)) => {
                range.exits.count();
                lock(&range.device).memory_read(offset, data);
            }
            None => self.tell("read", gpa, data.len()),
        }
    }

    pub(super) fn write(&self, gpa: u64, data: &[u8]) {
        match self.at(gpa) {
            Some((range, offset)) => {
                range.exits.count();
                lock(&range.device).memory_write(offset, data);
            }
            None => self.tell("written", gpa, data.len()),
        }
    }

    fn tell(&self, access: &str, gpa: u64, len: usize) {
        let mut told = lock(&self.told);
        if told.len() < TOLD && told.insert(gpa >> guest_memory::PAGE_SHIFT) {
            tracing::warn!("address {gpa:#x} is {access} ({len} bytes), and no device claims it");
        }
    }
}

impl Range {
    fn end(&self) -> u64 {
        self.base.saturating_add(self.size)
    }
}
