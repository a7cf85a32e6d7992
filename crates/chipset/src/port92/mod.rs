//! System control port A at 0x92: fast A20 and fast reset. A20 is kept and has no effect: all addresses are
//! always reachable.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::bus::{PortDevice, read_bytes, write_bytes};
use crate::power::PowerControl;

/// The port.
pub const PORT: u16 = 0x92;

const FAST_RESET: u8 = 0x01;
const A20: u8 = 0x02;

/// The port's register.
pub struct Port92 {
    value: u8,
    power: Arc<dyn PowerControl>,
}

impl Port92 {
    /// The port of a machine that `power` resets. A20 is on, as firmware leaves it.
    pub fn new(power: Arc<dyn PowerControl>) -> Self {
        Self { value: A20, power }
    }

    /// Power-on state.
    pub fn reset(&mut self) {
        self.value = A20;
    }

    fn write(&mut self, value: u8) {
        let rising = value & !self.value & FAST_RESET != 0;
        self.value = value;
        if rising {
            self.power.reset();
        }
    }
}

impl PortDevice for Port92 {
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
