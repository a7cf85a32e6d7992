//! The two rings of a channel, from the guest's side.
//!
//! Linux `include/linux/hyperv.h` (`hv_ring_buffer`), `drivers/hv/ring_buffer.c`. A ring is a page with indices and
//! pages with packets; the first one is this side's to write.
//!
//! ```text
//! 0   write index      8   interrupt mask
//! 4   read index       4096   packets: descriptor of 16 bytes, data, padding to 8 bytes, 8 bytes with the old write index
//! ```

use anyhow::{Result, bail};

/// Memory that both sides have.
pub trait Memory {
    /// Bytes of it, those of both rings.
    fn length(&self) -> usize;
    /// The number at `at`, which is aligned and within it.
    fn load(&self, at: usize) -> u32;
    /// Sets the number at `at`, which is aligned and within it; what was written before is there before.
    fn store(&mut self, at: usize, value: u32);
    /// Copies what is at `at` and within it.
    fn read(&self, at: usize, bytes: &mut [u8]);
    /// Copies to `at`, within it.
    fn write(&mut self, at: usize, bytes: &[u8]);
}

const WRITE_INDEX: usize = 0;
const READ_INDEX: usize = 4;
const MASK: usize = 8;
const DATA: usize = 4096;
const DESCRIPTOR: usize = 16;
const TRAILER: usize = 8;
/// A packet with data only.
const IN_BAND: u16 = 6;

/// A packet.
#[derive(Debug, PartialEq, Eq)]
pub struct Packet {
    /// What the host knows it by.
    pub transaction: u64,
    /// What is in it, with padding behind it.
    pub data: Vec<u8>,
}

/// The rings.
pub struct Rings<M> {
    memory: M,
    /// Where the incoming ring begins, which is the length of each.
    incoming: usize,
}

impl<M: Memory> Rings<M> {
    /// The rings in `memory`: half of it each.
    pub fn new(memory: M) -> Self {
        let incoming = memory.length() / 2;
        Self { memory, incoming }
    }

    /// Bytes of packets in a ring.
    fn size(&self) -> usize {
        self.incoming.saturating_sub(DATA)
    }

    fn index(&self, at: usize) -> Result<usize> {
        let index = self.memory.load(at) as usize;
        if index >= self.size() || !index.is_multiple_of(8) {
            bail!("the host breaks the ring: index {index} of {}", self.size());
        }
        Ok(index)
    }

    /// The pieces of `count` bytes at `index`: to the ring's end, and from its beginning.
    fn pieces(&self, index: usize, count: usize) -> [(usize, usize); 2] {
        let first = count.min(self.size() - index);
        [(index, first), (0, count - first)]
    }

    fn copy_out(&self, index: usize, bytes: &mut [u8]) {
        let mut done = 0;
        for (at, count) in self.pieces(index, bytes.len()) {
            self.memory.read(self.incoming + DATA + at, &mut bytes[done..done + count]);
            done += count;
        }
    }

    fn copy_in(&mut self, index: usize, bytes: &[u8]) {
        let mut done = 0;
        for (at, count) in self.pieces(index, bytes.len()) {
            self.memory.write(DATA + at, &bytes[done..done + count]);
            done += count;
        }
    }

    /// The next packet of the host.
    ///
    /// # Errors
    /// When the host breaks its ring.
    pub fn receive(&mut self) -> Result<Option<Packet>> {
        let (written, read) =
            (self.index(self.incoming + WRITE_INDEX)?, self.index(self.incoming + READ_INDEX)?);
        let there = (written + self.size() - read) % self.size();
        if there == 0 {
            return Ok(None);
        }
        let mut descriptor = [0; DESCRIPTOR];
        if there < DESCRIPTOR + TRAILER {
            bail!("the host breaks the ring: {there} bytes are no packet");
        }
        self.copy_out(read, &mut descriptor);
        let units = |at: usize| usize::from(u16::from_le_bytes([descriptor[at], descriptor[at + 1]])) * 8;
        let (begin, end) = (units(2), units(4));
        if begin < DESCRIPTOR || begin > end || end + TRAILER > there {
            bail!("the host breaks the ring: a packet from {begin} to {end} of {there}");
        }
        let mut data = vec![0; end - begin];
        self.copy_out((read + begin) % self.size(), &mut data);
        let transaction = descriptor.last_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let next = (read + end + TRAILER) % self.size();
        self.memory.store(self.incoming + READ_INDEX, next as u32);
        Ok(Some(Packet { transaction, data }))
    }

