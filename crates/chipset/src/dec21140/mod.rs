//! A DEC 21140A, the Fast Ethernet controller that is the legacy network adapter of Hyper-V (Digital Semiconductor 21140A
//! PCI Fast Ethernet LAN Controller, Hardware Reference Manual, EC-QN7NE-TE), on a board with a serial ROM and an MII PHY.
//!
//! ```text
//!             PCI ─▶ CSR0–CSR15, by ports or memory
//!                      │ CSR1: look!        │ CSR9: bit by bit
//!   guest memory       ▼                    ├──▶ serial ROM: address, media
//!   ┌─ descriptors ─▶ transmit process ──┐  └──▶ MII ─▶ PHY: link, speed
//!   │                  │ setup frame     └─▶ Wire
//!   │                  ▼
//!   └─ descriptors ◀─ receive process ◀── filter ◀── Dec21140::receive
//! ```
//!
//! A frame is sent within the access that starts or wakes the transmit process. A list that leads to where no memory is
//! ends in a fatal bus error, after which nothing but a reset helps, as on the chip.
//!
//! Different from the chip: frames for which the host has no descriptors wait in more memory than the chip has, and the
//! receive process looks for new descriptors not only at the next frame and when it is told (CSR2), but at each access to
//! a register and every [`RETRY`]; what is too much then is counted as missed. A frame counts as one that does not end
//! from [`LONGEST_FRAME`] bytes on. With an interval of automatic polling shorter than 81.92 µs it is that.
//!
//! Not emulated: the boot ROM and the external register (they read as ones), writes to the serial ROM, the 10BASE-T and
//! symbol ports, speed and collisions, swapped bytes in buffers (BLE), early interrupts, sleep and snooze mode, the FIFO
//! overflow counter (there is no overflow), pins of the general-purpose port (inputs are high).
//!
//! The machine's bus counts exits; the adapter counts frames as requests, and bytes.

mod check;
mod dma;
mod filter;
mod mii;
mod receive;
mod registers;
mod srom;
mod transmit;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};

use clock::{Clock, Timer, Timers};
use counters::{Counter, DeviceCounters};
use guest_memory::GuestMemory;
use interrupt::Line;

use crate::bus::{MmioDevice, PortDevice, put_value, value_of};
use crate::pci::{BarKind, BarMapping, ConfigSpace, FunctionAddress, Identity, PciFunction};
use crate::sync::lock;
use crate::unhandled::Unhandled;
use dma::{Dma, List};
use filter::Filter;
use mii::Mii;
use receive::Received;
use registers::{
    ABNORMAL, BusMode, FILTER_KIND, MASKABLE, MASTER_ABORT, MODE_AFTER_RESET, NORMAL, OperationMode, Serial,
    Status, TransmitControl, Watchdog,
};
use srom::SerialRom;

/// The regions of the registers, both of them BARs: ports, and memory. See [`crate::pci::BarMapping::region`].
pub const REGIONS: [usize; 2] = [0, 1];
/// Bytes of either.
pub const REGION_SIZE: u32 = 128;
/// Bytes of the longest frame, without its check sequence.
pub const LONGEST_FRAME: usize = 2043;
/// How often the receive process looks for descriptors by itself while frames wait, in nanoseconds.
pub const RETRY: u64 = 1_000_000;

/// Bytes of the shortest frame on a wire, without its check sequence.
const SHORTEST_FRAME: usize = 60;

/// As Hyper-V's, which Windows' driver asks for.
const IDENTITY: Identity = Identity {
    vendor: 0x1011,
    device: 0x0009,
    revision: 0x20,
    class: 0x02_0000,
    subsystem_vendor: 0x0a00,
    subsystem: 0x2114,
    multifunction: false,
};
/// CFDD, of which the bits for sleep, snooze and the driver keep what is written.
const DRIVER_AREA: u8 = 0x40;

