//! The software TLB.
//!
//! One direct-mapped table of 4 KiB pages per class of access (see [`Class`]), and one for code. An entry
//! is valid for an access if its tag equals the linear page number combined with the twelve low bits of
//! the *space* that is in use: spaces are numbers that are never used twice, one for the lower half of the
//! address space (of the current process-context) and one for the upper half, where operating systems keep
//! global pages. To flush is to take a new number; the tables are cleared only when the twelve bits have
//! gone round.
//!
//! ```text
//! linear ─┬─ bits 12..24 ────────▶ entry ─ tag ─┐
//!         ├─ page of the last byte ─────────────┼─ equal? ─▶ linear + addend = host address
//!         └─ bit 63 ▶ space of the half ▶ bits ─┘
//! ```

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use guest_memory::{CodePages, GuestMemory, Shadow};
use processor::{TlbFlush, TlbRange};

use super::fetched::Fetched;
use super::host::{self, HostMemory};
use crate::debugger::WATCHED_PAGES;
use crate::registers::cr4;
use crate::translate::{FirstLevel, WritableFilter};

/// Entries per class.
const ENTRIES: usize = 4096;
/// Entries of the code table, per privilege.
const CODE_ENTRIES: usize = 1024;
/// Process-contexts whose entries are kept.
const CONTEXTS: usize = 16;
/// Low bits of a space number that are part of a tag.
const TAG_MASK: u64 = 0xfff;
/// A tag that no access has: this value of the low bits is never given to a space.
const NEVER: u64 = u64::MAX;
/// Code generations count from here on. Space numbers stay below [`CODE_KEY_FREE`], and the bits between are for
/// whoever adds to a [`Mmu::code_key`].
const GENERATION: u64 = 1 << 48;
/// The first of the bits that are 0 in each [`Mmu::code_key`]; there are five.
pub const CODE_KEY_FREE: u32 = 43;
/// Pages up to which a flush of ranges goes page by page.
const RANGE_LIMIT: u64 = 64;
/// Pages of the upper half that are not global and are remembered one by one.
const LOCALS: usize = 32;
/// Bits of the filters that remember large pages.
const FILTER_BITS: u64 = 1 << 19;
/// Large pages are remembered by regions of this many address bits: the largest but the gigabyte.
pub const REGION_SHIFT: u32 = 22;
/// The regions of pages of 1 GiB.
pub const HUGE_SHIFT: u32 = 30;

/// Which rights an access has. Each has a table of its own, so that a hit needs no further check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// At privilege level 3.
    User = 0,
    /// Supervisor, pages of users barred by SMAP.
    Supervisor = 1,
    /// Supervisor with access to the pages of users.
    SupervisorAndUser = 2,
    /// User with alignment checks: never cached, so that every access takes the slow path.
    UserAligned = 3,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Entry {
    pub read: u64,
    pub write: u64,
    /// Host address minus linear address.
    pub addend: usize,
    /// Word of the page in [`CodePages`].
    pub word: *const AtomicU32,
}

const EMPTY: Entry = Entry { read: NEVER, write: NEVER, addend: 0, word: std::ptr::null() };

#[derive(Clone, Copy)]
#[repr(C)]
struct CodeEntry {
    tag: u64,
    gpa: u64,
    host: *mut u8,
    _pad: u64,
}

const EMPTY_CODE: CodeEntry = CodeEntry { tag: NEVER, gpa: 0, host: std::ptr::null_mut(), _pad: 0 };

/// A process-context with entries in the tables.
#[derive(Clone, Copy, Default)]
struct Context {
    pcid: u16,
    /// CR3 without the low twelve bits.
    base: u64,
    /// 0: unused.
    space: u64,
}

/// Where generated code finds the fields of [`Mmu`] and [`Entry`].
pub mod mmu_offset {
    use super::{CodeEntry, Entry, Mmu};
    use std::mem::offset_of;

