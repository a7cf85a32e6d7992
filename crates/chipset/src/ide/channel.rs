//! A channel: two drives on one cable, the control register and the bus master.

use std::sync::Arc;

use guest_memory::GuestMemory;
use interrupt::Line;
use storage::GuestRange;

use super::bus_master::BusMaster;
use super::drive::{DmaEnd, Drive};
use super::registers::{DEVICE, Device, DeviceControl, STATUS_COMMAND};

/// EXECUTE DEVICE DIAGNOSTIC, which both drives carry out.
const EXECUTE_DEVICE_DIAGNOSTIC: u8 = 0x90;

pub(super) struct Channel {
    drives: [Option<Box<Drive>>; 2],
    selected: usize,
    control: DeviceControl,
    bus_master: BusMaster,
    line: Arc<dyn Line>,
    /// What the line was told last.
    high: bool,
    memory: GuestMemory,
    /// Memory of the transfer at hand; kept for its capacity.
    ranges: Vec<GuestRange>,
}

impl Channel {
    pub(super) fn new(line: Arc<dyn Line>, memory: GuestMemory) -> Self {
        Self {
            drives: [None, None],
            selected: 0,
            control: DeviceControl::new(),
            bus_master: BusMaster::default(),
            line,
            high: false,
            memory,
            ranges: Vec::new(),
        }
    }

    pub(super) fn attach(&mut self, device: usize, drive: Drive) {
        self.drives[device] = Some(Box::new(drive));
        self.update_line();
    }

    pub(super) fn reset(&mut self) {
        self.control = DeviceControl::new();
        self.bus_master = BusMaster::default();
        self.selected = 0;
        self.drives.iter_mut().flatten().for_each(|drive| drive.power_on());
        self.update_line();
    }

    fn drive(&mut self) -> Option<&mut Drive> {
        self.drives[self.selected].as_deref_mut()
    }

    /// What a register reads as where no drive answers: nothing drives an empty cable but a resistor that pulls its
    /// line 7 down, so that nobody is not busy for ever (ATA/ATAPI-7 volume 2, "DD (15:0)"); the first drive answers for
    /// an absent second one, with zeroes; nobody answers for an absent first one.
    fn nobody(&self) -> u8 {
        if self.selected == 1 && self.drives[0].is_some() { 0 } else { 0x7f }
    }

    /// Reads register 1–7 of the command block.
    pub(super) fn read(&mut self, register: u8) -> u8 {
        let (high, nobody) = (self.control.high_order_byte(), self.nobody());
        let Some(drive) = self.drive() else { return nobody };
        let value = drive.read(register, high);
        if register == STATUS_COMMAND {
            drive.acknowledge();
            self.update_line();
        }
        value
    }

    /// The status register without the acknowledgement of the interrupt.
    pub(super) fn alternate_status(&mut self) -> u8 {
        let nobody = self.nobody();
        self.drive().map_or(nobody, |drive| drive.read(STATUS_COMMAND, false))
    }

    /// Writes register 1–7 of the command block. Parameters reach both drives.
    pub(super) fn write(&mut self, register: u8, value: u8, may_master: bool) {
        if self.control.software_reset() {
            return;
        }
        self.control.set_high_order_byte(false);
        match register {
            STATUS_COMMAND if value == EXECUTE_DEVICE_DIAGNOSTIC => {
                self.selected = 0;
                self.drives.iter_mut().flatten().for_each(|drive| drive.diagnose());
            }
            STATUS_COMMAND => {
                if let Some(drive) = self.drive() {
                    drive.acknowledge();
                }
                // The line falls before the command can end, so that its interrupt is an edge.
                self.update_line();
                if let Some(drive) = self.drive() {
                    drive.command(value);
                }
                self.transfer(may_master);
            }
            _ => {
                if register == DEVICE {
                    self.selected = Device::from_bits(value).second().into();
                }
                self.drives.iter_mut().flatten().for_each(|drive| drive.write(register, value));
            }
        }
        self.update_line();
    }