/// The clock of timers on the port for 10 Mbit/s, and on the MII port with 10 and 100 Mbit/s, in nanoseconds.
const SERIAL_CYCLE: u64 = 204_800;
const MII_10_CYCLE: u64 = 819_200;
const MII_100_CYCLE: u64 = 81_920;
/// Cycles of automatic polling, by TAP.
const POLLING: [Option<u64>; 8] = [None, Some(1), Some(3), Some(7), Some(1), Some(1), Some(1), Some(1)];

/// Where adapter `index` sits, on Hyper-V and here.
pub const fn address(index: u8) -> FunctionAddress {
    FunctionAddress::new(10 + index, 0)
}

/// What an adapter is plugged into.
pub trait Wire: Send {
    /// Sends a frame, without its check sequence, of at most [`LONGEST_FRAME`] bytes.
    fn send(&self, frame: Vec<u8>);
}

/// What an adapter is made of.
pub struct Settings {
    /// The address in its serial ROM.
    pub mac: [u8; 6],
    /// What it reaches as a bus master.
    pub memory: GuestMemory,
    /// What its timers go by.
    pub clock: Arc<dyn Clock>,
    /// Its interrupt pin.
    pub line: Arc<dyn Line>,
    /// Where its frames go.
    pub wire: Box<dyn Wire>,
    /// Its row of the device table.
    pub counters: DeviceCounters,
}

/// What one of the two processes does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Process {
    Stopped,
    Running,
    /// Waits for descriptors.
    Suspended,
}

/// The adapter: a PCI function, and a device for ports and memory.
pub struct Dec21140 {
    mac: [u8; 6],
    config: ConfigSpace,
    dma: Dma,
    line: Arc<dyn Line>,
    /// What the line was told last.
    high: bool,
    wire: Box<dyn Wire>,
    clock: Arc<dyn Clock>,
    counters: DeviceCounters,
    dropped: Counter,
    unhandled: Unhandled,

    bus_mode: BusMode,
    mode: OperationMode,
    /// Events of CSR5.
    events: u32,
    mask: u32,
    /// Why nothing goes on until a reset.
    fatal: Option<u8>,
    serial: Serial,
    srom: SerialRom,
    mii: Mii,
    rom_address: u32,
    watchdog: Watchdog,
    /// Of the general-purpose port: which pins are outputs, and what they are.
    outputs: u8,
    port: u8,

    /// The general-purpose timer.
    timer: Box<dyn Timer>,
    period: u64,
    continuous: bool,
    deadline: Option<u64>,
    /// Lets a process look at its list again.
    poll: Box<dyn Timer>,

    filter: Filter,
    transmitter: Process,
    transmit_list: List,
    /// What has been gathered of a frame, and what its first descriptor says.
    frame: Vec<u8>,
    begun: Option<TransmitControl>,
    receiver: Process,
    receive_list: List,
    waiting: VecDeque<Received>,
    waiting_bytes: usize,
    missed: u32,
}

impl Dec21140 {
    /// An adapter as after power-on, with its link up.
    pub fn new(settings: Settings, timers: &dyn Timers) -> Arc<Mutex<Self>> {
        let Settings { mac, memory, clock, line, wire, counters } = settings;
        let mut config = ConfigSpace::new(IDENTITY)
            .with_bar(REGIONS[0], BarKind::Io, REGION_SIZE)
            .with_bar(REGIONS[1], BarKind::Memory { prefetchable: false }, REGION_SIZE)
            .with_interrupt_pin(1);
        // Fast back-to-back capable, medium DEVSEL timing.
        config.set(0x04, 0x0280_0000);
        // How long it can wait for the bus, and how long it wants to keep it.
        config.set(0x3c, config.read(0x3c) | 0x2814_0000);
        config.set_writable(DRIVER_AREA, 0xc000_ff00);
        Arc::new_cyclic(|adapter: &Weak<Mutex<Self>>| {
            let timer = |expired: fn(&mut Self)| {
                let adapter = adapter.clone();
                timers.timer(Box::new(move || {
                    if let Some(adapter) = adapter.upgrade() {
                        let mut adapter = lock(&adapter);
                        expired(&mut adapter);
                        adapter.update_line();
                    }
                }))
            };
            Mutex::new(Self {
                mac,
                config,
                dma: Dma::new(memory),
                line,
                high: false,
                wire,
                clock,
                counters,
                dropped: Counter::default(),
                unhandled: Unhandled::default(),
                bus_mode: BusMode::new(),
                mode: OperationMode::from_bits(MODE_AFTER_RESET),
                events: 0,
                mask: 0,
                fatal: None,
                serial: Serial::new(),
                srom: SerialRom::new(mac, &IDENTITY),
                mii: Mii::new(),
                rom_address: 0,
                watchdog: Watchdog::new(),
                outputs: 0,
                port: 0,
                timer: timer(Self::timer_expired),
                period: 0,
                continuous: false,
                deadline: None,
                poll: timer(Self::poll),
                filter: Filter::None,
                transmitter: Process::Stopped,
                transmit_list: List::default(),
                frame: Vec::new(),
                begun: None,
                receiver: Process::Stopped,
                receive_list: List::default(),
                waiting: VecDeque::new(),
                waiting_bytes: 0,
                missed: 0,
            })
        })
    }