    pub const TABLE: usize = offset_of!(Mmu, table);
    pub const TAGS: usize = offset_of!(Mmu, tags);
    pub const CLASS: usize = offset_of!(Mmu, class);
    pub const READ: usize = offset_of!(Entry, read);
    pub const WRITE: usize = offset_of!(Entry, write);
    pub const ADDEND: usize = offset_of!(Entry, addend);
    pub const WORD: usize = offset_of!(Entry, word);
    /// log2 of the size of an entry.
    pub const ENTRY_SHIFT: u8 = size_of::<Entry>().trailing_zeros() as u8;
    /// A page is looked up by its number, XORed with its address shifted right by as much.
    pub const FOLD: u8 = 24;
    /// Number of entries of a table.
    pub const ENTRIES: usize = super::ENTRIES;
    pub const CODE_TAG: usize = offset_of!(CodeEntry, tag);
    pub const CODE_GPA: usize = offset_of!(CodeEntry, gpa);
    pub const CODE_ENTRY_SHIFT: u8 = size_of::<CodeEntry>().trailing_zeros() as u8;
    pub const CODE_ENTRIES: usize = super::CODE_ENTRIES;
}

/// Paging state and the software TLB of one processor.
pub struct Mmu {
    /// Table of the class in use.
    table: *const Entry,
    /// Low bits of `spaces`.
    tags: [u64; 2],
    class: Class,
    /// A store has hit decoded code: the block must be left after this instruction. Taken by
    /// [`crate::execute`].
    pub code_written: bool,
    pub host: HostMemory,
    /// Bit n of a physical address is reserved from here on.
    pub physical_bits: u32,
    /// The page directory pointers of PAE paging.
    pub pdpte: [u64; 4],
    /// Pages that hold data breakpoints are never cached; their numbers.
    pub watched: [u64; 4],
    /// The same for data that a debugger watches.
    pub debugger_watches: [u64; WATCHED_PAGES],
    /// What generated code looks up.
    pub first_level: FirstLevel,
    /// What of host memory its tables for writes may hold.
    writable: Arc<WritableFilter>,
    /// Target of the last `host_pointer` for write.
    pub(super) last_write: *const AtomicU32,

    /// Spaces of the lower and the upper half. Numbers count up from 1.
    spaces: [u64; 2],
    next_space: u64,
    /// Pages that are not global and have been entered for the upper half, with the log2 of their regions;
    /// with more than [`LOCALS`] the whole half is dropped in their place.
    upper_locals: Vec<(u64, u32)>,
    contexts: [Context; CONTEXTS],
    /// Index of the current context.
    current: usize,
    victim: usize,
    /// Multiples of [`GENERATION`], for each half: grows when code mappings may have gone.
    code_generation: [u64; 2],
    /// From where code has been fetched since then, for each half.
    fetched: [Fetched; 2],
    /// Regions of which parts of large pages have been entered, by the sizes above: an INVLPG anywhere in
    /// a large page drops all of it.
    large: Filter,
    huge: Filter,
    entries: Box<[[Entry; ENTRIES]; 4]>,
    code_entries: Box<[[CodeEntry; CODE_ENTRIES]; 2]>,
}

// SAFETY: the raw pointers lead into `entries` (owned), into guest memory (see `HostMemory`) and into the
// words of `CodePages`, which are atomic and kept alive by `host`.
unsafe impl Send for Mmu {}

/// Where a page is looked up. The upper bits take part, so that pages that displace each other in the first level,
/// which knows them by the lowest bits alone, do not do so here as well.
#[inline(always)]
fn slot(linear: u64) -> usize {
    (linear >> 12 ^ linear >> mmu_offset::FOLD) as usize & (ENTRIES - 1)
}

