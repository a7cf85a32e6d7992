//! The first level of the software TLB, as generated code looks it up: one pair of small tables (for reads
//! and for writes) for each address space and class of access. The [`crate::memory::Mmu`] behind it is the
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

/// Entries of one table.
pub const ENTRIES: usize = 1024;
/// Address spaces for which tables are kept.
const SPACES: usize = 12;

/// One page.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Entry {
    /// Linear address of the page.
    pub page: u64,
    /// Host address of the page.
    pub host: u64,
}

/// What stands in `slot` while it is free: a page that belongs into another slot, so that no address that
/// leads here matches.
const fn empty(slot: usize) -> Entry {
    Entry { page: (slot as u64 ^ 1) << 12, host: 0 }
}

type Table = [Entry; ENTRIES];

fn clear(table: &mut Table) {
    for (slot, entry) in table.iter_mut().enumerate() {
        *entry = empty(slot);
    }
}

/// The tables of one address space and class.
struct Tables {
    /// What the second level called the space: [`FirstLevel::switch`].
    key: [u64; 3],
    read: Box<Table>,
    write: Box<Table>,
}

impl Tables {
    fn new() -> Self {
        let table = || Box::new([empty(0); ENTRIES]);
        let mut tables = Self { key: [u64::MAX; 3], read: table(), write: table() };
        tables.clear();
        tables
    }

    fn clear(&mut self) {
        clear(&mut self.read);
        clear(&mut self.write);
    }
}

/// All tables of a processor.
pub struct FirstLevel {
    tables: Vec<Tables>,
    current: usize,
    victim: usize,
    /// One bit for each host page, many pages sharing one: such a page may be in a table for writes.
    writable: Box<[u64]>,
}

/// Bits of [`FirstLevel::writable`].
const FILTER: usize = 1 << 18;

fn filter_bit(host: u64) -> (usize, u64) {
    let bit = (host >> 12) as usize & (FILTER - 1);
    (bit / 64, 1 << (bit % 64))
}

fn slot(linear: u64) -> usize {
    (linear >> 12) as usize & (ENTRIES - 1)
}

impl FirstLevel {
    pub fn new() -> Self {
        let writable = vec![0; FILTER / 64].into_boxed_slice();
        Self { tables: vec![Tables::new()], current: 0, victim: 0, writable }
    }

    /// Makes the tables of the space and class that `key` stands for the current ones. A key never comes
    /// back with another meaning.
    pub fn switch(&mut self, key: [u64; 3]) {
        if self.tables[self.current].key == key {
            return;
        }
        if let Some(found) = self.tables.iter().position(|tables| tables.key == key) {
            self.current = found;
            return;
        }
        self.current = if self.tables.len() < SPACES {
            self.tables.push(Tables::new());
            self.tables.len() - 1
        } else {
            self.victim = (self.victim + 1) % SPACES;
            self.tables[self.victim].clear();
            self.victim
        };
        self.tables[self.current].key = key;
    }

    /// The current tables, for reads and for writes.
    pub fn pointers(&self) -> (*const Entry, *const Entry) {
        let tables = &self.tables[self.current];
        (tables.read.as_ptr(), tables.write.as_ptr())
    }

    /// Puts the page of `linear`, which is at `host`, into a current table.
    pub fn fill(&mut self, linear: u64, host: u64, write: bool) {
        if write {
            let (word, bit) = filter_bit(host);
            self.writable[word] |= bit;
        }
        let tables = &mut self.tables[self.current];
        let table = if write { &mut tables.write } else { &mut tables.read };
        table[slot(linear)] = Entry { page: linear & !0xfff, host: host & !0xfff };
    }

    /// Takes the region of 2^`shift` bytes around `linear` out of all tables.
    pub fn flush(&mut self, linear: u64, shift: u32) {
        let first = linear >> shift << shift;
        let pages = (1_u64 << (shift - 12)).min(ENTRIES as u64);
        for tables in &mut self.tables {
            for table in [&mut tables.read, &mut tables.write] {
                for offset in 0..pages {
                    let slot = slot(first.wrapping_add(offset << 12));
                    if table[slot].page >> shift == linear >> shift {
                        table[slot] = empty(slot);
                    }
                }
            }
        }
    }

    /// Takes the page at `host` out of all tables for writes, under whatever linear addresses.
    pub fn forbid_writes(&mut self, host: u64) {
        let page = host & !0xfff;
        let (word, bit) = filter_bit(host);
        if self.writable[word] & bit == 0 {
            return;
        }
        for tables in &mut self.tables {
            for (slot, entry) in tables.write.iter_mut().enumerate() {
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

    fn hit(table: *const Entry, linear: u64) -> bool {
        // SAFETY: the pointer leads to a table of ENTRIES entries.
        let entry = unsafe { &*table.add(slot(linear)) };
        linear.wrapping_sub(entry.page) < 4096
    }

    #[test]
    fn no_address_matches_a_free_slot() {
        let level = FirstLevel::new();
        for n in 0..4096_u64 {
            assert!(!hit(level.pointers().0, n << 12));
            assert!(!hit(level.pointers().1, (n << 12 | 0xfff).wrapping_neg()));
        }
    }

    #[test]
    fn a_space_keeps_its_pages_while_others_run() {
        let mut level = FirstLevel::new();
        level.switch([1, 9, 0]);
        level.fill(0x5123, 0x7000_0000, false);
        level.switch([2, 9, 0]);
        assert!(!hit(level.pointers().0, 0x5123));
        level.switch([1, 9, 0]);
        assert!(hit(level.pointers().0, 0x5fff));
        level.flush(0x5000, 12);
        assert!(!hit(level.pointers().0, 0x5123));
    }

    #[test]
    fn a_page_that_becomes_code_leaves_the_tables_for_writes() {
        let mut level = FirstLevel::new();
        level.fill(0xffff_8880_0000_1000, 0x7000_1000, true);
        level.fill(0x40_0000, 0x7000_1000, true);
        level.forbid_writes(0x7000_1000);
        assert!(!hit(level.pointers().1, 0xffff_8880_0000_1000));
        assert!(!hit(level.pointers().1, 0x40_0000));
    }
}
