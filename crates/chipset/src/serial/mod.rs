//! A 16550A serial port (National Semiconductor PC16550D data sheet, June 1995).
//!
//! What the guest sends is written out at once; what it is to receive waits in a bounded queue behind the
//! receive FIFO, from which the FIFO is filled again as the guest reads, so that nothing is ever overrun. The
//! other side honours RTS: input waits until the guest asserts it, so that a driver that clears the FIFO while
//! it starts loses nothing that was typed ahead.
//!
//! Different from the chip: characters take no time, whatever the baud rate; data below the trigger level
//! counts as timed out at once. Not emulated: parity, framing, break, DMA signals.

mod registers;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;

use counters::DeviceCounters;
use interrupt::Line;

use crate::bus::{PortDevice, read_bytes, write_bytes};
use registers::*;

/// First port of COM1.
pub const COM1: u16 = 0x3f8;
/// First port of COM2.
pub const COM2: u16 = 0x2f8;
/// Interrupt of COM1.
pub const COM1_IRQ: u8 = 4;
/// Interrupt of COM2.
pub const COM2_IRQ: u8 = 3;
/// How many ports it has.
pub const PORTS: u16 = 8;

/// Depth of the receive FIFO.
const FIFO_DEPTH: usize = 16;
/// How many bytes wait for the guest at most.
pub const INPUT_LIMIT: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    interrupt_enable: InterruptEnable,
    line_control: u8,
    modem_control: ModemControl,
    modem_status: ModemStatus,
    scratch: u8,
    divisor: u16,
    fifo_enabled: bool,
    /// Bytes in the FIFO at which it interrupts.
    trigger: usize,
    overrun: bool,
    /// The transmitter has become empty since the guest was told.
    holding_empty: bool,
    /// The receive FIFO, or the one receive buffer.
    received: VecDeque<u8>,
    /// What waits behind it.
    waiting: VecDeque<u8>,
}

impl State {
    fn power_on() -> Self {
        Self {
            interrupt_enable: InterruptEnable::new(),
            line_control: 0,
            modem_control: ModemControl::new(),
            modem_status: connected(),
            scratch: 0,
            divisor: 12,
            fifo_enabled: false,
            trigger: 1,
            overrun: false,
            holding_empty: false,
            received: VecDeque::new(),
            waiting: VecDeque::new(),
        }
    }

    fn capacity(&self) -> usize {
        if self.fifo_enabled { FIFO_DEPTH } else { 1 }
    }

    fn refill(&mut self) {
        if self.modem_control.loopback() || !self.modem_control.request_to_send() {
            return;
        }
        let room = self.capacity().saturating_sub(self.received.len()).min(self.waiting.len());
        self.received.extend(self.waiting.drain(..room));
    }

    /// The most urgent reason to interrupt.
    fn interrupt_id(&self) -> u8 {
        let enable = self.interrupt_enable;
        let deltas = self.modem_status.into_bits() & 0x0f;
        if enable.line_status() && self.overrun {
            LINE_STATUS
        } else if enable.received_data() && self.received.len() >= self.trigger {
            RECEIVED_DATA
        } else if enable.received_data() && !self.received.is_empty() {
            CHARACTER_TIMEOUT
        } else if enable.transmitter_empty() && self.holding_empty {
            HOLDING_EMPTY
        } else if enable.modem_status() && deltas != 0 {
            MODEM_STATUS
        } else {
            NO_INTERRUPT
        }
    }

    /// What the modem lines show: in loopback the port's own outputs, else a modem that is there.
    fn modem_lines(&self) -> ModemStatus {
        let control = self.modem_control;
        if control.loopback() {
            ModemStatus::new()
                .with_clear_to_send(control.request_to_send())
                .with_data_set_ready(control.data_terminal_ready())
                .with_ring(control.out1())
                .with_carrier(control.out2())
        } else {
            connected()
        }
    }

    fn set_modem_control(&mut self, value: u8) {
        self.modem_control = ModemControl::from_bits(value & 0x1f);
        let (old, lines) = (self.modem_status, self.modem_lines());
        let ring_ended = old.ring() && !lines.ring();
        self.modem_status = lines
            .with_delta_clear_to_send(
                old.delta_clear_to_send() || old.clear_to_send() != lines.clear_to_send(),
            )
            .with_delta_data_set_ready(
                old.delta_data_set_ready() || old.data_set_ready() != lines.data_set_ready(),
            )
            .with_trailing_edge_ring(old.trailing_edge_ring() || ring_ended)
            .with_delta_carrier(old.delta_carrier() || old.carrier() != lines.carrier());
        self.refill();
    }

    fn set_fifo_control(&mut self, value: u8) {
        let enabled = value & FIFO_ENABLE != 0;
        if enabled != self.fifo_enabled || value & FIFO_CLEAR_RECEIVE != 0 {
            self.received.clear();
        }
        self.fifo_enabled = enabled;
        let level = [1, 4, 8, 14][usize::from(value >> 6)];
        self.trigger = if enabled { level } else { 1 };
        self.refill();
    }
}

fn connected() -> ModemStatus {
    ModemStatus::new().with_clear_to_send(true).with_data_set_ready(true).with_carrier(true)
}