impl Mmu {
    pub fn new(
        memory: GuestMemory,
        rom: Option<GuestMemory>,
        shadow: Arc<Shadow>,
        code: Arc<CodePages>,
        writable: Arc<WritableFilter>,
        physical_bits: u32,
    ) -> Self {
        let entries: Box<[[Entry; ENTRIES]; 4]> = boxed(EMPTY);
        let mut mmu = Self {
            table: std::ptr::null(),
            tags: [0; 2],
            class: Class::SupervisorAndUser,
            code_written: false,
            host: HostMemory::new(memory, rom, shadow, code),
            physical_bits,
            pdpte: [0; 4],
            watched: [NEVER; 4],
            debugger_watches: [NEVER; WATCHED_PAGES],
            first_level: FirstLevel::new(Arc::clone(&writable)),
            writable,
            last_write: std::ptr::null(),
            spaces: [0; 2],
            next_space: 1,
            upper_locals: Vec::new(),
            contexts: [Context::default(); CONTEXTS],
            current: 0,
            victim: 0,
            code_generation: [0; 2],
            fetched: Default::default(),
            large: Filter::new(),
            huge: Filter::new(),
            entries,
            code_entries: boxed(EMPTY_CODE),
        };
        mmu.set_class(Class::SupervisorAndUser);
        mmu.flush_all();
        mmu
    }

    /// The table entry that an access to `linear` may use, and the tag that it must have for an access of
    /// `size` bytes. Accesses that cross a page never match.
    #[inline(always)]
    pub fn look_up(&self, linear: u64, size: usize) -> (&Entry, u64) {
        let tag = (linear.wrapping_add(size as u64 - 1) & !TAG_MASK) | self.tags[(linear >> 63) as usize];
        // SAFETY: `table` leads to an array of ENTRIES entries in `self.entries`, which is never replaced;
        // the index is below that.
        (unsafe { &*self.table.add(slot(linear)) }, tag)
    }

    /// As [`Self::look_up`] in the table of `class`, for the bytes up to `last`.
    pub fn look_up_class(&self, class: Class, linear: u64, last: u64) -> (&Entry, u64) {
        let tag = last & !TAG_MASK | self.tags[(linear >> 63) as usize];
        (&self.entries[class as usize][slot(linear)], tag)
    }

    pub fn class(&self) -> Class {
        self.class
    }

    /// Makes the first level's tables those of the present space.
    #[inline]
    pub fn switch_first_level(&mut self) {
        self.first_level.switch(self.spaces);
    }

    /// The table of `class`, for generated code.
    pub fn entries_of(&self, class: Class) -> *const u8 {
        self.entries[class as usize].as_ptr().cast()
    }

    /// The code table of a privilege level, for generated code.
    pub fn code_entries(&self, user: bool) -> *const u8 {
        self.code_entries[usize::from(user)].as_ptr().cast()
    }

    /// Puts the page of an operand into the first level, if this level has it and, for a write, it holds no
    /// code.
    pub fn promote(&mut self, linear: u64, size: usize, write: bool) -> bool {
        let (&Entry { read, write: writable, addend, word }, tag) = self.look_up(linear, size);
        if if write { writable } else { read } != tag {
            return false;
        }
        let host = (linear as usize).wrapping_add(addend) as u64;
        if write {
            self.writable.insert(host);
            // SAFETY: entries that match have the word of a page of RAM.
            if unsafe { host::has_code(word) } {
                return false;
            }
        }
        self.first_level.fill(self.class, linear, host, write);
        true
    }

    pub fn set_class(&mut self, class: Class) {
        self.class = class;
        self.table = self.entries[class as usize].as_ptr();
    }

    /// A number that stands for all that decides which code is at `linear` for the present address space:
    /// while it is the same, so is the translation. Add the privilege level for the rights.
    #[inline(always)]
    pub fn code_key(&self, linear: u64) -> u64 {
        self.spaces[(linear >> 63) as usize].wrapping_add(self.code_generation[(linear >> 63) as usize])
    }

    /// Whether page number `page` holds watched data.
    pub fn watches(&self, page: u64) -> bool {
        self.watched.contains(&page) || self.debugger_watches.contains(&page)
    }

