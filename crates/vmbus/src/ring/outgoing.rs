//! The writing end of a ring.

use std::sync::atomic::{Ordering, fence};

use super::packet::{COMPLETION_REQUESTED, PacketType};
use super::{
    Control, DESCRIPTOR_WORDS, FEATURE_PENDING_SEND_SIZE, RingError, RingMemory, TRAILER_WORDS, WORD,
    advance, checked_index, distance, word_count,
};

/// A packet to the guest.
#[derive(Debug, Clone, Copy)]
pub struct OutgoingPacket<'a> {
    /// What it is.
    pub kind: PacketType,
    /// Whether the guest is to answer it.
    pub completion_requested: bool,
    /// The transaction it belongs to.
    pub transaction_id: u64,
    /// What the type asks for between descriptor and data.
    pub header: &'a [u64],
    /// The data; it is padded to whole words.
    pub data: &'a [u8],
}

impl<'a> OutgoingPacket<'a> {
    /// The answer to the packet of the guest that has `transaction_id`.
    pub fn completion(transaction_id: u64, data: &'a [u8]) -> Self {
        let kind = PacketType::COMPLETION;
        Self { kind, completion_requested: false, transaction_id, header: &[], data }
    }

    /// A packet that the guest did not ask for.
    pub fn in_band(transaction_id: u64, data: &'a [u8]) -> Self {
        let kind = PacketType::IN_BAND;
        Self { kind, completion_requested: false, transaction_id, header: &[], data }
    }

    /// Words of descriptor, header and data; `None` if a packet cannot be as long.
    fn words(&self) -> Option<(u16, u16)> {
        let header = u16::try_from(self.header.len() + DESCRIPTOR_WORDS as usize).ok()?;
        let data = u16::try_from(self.data.len().div_ceil(WORD as usize)).ok()?;
        Some((header, header.checked_add(data)?))
    }
}

/// The host's writing end of the ring that the guest reads.
pub struct OutgoingRing<M> {
    memory: M,
    /// Word to write next, as told to the guest.
    published: u32,
    /// Word to write next.
    write: u32,
    /// Where the guest was when we last looked.
    read: u32,
    /// Whether the pending send size is set.
    waiting: bool,
}

impl<M: RingMemory> OutgoingRing<M> {
    /// Begins to write where the ring's write index says.
    ///
    /// # Errors
    /// When one of the indices is none.
    pub fn new(memory: M) -> Result<Self, RingError> {
        let write = checked_index(&memory, memory.control(Control::WriteIndex).load(Ordering::Relaxed))?;
        let read = checked_index(&memory, memory.control(Control::ReadIndex).load(Ordering::Acquire))?;
        memory.control(Control::PendingSendSize).store(0, Ordering::Relaxed);
        memory.control(Control::FeatureBits).fetch_or(FEATURE_PENDING_SEND_SIZE, Ordering::Relaxed);
        memory.written(write, 0);
        Ok(Self { memory, published: write, write, read, waiting: false })
    }

