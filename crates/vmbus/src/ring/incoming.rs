//! The reading end of a ring.

use std::sync::atomic::{Ordering, fence};

use super::packet::{Packet, PacketType, View};
use super::{
    Control, DESCRIPTOR_WORDS, FEATURE_PENDING_SEND_SIZE, RingError, RingMemory, TRAILER_WORDS, WORD,
    advance, checked_index, distance, word_count,
};

/// The host's reading end of the ring that the guest writes.
pub struct IncomingRing<M> {
    memory: M,
    /// Word to read next, as told to the guest.
    read: u32,
}

impl<M: RingMemory> IncomingRing<M> {
    /// Begins to read where the ring's read index says.
    ///
    /// # Errors
    /// When that is not an index.
    pub fn new(memory: M) -> Result<Self, RingError> {
        let read = checked_index(&memory, memory.control(Control::ReadIndex).load(Ordering::Relaxed))?;
        Ok(Self { memory, read })
    }

    /// Asks the guest not to signal new packets.
    pub fn mask(&mut self) {
        self.memory.control(Control::InterruptMask).store(1, Ordering::Relaxed);
    }

    /// Asks the guest to signal new packets again. True if there are some already, which will not be
    /// signalled: the caller goes on reading.
    ///
    /// # Errors
    /// When the guest's write index is none.
    pub fn unmask(&mut self) -> Result<bool, RingError> {
        self.memory.control(Control::InterruptMask).store(0, Ordering::Relaxed);
        // The guest writes its index, then looks at the mask; we write the mask, then look at the index.
        // With a full fence on both sides one of us sees the other.
        fence(Ordering::SeqCst);
        Ok(!self.is_empty()?)
    }

    /// Whether there is nothing to read now.
    ///
    /// # Errors
    /// When the guest's write index is none.
    pub fn is_empty(&self) -> Result<bool, RingError> {
        Ok(self.written()? == self.read)
    }

    /// What is there to read now.
    ///
    /// # Errors
    /// When the guest's write index is none.
    pub fn batch(&mut self) -> Result<Batch<'_, M>, RingError> {
        let end = self.written()?;
        Ok(Batch { at: self.read, end, ring: self })
    }

    fn written(&self) -> Result<u32, RingError> {
        // Acquire: what the guest wrote before its index is seen after.
        let index = self.memory.control(Control::WriteIndex).load(Ordering::Acquire);
        checked_index(&self.memory, index)
    }
}

/// The packets that were there when [`IncomingRing::batch`] looked.
pub struct Batch<'a, M> {
    ring: &'a mut IncomingRing<M>,
    at: u32,
    end: u32,
}

impl<M: RingMemory> Batch<'_, M> {
    /// Whether all have been had.
    pub fn is_empty(&self) -> bool {
        self.at == self.end
    }

    /// The next packet.
    ///
    /// # Errors
    /// When it does not fit into what the guest has written.
    pub fn next_packet(&mut self) -> Result<Option<Packet<'_, M>>, RingError> {
        if self.is_empty() {
            return Ok(None);
        }
        let memory = &self.ring.memory;
        let count = word_count(memory);
        let available = distance(self.at, self.end, count);
        let view = View::new(memory, self.at, available);
        let (first, transaction_id) = match (view.word(0), view.word(1)) {
            (Some(first), Some(second)) => (first, second),
            _ => return Err(RingError::Packet { offset: self.at * WORD, header: 0, length: 0 }),
        };
        let (header, length) = ((first >> 16) as u16, (first >> 32) as u16);
        let (header_words, words) = (u32::from(header), u32::from(length));
        if header_words < DESCRIPTOR_WORDS || words < header_words || words + TRAILER_WORDS > available {
            return Err(RingError::Packet { offset: self.at * WORD, header, length });
        }
        let at = |words| advance(self.at, words, count);
        let packet = Packet {
            kind: PacketType(first as u16),
            flags: (first >> 48) as u16,
            transaction_id,
            header: View::new(memory, at(DESCRIPTOR_WORDS), header_words - DESCRIPTOR_WORDS),
            data: View::new(memory, at(header_words), words - header_words),
        };
        self.at = at(words + TRAILER_WORDS);
        Ok(Some(packet))
    }

    /// Gives the room of the packets that were had back to the guest. True if the guest waits for as much
    /// and is to be signalled.
    ///
    /// # Errors
    /// When the guest's write index is none.
    pub fn finish(self) -> Result<bool, RingError> {
        let Self { ring, at, .. } = self;
        let count = word_count(&ring.memory);
        let freed = distance(ring.read, at, count);
        if freed == 0 {
            return Ok(false);
        }
        ring.read = at;
        // Release: the packets have been read before the guest may overwrite them.
        ring.memory.control(Control::ReadIndex).store(at * WORD, Ordering::Release);
        // The guest writes the pending size, then looks at our index; we write the index, then look at the
        // pending size, and at the guest's index after that.
        fence(Ordering::SeqCst);
        if ring.memory.control(Control::FeatureBits).load(Ordering::Relaxed) & FEATURE_PENDING_SEND_SIZE == 0
        {
            return Ok(false);
        }
        let pending = ring.memory.control(Control::PendingSendSize).load(Ordering::Acquire);
        if pending == 0 {
            return Ok(false);
        }
        let free = (count - distance(at, ring.written()?, count)) * WORD;
        // Only the step from too little to enough is signalled. Exactly as much is too little.
        Ok(free > pending && free.saturating_sub(freed * WORD) <= pending)
    }
}