    /// Connects the adapter, or pulls its plug.
    pub fn set_link(&mut self, up: bool) {
        self.mii.set_link(up);
    }

    /// The address that it was made with.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Whether a driver sends and receives.
    pub fn is_started(&self) -> bool {
        self.transmitter != Process::Stopped && self.receiver != Process::Stopped
    }

    /// Frames that there was no room, no end or no link for, in either direction.
    pub fn dropped(&self) -> u64 {
        self.dropped.value()
    }

    /// A software reset: everything but the configuration, the PHY and the choice of the port.
    fn software_reset(&mut self) {
        self.mode = OperationMode::from_bits(MODE_AFTER_RESET).with_port_select(self.mode.port_select());
        (self.events, self.mask, self.fatal) = (0, 0, None);
        self.serial = Serial::new();
        self.rom_address = 0;
        self.watchdog = Watchdog::new();
        (self.outputs, self.port) = (0, 0);
        self.deadline = None;
        self.timer.disarm();
        self.poll.disarm();
        self.filter = Filter::None;
        (self.transmitter, self.receiver) = (Process::Stopped, Process::Stopped);
        self.frame.clear();
        self.begun = None;
        self.waiting.clear();
        (self.waiting_bytes, self.missed) = (0, 0);
    }

    fn may_master(&self) -> bool {
        self.config.command().bus_master() && self.fatal.is_none()
    }

    fn raise(&mut self, events: Status) {
        self.events |= events.into_bits();
    }

    /// Nothing answers where the adapter has been led: nothing goes on until a reset.
    fn bus_error(&mut self) {
        self.fatal = Some(MASTER_ABORT);
        (self.transmitter, self.receiver) = (Process::Stopped, Process::Stopped);
        self.raise(Status::new().with_bus_error(true));
    }

    fn status(&self) -> Status {
        let enabled = self.events & self.mask;
        let process = |process: Process, running: u8, suspended: u8| match process {
            Process::Stopped => 0,
            Process::Running => running,
            Process::Suspended => suspended,
        };
        Status::from_bits(self.events)
            .with_normal(enabled & NORMAL != 0)
            .with_abnormal(enabled & ABNORMAL != 0)
            // Waits for a frame; suspended.
            .with_receive_process(process(self.receiver, 0b011, 0b100))
            // Fetches a descriptor; suspended.
            .with_transmit_process(process(self.transmitter, 0b001, 0b110))
            .with_error(self.fatal.unwrap_or(0))
    }

    fn update_line(&mut self) {
        let (status, mask) = (self.status(), Status::from_bits(self.mask));
        let pending = status.normal() && mask.normal() || status.abnormal() && mask.abnormal();
        let high = pending && !self.config.command().interrupt_disable();
        if high != self.high {
            self.high = high;
            self.line.set(high);
        }
    }

    /// The cycle of both timers.
    fn cycle(&self) -> u64 {
        match (self.mode.port_select(), self.mode.ten_megabits()) {
            (false, _) => SERIAL_CYCLE,
            (true, true) => MII_10_CYCLE,
            (true, false) => MII_100_CYCLE,
        }
    }