    /// Puts a packet into the ring; the guest sees it after [`Self::commit`]. False if there is no room.
    ///
    /// # Errors
    /// When the guest's read index is none.
    ///
    /// # Panics
    /// When the packet is longer than a packet can be.
    pub fn write(&mut self, packet: &OutgoingPacket<'_>) -> Result<bool, RingError> {
        let (header, length) = packet.words().expect("a packet that its device has bounded");
        let needed = u32::from(length) + TRAILER_WORDS;
        if self.free() <= needed {
            self.look_at_reader()?;
            if self.free() <= needed {
                return Ok(false);
            }
        }
        let start = self.write;
        let flags = if packet.completion_requested { COMPLETION_REQUESTED } else { 0 };
        let descriptor = u64::from(packet.kind.0)
            | u64::from(header) << 16
            | u64::from(length) << 32
            | u64::from(flags) << 48;
        let data = packet.data.chunks(WORD as usize).map(|chunk| {
            let mut bytes = [0; WORD as usize];
            bytes[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(bytes)
        });
        let trailer = u64::from(start * WORD) << 32;
        let words = [descriptor, packet.transaction_id]
            .into_iter()
            .chain(packet.header.iter().copied())
            .chain(data)
            .chain([trailer]);
        self.put(words);
        Ok(true)
    }

    /// As [`Self::write`]; if there is no room, the guest is asked to signal when there is.
    ///
    /// # Errors
    /// As [`Self::write`].
    ///
    /// # Panics
    /// As [`Self::write`].
    pub fn write_or_wait(&mut self, packet: &OutgoingPacket<'_>) -> Result<bool, RingError> {
        while !self.write(packet)? {
            if !self.wait_for_room(size_of_val(packet.header) + packet.data.len())? {
                return Ok(false);
            }
        }
        self.stop_waiting();
        Ok(true)
    }

    fn put(&mut self, mut words: impl Iterator<Item = u64>) {
        let count = word_count(&self.memory);
        loop {
            let page = self.memory.words(self.write);
            let mut filled = 0;
            for (slot, word) in page.iter().zip(&mut words) {
                slot.store(word, Ordering::Relaxed);
                filled += 1;
            }
            self.write = advance(self.write, filled, count);
            if (filled as usize) < page.len() {
                return;
            }
        }
    }

    /// Shows the guest what was written. True if it waits for it and is to be interrupted.
    pub fn commit(&mut self) -> bool {
        let (old, new) = (self.published, self.write);
        if old == new {
            return false;
        }
        self.published = new;
        // Release: the packets are written before the index.
        self.memory.control(Control::WriteIndex).store(new * WORD, Ordering::Release);
        self.memory.written(old, distance(old, new, word_count(&self.memory)));
        // We write the index, then look at the mask; the guest writes the mask, then looks at the index.
        fence(Ordering::SeqCst);
        if self.memory.control(Control::InterruptMask).load(Ordering::Acquire) != 0 {
            return false;
        }
        // A guest that had not read everything before will find the new packets by itself.
        self.memory.control(Control::ReadIndex).load(Ordering::Acquire) == old * WORD
    }

    /// Asks the guest to signal when a packet with `data` bytes of header and data fits. True if one fits already;
    /// then nothing is asked.
    ///
    /// # Errors
    /// When the guest's read index is none.
    pub fn wait_for_room(&mut self, data: usize) -> Result<bool, RingError> {
        let words = u32::try_from(data.div_ceil(WORD as usize)).unwrap_or(u32::MAX / WORD / 2);
        let needed = (words + DESCRIPTOR_WORDS + TRAILER_WORDS).min(word_count(&self.memory) - 1);
        self.memory.control(Control::PendingSendSize).store(needed * WORD, Ordering::Relaxed);
        self.waiting = true;
        // We write the pending size, then look at the guest's index; the guest does it the other way round.
        fence(Ordering::SeqCst);
        self.look_at_reader()?;
        if self.free() > needed {
            self.stop_waiting();
            return Ok(true);
        }
        self.memory.written(self.write, 0);
        Ok(false)
    }

    /// Takes back what [`Self::wait_for_room`] asked for.
    pub fn stop_waiting(&mut self) {
        if self.waiting {
            self.memory.control(Control::PendingSendSize).store(0, Ordering::Relaxed);
            self.waiting = false;
        }
    }

    /// Free words, by the guest's last known index.
    fn free(&self) -> u32 {
        let count = word_count(&self.memory);
        count - distance(self.read, self.write, count)
    }

    fn look_at_reader(&mut self) -> Result<(), RingError> {
        // Acquire: the guest has read the packets before we overwrite them.
        let read =
            checked_index(&self.memory, self.memory.control(Control::ReadIndex).load(Ordering::Acquire))?;
        // An index in the free part would make more room than there is; the old one stands.
        let count = word_count(&self.memory);
        if distance(self.read, read, count) <= distance(self.read, self.write, count) {
            self.read = read;
            return Ok(());
        }
        Err(RingError::Index(read * WORD))
    }
}
