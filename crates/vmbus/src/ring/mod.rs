//! Rings: the shared memory by which the two ends of a channel exchange packets.
//!
//! A channel has two. Each is a control page and a data area of whole pages; one end writes packets and
//! moves the write index, the other reads them and moves the read index. Both indices are bytes from the
//! start of the data area; equal ones mean empty, so that a ring is never filled to the last byte.
//!
//! ```text
//! control page                     data area
//! 0   write index                  descriptor, 16 bytes: type, header and packet length in 8 bytes, …
//! 4   read index                   header: what the type says, e.g. ranges of guest memory
//! 8   interrupt mask (reader)      data
//! 12  pending send size (writer)   trailer, 8 bytes: where the packet began
//! 64  feature bits                 next packet …
//! ```
//!
//! **Signals.** A writer signals when the ring was empty and the reader has not masked it; a reader
//! signals when it has made the room that the writer has asked for in the pending send size (feature bit
//! 0). The order of the accesses on which this rests is written where they are.
//!
//! **Trust.** The guest can change any byte at any time. So all accesses are to atomic 64-bit words, each
//! is read once, and the indices of our own side are never read back after [`IncomingRing::new`] and
//! [`OutgoingRing::new`]. A guest that breaks a rule gets [`RingError`], after which its channel is dead.

mod guest_pages;
mod heap;
mod incoming;
mod outgoing;
mod packet;
#[cfg(test)]
mod tests;

pub use guest_pages::GuestPages;
pub use heap::HeapRing;
pub use incoming::{Batch, IncomingRing};
pub use outgoing::{OutgoingPacket, OutgoingRing};
pub use packet::{GpaRange, GpaRanges, GpaRun, GpaRuns, Packet, PacketType, TransferRange, View};

use std::sync::atomic::{AtomicU32, AtomicU64};

use thiserror::Error;

/// Bytes of a ring's control page, and of a page of its data.
pub const PAGE_SIZE: u32 = 4096;
/// The most bytes of data that a ring has here: 64 MiB.
pub const MAX_DATA_SIZE: u32 = 64 << 20;
/// Words of 8 bytes in a page.
const PAGE_WORDS: u32 = PAGE_SIZE / WORD;
/// Bytes of a word.
const WORD: u32 = 8;
/// Words of a packet's descriptor.
const DESCRIPTOR_WORDS: u32 = 2;
/// Words behind a packet.
const TRAILER_WORDS: u32 = 1;
/// The bit of the feature field that promises attention to the pending send size.
const FEATURE_PENDING_SEND_SIZE: u32 = 1;

/// A field of the control page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Where the writer writes next.
    WriteIndex,
    /// Where the reader reads next.
    ReadIndex,
    /// Nonzero: the reader wants no signals.
    InterruptMask,
    /// Nonzero: the writer waits for more than this many free bytes.
    PendingSendSize,
    /// What the other end may rely on.
    FeatureBits,
}

impl Control {
    /// Offset in the control page.
    pub const fn offset(self) -> usize {
        match self {
            Self::WriteIndex => 0,
            Self::ReadIndex => 4,
            Self::InterruptMask => 8,
            Self::PendingSendSize => 12,
            Self::FeatureBits => 64,
        }
    }
}

/// The memory of one ring.
pub trait RingMemory {
    /// Bytes of the data area: a positive multiple of [`PAGE_SIZE`], at most [`MAX_DATA_SIZE`], always
    /// the same.
    fn data_size(&self) -> u32;
    /// A field of the control page.
    fn control(&self, field: Control) -> &AtomicU32;
    /// The words of the data area from `index` to the end of its page.
    ///
    /// # Panics
    /// When `index` is not below the number of words.
    fn words(&self, index: u32) -> &[AtomicU64];
    /// Told after `count` words from `index` on (wrapping around) and the control page were written.
    fn written(&self, index: u32, count: u32);
}

/// What a guest did wrong with a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RingError {
    /// An index is beyond the data or not at a word.
    #[error("ring index {0:#x} is out of range or not a multiple of 8")]
    Index(u32),
    /// A packet is longer than what was written, or its parts do not fit into it.
    #[error("ring packet at {offset:#x}: header of {header} and length of {length} words do not fit")]
    Packet {
        /// Where it begins.
        offset: u32,
        /// Length of descriptor and header, in words.
        header: u16,
        /// Length, in words.
        length: u16,
    },
    /// The memory of a ring is not what a ring needs.
    #[error("ring of {0} pages is too small or too large")]
    Size(usize),
    /// A page of the ring is not guest RAM.
    #[error("ring page {0:#x} is not guest memory")]
    Frame(u64),
}

/// A ring's data area has this many words.
fn word_count<M: RingMemory + ?Sized>(memory: &M) -> u32 {
    memory.data_size() / WORD
}

/// Checks an index from the guest; answers it in words.
fn checked_index<M: RingMemory + ?Sized>(memory: &M, index: u32) -> Result<u32, RingError> {
    if index >= memory.data_size() || !index.is_multiple_of(WORD) {
        return Err(RingError::Index(index));
    }
    Ok(index / WORD)
}

/// Words from `from` to `to`, around the end of a ring of `count` words.
fn distance(from: u32, to: u32, count: u32) -> u32 {
    if to >= from { to - from } else { count - from + to }
}

/// The word `steps` behind `index` in a ring of `count` words; both are at most `count`.
fn advance(index: u32, steps: u32, count: u32) -> u32 {
    let next = index + steps;
    if next >= count { next - count } else { next }
}
