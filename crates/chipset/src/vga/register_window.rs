//! The memory with the registers of Bochs's adapter (QEMU, docs/specs/standard-vga): BAR 2, which ours has under that
//! identity.
//!
//! ```text
//! 0x000   EDID            0x400   ports 0x3c0–0x3df            0x500   the display interface, a word each register
//! ```

use std::sync::{Arc, Mutex};

use super::{Vga, edid};
use crate::bus::{MmioDevice, read_bytes, write_bytes};
use crate::sync::lock;

/// Bytes of the region.
pub(super) const SIZE: u32 = 4096;

const EDID_END: u64 = 0x100;
const PORTS: u64 = 0x400;
const PORTS_END: u64 = 0x420;
const FIRST_PORT: u16 = 0x3c0;
const DISPI: u64 = 0x500;
const DISPI_END: u64 = 0x516;

/// The registers of `vga` in memory.
pub struct RegisterWindow {
    vga: Arc<Mutex<Vga>>,
    edid: [u8; 128],
}

impl RegisterWindow {
    /// Those of `vga`.
    pub fn new(vga: Arc<Mutex<Vga>>) -> Self {
        Self { vga, edid: edid::block() }
    }
}

/// The register of the display interface at `offset`, an even one.
fn dispi(offset: u64) -> u16 {
    ((offset - DISPI) / 2) as u16
}

impl MmioDevice for RegisterWindow {
    fn memory_read(&mut self, offset: u64, data: &mut [u8]) {
        match offset {
            0..EDID_END => {
                let edid = usize::try_from(offset).ok().and_then(|offset| self.edid.get(offset..));
                data.fill(0);
                data.iter_mut().zip(edid.unwrap_or_default()).for_each(|(to, byte)| *to = *byte);
            }
            PORTS..PORTS_END => {
                let mut vga = lock(&self.vga);
                read_bytes(FIRST_PORT + (offset - PORTS) as u16, data, |port| vga.read_register(port));
            }
            DISPI..DISPI_END if data.len() == 2 && offset.is_multiple_of(2) => {
                let value = lock(&self.vga).dispi.read_at(dispi(offset));
                data.copy_from_slice(&value.to_le_bytes());
            }
            _ => data.fill(0),
        }
    }

    fn memory_write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (PORTS..PORTS_END, _) => {
                let mut vga = lock(&self.vga);
                let first = FIRST_PORT + (offset - PORTS) as u16;
                write_bytes(first, data, |port, value| vga.write_register(port, value));
            }
            (DISPI..DISPI_END, &[low, high]) if offset.is_multiple_of(2) => {
                lock(&self.vga).write_dispi_at(dispi(offset), u16::from_le_bytes([low, high]));
            }
            _ => {}
        }
    }
}