    fn start_timer(&mut self, value: u32) {
        self.continuous = value & 1 << 16 != 0;
        self.period = u64::from(value & 0xffff) * self.cycle();
        self.deadline = (self.period != 0).then(|| self.clock.now() + self.period);
        match self.deadline {
            Some(deadline) => self.timer.arm(deadline),
            None => self.timer.disarm(),
        }
    }

    fn timer_expired(&mut self) {
        let now = self.clock.now();
        // One that has been started anew meanwhile has not expired.
        let Some(deadline) = self.deadline.filter(|deadline| *deadline <= now) else { return };
        self.raise(Status::new().with_timer(true));
        self.deadline = self.continuous.then(|| (deadline + self.period).max(now));
        if let Some(deadline) = self.deadline {
            self.timer.arm(deadline);
        }
    }

    /// What is left of the general-purpose timer.
    fn timer_value(&self) -> u32 {
        let left = self.deadline.map_or(0, |deadline| deadline.saturating_sub(self.clock.now()));
        let cycles = left.div_ceil(self.cycle()).min(0xffff) as u32;
        cycles | u32::from(self.continuous) << 16
    }

    /// Frames wait, or descriptors may: looks again in a while.
    fn look_again(&mut self) {
        let polling = POLLING[usize::from(self.bus_mode.automatic_polling() & 7)];
        let polling = polling.filter(|_| self.transmitter == Process::Suspended).map(|n| n * self.cycle());
        let retry = (!self.waiting.is_empty() || self.transmitter == Process::Running).then_some(RETRY);
        if let Some(delay) = [polling, retry].into_iter().flatten().min() {
            self.poll.arm(self.clock.now() + delay);
        }
    }

    fn poll(&mut self) {
        if self.transmitter == Process::Running || self.bus_mode.automatic_polling() != 0 {
            self.transmit();
        }
        self.deliver();
        self.look_again();
    }

    fn set_mode(&mut self, value: u32) {
        let before = self.mode;
        self.mode = OperationMode::from_bits(value & !FILTER_KIND);
        if before.transmit() && !self.mode.transmit() && self.transmitter != Process::Stopped {
            self.transmitter = Process::Stopped;
            self.raise(Status::new().with_transmit_stopped(true));
        }
        if before.receive() && !self.mode.receive() && self.receiver != Process::Stopped {
            self.receiver = Process::Stopped;
            self.raise(Status::new().with_receive_stopped(true));
        }
        if self.fatal.is_some() {
            return;
        }
        if self.mode.receive() && self.receiver == Process::Stopped {
            self.receiver = Process::Running;
        }
        if self.mode.transmit() && self.transmitter == Process::Stopped {
            self.transmitter = Process::Running;
            self.transmit();
        }
    }

    fn read_serial(&self) -> u32 {
        let data = match self.serial.serial_rom() {
            true => self.serial.with_rom_out(self.srom.out()).into_bits() & 0x0f | 0xf0,
            false => 0xff,
        };
        let written = self.serial.into_bits() & 0x0007_7c00;
        0xfff0_8300 | written | u32::from(self.mii.out()) << 19 | data
    }

    fn write_serial(&mut self, value: u32) {
        self.serial = Serial::from_bits(value);
        let serial = self.serial;
        let select = serial.serial_rom() && serial.rom_select() && (serial.read() || serial.write());
        self.srom.drive(select, serial.rom_clock(), serial.rom_in());
        self.mii.drive(serial.mii_clock(), serial.mii_out(), serial.mii_read());
    }

    /// The missed frames since the last time, the sixteenth bit of which tells that there were more than can be told.
    fn take_missed(&mut self) -> u32 {
        let missed = std::mem::take(&mut self.missed);
        missed & 0xffff | u32::from(missed > 0xffff) << 16
    }