    /// Enters the page of `linear`.
    pub fn fill(&mut self, class: Class, linear: u64, page: &Page) {
        if class == Class::UserAligned || page.host.is_null() || self.watches(linear >> 12) {
            return;
        }
        let half = (linear >> 63) as usize;
        self.remember_local(linear, page);
        self.remember_size(linear, page);
        let tag = linear & !TAG_MASK | self.tags[half];
        self.entries[class as usize][slot(linear)] = Entry {
            read: tag,
            write: if page.writable { tag } else { NEVER },
            addend: (page.host as usize).wrapping_sub((linear & !TAG_MASK) as usize),
            word: page.word,
        };
        // The entries are reached through `table` too, which must not be cached across this store.
        self.table = self.entries[self.class as usize].as_ptr();
    }

    /// The code page of `linear`, if it has been entered: guest physical and host address of the byte.
    #[inline]
    pub fn code_look_up(&self, linear: u64, user: bool) -> Option<(u64, *mut u8)> {
        let entry = &self.code_entries[usize::from(user)][(linear >> 12) as usize & (CODE_ENTRIES - 1)];
        let tag = linear & !TAG_MASK | self.tags[(linear >> 63) as usize];
        (entry.tag == tag).then(|| {
            let offset = linear & TAG_MASK;
            (
                entry.gpa | offset,
                if entry.host.is_null() { entry.host } else { entry.host.wrapping_add(offset as usize) },
            )
        })
    }

    /// Enters the page of `linear` as code.
    pub fn code_fill(&mut self, linear: u64, user: bool, page: &Page) {
        let half = (linear >> 63) as usize;
        self.remember_local(linear, page);
        if self.fetched[half].is_full() {
            self.forget_code(half);
        }
        self.fetched[half].insert(linear);
        self.remember_size(linear, page);
        self.code_entries[usize::from(user)][(linear >> 12) as usize & (CODE_ENTRIES - 1)] = CodeEntry {
            tag: linear & !TAG_MASK | self.tags[half],
            gpa: page.gpa & !TAG_MASK,
            host: page.host,
            _pad: 0,
        };
    }

    fn new_space(&mut self) -> u64 {
        let space = self.next_space;
        self.next_space += 1;
        if self.next_space & TAG_MASK == TAG_MASK {
            // All tags have been used: nothing that is in the tables may stay.
            self.next_space += 1;
            self.clear();
            let next = self.next_space;
            self.next_space += 3;
            self.contexts = [Context::default(); CONTEXTS];
            self.set_spaces([next + 1, next + 2]);
            return next;
        }
        space
    }

    fn set_spaces(&mut self, spaces: [u64; 2]) {
        self.spaces = spaces;
        self.tags = spaces.map(|space| space & TAG_MASK);
    }

    fn clear(&mut self) {
        for table in self.entries.iter_mut() {
            table.fill(EMPTY);
        }
        for table in self.code_entries.iter_mut() {
            table.fill(EMPTY_CODE);
        }
        self.fetched.iter_mut().for_each(Fetched::clear);
        self.large.clear();
        self.huge.clear();
        self.set_class(self.class);
    }

    /// Takes note of a page that a switch of the address space drops.
    fn remember_local(&mut self, linear: u64, page: &Page) {
        if linear >> 63 == 0 || page.global || self.upper_locals.len() > LOCALS {
            return;
        }
        let shift = match page.shift {
            12 => 12,
            shift if shift <= REGION_SHIFT => REGION_SHIFT,
            _ => HUGE_SHIFT,
        };
        let local = (linear >> shift << shift, shift);
        if !self.upper_locals.contains(&local) {
            self.upper_locals.push(local);
        }
    }

    /// Drops what is not global of the upper half.
    fn drop_upper_locals(&mut self) {
        if self.upper_locals.len() > LOCALS {
            return self.new_upper();
        }
        for (linear, shift) in std::mem::take(&mut self.upper_locals) {
            self.flush_region(linear, shift);
        }
    }

    fn new_upper(&mut self) {
        self.upper_locals.clear();
        let space = self.new_space();
        self.set_spaces([self.spaces[0], space]);
    }

    /// Drops everything, global pages included.
    pub fn flush_all(&mut self) {
        let Context { pcid, base, .. } = self.contexts[self.current];
        self.contexts = [Context::default(); CONTEXTS];
        self.new_upper();
        let space = self.new_space();
        self.enter(pcid, base, space);
    }

