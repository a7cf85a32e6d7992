//! What stores have overwritten, so that they can be undone.

use std::collections::HashMap;
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
    /// the first one that does not: its guest bytes as expected and as found.
    pub fn check(&self, count: usize) -> Result<(), String> {
        let mut expected = HashMap::new();
        let mut put = |host: *mut u8, bytes: &[u8]| {
            for (offset, byte) in bytes.iter().enumerate() {
                expected.insert(host.addr() + offset, *byte);
            }
        };
        self.entries.iter().rev().for_each(|entry| put(entry.host, &entry.old));
        self.entries.iter().take(count).for_each(|entry| put(entry.host, &entry.new));
        for entry in &self.entries {
            let mut found = vec![0; entry.old.len()];
            // SAFETY: as `note` was promised.
            unsafe { host::load_bytes(entry.host, &mut found) };
            let wanted: Vec<_> =
                (0..found.len()).map(|offset| expected[&(entry.host.addr() + offset)]).collect();
            if found != wanted {
                return Err(format!(
                    "a store of {wanted:02x?} left {found:02x?} where {:02x?} was",
                    entry.old
                ));
            }
        }
        Ok(())
    }
}
