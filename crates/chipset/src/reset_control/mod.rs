//! The reset control register at port 0xcf9 (82371AB data sheet, section 4.2.6).

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::bus::{PortDevice, read_bytes, write_bytes};
use crate::power::PowerControl;

/// The port. Byte accesses only: wider ones that begin at 0xcf8 are PCI configuration addresses.
pub const PORT: u16 = 0xcf9;
/// The value that resets the whole machine.
pub const RESET: u8 = 0x06;

/// Setting this bit resets.
const RESET_CPU: u8 = 0x04;
const WRITABLE: u8 = 0x0e;

/// The register. Both kinds of reset it knows, of processor and system, reset the machine.
pub struct ResetControl {
    value: u8,
    power: Arc<dyn PowerControl>,
}

impl ResetControl {
    /// The register of a machine that `power` resets.
    pub fn new(power: Arc<dyn PowerControl>) -> Self {
        Self { value: 0, power }
    }

    /// Power-on state.
    pub fn reset(&mut self) {
        self.value = 0;
    }

    fn write(&mut self, value: u8) {
        let rising = value & !self.value & RESET_CPU != 0;
        self.value = value & WRITABLE;
        if rising {
            self.power.reset();
        }
    }
}

impl PortDevice for ResetControl {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        read_bytes(port, data, |port| if port == PORT { self.value } else { 0xff });
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        write_bytes(port, data, |port, value| {
            if port == PORT {
                self.write(value);
            }
        });
    }
}
