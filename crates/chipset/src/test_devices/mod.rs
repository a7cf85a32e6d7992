//! Devices for conformance suites and small test guests, found where those of QEMU's `isa-debug-exit`,
//! `pc-testdev` and `hyperv-testdev` are:
//!
//! ```text
//! 0xf4        a write of v ends the machine with exit code 2v + 1       DebugExit
//! 0xe0–0xe3   four bytes that keep what is written                      Scratch
//! 0x2000 + n  a write sets ISA line n high (not 0) or low (0)           LinePorts
//! 0x3000      routes and connections of the SynIC                       SynicPort
//! 0xff000000  64 KiB that behave as RAM but are a device                TestMemory
//! ```
//!
//! There is no specification but those devices' behaviour. Not emulated: `pc-testdev`'s port 0xe4, which
//! unmaps a page of RAM for a while, and its lines beyond the ISA bus.

mod synic;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use interrupt::Line;

pub use synic::{ROUTES, SYNIC_PORT, SynicError, SynicPort, SynicTest};

use crate::bus::{MmioDevice, PortDevice, read_bytes, value_of, write_bytes};
use crate::unhandled::Unhandled;

/// The port that ends the machine, four bytes wide.
pub const DEBUG_EXIT: u16 = 0xf4;
/// Number of its ports.
pub const DEBUG_EXIT_PORTS: u16 = 4;
/// First of the scratch ports.
pub const SCRATCH: u16 = 0xe0;
/// Number of scratch ports.
pub const SCRATCH_PORTS: u16 = 4;
/// First of the ports that set ISA lines.
pub const LINES: u16 = 0x2000;
/// Number of them.
pub const LINE_COUNT: usize = 16;
/// Guest physical address of the memory.
pub const MEMORY: u64 = 0xff00_0000;
/// Its size in bytes.
pub const MEMORY_SIZE: u64 = 0x1_0000;

/// Who ends the machine. Called with the device's lock held: implementations only note the wish.
pub trait DebugExitControl: Send + Sync {
    /// The machine ends with the exit code `code`, which is odd.
    fn debug_exit(&self, code: u8);
}

/// The port that ends the machine.
pub struct DebugExit {
    control: Arc<dyn DebugExitControl>,
}

impl DebugExit {
    /// The port of a machine that `control` ends.
    pub fn new(control: Arc<dyn DebugExitControl>) -> Self {
        Self { control }
    }
}

impl PortDevice for DebugExit {
    fn port_read(&mut self, _port: u16, data: &mut [u8]) {
        data.fill(0);
    }

    fn port_write(&mut self, _port: u16, data: &[u8]) {
        // Exit codes have eight bits.
        self.control.debug_exit((value_of(data) << 1 | 1) as u8);
    }
}

/// Ports that keep what is written.
#[derive(Debug, Default)]
pub struct Scratch([u8; SCRATCH_PORTS as usize]);

impl PortDevice for Scratch {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        read_bytes(port, data, |port| self.0.get(offset(port, SCRATCH)).copied().unwrap_or(0xff));
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        write_bytes(port, data, |port, value| {
            if let Some(byte) = self.0.get_mut(offset(port, SCRATCH)) {
                *byte = value;
            }
        });
    }
}

/// Ports that set ISA lines, one each whatever the width of the access.
pub struct LinePorts {
    lines: [Arc<dyn Line>; LINE_COUNT],
    unhandled: Unhandled,
}

impl LinePorts {
    /// Ports that drive `lines`.
    pub fn new(lines: [Arc<dyn Line>; LINE_COUNT]) -> Self {
        Self { lines, unhandled: Unhandled::default() }
    }
}

impl PortDevice for LinePorts {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        self.unhandled.tell("test devices", "a read of port", u32::from(port));
        data.fill(0);
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        if let Some(line) = self.lines.get(offset(port, LINES)) {
            line.set(value_of(data) != 0);
        }
    }
}

/// Memory that is a device: every access to it leaves the guest.
pub struct TestMemory(Box<[u8]>);

impl TestMemory {
    /// Memory full of zeros.
    pub fn new() -> Self {
        Self(vec![0; MEMORY_SIZE as usize].into_boxed_slice())
    }

    /// The bytes from `offset` on, as many of `len` as there are.
    fn range(&self, offset: u64, len: usize) -> std::ops::Range<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        start..start.saturating_add(len).min(self.0.len())
    }
}

impl Default for TestMemory {
    fn default() -> Self {
        Self::new()
    }
}

impl MmioDevice for TestMemory {
    fn memory_read(&mut self, offset: u64, data: &mut [u8]) {
        let range = self.range(offset, data.len());
        data.iter_mut().zip(&self.0[range]).for_each(|(byte, kept)| *byte = *kept);
    }

    fn memory_write(&mut self, offset: u64, data: &[u8]) {
        let range = self.range(offset, data.len());
        self.0[range].iter_mut().zip(data).for_each(|(kept, byte)| *kept = *byte);
    }
}

fn offset(port: u16, first: u16) -> usize {
    usize::from(port.wrapping_sub(first))
}
