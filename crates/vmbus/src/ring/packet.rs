//! Packets as they lie in a ring, seen without copying.

use std::sync::atomic::Ordering;

use super::{PAGE_SIZE, RingMemory, WORD, advance, word_count};

/// What a packet is. Any value can come from the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketType(pub u16);

impl PacketType {
    /// Data, no header.
    pub const IN_BAND: Self = Self(6);
    /// Data and ranges of a page set known by a number.
    pub const TRANSFER_PAGES: Self = Self(7);
    /// Data and ranges of guest memory.
    pub const GPA_DIRECT: Self = Self(9);
    /// The answer to a packet.
    pub const COMPLETION: Self = Self(11);
}

/// The flag of a packet that wants an answer.
pub(super) const COMPLETION_REQUESTED: u16 = 1;

/// Consecutive words of a ring.
pub struct View<'a, M: ?Sized> {
    memory: &'a M,
    start: u32,
    words: u32,
}

impl<M: ?Sized> Clone for View<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: ?Sized> Copy for View<'_, M> {}

impl<'a, M: RingMemory + ?Sized> View<'a, M> {
    /// `words` words from `start` on; both at most the size of the ring.
    pub(super) fn new(memory: &'a M, start: u32, words: u32) -> Self {
        Self { memory, start, words }
    }

    /// Length in words.
    pub fn word_len(&self) -> u32 {
        self.words
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        (self.words * WORD) as usize
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.words == 0
    }

    /// The word at `index`.
    pub fn word(&self, index: u32) -> Option<u64> {
        if index >= self.words {
            return None;
        }
        let at = advance(self.start, index, word_count(self.memory));
        self.memory.words(at).first().map(|word| word.load(Ordering::Relaxed))
    }

    /// The view without its first `words` words, which it has.
    fn skip(&self, words: u32) -> Option<Self> {
        let rest = self.words.checked_sub(words)?;
        Some(Self::new(self.memory, advance(self.start, words, word_count(self.memory)), rest))
    }

    /// Copies from the start into `buffer` as much as both have; answers how many bytes.
    pub fn read(&self, buffer: &mut [u8]) -> usize {
        let wanted = buffer.len().min(self.len());
        let mut at = self.start;
        let mut rest = &mut buffer[..wanted];
        while !rest.is_empty() {
            let page = self.memory.words(at);
            let here = page.len().min(rest.len().div_ceil(WORD as usize));
            let (now, later) = rest.split_at_mut((here * WORD as usize).min(rest.len()));
            for (bytes, word) in now.chunks_mut(WORD as usize).zip(page) {
                let value = word.load(Ordering::Relaxed).to_le_bytes();
                bytes.copy_from_slice(&value[..bytes.len()]);
            }
            at = advance(at, here as u32, word_count(self.memory));
            rest = later;
        }
        wanted
    }
}

/// A packet in a ring. Its descriptor has been read and checked; header and data are read where they are,
/// and may change under the reader's eyes: read each part once.
pub struct Packet<'a, M: ?Sized> {
    /// What it is.
    pub kind: PacketType,
    /// Comes back in the answer.
    pub transaction_id: u64,
    pub(super) flags: u16,
    pub(super) header: View<'a, M>,
    pub(super) data: View<'a, M>,
}

impl<'a, M: RingMemory + ?Sized> Packet<'a, M> {
    /// Whether the sender wants an answer.
    pub fn completion_requested(&self) -> bool {
        self.flags & COMPLETION_REQUESTED != 0
    }

    /// What follows the header.
    pub fn data(&self) -> View<'a, M> {
        self.data
    }

    /// The ranges of guest memory of a [`PacketType::GPA_DIRECT`] packet; `None` if it is none.
    pub fn gpa_ranges(&self) -> Option<GpaRanges<'a, M>> {
        if self.kind != PacketType::GPA_DIRECT {
            return None;
        }
        let count = (self.header.word(0)? >> 32) as u32;
        Some(GpaRanges { rest: self.header.skip(1)?, count })
    }

    /// The page set and the ranges in it of a [`PacketType::TRANSFER_PAGES`] packet; `None` if it is none
    /// or the ranges are not all there.
    pub fn transfer_ranges(&self) -> Option<(u16, impl Iterator<Item = TransferRange> + use<'a, M>)> {
        if self.kind != PacketType::TRANSFER_PAGES {
            return None;
        }
        let first = self.header.word(0)?;
        let (set, count) = (first as u16, (first >> 32) as u32);
        let ranges = self.header.skip(1)?;
        if count > ranges.word_len() {
            return None;
        }
        let range = move |index| {
            let word = ranges.word(index)?;
            Some(TransferRange { byte_count: word as u32, byte_offset: (word >> 32) as u32 })
        };
        Some((set, (0..count).map_while(range)))
    }
}

