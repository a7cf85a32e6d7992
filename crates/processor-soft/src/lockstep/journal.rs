//! What stores have overwritten, so that they can be undone.

use std::sync::atomic::AtomicU32;

use crate::memory::host::{self, HostMemory};

/// A place in RAM that an instruction has claimed for a store.
struct Entry {
    host: *mut u8,
    /// Word of its page in [`guest_memory::CodePages`].
    word: *const AtomicU32,
    old: Vec<u8>,
    /// After the instruction.
    new: Vec<u8>,
}

/// The stores of some instructions.
#[derive(Default)]
pub struct Journal {
    entries: Vec<Entry>,
    /// An instruction has tried to reach a device.
    pub met_device: bool,
}

// SAFETY: the pointers lead into the machine's RAM and into the words of `CodePages`, which the processor that
// owns the journal keeps alive; any thread may access both by the functions of `memory::host`.
unsafe impl Send for Journal {}

impl Journal {
    /// Remembers what is in a part of an operand that is about to be stored.
    ///
    /// # Safety
    /// `host` leads to `len` bytes of guest RAM, which live as long as the journal, in the page of `word`.
    pub unsafe fn note(&mut self, host: *mut u8, word: *const AtomicU32, len: usize) {
        let mut old = vec![0; len];
        // SAFETY: the caller's promise.
        unsafe { host::load_bytes(host, &mut old) };
        self.entries.push(Entry { host, word, old, new: Vec::new() });
    }

    /// An instruction is done: remembers what it has stored. How many places there are so far.
    pub fn settle(&mut self) -> usize {
        for entry in self.entries.iter_mut().rev().take_while(|entry| entry.new.is_empty()) {
            entry.new = vec![0; entry.old.len()];
            // SAFETY: as `note` was promised.
            unsafe { host::load_bytes(entry.host, &mut entry.new) };
        }
        self.entries.len()
    }

    /// Undoes all stores, and ends code that has been decoded from them.
    pub fn undo(&mut self, memory: &HostMemory) {
        for entry in self.entries.iter().rev() {
            // SAFETY: as `note` was promised.
            unsafe {
                host::store_bytes(entry.host, &entry.old);
                memory.word_written(entry.word);
            }
        }
    }

    /// Whether all places hold what they must after the stores to the first `count`, all others undone; else
    /// the first one that does not, as expected and as found. They are left as they were.
    pub fn check(&self, count: usize) -> Result<(), String> {
        let load = |entry: &Entry| {
            let mut bytes = vec![0; entry.old.len()];
            // SAFETY: as `note` was promised.
            unsafe { host::load_bytes(entry.host, &mut bytes) };
            bytes
        };
        let found: Vec<_> = self.entries.iter().map(load).collect();
        // Where stores overlap, what is expected comes about by doing them again.
        for entry in self.entries.iter().rev() {
            // SAFETY: as `note` was promised.
            unsafe { host::store_bytes(entry.host, &entry.old) };
        }
        for entry in self.entries.iter().take(count) {
            // SAFETY: as `note` was promised.
            unsafe { host::store_bytes(entry.host, &entry.new) };
        }
        let differing = self.entries.iter().zip(&found).find_map(|(entry, found)| {
            let (expected, old) = (load(entry), &entry.old);
            (found != &expected)
                .then(|| format!("a store of {expected:02x?} left {found:02x?} where {old:02x?} was"))
        });
        let Some(differing) = differing else { return Ok(()) };
        for (entry, found) in self.entries.iter().zip(&found) {
            // SAFETY: as `note` was promised.
            unsafe { host::store_bytes(entry.host, found) };
        }
        Err(differing)
    }
}
