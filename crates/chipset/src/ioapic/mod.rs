//! An IOAPIC with 24 inputs (Intel 82093AA data sheet, order number 290566; the EOI register of version
//! 0x20 as in the ICH datasheets, "I/O Advanced Programmable Interrupt Controller").
//!
//! A [`Line`] that is high counts as asserted: the polarity bit is kept and has no effect, since lines carry
//! meanings and not voltages. Edges that arrive while an input is masked are lost, as on the chip.
//!
//! Not emulated: the arbitration id (reads as the id), delivery status (always idle).

mod registers;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, OnceLock};

use interrupt::{EoiListener, InputListener, Line, Message, MessageTarget};

use crate::bus::{MmioDevice, put_value, value_of};
use crate::sync::lock;
use registers::{REDIRECTION_WRITABLE, Redirection};

/// Where firmware expects the first IOAPIC.
pub const DEFAULT_ADDRESS: u64 = 0xfec0_0000;
/// Length of its range.
pub const LENGTH: u64 = 0x1000;
/// How many inputs it has.
pub const PINS: usize = 24;

const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const END_OF_INTERRUPT: u64 = 0x40;

const ID: u8 = 0x00;
const VERSION: u8 = 0x01;
const ARBITRATION: u8 = 0x02;
const REDIRECTIONS: u8 = 0x10;

const VERSION_VALUE: u32 = (PINS as u32 - 1) << 16 | 0x20;

#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    select: u8,
    id: u8,
    redirections: [Redirection; PINS],
    /// Levels of the inputs, a bit each.
    lines: u32,
}

impl State {
    fn power_on(lines: u32) -> Self {
        Self { select: 0, id: 0, redirections: [Redirection::new().with_masked(true); PINS], lines }
    }
}

/// The IOAPIC. As an [`MmioDevice`] it answers its range through an `Arc`.
pub struct IoApic {
    state: Mutex<State>,
    target: Arc<dyn MessageTarget>,
    listener: OnceLock<Arc<dyn InputListener>>,
}

impl IoApic {
    /// An IOAPIC whose messages go to `target`.
    pub fn new(target: Arc<dyn MessageTarget>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State::power_on(0)), target, listener: OnceLock::new() })
    }

    /// Says who hears of how the inputs are set up. The first call counts.
    pub fn connect_listener(&self, listener: Arc<dyn InputListener>) {
        let _first = self.listener.set(listener);
    }

    /// The interrupt input `pin`; nothing beyond the last one.
    pub fn line(self: &Arc<Self>, pin: u8) -> Arc<dyn Line> {
        Arc::new(Input { ioapic: Arc::clone(self), pin: usize::from(pin) })
    }

    /// Power-on state. Lines keep their levels.
    pub fn reset(&self) {
        let mut state = lock(&self.state);
        *state = State::power_on(state.lines);
    }

    fn set_line(&self, pin: usize, high: bool) {
        if pin >= PINS {
            return;
        }
        let mut state = lock(&self.state);
        let bit = 1 << pin;
        let rising = high && state.lines & bit == 0;
        state.lines = if high { state.lines | bit } else { state.lines & !bit };
        let entry = state.redirections[pin];
        if entry.acts_on_level() {
            self.serve_level(&mut state, pin);
        } else if rising && !entry.masked() {
            self.send(entry);
        }
    }

    /// Sends a level interrupt if its line asks for it and the last one has been ended.
    fn serve_level(&self, state: &mut State, pin: usize) {
        let entry = state.redirections[pin];
        if entry.acts_on_level() && state.lines & 1 << pin != 0 && !entry.masked() && !entry.remote_irr() {
            state.redirections[pin].set_remote_irr(true);
            self.send(entry);
        }
    }

    fn send(&self, entry: Redirection) {
        self.target.send(message(entry));
    }

    fn tell(&self, pin: usize, entry: Redirection) {
        if let Some(listener) = self.listener.get() {
            listener.input_set_up(pin, (!entry.masked()).then(|| message(entry)));
        }
    }

    fn read_register(&self) -> u32 {
        let state = lock(&self.state);
        match state.select {
            ID | ARBITRATION => u32::from(state.id) << 24,
            VERSION => VERSION_VALUE,
            select => {
                let index = usize::from(select.wrapping_sub(REDIRECTIONS));
                let entry = state.redirections.get(index / 2).map_or(0, |entry| entry.into_bits());
                (entry >> (32 * (index % 2))) as u32
            }
        }
    }

    fn write_register(&self, value: u32) {
        let mut state = lock(&self.state);
        match state.select {
            ID => state.id = (value >> 24) as u8 & 0x0f,
            select => {
                let index = usize::from(select.wrapping_sub(REDIRECTIONS));
                let (pin, shift) = (index / 2, 32 * (index % 2));
                let Some(entry) = state.redirections.get_mut(pin) else { return };
                let mask = REDIRECTION_WRITABLE & 0xffff_ffff << shift;
                let bits = entry.into_bits() & !mask | u64::from(value) << shift & mask;
                *entry = Redirection::from_bits(bits);
                if !entry.level() {
                    // Kernels switch an input to edge and back to end an interrupt without the EOI register.
                    entry.set_remote_irr(false);
                }
                let entry = *entry;
                self.tell(pin, entry);
                self.serve_level(&mut state, pin);
            }
        }
    }
}

/// What an input sends.
fn message(entry: Redirection) -> Message {
    let destination = u64::from(entry.destination()) << 12;
    let address = 0xfee0_0000 | destination | u64::from(entry.logical()) << 2;
    let data = u32::from(entry.vector())
        | u32::from(entry.delivery_mode()) << 8
        | 1 << 14
        | u32::from(entry.acts_on_level()) << 15;
    Message { address, data }
}

impl EoiListener for IoApic {
    fn end_of_interrupt(&self, vector: u8) {
        let mut state = lock(&self.state);
        for pin in 0..PINS {
            let entry = &mut state.redirections[pin];
            if entry.remote_irr() && entry.vector() == vector {
                entry.set_remote_irr(false);
                self.serve_level(&mut state, pin);
            }
        }
    }
}

impl MmioDevice for Arc<IoApic> {
    fn memory_read(&mut self, offset: u64, data: &mut [u8]) {
        match offset {
            SELECT => put_value(data, u32::from(lock(&self.state).select)),
            WINDOW => put_value(data, self.read_register()),
            _ => data.fill(0),
        }
    }

    fn memory_write(&mut self, offset: u64, data: &[u8]) {
        let value = value_of(data);
        match offset {
            SELECT => lock(&self.state).select = value as u8,
            WINDOW => self.write_register(value),
            END_OF_INTERRUPT => self.end_of_interrupt(value as u8),
            _ => {}
        }
    }
}

struct Input {
    ioapic: Arc<IoApic>,
    pin: usize,
}

impl Line for Input {
    fn set(&self, high: bool) {
        self.ioapic.set_line(self.pin, high);
    }
}
