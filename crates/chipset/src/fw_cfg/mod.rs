//! The firmware configuration device of virtual machines (QEMU, docs/specs/fw_cfg): named blobs that firmware
//! and kernels read by port or by DMA.
//!
//! ```text
//! 0x510  selector, 16 bits, write     0x511  data, 8 bits, read
//! 0x514  DMA address, 64 bits, big-endian: the write of the lower half starts
//! ```
//!
//! Read-only: writes to items are refused, as newer versions of the interface do for all but a few.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use guest_memory::GuestMemory;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress};

use crate::bus::{PortDevice, put_value, value_of};

/// First port.
pub const PORT: u16 = 0x510;
/// Ports from there on.
pub const PORTS: u16 = 12;

const DATA: u16 = 0x511;
const DMA_HIGH: u16 = 0x514;
const DMA_LOW: u16 = 0x518;

/// Item: the interface's signature.
const SIGNATURE: u16 = 0x0000;
/// Item: what the interface offers.
const FEATURES: u16 = 0x0001;
/// Item: the directory of files.
const DIRECTORY: u16 = 0x0019;
/// Item of the first file.
const FIRST_FILE: u16 = 0x0020;

/// Ports (bit 0) and DMA (bit 1).
const FEATURES_VALUE: u32 = 0b11;
/// What the DMA address register reads as.
const DMA_SIGNATURE: u64 = u64::from_be_bytes(*b"QEMU CFG");

/// How many files there may be.
pub const FILE_LIMIT: usize = 64;
/// Longest name, without its NUL.
pub const NAME_LIMIT: usize = 55;

const DMA_ERROR: u32 = 1 << 0;
const DMA_READ: u32 = 1 << 1;
const DMA_SKIP: u32 = 1 << 2;
const DMA_SELECT: u32 = 1 << 3;
const DMA_WRITE: u32 = 1 << 4;

/// Why an item cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// The name does not fit.
    #[error("the name {0:?} is empty, longer than {NAME_LIMIT} bytes or has a NUL in it")]
    Name(String),
    /// There are too many.
    #[error("there are {FILE_LIMIT} files already")]
    Full,
    /// It is too large.
    #[error("the file {0:?} is too large")]
    Size(String),
}

/// The device. Answers [`PORTS`] ports from [`PORT`].
pub struct FwCfg {
    items: BTreeMap<u16, Vec<u8>>,
    /// Names in the order of their items.
    names: Vec<String>,
    selected: u16,
    offset: usize,
    dma_address: u64,
    memory: GuestMemory,
}

impl FwCfg {
    /// A device without files, whose DMA goes to `memory`.
    pub fn new(memory: GuestMemory) -> Self {
        let items = BTreeMap::from([
            (SIGNATURE, b"QEMU".to_vec()),
            (FEATURES, FEATURES_VALUE.to_le_bytes().to_vec()),
            (DIRECTORY, 0_u32.to_be_bytes().to_vec()),
        ]);
        Self { items, names: Vec::new(), selected: 0, offset: 0, dma_address: 0, memory }
    }

    /// Sets one of the numbered items (0x02–0x18 and so on) that older firmware reads.
    pub fn set_item(&mut self, selector: u16, data: Vec<u8>) {
        if selector > FEATURES && selector != DIRECTORY && selector < FIRST_FILE {
            self.items.insert(selector, data);
        }
    }

    /// Adds the file `name`, or replaces what it holds.
    ///
    /// # Errors
    /// When the name does not fit, or there is no room for it.
    pub fn add_file(&mut self, name: &str, data: Vec<u8>) -> Result<(), Error> {
        if name.is_empty() || name.len() > NAME_LIMIT || name.contains('\0') {
            return Err(Error::Name(name.to_owned()));
        }
        if u32::try_from(data.len()).is_err() {
            return Err(Error::Size(name.to_owned()));
        }
        let index = match self.names.iter().position(|known| known == name) {
            Some(index) => index,
            None if self.names.len() >= FILE_LIMIT => return Err(Error::Full),
            None => {
                self.names.push(name.to_owned());
                self.names.len() - 1
            }
        };
        self.items.insert(file_selector(index), data);
        self.items.insert(DIRECTORY, self.directory());
        Ok(())
    }

