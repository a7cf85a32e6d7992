//! A command descriptor block and how its fields are read.

use super::Sense;

/// The bytes of a command. Fields beyond its end read as 0; [`super::command::find`] has refused commands
/// that are too short before any field matters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cdb<'a>(pub(super) &'a [u8]);

impl Cdb<'_> {
    pub(super) fn u8(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    fn be(&self, at: usize, bytes: usize) -> u64 {
        (at..at + bytes).fold(0, |value, at| value << 8 | u64::from(self.u8(at)))
    }

    pub(super) fn be16(&self, at: usize) -> u16 {
        self.be(at, 2) as u16
    }

    pub(super) fn be24(&self, at: usize) -> u32 {
        self.be(at, 3) as u32
    }

    pub(super) fn be32(&self, at: usize) -> u32 {
        self.be(at, 4) as u32
    }

    pub(super) fn be64(&self, at: usize) -> u64 {
        self.be(at, 8)
    }

    /// Logical block address and number of blocks of a command with the common layout of its size (SPC-4,
    /// section 4.3).
    pub(super) fn blocks(&self) -> (u64, u64) {
        match self.u8(0) >> 5 {
            0 => match self.u8(4) {
                0 => (u64::from(self.be24(1) & 0x1f_ffff), 256),
                blocks => (u64::from(self.be24(1) & 0x1f_ffff), blocks.into()),
            },
            1 | 2 => (self.be32(2).into(), self.be16(7).into()),
            5 => (self.be32(2).into(), self.be32(6).into()),
            _ => (self.be64(2), self.be32(10).into()),
        }
    }
}

/// The byte range of `blocks` blocks from `lba` on a medium of `size` bytes.
pub(super) fn byte_range(lba: u64, blocks: u64, block: u32, size: u64) -> Result<(u64, u64), Sense> {
    let capacity = size / u64::from(block);
    match lba.checked_add(blocks) {
        Some(end) if end <= capacity && (lba < capacity || blocks == 0) => {
            Ok((lba * u64::from(block), blocks * u64::from(block)))
        }
        _ => Err(Sense::LBA_OUT_OF_RANGE.at(lba.max(capacity))),
    }
}

/// Ends a reply: not longer than the allocation length.
pub(super) fn allocate(reply: &mut Vec<u8>, allocation: usize) {
    reply.truncate(allocation);
}
