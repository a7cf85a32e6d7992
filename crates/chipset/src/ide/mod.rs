//! The IDE controller of the PIIX4 (82371AB datasheet, chapters 5 and 8; Programming Interface for Bus Master
//! IDE Controller 1.0) with its two channels, and the drives behind them: disks (ATA/ATAPI-7) and optical
//! drives (the PACKET feature set).
//!
//! ```text
//!              PCI 00:07.1 IdeController ── configuration space, which ports are decoded
//!                 │                 │
//!   0x1f0, 0x3f6  │  IRQ 14         │  0x170, 0x376, IRQ 15       + BAR 4: bus master, 8 ports each
//!              Channel           Channel
//!              │     │           │     │
//!           Drive   Drive     Drive   Drive ── task file, PIO buffer ─▶ storage::Disk, scsi::DvdUnit
//! ```
//!
//! A command runs to its end within the port write that starts it: the command register's, the data port's
//! at the end of a block, or the bus master's start bit. BSY is therefore seen only while a DMA command
//! waits for the bus master and during a software reset.
//!
//! A disk may also hang on a VMBus channel. While that side owns it ([`storage::Ownership`]), commands that
//! would touch the medium end aborted; IDENTIFY and the like are still answered.
//!
//! Not emulated: native PCI mode, timing (its registers keep what is written), overlapped and queued
//! commands, SMART, security, host protected area, media card and removable-media commands, simplex mode.
//!
//! The machine's bus counts exits; a drive counts requests, bytes and interrupts.

mod ata;
mod atapi;
mod bus_master;
mod channel;
mod drive;
mod identify;
mod registers;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use counters::DeviceCounters;
use guest_memory::GuestMemory;
use interrupt::Line;
use storage::SharedDisk;
use storage::scsi::DvdUnit;

use crate::bus::PortDevice;
use crate::pci::{BarKind, BarMapping, ConfigSpace, Identity, PciFunction, Space};
use channel::Channel;
use drive::Drive;

/// Ports of a channel: first of eight command block registers, and the control register.
pub const CHANNEL_PORTS: [(u16, u16); 2] = [(0x1f0, 0x3f6), (0x170, 0x376)];
/// ISA interrupts of the channels.
pub const CHANNEL_IRQS: [u8; 2] = [14, 15];
/// The region of the bus master's ports, a BAR; see [`crate::pci::BarMapping::region`].
pub const BUS_MASTER_REGION: usize = 4;
/// The regions of the command blocks and control registers of both channels, which are no BARs: primary
/// command block, primary control, secondary command block, secondary control.
pub const CHANNEL_REGIONS: [usize; 4] = [6, 7, 8, 9];

/// IDE timing registers of both channels; bit 15 of each half lets the channel's ports be decoded.
const IDE_TIMING: u8 = 0x40;
/// As firmware leaves it: both channels decoded.
const TIMING_DEFAULT: u32 = 0x8000_8000;

/// What is attached to a channel.
#[derive(Clone)]
pub enum Attachment {
    /// A disk.
    Disk(SharedDisk),
    /// An optical drive.
    Optical(Arc<DvdUnit>),
}

/// The controller: a PCI function, and a port device for its regions.
pub struct IdeController {
    config: ConfigSpace,
    channels: [Channel; 2],
}

impl IdeController {
    /// A controller without drives, whose channels drive `lines` (IRQ 14 and 15) and whose bus master reaches
    /// `memory`.
    pub fn new(lines: [Arc<dyn Line>; 2], memory: GuestMemory) -> Self {
        let identity = Identity {
            vendor: 0x8086,
            device: 0x7111,
            revision: 0x01,
            class: 0x01_0180,
            ..Identity::default()
        };
        let mut config = ConfigSpace::new(identity).with_bar(BUS_MASTER_REGION, BarKind::Io, 16);
        // Fast back-to-back capable, medium DEVSEL timing.
        config.set(0x04, 0x0280_0000);
        config.set(IDE_TIMING, TIMING_DEFAULT);
        config.set_writable(IDE_TIMING, u32::MAX);
        // Slave timing, Ultra DMA control and timing.
        config.set_writable(0x44, 0x0000_00ff);
        config.set_writable(0x48, 0x3333_000f);
        let [primary, secondary] = lines;
        let channels = [Channel::new(primary, memory.clone()), Channel::new(secondary, memory)];
        Self { config, channels }
    }