    /// Power-on state. The items stay.
    pub fn reset(&mut self) {
        self.select(0);
        self.dma_address = 0;
    }

    fn directory(&self) -> Vec<u8> {
        let mut directory = (self.names.len() as u32).to_be_bytes().to_vec();
        for (index, name) in self.names.iter().enumerate() {
            let selector = file_selector(index);
            let size = self.items.get(&selector).map_or(0, Vec::len) as u32;
            let mut padded = [0; NAME_LIMIT + 1];
            padded.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
            directory.extend(size.to_be_bytes());
            directory.extend(selector.to_be_bytes());
            directory.extend([0; 2]);
            directory.extend(padded);
        }
        directory
    }

    fn select(&mut self, selector: u16) {
        self.selected = selector;
        self.offset = 0;
    }

    /// What is left of the selected item.
    fn rest(&self) -> &[u8] {
        self.items.get(&self.selected).and_then(|item| item.get(self.offset..)).unwrap_or(&[])
    }

    fn next_byte(&mut self) -> u8 {
        let byte = self.rest().first().copied();
        self.offset += usize::from(byte.is_some());
        byte.unwrap_or(0)
    }

    /// Carries out the command at `address`: control, length and address, big-endian.
    fn dma(&mut self, address: u64) {
        let command = GuestAddress(address);
        let mut bytes = [0; 16];
        if self.memory.read_slice(&mut bytes, command).is_err() {
            tracing::debug!("fw_cfg: a DMA command at {address:#x}, outside of memory");
            return;
        }
        let field =
            |at: usize| bytes.iter().skip(at).take(4).fold(0, |value, byte| value << 8 | u32::from(*byte));
        let (control, length) = (field(0), field(4));
        let target = u64::from(field(8)) << 32 | u64::from(field(12));
        if control & DMA_SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        let done = if control & DMA_READ != 0 {
            self.dma_read(target, length as usize)
        } else if control & DMA_SKIP != 0 {
            self.offset = self.offset.saturating_add(length as usize).min(self.item_length());
            true
        } else {
            control & DMA_WRITE == 0
        };
        let status = if done { 0 } else { DMA_ERROR };
        if self.memory.write_slice(&status.to_be_bytes(), command).is_err() {
            tracing::debug!("fw_cfg: a DMA command at {address:#x}, which cannot be written");
        }
    }

    fn item_length(&self) -> usize {
        self.items.get(&self.selected).map_or(0, Vec::len)
    }

    /// Copies the item to memory, zeros beyond its end. False if the memory is not there.
    fn dma_read(&mut self, target: u64, length: usize) -> bool {
        let data = self.rest();
        let taken = data.len().min(length);
        let written = self.memory.write_slice(data.get(..taken).unwrap_or(&[]), GuestAddress(target));
        self.offset += taken;
        written.is_ok() && self.fill_zeros(target.saturating_add(taken as u64), length - taken)
    }

    fn fill_zeros(&self, mut target: u64, mut length: usize) -> bool {
        const ZEROS: [u8; 4096] = [0; 4096];
        while length > 0 {
            let part = length.min(ZEROS.len());
            if self.memory.write_slice(ZEROS.get(..part).unwrap_or(&[]), GuestAddress(target)).is_err() {
                return false;
            }
            length -= part;
            target = target.saturating_add(part as u64);
        }
        true
    }
}

fn file_selector(index: usize) -> u16 {
    // There are at most FILE_LIMIT of them.
    FIRST_FILE + index as u16
}

impl PortDevice for FwCfg {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        match port {
            DATA => data.iter_mut().for_each(|byte| *byte = self.next_byte()),
            DMA_HIGH => put_value(data, ((DMA_SIGNATURE >> 32) as u32).swap_bytes()),
            DMA_LOW => put_value(data, (DMA_SIGNATURE as u32).swap_bytes()),
            _ => data.fill(0xff),
        }
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        let value = value_of(data);
        match (port, data.len()) {
            (PORT, 2) => self.select(value as u16),
            (DMA_HIGH, 4) => self.dma_address = u64::from(value.swap_bytes()) << 32,
            (DMA_LOW, 4) => {
                let address = self.dma_address | u64::from(value.swap_bytes());
                self.dma_address = 0;
                self.dma(address);
            }
            // The data port takes no writes.
            _ => {}
        }
    }
}
