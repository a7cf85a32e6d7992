//! An 8254 programmable interval timer with port 0x61 (Intel 8254 data sheet, order number 231164; 82371AB
//! (PIIX4) data sheet, section 4.2.5 and the NMI status and control register).
//!
//! ```text
//! 1.193182 MHz ─▶ channel 0 ─OUT─▶ IRQ 0
//!               ▶ channel 1        (once refreshed memory)
//!               ▶ channel 2 ─OUT─▶ port 0x61 bit 5, speaker
//!                    ▲ gate: port 0x61 bit 0
//! ```
//!
//! Different from the chip: a count is taken at once and not with the next clock; changes of OUT that are
//! too fast to be told one by one are told at most every [`SHORTEST_PERIOD`]. Not emulated: sound, the
//! parity and I/O check NMIs of port 0x61.

mod channel;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, Weak};

use clock::{Clock, NANOSECONDS, Timer, Timers};
use interrupt::Line;

use crate::bus::{PortDevice, read_bytes, write_bytes};
use crate::sync::lock;
use channel::Channel;

/// First of the four ports.
pub const PORT: u16 = 0x40;
/// NMI status and control: gate and output of channel 2.
pub const CONTROL_PORT_B: u16 = 0x61;
/// Ticks in a second.
pub const FREQUENCY: u64 = 1_193_182;
/// The shortest time between two interrupts, in nanoseconds: keeps a guest from keeping a host thread busy.
pub const SHORTEST_PERIOD: u64 = 50_000;

/// How long the refresh toggle of port 0x61 keeps its value, in nanoseconds.
const REFRESH: u64 = 15_085;

/// Gate 2, speaker, and the two NMI enables.
const CONTROL_B_WRITABLE: u8 = 0x0f;

/// The timer. Answers ports 0x40–0x43 and 0x61.
pub struct Pit {
    channels: [Channel; 3],
    control_b: u8,
    clock: Arc<dyn Clock>,
    timer: Box<dyn Timer>,
    irq: Arc<dyn Line>,
}

impl Pit {
    /// A timer whose channel 0 drives `irq`.
    pub fn new(clock: Arc<dyn Clock>, timers: &dyn Timers, irq: Arc<dyn Line>) -> Arc<Mutex<Self>> {
        Arc::new_cyclic(|pit: &Weak<Mutex<Self>>| {
            let pit = pit.clone();
            let timer = timers.timer(Box::new(move || {
                if let Some(pit) = pit.upgrade() {
                    lock(&pit).expired();
                }
            }));
            Mutex::new(Self { channels: power_on(), control_b: 0, clock, timer, irq })
        })
    }

    /// Power-on state.
    pub fn reset(&mut self) {
        self.channels = power_on();
        self.control_b = 0;
        self.follow_output();
    }

    fn tick(&self) -> u64 {
        (u128::from(self.clock.now()) * u128::from(FREQUENCY) / u128::from(NANOSECONDS)) as u64
    }

    /// Channel 0 has been programmed: OUT takes its new level, and the next rise is waited for.
    fn follow_output(&mut self) {
        let tick = self.tick();
        let output = self.channels[0].output(tick);
        self.irq.set(output);
        self.wait(tick, 0);
    }

    /// The callback of the timer: OUT has risen.
    fn expired(&mut self) {
        let tick = self.tick();
        self.channels[0].advance(tick);
        self.irq.set(false);
        self.irq.set(true);
        self.wait(tick, self.clock.now().saturating_add(SHORTEST_PERIOD));
    }

    /// Waits for the next rise after `tick`, not before `earliest`.
    fn wait(&self, tick: u64, earliest: u64) {
        match self.channels[0].next_rise(tick) {
            Some(rise) => self.timer.arm(time_of(rise).max(earliest)),
            None => self.timer.disarm(),
        }
    }

    fn read(&mut self, port: u16) -> u8 {
        let tick = self.tick();
        match port {
            CONTROL_PORT_B => {
                let refresh = (self.clock.now() / REFRESH) & 1 != 0;
                self.channels[2].advance(tick);
                let output = self.channels[2].output(tick);
                self.control_b | u8::from(refresh) << 4 | u8::from(output) << 5
            }
            // The control word cannot be read.
            _ => match self.channels.get_mut(usize::from(port.wrapping_sub(PORT))) {
                Some(channel) => channel.read(tick),
                None => 0xff,
            },
        }
    }

    fn write(&mut self, port: u16, value: u8) {
        let tick = self.tick();
        match port {
            CONTROL_PORT_B => {
                self.control_b = value & CONTROL_B_WRITABLE;
                self.channels[2].set_gate(value & 1 != 0, tick);
            }
            0x43 => self.control(value, tick),
            _ => {
                let index = usize::from(port.wrapping_sub(PORT));
                if let Some(channel) = self.channels.get_mut(index) {
                    channel.write(value, tick);
                    if index == 0 {
                        self.follow_output();
                    }
                }
            }
        }
    }

    fn control(&mut self, word: u8, tick: u64) {
        let select = usize::from(word >> 6);
        match self.channels.get_mut(select) {
            Some(channel) if word & 0x30 == 0 => channel.latch_count(tick),
            Some(channel) => {
                channel.control(word);
                if select == 0 {
                    self.follow_output();
                }
            }
            None => self.read_back(word, tick),
        }
    }

    /// The read-back command: bits 5 and 4 are low for what is latched.
    fn read_back(&mut self, word: u8, tick: u64) {
        for (index, channel) in self.channels.iter_mut().enumerate() {
            if word >> (index + 1) & 1 != 0 {
                if word & 0x20 == 0 {
                    channel.latch_count(tick);
                }
                if word & 0x10 == 0 {
                    channel.latch_status(tick);
                }
            }
        }
    }
}

/// Gates 0 and 1 are wired high.
fn power_on() -> [Channel; 3] {
    [Channel::new(true), Channel::new(true), Channel::new(false)]
}

/// The time, in nanoseconds, at which `tick` has been counted.
fn time_of(tick: u64) -> u64 {
    (u128::from(tick) * u128::from(NANOSECONDS)).div_ceil(u128::from(FREQUENCY)) as u64
}

impl PortDevice for Pit {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        read_bytes(port, data, |port| self.read(port));
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        write_bytes(port, data, |port, value| self.write(port, value));
    }
}
