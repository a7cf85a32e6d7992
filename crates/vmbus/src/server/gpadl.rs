//! GPADLs (guest physical address descriptor lists): memory that the guest describes to the host under a
//! handle of its own choice.

use std::collections::HashMap;

use guest_memory::PAGE_SIZE;

use crate::protocol::{GpadlHeader, STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_PARAMETER, STATUS_SUCCESS};

/// The most GPADLs that a guest can have.
const MAX_GPADLS: usize = 4096;
/// The most words of ranges that all of them can have: 8 MiB of host memory, 4 GiB of the guest's.
const MAX_WORDS: usize = 1 << 20;
/// Bytes of a word.
const WORD: usize = 8;

/// How far a GPADL is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// More messages are to come.
    Incomplete,
    /// Tell the guest this status.
    Done {
        /// The channel it is for.
        relid: u32,
        /// Zero or an NTSTATUS.
        status: u32,
    },
}

struct Gpadl {
    relid: u32,
    range_count: u16,
    /// Words of ranges, as far as they have come.
    words: Vec<u64>,
    /// How many there will be.
    expected: usize,
    /// The guest wants it back as soon as the channel that uses it is closed.
    torn_down: bool,
}

/// All GPADLs of a guest, by handle.
#[derive(Default)]
pub struct Gpadls {
    table: HashMap<u32, Gpadl>,
    words: usize,
}

impl Gpadls {
    /// The first message about a GPADL; `body` follows the header. `is_ram` knows guest frames.
    pub fn create(&mut self, header: &GpadlHeader, body: &[u8], is_ram: impl Fn(u64) -> bool) -> Progress {
        let relid = header.relid;
        let expected = usize::from(header.range_bytes).div_ceil(WORD);
        if header.range_count == 0 || expected == 0 || self.table.contains_key(&header.gpadl) {
            return Progress::Done { relid, status: STATUS_INVALID_PARAMETER };
        }
        if self.table.len() >= MAX_GPADLS || self.words + expected > MAX_WORDS {
            return Progress::Done { relid, status: STATUS_INSUFFICIENT_RESOURCES };
        }
        self.words += expected;
        let range_count = header.range_count;
        let gpadl = Gpadl { relid, range_count, words: Vec::new(), expected, torn_down: false };
        self.table.insert(header.gpadl, gpadl);
        self.extend(header.gpadl, body, is_ram)
    }

    /// More words for a GPADL.
    pub fn extend(&mut self, handle: u32, body: &[u8], is_ram: impl Fn(u64) -> bool) -> Progress {
        let Some(gpadl) = self.table.get_mut(&handle) else {
            return Progress::Incomplete;
        };
        let missing = gpadl.expected - gpadl.words.len();
        if missing == 0 {
            return Progress::Incomplete;
        }
        let words = body.chunks_exact(WORD).take(missing);
        gpadl.words.extend(words.map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default())));
        if gpadl.words.len() < gpadl.expected {
            return Progress::Incomplete;
        }
        let relid = gpadl.relid;
        if gpadl.is_valid(is_ram) {
            return Progress::Done { relid, status: STATUS_SUCCESS };
        }
        self.remove(handle);
        Progress::Done { relid, status: STATUS_INVALID_PARAMETER }
    }

    /// The frames of a complete GPADL of channel `relid` that is one range of whole pages.
    pub fn pages(&self, handle: u32, relid: u32) -> Option<&[u64]> {
        let gpadl = self.table.get(&handle).filter(|gpadl| gpadl.relid == relid && !gpadl.torn_down)?;
        let (&first, frames) = gpadl.words.split_first()?;
        let whole = first >> 32 == 0 && (first as u32).is_multiple_of(PAGE_SIZE as u32);
        (gpadl.is_complete() && gpadl.range_count == 1 && whole).then_some(frames)
    }

    /// Whether there is such a GPADL.
    pub fn contains(&self, handle: u32) -> bool {
        self.table.contains_key(&handle)
    }

    /// Forgets a GPADL. False if there is none.
    pub fn remove(&mut self, handle: u32) -> bool {
        let removed = self.table.remove(&handle);
        self.words -= removed.as_ref().map_or(0, |gpadl| gpadl.expected);
        removed.is_some()
    }

    /// Remembers that the guest wants a GPADL back.
    pub fn tear_down_later(&mut self, handle: u32) {
        if let Some(gpadl) = self.table.get_mut(&handle) {
            gpadl.torn_down = true;
        }
    }

    /// Whether [`Self::tear_down_later`] was called.
    pub fn is_torn_down(&self, handle: u32) -> bool {
        self.table.get(&handle).is_some_and(|gpadl| gpadl.torn_down)
    }

    /// Forgets all of a channel.
    pub fn remove_channel(&mut self, relid: u32) {
        let words = &mut self.words;
        self.table.retain(|_, gpadl| {
            let keep = gpadl.relid != relid;
            *words -= if keep { 0 } else { gpadl.expected };
            keep
        });
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Gpadl {
    fn is_complete(&self) -> bool {
        self.words.len() == self.expected
    }

    /// Whether the words are as many ranges as announced, all in RAM.
    fn is_valid(&self, is_ram: impl Fn(u64) -> bool) -> bool {
        let mut rest = self.words.as_slice();
        for _ in 0..self.range_count {
            let Some((&first, after)) = rest.split_first() else { return false };
            let (count, offset) = (u64::from(first as u32), first >> 32);
            let pages = (count + offset).div_ceil(PAGE_SIZE) as usize;
            if offset >= PAGE_SIZE || pages > after.len() {
                return false;
            }
            let (frames, others) = after.split_at(pages);
            if !frames.iter().all(|&frame| is_ram(frame)) {
                return false;
            }
            rest = others;
        }
        rest.is_empty()
    }
}
