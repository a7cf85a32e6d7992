//! The memory that a guest lends an adapter: for frames that come, and for frames that go.

use std::sync::{Mutex, MutexGuard, PoisonError};

use guest_memory::{GuestMemory, PAGE_SIZE};
use vm_memory::{Bytes, GuestAddress};

/// Pages of guest memory, as if they were neighbours.
pub(super) struct Buffer {
    memory: GuestMemory,
    frames: Box<[u64]>,
}

impl Buffer {
    pub fn new(memory: GuestMemory, frames: Box<[u64]>) -> Self {
        Self { memory, frames }
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.frames.len() as u64 * PAGE_SIZE
    }

    /// The pieces of pages that `length` bytes from `offset` on are: their addresses and lengths. `None` if they are
    /// not all there.
    pub fn pieces(&self, offset: u64, length: usize) -> Option<impl Iterator<Item = (GuestAddress, usize)>> {
        let end = offset.checked_add(length as u64).filter(|&end| end <= self.len())?;
        let mut at = offset;
        Some(std::iter::from_fn(move || {
            let page = self.frames.get((at / PAGE_SIZE) as usize).filter(|_| at < end)?;
            let within = at % PAGE_SIZE;
            let length = (PAGE_SIZE - within).min(end - at);
            at += length;
            Some((GuestAddress(page * PAGE_SIZE + within), length as usize))
        }))
    }

    /// Writes `bytes` at `offset`. `None` if there is no room.
    pub fn write(&self, offset: u64, mut bytes: &[u8]) -> Option<()> {
        for (address, length) in self.pieces(offset, bytes.len())? {
            let (here, rest) = bytes.split_at_checked(length)?;
            self.memory.write_slice(here, address).ok()?;
            bytes = rest;
        }
        Some(())
    }
}

/// A receive buffer: sections, of which the guest has some until it says that it has read them.
pub(super) struct ReceiveBuffer {
    buffer: Buffer,
    /// By which number the guest knows the buffer.
    id: u16,
    /// Which of the buffers that the guest has lent this is.
    pub generation: u64,
    /// Bytes of a section.
    pub size: u32,
    /// Number of sections.
    pub count: u32,
    free: Mutex<Vec<u32>>,
}

impl ReceiveBuffer {
    pub fn new(buffer: Buffer, id: u16, generation: u64, size: u32) -> Self {
        // The answer to the guest has 32 bits for the end.
        let count = (buffer.len().min(u64::from(u32::MAX)) / u64::from(size)) as u32;
        Self { buffer, id, generation, size, count, free: Mutex::new((0..count).rev().collect()) }
    }

    fn free(&self) -> MutexGuard<'_, Vec<u32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds so many free sections to `sections`. False if there are fewer.
    pub fn take(&self, count: usize, sections: &mut Vec<u32>) -> bool {
        let mut free = self.free();
        let Some(left) = free.len().checked_sub(count) else { return false };
        sections.extend(free.drain(left..).rev());
        true
    }

    /// The sections are free again, and the first ones to be taken, in their order.
    pub fn give_back(&self, sections: Vec<u32>) {
        self.free().extend(sections.into_iter().rev());
    }

    /// Puts a message of two parts into a section. `None` if it is too long.
    pub fn put(&self, section: u32, head: &[u8], data: &[u8]) -> Option<()> {
        if head.len() + data.len() > self.size as usize {
            return None;
        }
        let at = u64::from(section) * u64::from(self.size);
        self.buffer.write(at, head)?;
        self.buffer.write(at + head.len() as u64, data)
    }

    /// The first word of the header of a packet with so many ranges of this buffer.
    pub fn header(&self, ranges: usize) -> u64 {
        u64::from(self.id) | (ranges as u64) << 32
    }

    /// `length` bytes of `section` as such a range.
    pub fn range(&self, section: u32, length: usize) -> u64 {
        length as u64 | (u64::from(section) * u64::from(self.size)) << 32
    }
}