/// The serial port. Answers [`PORTS`] ports from its base.
pub struct Serial {
    base: u16,
    state: State,
    /// Level of the interrupt as last told.
    interrupting: bool,
    irq: Arc<dyn Line>,
    output: Box<dyn Write + Send>,
    output_failed: bool,
    counters: DeviceCounters,
}

impl Serial {
    /// A port at `base` that writes what the guest sends to `output`, which should not block for long: the
    /// sending processor waits for it.
    pub fn new(
        base: u16,
        irq: Arc<dyn Line>,
        output: Box<dyn Write + Send>,
        counters: DeviceCounters,
    ) -> Self {
        Self {
            base,
            state: State::power_on(),
            interrupting: false,
            irq,
            output,
            output_failed: false,
            counters,
        }
    }

    /// Power-on state. Input that waits is kept.
    pub fn reset(&mut self) {
        let waiting = std::mem::take(&mut self.state.waiting);
        self.state = State { waiting, ..State::power_on() };
        self.state.refill();
        self.update();
    }

    /// Bytes for the guest. Returns how many were taken: fewer than offered when the queue is full; the rest
    /// is to be offered again later.
    pub fn receive(&mut self, data: &[u8]) -> usize {
        let taken = data.len().min(self.room());
        self.state.waiting.extend(data.iter().take(taken));
        self.counters.bytes_in.add(taken as u64);
        self.state.refill();
        self.update();
        taken
    }

    /// How many bytes [`Self::receive`] would take now.
    pub fn room(&self) -> usize {
        INPUT_LIMIT.saturating_sub(self.state.waiting.len())
    }

    fn update(&mut self) {
        // OUT2 gates the interrupt on a PC; in loopback it is held inactive.
        let control = self.state.modem_control;
        let gate = control.out2() && !control.loopback();
        let interrupting = gate && self.state.interrupt_id() != NO_INTERRUPT;
        if interrupting != self.interrupting {
            self.interrupting = interrupting;
            if interrupting {
                self.counters.interrupts.count();
            }
            self.irq.set(interrupting);
        }
    }

    fn transmit(&mut self, byte: u8) {
        if self.state.modem_control.loopback() {
            if self.state.received.len() < self.state.capacity() {
                self.state.received.push_back(byte);
            } else {
                self.state.overrun = true;
            }
        } else {
            self.counters.bytes_out.count();
            let written = self.output.write_all(&[byte]).and_then(|()| self.output.flush());
            if let Err(error) = written
                && !std::mem::replace(&mut self.output_failed, true)
            {
                tracing::warn!("serial port {:#x}: output is lost: {error}", self.base);
            }
        }
        self.state.holding_empty = true;
    }

    fn read(&mut self, register: u16) -> u8 {
        let divisor_latch = self.state.line_control & DIVISOR_LATCH != 0;
        let state = &mut self.state;
        let value = match register {
            0 if divisor_latch => state.divisor as u8,
            0 => {
                let byte = state.received.pop_front().unwrap_or(0);
                state.refill();
                byte
            }
            1 if divisor_latch => (state.divisor >> 8) as u8,
            1 => state.interrupt_enable.into_bits(),
            2 => {
                let id = state.interrupt_id();
                if id == HOLDING_EMPTY {
                    state.holding_empty = false;
                }
                id | if state.fifo_enabled { FIFOS_ENABLED } else { 0 }
            }
            3 => state.line_control,
            4 => state.modem_control.into_bits(),
            5 => {
                let ready = if state.received.is_empty() { 0 } else { DATA_READY };
                let overrun = if std::mem::take(&mut state.overrun) { OVERRUN } else { 0 };
                TRANSMITTER_EMPTY | ready | overrun
            }
            6 => {
                let status = state.modem_status.into_bits();
                state.modem_status = ModemStatus::from_bits(status & 0xf0);
                status
            }
            7 => state.scratch,
            _ => 0xff,
        };
        self.update();
        value
    }

    fn write(&mut self, register: u16, value: u8) {
        let divisor_latch = self.state.line_control & DIVISOR_LATCH != 0;
        let state = &mut self.state;
        match register {
            0 if divisor_latch => state.divisor = state.divisor & 0xff00 | u16::from(value),
            0 => self.transmit(value),
            1 if divisor_latch => state.divisor = state.divisor & 0x00ff | u16::from(value) << 8,
            1 => {
                let enable = InterruptEnable::from_bits(value & 0x0f);
                if enable.transmitter_empty() && !state.interrupt_enable.transmitter_empty() {
                    state.holding_empty = true;
                }
                state.interrupt_enable = enable;
            }
            2 => state.set_fifo_control(value),
            3 => state.line_control = value,
            4 => state.set_modem_control(value),
            7 => state.scratch = value,
            // Line and modem status are read-only.
            _ => {}
        }
        self.update();
    }
}

impl PortDevice for Serial {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        read_bytes(port, data, |port| self.read(port.wrapping_sub(self.base)));
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        write_bytes(port, data, |port, value| self.write(port.wrapping_sub(self.base), value));
    }
}