/// A range of a page set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferRange {
    /// Length.
    pub byte_count: u32,
    /// Offset in the set.
    pub byte_offset: u32,
}

/// The ranges of a [`PacketType::GPA_DIRECT`] packet.
pub struct GpaRanges<'a, M: ?Sized> {
    rest: View<'a, M>,
    count: u32,
}

/// The ranges of a packet are not all there, or one begins behind its first page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadRange;

impl<M: ?Sized> GpaRanges<'_, M> {
    /// How many ranges the packet says it has, whether they are there or not.
    pub fn count(&self) -> u32 {
        self.count
    }
}

impl<'a, M: RingMemory + ?Sized> Iterator for GpaRanges<'a, M> {
    type Item = Result<GpaRange<'a, M>, BadRange>;

    fn next(&mut self) -> Option<Self::Item> {
        self.count = self.count.checked_sub(1)?;
        let range = self.parse().ok_or(BadRange);
        if range.is_err() {
            self.count = 0;
        }
        Some(range)
    }
}

impl<'a, M: RingMemory + ?Sized> GpaRanges<'a, M> {
    fn parse(&mut self) -> Option<GpaRange<'a, M>> {
        let word = self.rest.word(0)?;
        let (byte_count, byte_offset) = (word as u32, (word >> 32) as u32);
        if byte_offset >= PAGE_SIZE {
            return None;
        }
        let pages = byte_count.checked_add(byte_offset)?.div_ceil(PAGE_SIZE);
        let after = self.rest.skip(1)?;
        self.rest = after.skip(pages)?;
        let frames = View::new(after.memory, after.start, pages);
        Some(GpaRange { byte_count, byte_offset, frames })
    }
}

/// One range: bytes of guest pages that need not be neighbours.
pub struct GpaRange<'a, M: ?Sized> {
    /// Length.
    pub byte_count: u32,
    /// Offset in the first page, below [`PAGE_SIZE`].
    pub byte_offset: u32,
    /// As many page frame numbers as the length needs.
    frames: View<'a, M>,
}

/// A piece of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpaRun {
    /// Guest physical address.
    pub gpa: u64,
    /// Length, not zero.
    pub len: u64,
}

impl<'a, M: RingMemory + ?Sized> GpaRange<'a, M> {
    /// The range as pieces of guest memory, neighbouring pages in one.
    pub fn runs(&self) -> GpaRuns<'a, M> {
        GpaRuns { frames: self.frames, next: 0, offset: self.byte_offset, left: self.byte_count, ahead: None }
    }
}

/// See [`GpaRange::runs`]. Each frame number is read once.
pub struct GpaRuns<'a, M: ?Sized> {
    frames: View<'a, M>,
    next: u32,
    offset: u32,
    left: u32,
    ahead: Option<GpaRun>,
}

impl<M: RingMemory + ?Sized> GpaRuns<'_, M> {
    fn page(&mut self) -> Option<GpaRun> {
        if self.left == 0 {
            return None;
        }
        let frame = self.frames.word(self.next)?;
        self.next += 1;
        let len = self.left.min(PAGE_SIZE - self.offset);
        // A frame number beyond the address space yields an address beyond any memory.
        let base = frame.checked_mul(u64::from(PAGE_SIZE)).unwrap_or(u64::from(PAGE_SIZE).wrapping_neg());
        let run = GpaRun { gpa: base + u64::from(self.offset), len: u64::from(len) };
        self.offset = 0;
        self.left -= len;
        Some(run)
    }
}

impl<M: RingMemory + ?Sized> Iterator for GpaRuns<'_, M> {
    type Item = GpaRun;

    fn next(&mut self) -> Option<GpaRun> {
        let mut run = self.ahead.take().or_else(|| self.page())?;
        while let Some(page) = self.page() {
            if run.gpa.checked_add(run.len) != Some(page.gpa) {
                self.ahead = Some(page);
                break;
            }
            run.len += page.len;
        }
        Some(run)
    }
}
