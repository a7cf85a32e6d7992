//! Registers of drives and of the bus master, by their names in ATA/ATAPI-7 and the bus master interface.

use bitfield_struct::bitfield;

/// Data register of the command block; the others follow.
pub(super) const ERROR_FEATURES: u8 = 1;
pub(super) const SECTOR_COUNT: u8 = 2;
pub(super) const LBA_LOW: u8 = 3;
pub(super) const LBA_MID: u8 = 4;
pub(super) const LBA_HIGH: u8 = 5;
pub(super) const DEVICE: u8 = 6;
pub(super) const STATUS_COMMAND: u8 = 7;

/// The status register.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(super) struct Status {
    /// ERR, or CHK for PACKET commands.
    pub(super) error: bool,
    #[bits(2)]
    __: u8,
    /// DRQ.
    pub(super) data_request: bool,
    /// DSC, of old.
    pub(super) seek_complete: bool,
    /// DF.
    pub(super) device_fault: bool,
    /// DRDY.
    pub(super) ready: bool,
    /// BSY.
    pub(super) busy: bool,
}

impl Status {
    /// A drive that waits for a command.
    pub(super) const fn idle() -> Self {
        Self::new().with_ready(true).with_seek_complete(true)
    }
}

/// Bits of the error register.
pub(super) const ABORTED: u8 = 0x04;
pub(super) const ID_NOT_FOUND: u8 = 0x10;
pub(super) const UNCORRECTABLE: u8 = 0x40;
/// Diagnostic code in the error register: device passed.
pub(super) const DIAGNOSTIC_PASSED: u8 = 0x01;

/// The device control register.
#[bitfield(u8)]
pub(super) struct DeviceControl {
    __: bool,
    /// nIEN.
    pub(super) interrupt_disable: bool,
    /// SRST.
    pub(super) software_reset: bool,
    #[bits(4)]
    __: u8,
    /// HOB: read the previous contents of the two-deep registers.
    pub(super) high_order_byte: bool,
}

/// The device register.
#[bitfield(u8)]
pub(super) struct Device {
    /// Head, or LBA bits 27:24.
    #[bits(4)]
    pub(super) head: u8,
    /// DEV.
    pub(super) second: bool,
    __: bool,
    /// LBA instead of cylinder, head and sector.
    pub(super) lba: bool,
    __: bool,
}

/// Interrupt reason of PACKET commands, in the sector count register.
pub(super) mod reason {
    /// C/D: a command packet is wanted, or the command is complete.
    pub(in super::super) const COMMAND: u8 = 0x01;
    /// I/O: towards the host.
    pub(in super::super) const TO_HOST: u8 = 0x02;
    /// The command is complete.
    pub(in super::super) const COMPLETE: u8 = COMMAND | TO_HOST;
}

/// BMICX, the bus master's command register.
#[bitfield(u8)]
pub(super) struct BusMasterCommand {
    /// SSBM: start.
    pub(super) start: bool,
    #[bits(2)]
    __: u8,
    /// RWCON: the bus master writes memory, that is, the disk is read.
    pub(super) to_memory: bool,
    #[bits(4)]
    __: u8,
}

/// BMISX, the bus master's status register.
#[bitfield(u8)]
pub(super) struct BusMasterStatus {
    /// BMIDEA: active.
    pub(super) active: bool,
    /// The last transfer failed on the PCI bus.
    pub(super) error: bool,
    /// The drive has asserted its interrupt.
    pub(super) interrupt: bool,
    #[bits(2)]
    __: u8,
    /// Software notes that the first drive can do DMA.
    pub(super) first_capable: bool,
    /// Software notes that the second drive can do DMA.
    pub(super) second_capable: bool,
    __: bool,
}
