//! Flash memory in which UEFI firmware keeps its variables: one 8-bit chip with Intel's command set (28F008SA data sheet,
//! order number 290429, "Command Definitions"; QEMU, hw/block/pflash_cfi01).
//!
//! ```text
//!            70 ┌──────────▶ status ◀─────────────┐ done
//! array ────────┤ 10, 40 ─▶ the next write programs│
//!   ▲           ├ 20 ─────▶ D0 erases the block ───┘
//!   └─ ff ──────┴ 90 ─────▶ identifier
//! ```
//!
//! An operation is done by the write that starts it. After power-on and after 50 the status is 0; the data sheet has its
//! "ready" bit set then too, but firmware for virtual machines knows flash from RAM by that 0.
//!
//! Programming clears bits and never sets any. Not emulated: the query table (98), buffered writes (e8), suspension, locks.

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use crate::bus::MmioDevice;
use crate::sync::lock;
use crate::unhandled::Unhandled;

/// Bytes that are erased as one.
pub const BLOCK: usize = 4096;

mod command {
    pub const PROGRAM: u8 = 0x10;
    pub const PROGRAM_TOO: u8 = 0x40;
    pub const ERASE: u8 = 0x20;
    pub const CLEAR_STATUS: u8 = 0x50;
    pub const READ_STATUS: u8 = 0x70;
    pub const IDENTIFY: u8 = 0x90;
    pub const CONFIRM: u8 = 0xd0;
    pub const READ_ARRAY: u8 = 0xff;
}

/// Status: ready after an operation.
const READY: u8 = 1 << 7;
/// Status: an erasure failed.
const ERASE_FAILED: u8 = 1 << 5;
/// Status: a byte was not programmed.
const PROGRAM_FAILED: u8 = 1 << 4;
/// Manufacturer (Intel) and device.
const IDENTIFIER: [u8; 2] = [0x89, 0x18];

/// Where what is written is kept beyond the machine's life.
pub trait FlashStore: Send {
    /// Keeps `bytes` at `offset`.
    ///
    /// # Errors
    /// What the host reports; the guest sees a failed operation.
    fn store(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
}

/// The contents of a chip, which outlive a reset.
pub struct FlashImage {
    bytes: Vec<u8>,
    store: Option<Box<dyn FlashStore>>,
}

impl FlashImage {
    /// Contents that go to `store` too when they change.
    pub fn new(bytes: Vec<u8>, store: Option<Box<dyn FlashStore>>) -> Self {
        Self { bytes, store }
    }

    /// What is in it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Changes the bytes at `offset`, which are there, first where they are kept.
    fn change(&mut self, offset: usize, new: &[u8]) -> bool {
        let Some(place) = self.bytes.get_mut(offset..offset + new.len()) else { return false };
        if place == new {
            return true;
        }
        if let Some(store) = &mut self.store
            && let Err(error) = store.store(offset as u64, new)
        {
            tracing::error!(%error, "what was written to flash memory cannot be kept");
            return false;
        }
        place.copy_from_slice(new);
        true
    }
}

impl fmt::Debug for FlashImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlashImage").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

/// What a read finds, and a write means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Array,
    Status,
    Identifier,
    /// The next write is a byte to be programmed.
    Program,
    /// The next write confirms an erasure.
    Erase,
}

/// The chip.
pub struct Flash {
    image: Arc<Mutex<FlashImage>>,
    state: State,
    status: u8,
    unhandled: Unhandled,
}

impl Flash {
    /// A chip with `image` in it, as after power-on.
    pub fn new(image: Arc<Mutex<FlashImage>>) -> Self {
        Self { image, state: State::Array, status: 0, unhandled: Unhandled::default() }
    }

    fn program(&mut self, offset: usize, data: &[u8]) {
        let mut image = lock(&self.image);
        let old = image.bytes.get(offset..).unwrap_or_default();
        let new: Vec<u8> = old.iter().zip(data).map(|(old, new)| old & new).collect();
        let done = new.len() == data.len() && image.change(offset, &new);
        self.status |= if done { READY } else { READY | PROGRAM_FAILED };
    }

    fn erase(&mut self, offset: usize) {
        let mut image = lock(&self.image);
        let start = offset - offset % BLOCK;
        let length = BLOCK.min(image.bytes.len().saturating_sub(start));
        let done = length > 0 && image.change(start, &[0xff; BLOCK][..length]);
        self.status |= if done { READY } else { READY | ERASE_FAILED };
    }

    fn command(&mut self, command: u8) {
        self.state = match command {
            command::PROGRAM | command::PROGRAM_TOO => State::Program,
            command::ERASE => State::Erase,
            command::READ_STATUS => State::Status,
            command::IDENTIFY => State::Identifier,
            command::READ_ARRAY => State::Array,
            command::CLEAR_STATUS => {
                self.status = 0;
                State::Array
            }
            _ => {
                self.unhandled.tell("flash", "command", command.into());
                State::Array
            }
        };
    }
}

impl MmioDevice for Flash {
    fn memory_read(&mut self, offset: u64, data: &mut [u8]) {
        match self.state {
            State::Array => {
                let image = lock(&self.image);
                let from = usize::try_from(offset).ok().and_then(|offset| image.bytes.get(offset..));
                data.iter_mut().zip(from.unwrap_or_default()).for_each(|(to, byte)| *to = *byte);
            }
            State::Identifier => {
                for (byte, offset) in data.iter_mut().zip(offset..) {
                    *byte = IDENTIFIER.get((offset & 0xff) as usize).copied().unwrap_or(0);
                }
            }
            State::Status | State::Program | State::Erase => data.fill(self.status),
        }
    }

    fn memory_write(&mut self, offset: u64, data: &[u8]) {
        let (Ok(offset), Some(&first)) = (usize::try_from(offset), data.first()) else { return };
        match self.state {
            State::Program => {
                self.program(offset, data);
                self.state = State::Status;
            }
            State::Erase if first == command::CONFIRM => {
                self.erase(offset);
                self.state = State::Status;
            }
            State::Erase => {
                // Without its confirmation it is a wrong sequence.
                self.status |= READY | ERASE_FAILED | PROGRAM_FAILED;
                self.state = State::Status;
            }
            State::Array | State::Status | State::Identifier => self.command(first),
        }
    }
}
