//! The first level of the software TLB, as generated code looks it up: for each address space and class of
//! access a pair of small tables, for reads and for writes. The [`crate::memory::Mmu`] behind it is the
//! second level.
//!
//! An entry holds the linear address of its page, so that one subtraction and one comparison tell a hit:
//!
//! ```text
//! address - page  <=  4096 - size of the operand     hit: add the host address of the page
//! ```
//!
//! The table for writes holds no page from which code has been decoded: a store there goes the slow way
//! and ends the code.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::memory::Class;

/// Entries of one table.
pub const ENTRIES: usize = 1024;
/// Bytes from a table for reads to the one for writes.
pub const WRITE: i32 = (ENTRIES * size_of::<Entry>()) as i32;
/// Address spaces for which tables are kept.
const SPACES: usize = 12;
/// Classes that have tables: those of [`Class`] but the last, which never has an entry.
const CLASSES: usize = 4;

/// One page.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Entry {
    /// Linear address of the page.
    pub page: u64,
    /// Host address of the page.
    pub host: u64,
}

const _: () = assert!(size_of::<Entry>() == 16, "generated code counts in entries of 16 bytes");

/// What stands in `slot` while it is free: a page that belongs into another slot, so that no address that
/// leads here matches.
const fn empty(slot: usize) -> Entry {
    Entry { page: (slot as u64 ^ 1) << 12, host: 0 }
}

type Table = [Entry; ENTRIES];

/// The tables of one address space and class.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Pair {
    read: Table,
    write: Table,
}

impl Pair {
    fn clear(&mut self) {
        for table in [&mut self.read, &mut self.write] {
            for (slot, entry) in table.iter_mut().enumerate() {
                *entry = empty(slot);
            }
        }
    }
}

/// The tables of one address space.
struct Space {
    /// What the second level called the space: [`FirstLevel::switch`].
    key: [u64; 2],
    classes: Box<[Pair]>,
    /// Bit n: class n has entries.
    used: u8,
}

impl Space {
    fn new() -> Self {
        let pair = Pair { read: [empty(0); ENTRIES], write: [empty(0); ENTRIES] };
        let mut classes = vec![pair; CLASSES].into_boxed_slice();
        classes.iter_mut().for_each(Pair::clear);
        Self { key: [u64::MAX; 2], classes, used: 0 }
    }

    fn clear(&mut self) {
        for (class, pair) in self.classes.iter_mut().enumerate() {
            if self.used >> class & 1 != 0 {
                pair.clear();
            }
        }
        self.used = 0;
    }

    fn used(&mut self) -> impl Iterator<Item = &mut Pair> {
        let used = self.used;
        self.classes
            .iter_mut()
            .enumerate()
            .filter(move |(class, _)| used >> class & 1 != 0)
            .map(|(_, pair)| pair)
    }
}

/// Host pages that may be in a table for writes: one bit for many pages. Other processors look at it, too.
pub struct WritableFilter(Box<[AtomicU64]>);

/// Bits of a [`WritableFilter`].
pub const FILTER: usize = 1 << 18;

fn filter_bit(host: u64) -> (usize, u64) {
    let bit = (host >> 12) as usize & (FILTER - 1);
    (bit / 64, 1 << (bit % 64))
}

impl WritableFilter {
    pub fn new() -> Self {
        Self((0..FILTER / 64).map(|_| AtomicU64::new(0)).collect())
    }

    /// Where the bits are, for generated code.
    pub fn bits(&self) -> *const AtomicU64 {
        self.0.as_ptr()
    }

    /// Says that the page at `host` is about to get into a table. Whether it holds code is to be looked at
    /// after this.
    pub fn insert(&self, host: u64) {
        let (word, bit) = filter_bit(host);
        if self.0[word].load(Ordering::SeqCst) & bit == 0 {
            self.0[word].fetch_or(bit, Ordering::SeqCst);
        }
    }

    /// Whether the page at `host` may be in a table.
    pub fn contains(&self, host: u64) -> bool {
        let (word, bit) = filter_bit(host);
        self.0[word].load(Ordering::SeqCst) & bit != 0
    }
}

fn slot(linear: u64) -> usize {
    (linear >> 12) as usize & (ENTRIES - 1)
}

/// All tables of a processor.
pub struct FirstLevel {
    spaces: Vec<Space>,
    current: usize,
    victim: usize,
    writable: Arc<WritableFilter>,
}

impl FirstLevel {
    pub fn new(writable: Arc<WritableFilter>) -> Self {
        Self { spaces: vec![Space::new()], current: 0, victim: 0, writable }
    }