    /// Attaches a drive as device `device` (0 master, 1 slave) of `channel` (0 primary, 1 secondary), in
    /// place of what may be there. Its requests, bytes and interrupts go to `counters`.
    ///
    /// # Panics
    /// When there is no such channel or device: a mistake of the caller's.
    pub fn attach(
        &mut self,
        channel: usize,
        device: usize,
        attachment: Attachment,
        counters: DeviceCounters,
    ) {
        assert!(channel < 2 && device < 2, "no IDE channel {channel}, device {device}");
        self.channels[channel].attach(device, Drive::new(device, attachment, counters));
    }

    /// Power-on reset. Drives stay attached.
    pub fn reset(&mut self) {
        self.config.reset_header();
        self.config.set(IDE_TIMING, TIMING_DEFAULT);
        self.config.set(0x44, 0);
        self.config.set(0x48, 0);
        self.channels.iter_mut().for_each(Channel::reset);
    }

    fn decoded(&self, channel: usize) -> bool {
        self.config.read(IDE_TIMING) >> (16 * channel) & 0x8000 != 0
    }

    fn bus_master_base(&self) -> u16 {
        (self.config.read(0x20) & 0xfff0) as u16
    }

    /// Which channel and which of its registers `port` is.
    fn target(&self, port: u16) -> Option<(usize, Target)> {
        for (channel, (command, control)) in CHANNEL_PORTS.into_iter().enumerate() {
            match port.checked_sub(command) {
                Some(register @ 0..8) => return Some((channel, Target::CommandBlock(register as u8))),
                _ if port == control => return Some((channel, Target::Control)),
                _ => {}
            }
        }
        match port.checked_sub(self.bus_master_base()) {
            Some(register @ 0..8) => Some((0, Target::BusMaster(register as u8))),
            Some(register @ 8..16) => Some((1, Target::BusMaster(register as u8 - 8))),
            _ => None,
        }
    }
}

/// A port of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    CommandBlock(u8),
    Control,
    BusMaster(u8),
}

impl PortDevice for IdeController {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        match self.target(port) {
            Some((channel, Target::CommandBlock(0))) => self.channels[channel].read_data(data),
            Some(_) => crate::bus::read_bytes(port, data, |port| match self.target(port) {
                Some((channel, Target::CommandBlock(register))) => self.channels[channel].read(register),
                Some((channel, Target::Control)) => self.channels[channel].alternate_status(),
                Some((channel, Target::BusMaster(register))) => {
                    self.channels[channel].bus_master_read(register)
                }
                None => 0xff,
            }),
            None => {}
        }
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        let may_master = self.config.command().bus_master();
        match self.target(port) {
            Some((channel, Target::CommandBlock(0))) => self.channels[channel].write_data(data, may_master),
            Some(_) => crate::bus::write_bytes(port, data, |port, value| match self.target(port) {
                Some((channel, Target::CommandBlock(register))) => {
                    self.channels[channel].write(register, value, may_master);
                }
                Some((channel, Target::Control)) => self.channels[channel].write_control(value),
                Some((channel, Target::BusMaster(register))) => {
                    self.channels[channel].bus_master_write(register, value, may_master);
                }
                None => {}
            }),
            None => {}
        }
    }

    fn port_read_string(&mut self, port: u16, size: usize, data: &mut [u8]) {
        match self.target(port) {
            Some((channel, Target::CommandBlock(0))) => self.channels[channel].read_data_string(size, data),
            _ => data.chunks_exact_mut(size).for_each(|part| self.port_read(port, part)),
        }
    }

    fn port_write_string(&mut self, port: u16, size: usize, data: &[u8]) {
        let may_master = self.config.command().bus_master();
        match self.target(port) {
            Some((channel, Target::CommandBlock(0))) => {
                self.channels[channel].write_data_string(size, data, may_master);
            }
            _ => data.chunks_exact(size).for_each(|part| self.port_write(port, part)),
        }
    }
}

impl PciFunction for IdeController {
    fn config_read(&mut self, register: u8) -> u32 {
        self.config.read(register)
    }

    fn config_write(&mut self, register: u8, value: u32, mask: u32) {
        self.config.write(register, value, mask);
    }

    fn bars(&self) -> Vec<BarMapping> {
        let mut mappings = self.config.bars();
        if self.config.command().io_space() {
            for (channel, (command, control)) in CHANNEL_PORTS.into_iter().enumerate() {
                if self.decoded(channel) {
                    let [block, single] = [CHANNEL_REGIONS[2 * channel], CHANNEL_REGIONS[2 * channel + 1]];
                    let ports = |region, base: u16, size| BarMapping {
                        region,
                        space: Space::Io,
                        base: base.into(),
                        size,
                    };
                    mappings.push(ports(block, command, 8));
                    mappings.push(ports(single, control, 1));
                }
            }
        }
        mappings
    }
}