    pub(super) fn read_data(&mut self, data: &mut [u8]) {
        let nobody = self.nobody();
        match self.drive() {
            Some(drive) => drive.read_data(data),
            None => data.fill(nobody),
        }
        self.update_line();
    }

    pub(super) fn write_data(&mut self, data: &[u8], may_master: bool) {
        if let Some(drive) = self.drive() {
            drive.write_data(data);
        }
        // A packet may ask for DMA when the bus master has been started already.
        self.transfer(may_master);
        self.update_line();
    }

    /// Reads of `size` bytes, one after another.
    pub(super) fn read_data_string(&mut self, size: usize, mut data: &mut [u8]) {
        while !data.is_empty() {
            let len = self.drive().map_or(data.len(), |drive| drive.whole_accesses(size)).min(data.len());
            let (part, rest) = data.split_at_mut(len);
            self.read_data(part);
            data = rest;
        }
    }

    /// Writes of `size` bytes, one after another.
    pub(super) fn write_data_string(&mut self, size: usize, mut data: &[u8], may_master: bool) {
        while !data.is_empty() {
            let len = self.drive().map_or(data.len(), |drive| drive.whole_accesses(size)).min(data.len());
            let (part, rest) = data.split_at(len);
            self.write_data(part, may_master);
            data = rest;
        }
    }

    pub(super) fn write_control(&mut self, value: u8) {
        let before = self.control;
        self.control = DeviceControl::from_bits(value);
        let reset = self.control.software_reset();
        if reset && !before.software_reset() {
            self.selected = 0;
            self.drives.iter_mut().flatten().for_each(|drive| drive.begin_reset());
        } else if !reset && before.software_reset() {
            self.drives.iter_mut().flatten().for_each(|drive| drive.end_reset());
        }
        self.update_line();
    }

    pub(super) fn bus_master_read(&self, register: u8) -> u8 {
        self.bus_master.read(register)
    }

    pub(super) fn bus_master_write(&mut self, register: u8, value: u8, may_master: bool) {
        if self.bus_master.write(register, value) {
            self.transfer(may_master);
            self.update_line();
        }
    }

    /// Carries out the DMA that the drive waits for, if the bus master has been started and may reach
    /// memory. What software finds afterwards (Bus Master IDE 1.0, section 3.1):
    ///
    /// | interrupt | active | |
    /// |---|---|---|
    /// | 1 | 0 | the transfer and the table ended together |
    /// | 1 | 1 | the table is longer than the transfer |
    /// | 0 | 0 | the table is shorter; the drive waits for more |
    fn transfer(&mut self, may_master: bool) {
        if !may_master || !self.bus_master.status.active() {
            return;
        }
        let Some(drive) = self.drives[self.selected].as_deref_mut() else { return };
        let Some((wanted, to_memory)) = drive.wanted_dma() else { return };
        let walk = match self.bus_master.walk(&self.memory, wanted, &mut self.ranges) {
            Ok(walk) if to_memory == self.bus_master.command.to_memory() => walk,
            // Into the wrong direction nothing can be moved, as on a bus where both sides wait.
            Ok(_) | Err(_) => {
                drive.master_aborted();
                self.bus_master.status = self.bus_master.status.with_error(true).with_active(false);
                return;
            }
        };
        match drive.dma(&self.memory, &mut self.ranges, walk.bytes) {
            DmaEnd::Complete => self.bus_master.status.set_active(!walk.exhausted),
            DmaEnd::Short | DmaEnd::DriveError => self.bus_master.status.set_active(false),
            DmaEnd::NotMemory => {
                self.bus_master.status = self.bus_master.status.with_error(true).with_active(false);
            }
        }
    }

    fn update_line(&mut self) {
        let selected = self.drives[self.selected].as_deref();
        let high = !self.control.interrupt_disable() && selected.is_some_and(Drive::interrupt);
        if high == self.high {
            return;
        }
        self.high = high;
        if high {
            self.bus_master.status.set_interrupt(true);
            if let Some(drive) = selected {
                drive.counters.interrupts.count();
            }
        }
        self.line.set(high);
    }
}