    /// Writes a packet with `data`.
    ///
    /// # Errors
    /// When there is no room for it, or the host breaks the ring.
    pub fn send(&mut self, transaction: u64, data: &[u8]) -> Result<()> {
        let length = DESCRIPTOR + data.len().next_multiple_of(8);
        let (written, read) = (self.index(WRITE_INDEX)?, self.index(READ_INDEX)?);
        let used = (written + self.size() - read) % self.size();
        // An answer a request, so there is always room; a ring that is full would look empty.
        if used + length + TRAILER >= self.size() || length / 8 > usize::from(u16::MAX) {
            bail!("an answer of {length} bytes has no room");
        }
        let mut packet = Vec::with_capacity(length + TRAILER);
        for value in [IN_BAND, (DESCRIPTOR / 8) as u16, (length / 8) as u16, 0] {
            packet.extend(value.to_le_bytes());
        }
        packet.extend(transaction.to_le_bytes());
        packet.extend(data);
        packet.resize(length, 0);
        packet.extend(((written as u64) << 32).to_le_bytes());
        self.copy_in(written, &packet);
        self.memory.store(WRITE_INDEX, ((written + packet.len()) % self.size()) as u32);
        Ok(())
    }

    /// Lets the host interrupt. True if there is a packet already.
    pub fn unmask(&mut self) -> bool {
        self.memory.store(self.incoming + MASK, 0);
        let [written, read] = [WRITE_INDEX, READ_INDEX].map(|at| self.memory.load(self.incoming + at));
        written != read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Plain(Vec<u8>);

    impl Memory for Plain {
        fn length(&self) -> usize {
            self.0.len()
        }

        fn load(&self, at: usize) -> u32 {
            u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
        }

        fn store(&mut self, at: usize, value: u32) {
            self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }

        fn read(&self, at: usize, bytes: &mut [u8]) {
            bytes.copy_from_slice(&self.0[at..at + bytes.len()]);
        }

        fn write(&mut self, at: usize, bytes: &[u8]) {
            self.0[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    fn rings() -> Rings<Plain> {
        Rings::new(Plain(vec![0; 4 * DATA]))
    }

    impl Rings<Plain> {
        /// What this side has written comes back, as if the host had.
        fn turn_round(&mut self) {
            let (ours, theirs) = self.memory.0.split_at_mut(self.incoming);
            theirs[DATA..].copy_from_slice(&ours[DATA..]);
            theirs[..4].copy_from_slice(&ours[..4]);
        }

        /// The host has read all.
        fn drain(&mut self) {
            let written = self.memory.load(WRITE_INDEX);
            self.memory.store(READ_INDEX, written);
        }
    }

    #[test]
    fn packets_go_round_the_ring_s_end() {
        let mut rings = rings();
        for number in 0..100_u64 {
            let data: Vec<u8> = (0..1000).map(|index| (index + number) as u8).collect();
            rings.send(number, &data).unwrap();
            rings.turn_round();
            assert_eq!(rings.receive().unwrap(), Some(Packet { transaction: number, data }));
            assert_eq!(rings.receive().unwrap(), None);
            rings.drain();
        }
        assert!(!rings.unmask());
    }

    #[test]
    fn a_ring_is_never_filled() {
        let mut rings = rings();
        for _ in 0..3 {
            rings.send(0, &[1; 1000]).unwrap();
        }
        assert!(rings.send(0, &[1; 1000]).is_err());
    }

    #[test]
    fn a_ring_that_is_broken_is_told() {
        for (at, value) in [
            (WRITE_INDEX, 4096),
            (WRITE_INDEX, 12),
            (WRITE_INDEX, 8),
            (READ_INDEX, u32::MAX),
            (WRITE_INDEX, 32),
        ] {
            let mut rings = rings();
            let incoming = rings.incoming;
            rings.memory.store(incoming + at, value);
            assert!(rings.receive().is_err(), "{at} {value}");
        }
        let mut rings = rings();
        let incoming = rings.incoming;
        rings.memory.store(incoming + WRITE_INDEX, 64);
        for (begin, end) in [(1_u16, 3_u16), (4, 3), (2, 8), (2, u16::MAX)] {
            rings.memory.write(incoming + DATA + 2, &begin.to_le_bytes());
            rings.memory.write(incoming + DATA + 4, &end.to_le_bytes());
            assert!(rings.receive().is_err(), "{begin} {end}");
        }
    }
}