    /// Reads CSR `register`. Bits that there are not read as on the chip.
    fn read(&mut self, register: u64) -> u32 {
        if !self.waiting.is_empty() {
            self.deliver();
            self.update_line();
        }
        match register {
            0 => self.bus_mode.into_bits() | 0xfe00_0000,
            3 => self.receive_list.base,
            4 => self.transmit_list.base,
            5 => self.status().into_bits() | 0xfc00_0000,
            6 => self.mode.into_bits() | self.filter.mode() | 0x3200_0000,
            7 => self.mask | 0xfffe_0000,
            8 => self.take_missed() | 0xe000_0000,
            9 => self.read_serial(),
            10 => self.rom_address,
            11 => self.timer_value() | 0xfffe_0000,
            12 => u32::from(self.port & self.outputs | !self.outputs) | 0xffff_fe00,
            15 => self.watchdog.into_bits() & 0x37 | 0xffff_fec8,
            _ => u32::MAX,
        }
    }

    fn write(&mut self, register: u64, value: u32) {
        match register {
            0 => {
                self.bus_mode = BusMode::from_bits(value & 0x01be_ffff);
                self.dma.swapped = self.bus_mode.big_endian_descriptors();
                if self.bus_mode.big_endian_buffers() {
                    self.unhandled.tell("dec21140", "a bus mode with swapped buffers", value);
                }
                if self.bus_mode.software_reset() {
                    self.software_reset();
                }
            }
            1 => self.transmit(),
            3 => self.receive_list = List::new(value),
            4 => self.transmit_list = List::new(value),
            5 => self.events &= !value,
            6 => self.set_mode(value),
            7 => self.mask = value & MASKABLE,
            9 => self.write_serial(value),
            10 => self.rom_address = value & 0x3_ffff,
            11 => self.start_timer(value),
            12 if value & 0x100 != 0 => self.outputs = value as u8,
            12 => self.port = value as u8,
            15 => self.watchdog = Watchdog::from_bits(value & 0x37),
            2 => self.receive_poll_demand(),
            8 => {}
            _ => self.unhandled.tell("dec21140", "a write of CSR", register as u32),
        }
        self.deliver();
        self.look_again();
        self.update_line();
    }

    /// The longwords that `len` bytes from `offset` touch: the register of each, if it is one, and its bytes as offset
    /// and range of the data.
    fn longwords(
        offset: u64,
        len: usize,
    ) -> impl Iterator<Item = (Option<u64>, usize, std::ops::Range<usize>)> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let address = offset + at as u64;
            let (longword, within) = (address / 4, (address % 4) as usize);
            let range = at..len.min(at + 4 - within);
            at = range.end;
            let register = (longword % 2 == 0).then_some(longword / 2);
            (!range.is_empty()).then_some((register, within, range))
        })
    }
}

impl MmioDevice for Dec21140 {
    fn memory_read(&mut self, offset: u64, data: &mut [u8]) {
        for (register, within, range) in Self::longwords(offset, data.len()) {
            let value = register.map_or(u32::MAX, |register| self.read(register)) >> (8 * within);
            put_value(&mut data[range], value);
        }
    }

    /// Bytes of a longword that are not written are zeroes: the chip knows longwords only.
    fn memory_write(&mut self, offset: u64, data: &[u8]) {
        for (register, within, range) in Self::longwords(offset, data.len()) {
            if let Some(register) = register {
                self.write(register, value_of(&data[range]) << (8 * within));
            }
        }
    }
}

impl PortDevice for Dec21140 {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        self.memory_read(u64::from(port) % u64::from(REGION_SIZE), data);
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        self.memory_write(u64::from(port) % u64::from(REGION_SIZE), data);
    }
}

impl PciFunction for Dec21140 {
    fn config_read(&mut self, register: u8) -> u32 {
        self.config.read(register)
    }

    fn config_write(&mut self, register: u8, value: u32, mask: u32) {
        self.config.write(register, value, mask);
        // It may have become a bus master, or lost its interrupt pin.
        if self.transmitter == Process::Running {
            self.transmit();
        }
        self.deliver();
        self.look_again();
        self.update_line();
    }

    fn bars(&self) -> Vec<BarMapping> {
        self.config.bars()
    }
}