    /// Drops all entries but those of global pages.
    pub fn flush_local(&mut self) {
        let Context { pcid, base, .. } = self.contexts[self.current];
        self.contexts = [Context::default(); CONTEXTS];
        self.drop_upper_locals();
        let space = self.new_space();
        self.enter(pcid, base, space);
    }

    /// Drops everything of the lower half of the address space.
    fn flush_lower(&mut self) {
        let Context { pcid, base, .. } = self.contexts[self.current];
        self.contexts = [Context::default(); CONTEXTS];
        let space = self.new_space();
        self.enter(pcid, base, space);
    }

    /// Drops the entries of one process-context but those of global pages.
    pub fn flush_context(&mut self, pcid: u16) {
        if self.contexts[self.current].pcid == pcid {
            let base = self.contexts[self.current].base;
            self.drop_upper_locals();
            let space = self.new_space();
            self.enter(pcid, base, space);
        } else if let Some(context) = self.contexts.iter_mut().find(|context| context.pcid == pcid) {
            *context = Context::default();
        }
    }

    /// CR3 has been loaded: `keep` says that the entries of `pcid` may still be used.
    pub fn switch(&mut self, pcid: u16, base: u64, keep: bool) {
        self.drop_upper_locals();
        let known = self.contexts.iter().find(|context| context.pcid == pcid && context.space != 0);
        let space = match known {
            Some(context) if keep && context.base == base => context.space,
            _ => self.new_space(),
        };
        self.enter(pcid, base, space);
    }

    fn enter(&mut self, pcid: u16, base: u64, space: u64) {
        let known = self.contexts.iter().position(|context| context.pcid == pcid && context.space != 0);
        let index = known.unwrap_or_else(|| {
            self.victim = (self.victim + 1) % CONTEXTS;
            self.victim
        });
        self.contexts[index] = Context { pcid, base, space };
        self.current = index;
        self.set_spaces([space, self.spaces[1]]);
    }

    fn remember_size(&mut self, linear: u64, page: &Page) {
        if page.shift > REGION_SHIFT {
            self.huge.insert(linear >> HUGE_SHIFT);
        } else if page.shift > 12 {
            self.large.insert(linear >> REGION_SHIFT);
        }
    }

    /// Drops the page of `linear`, whatever its size, in all address spaces (INVLPG and more).
    pub fn flush_page(&mut self, linear: u64) {
        let shift = if self.huge.contains(linear >> HUGE_SHIFT) {
            HUGE_SHIFT
        } else if self.large.contains(linear >> REGION_SHIFT) {
            REGION_SHIFT
        } else {
            12
        };
        self.flush_region(linear, shift);
    }

    /// Drops the region of 2^`shift` bytes around `linear` in all address spaces.
    fn flush_region(&mut self, linear: u64, shift: u32) {
        let region = linear >> shift;
        let first = region << (shift - 12);
        let pages = 1_u64 << (shift - 12);
        self.first_level.flush(linear, shift);
        for table in self.entries.iter_mut() {
            // The write tag is the read tag or nothing.
            let forget = |entry: &mut Entry| {
                if entry.read >> shift == region {
                    *entry = EMPTY;
                }
            };
            if pages < ENTRIES as u64 {
                (0..pages).for_each(|offset| forget(&mut table[slot((first + offset) << 12)]));
            } else {
                table.iter_mut().for_each(forget);
            }
        }
        for table in self.code_entries.iter_mut() {
            for offset in 0..pages.min(CODE_ENTRIES as u64) {
                let entry = &mut table[(first + offset) as usize & (CODE_ENTRIES - 1)];
                if entry.tag >> shift == region {
                    *entry = EMPTY_CODE;
                }
            }
        }
        let half = (linear >> 63) as usize;
        if self.fetched[half].is_in(linear, shift) {
            self.forget_code(half);
        }
        self.table = self.entries[self.class as usize].as_ptr();
    }