    /// Makes the tables of the space that `key` stands for the current ones. A key never comes back with
    /// another meaning.
    pub fn switch(&mut self, key: [u64; 2]) {
        if self.spaces[self.current].key == key {
            return;
        }
        if let Some(found) = self.spaces.iter().position(|space| space.key == key) {
            self.current = found;
            return;
        }
        self.current = if self.spaces.len() < SPACES {
            self.spaces.push(Space::new());
            self.spaces.len() - 1
        } else {
            self.victim = (self.victim + 1) % SPACES;
            self.spaces[self.victim].clear();
            self.victim
        };
        self.spaces[self.current].key = key;
    }

    /// The current tables for `class`, which generated code may fill.
    pub fn tables(&mut self, class: Class) -> *const Pair {
        let space = &mut self.spaces[self.current];
        space.used |= 1 << class as u8;
        &raw const space.classes[class as usize]
    }

    /// Puts the page of `linear`, which is at `host`, into a current table.
    pub fn fill(&mut self, class: Class, linear: u64, host: u64, write: bool) {
        let space = &mut self.spaces[self.current];
        space.used |= 1 << class as u8;
        let pair = &mut space.classes[class as usize];
        let table = if write { &mut pair.write } else { &mut pair.read };
        table[slot(linear)] = Entry { page: linear & !0xfff, host: host & !0xfff };
    }

    /// Takes the region of 2^`shift` bytes around `linear` out of all tables.
    pub fn flush(&mut self, linear: u64, shift: u32) {
        let first = linear >> shift << shift;
        let pages = (1_u64 << (shift - 12)).min(ENTRIES as u64);
        for pair in self.spaces.iter_mut().flat_map(Space::used) {
            for table in [&mut pair.read, &mut pair.write] {
                for offset in 0..pages {
                    let slot = slot(first.wrapping_add(offset << 12));
                    if table[slot].page >> shift == linear >> shift {
                        table[slot] = empty(slot);
                    }
                }
            }
        }
    }

    /// Takes all pages out of all tables for writes.
    pub fn forbid_all_writes(&mut self) {
        for pair in self.spaces.iter_mut().flat_map(Space::used) {
            pair.write.iter_mut().enumerate().for_each(|(slot, entry)| *entry = empty(slot));
        }
    }

    /// Takes the page at `host` out of all tables for writes, under whatever linear addresses.
    pub fn forbid_writes(&mut self, host: u64) {
        let page = host & !0xfff;
        if !self.writable.contains(host) {
            return;
        }
        for pair in self.spaces.iter_mut().flat_map(Space::used) {
            for (slot, entry) in pair.write.iter_mut().enumerate() {
                if entry.host == page {
                    *entry = empty(slot);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level() -> FirstLevel {
        FirstLevel::new(Arc::new(WritableFilter::new()))
    }

    fn hit(level: &FirstLevel, linear: u64, write: bool) -> bool {
        let pair = &level.spaces[level.current].classes[Class::Supervisor as usize];
        let table = if write { &pair.write } else { &pair.read };
        linear.wrapping_sub(table[slot(linear)].page) < 4096
    }

    #[test]
    fn no_address_matches_a_free_slot() {
        let level = level();
        for n in 0..4096_u64 {
            assert!(!hit(&level, n << 12, false));
            assert!(!hit(&level, (n << 12 | 0xfff).wrapping_neg(), true));
        }
    }

    #[test]
    fn a_space_keeps_its_pages_while_others_run() {
        let mut level = level();
        level.switch([1, 9]);
        level.fill(Class::Supervisor, 0x5123, 0x7000_0000, false);
        level.switch([2, 9]);
        assert!(!hit(&level, 0x5123, false));
        level.switch([1, 9]);
        assert!(hit(&level, 0x5fff, false));
        level.flush(0x5000, 12);
        assert!(!hit(&level, 0x5123, false));
    }

    #[test]
    fn a_page_that_becomes_code_leaves_the_tables_for_writes() {
        let mut level = level();
        level.writable.insert(0x7000_1000);
        level.fill(Class::Supervisor, 0xffff_8880_0000_1000, 0x7000_1000, true);
        level.fill(Class::Supervisor, 0x40_0000, 0x7000_1000, true);
        level.forbid_writes(0x7000_1000);
        assert!(!hit(&level, 0xffff_8880_0000_1000, true));
        assert!(!hit(&level, 0x40_0000, true));
    }
}
