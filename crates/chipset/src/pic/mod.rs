//! Two cascaded 8259A interrupt controllers with the edge/level control registers of PIIX4 (Intel 8259A
//! data sheet, order number 231468; 82371AB (PIIX4) data sheet, section 4.2.4).
//!
//! ```text
//! IRQ 8–15 ─▶ slave ─IR2─▶ master ─INTR─▶ LINT0 of the boot processor
//!             IRQ 0, 1, 3–7 ─▶┘
//! ```
//!
//! Different from the chip: an edge stays latched until it is acknowledged even if the line falls before
//! (the chip would answer with the spurious vector 7), as device models may pulse their lines. Not emulated:
//! 8080 mode, buffered mode, more than the one slave at IR2; LTIM of ICW1 is ignored as in PIIX4, where the
//! ELCR has taken its place.

mod chip;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};

use interrupt::{ExternalInterrupts, Line};

use crate::bus::{PortDevice, read_bytes, write_bytes};
use crate::sync::lock;
use chip::Chip;

/// First port of the master.
pub const MASTER_PORT: u16 = 0x20;
/// First port of the slave.
pub const SLAVE_PORT: u16 = 0xa0;
/// First of the two edge/level control registers.
pub const ELCR_PORT: u16 = 0x4d0;

/// The inputs that firmware makes level triggered, a bit each: those of the SCI and of PCI functions.
pub const FIRMWARE_LEVELS: u16 = 1 << 9 | 1 << 10 | 1 << 11;

/// The master's input that the slave drives.
const CASCADE: u8 = 2;
/// IRQs 0 (timer), 1 (keyboard) and 2 (cascade) are always edge triggered,
const ELCR_MASTER: u8 = 0xf8;
/// and so are 8 (RTC) and 13 (FPU).
const ELCR_SLAVE: u8 = 0xde;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    master: Chip,
    slave: Chip,
    /// Level of INTR as last told.
    output: bool,
}

/// The pair of controllers. As a [`PortDevice`] it answers ports 0x20–0x21, 0xa0–0xa1 and 0x4d0–0x4d1
/// through an `Arc`.
pub struct Pic {
    state: Mutex<State>,
    output: Arc<dyn Line>,
}

impl Pic {
    /// Controllers whose INTR drives `output`.
    pub fn new(output: Arc<dyn Line>) -> Arc<Self> {
        let pic = Arc::new(Self { state: Mutex::default(), output });
        pic.reset();
        pic
    }

    /// The interrupt input `irq` (0–15; the cascade input 2 leads nowhere).
    pub fn line(self: &Arc<Self>, irq: u8) -> Arc<dyn Line> {
        Arc::new(Input { pic: Arc::clone(self), irq: irq & 15 })
    }

    /// Power-on state, but for the ELCR, which is as firmware leaves it. Lines keep their levels.
    pub fn reset(&self) {
        let mut state = lock(&self.state);
        let [master, slave] = FIRMWARE_LEVELS.to_le_bytes();
        state.master.reset();
        state.master.set_levels(master);
        state.slave.reset();
        state.slave.set_levels(slave);
        self.update(&mut state);
    }

    fn set_line(&self, irq: u8, high: bool) {
        let mut state = lock(&self.state);
        match irq {
            CASCADE => {}
            0..8 => state.master.set_line(irq, high),
            _ => state.slave.set_line(irq - 8, high),
        }
        self.update(&mut state);
    }

    fn read(&self, port: u16) -> u8 {
        let mut state = lock(&self.state);
        let value = match port {
            MASTER_PORT => state.master.read_command(),
            0x21 => state.master.mask(),
            SLAVE_PORT => state.slave.read_command(),
            0xa1 => state.slave.mask(),
            ELCR_PORT => state.master.levels(),
            0x4d1 => state.slave.levels(),
            _ => 0xff,
        };
        self.update(&mut state);
        value
    }

    fn write(&self, port: u16, value: u8) {
        let mut state = lock(&self.state);
        match port {
            MASTER_PORT => state.master.write_command(value),
            0x21 => state.master.write_data(value),
            SLAVE_PORT => state.slave.write_command(value),
            0xa1 => state.slave.write_data(value),
            ELCR_PORT => state.master.set_levels(value & ELCR_MASTER),
            0x4d1 => state.slave.set_levels(value & ELCR_SLAVE),
            _ => {}
        }
        self.update(&mut state);
    }

    /// Passes the slave's request on to the master and the master's to INTR.
    fn update(&self, state: &mut State) {
        let cascaded = state.slave.request().is_some();
        state.master.set_cascade(CASCADE, cascaded);
        let output = state.master.request().is_some();
        if output != state.output {
            state.output = output;
            self.output.set(output);
        }
    }
}

impl ExternalInterrupts for Pic {
    fn pending(&self) -> bool {
        lock(&self.state).output
    }

    fn acknowledge(&self) -> u8 {
        let mut state = lock(&self.state);
        let vector = match state.master.acknowledge() {
            Some(CASCADE) => {
                let irq = state.slave.acknowledge().unwrap_or(7);
                state.slave.vector(irq)
            }
            Some(irq) => state.master.vector(irq),
            None => state.master.vector(7),
        };
        // INTR falls with the acknowledge cycle and rises again for the next request.
        if std::mem::take(&mut state.output) {
            self.output.set(false);
        }
        self.update(&mut state);
        vector
    }
}

impl PortDevice for Arc<Pic> {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        read_bytes(port, data, |port| self.read(port));
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        write_bytes(port, data, |port, value| self.write(port, value));
    }
}

struct Input {
    pic: Arc<Pic>,
    irq: u8,
}

impl Line for Input {
    fn set(&self, high: bool) {
        self.pic.set_line(self.irq, high);
    }
}