    /// Makes all [`Self::code_key`]s of one half new.
    fn forget_code(&mut self, half: usize) {
        for table in self.code_entries.iter_mut() {
            // Entries of the other half may stay, and are known to have been fetched.
            table
                .iter_mut()
                .filter(|entry| entry.tag >> 63 == half as u64)
                .for_each(|entry| *entry = EMPTY_CODE);
        }
        self.fetched[half].clear();
        let (generation, overflow) = self.code_generation[half].overflowing_add(GENERATION);
        self.code_generation[half] = generation;
        if overflow {
            // Keys of long ago would come back: take them from other spaces.
            self.flush_all();
        }
    }

    /// A flush asked for by a hypercall.
    pub fn flush(&mut self, flush: &TlbFlush, cr4: u64) {
        let pages: u64 = flush.ranges.iter().fold(0, |sum, range| sum.saturating_add(range.pages));
        if !flush.ranges.is_empty() && pages <= RANGE_LIMIT {
            for range in &flush.ranges {
                for page in 0..range.pages {
                    self.flush_page(range.start.wrapping_add(page << 12));
                }
            }
            return;
        }
        let upper = 1_u64 << 63;
        let lower_only = |range: &TlbRange| {
            range.pages <= upper >> 12 && range.start < upper && range.start + (range.pages << 12) <= upper
        };
        if !flush.ranges.is_empty() && flush.ranges.iter().all(lower_only) {
            return self.flush_lower();
        }
        match flush.address_space {
            Some(base) if flush.keep_global || cr4 & cr4::PGE == 0 => {
                let base = base & !TAG_MASK;
                let current = self.current;
                for index in 0..CONTEXTS {
                    if index != current && self.contexts[index].base == base {
                        self.contexts[index] = Context::default();
                    }
                }
                if self.contexts[current].base == base {
                    self.flush_context(self.contexts[current].pcid);
                }
            }
            None if flush.keep_global => self.flush_local(),
            _ => self.flush_all(),
        }
    }
}

/// A set of page numbers that may answer yes wrongly, never no.
struct Filter(Box<[u64]>);

impl Filter {
    fn new() -> Self {
        Self(vec![0; (FILTER_BITS / 64) as usize].into_boxed_slice())
    }

    fn place(number: u64) -> (usize, u32) {
        let bit = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - FILTER_BITS.trailing_zeros());
        ((bit / 64) as usize, (bit % 64) as u32)
    }

    fn insert(&mut self, number: u64) {
        let (word, bit) = Self::place(number);
        self.0[word] |= 1 << bit;
    }

    fn contains(&self, number: u64) -> bool {
        let (word, bit) = Self::place(number);
        self.0[word] >> bit & 1 != 0
    }

    fn clear(&mut self) {
        self.0.fill(0);
    }
}

fn boxed<T: Copy, const N: usize, const M: usize>(value: T) -> Box<[[T; N]; M]> {
    let rows: Box<[[T; N]]> = vec![[value; N]; M].into_boxed_slice();
    rows.try_into().unwrap_or_else(|_| unreachable!("the vector has M rows"))
}

/// What a walk has found: one 4 KiB page, cut from a larger one if need be.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Guest physical address of the byte that was asked for.
    pub gpa: u64,
    /// Host address of the page's first byte; null if it is not RAM.
    pub host: *mut u8,
    /// Word of the page in [`CodePages`].
    pub word: *const AtomicU32,
    /// log2 of the size of the page in the guest's tables.
    pub shift: u32,
    /// Stores of the same class may go there without another walk.
    pub writable: bool,
    /// The page is global.
    pub global: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_share_an_entry_of_the_first_level_have_their_own_in_the_second() {
        // The first level knows 1024 pages, 4 MiB, by their lowest bits.
        for distance in 22..36 {
            let (page, other) = (0x7fff_1234_5000_u64, 0x7fff_1234_5000_u64 ^ 1 << distance);
            assert_ne!(slot(page), slot(other), "2^{distance} bytes apart");
        }
    }
}
