//! The memory that a guest lends an adapter: for frames that come, and for frames that go.

use std::collections::HashMap;

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
    fn pieces(&self, offset: u64, length: usize) -> Option<impl Iterator<Item = (GuestAddress, usize)>> {
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

    /// Appends `length` bytes from `offset` on to `to`. `None` if they are not all there.
    pub fn read(&self, offset: u64, length: usize, to: &mut Vec<u8>) -> Option<()> {
        let mut at = to.len();
        let pieces = self.pieces(offset, length)?;
        to.resize(at + length, 0);
        for (address, length) in pieces {
            self.memory.read_slice(to.get_mut(at..at + length)?, address).ok()?;
            at += length;
        }
        Some(())
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
pub(super) struct Sections {
    buffer: Buffer,
    /// By which number the guest knows the buffer.
    id: u16,
    /// Bytes of a section.
    pub size: u32,
    /// Number of sections.
    pub count: u32,
    free: Vec<u32>,
    /// What the guest has, by transaction.
    lent: HashMap<u64, Vec<u32>>,
    last: u64,
}

impl Sections {
    pub fn new(buffer: Buffer, id: u16, size: u32) -> Self {
        // The answer to the guest has 32 bits for the end.
        let count = (buffer.len().min(u64::from(u32::MAX)) / u64::from(size)) as u32;
        Self { buffer, id, size, count, free: (0..count).rev().collect(), lent: HashMap::new(), last: 0 }
    }

    /// Sections that are free.
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// Puts a message into a free section; its number. `None` if there is none or it is too short.
    pub fn put(&mut self, message: &[u8]) -> Option<u32> {
        if message.len() > self.size as usize {
            return None;
        }
        let section = self.free.pop()?;
        self.buffer.write(u64::from(section) * u64::from(self.size), message)?;
        Some(section)
    }

    /// The first word of the header of a packet with so many ranges of this buffer.
    pub fn header(&self, ranges: usize) -> u64 {
        u64::from(self.id) | (ranges as u64) << 32
    }

    /// `length` bytes of `section` as such a range.
    pub fn range(&self, section: u32, length: usize) -> u64 {
        length as u64 | (u64::from(section) * u64::from(self.size)) << 32
    }

    /// The guest gets `sections`; the transaction by which it gives them back.
    pub fn lend(&mut self, sections: Vec<u32>) -> u64 {
        self.last += 1;
        self.lent.insert(self.last, sections);
        self.last
    }

    /// The guest has read what it got by `transaction`. False if it got nothing by it.
    pub fn give_back(&mut self, transaction: u64) -> bool {
        let sections = self.lent.remove(&transaction);
        sections.map(|sections| self.free.extend(sections)).is_some()
    }
}
