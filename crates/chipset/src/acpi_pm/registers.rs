//! Registers of the ACPI block, by the names of the ACPI specification.

use bitfield_struct::bitfield;

/// Offsets into the block.
pub(super) const PM1_STATUS: u16 = 0x00;
pub(super) const PM1_CONTROL: u16 = 0x04;
pub(super) const PM_TIMER: u16 = 0x08;
pub(super) const GPE0_STATUS: u16 = 0x0c;

/// PM1 status and enable bits.
pub(super) const TIMER: u16 = 1 << 0;
pub(super) const POWER_BUTTON: u16 = 1 << 8;
/// The enable bits that exist: timer, global lock, power button, sleep button, RTC.
pub(super) const PM1_ENABLES: u16 = 1 << 0 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 10;

/// PM1 control.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub(super) struct Pm1Control {
    pub sci_enable: bool,
    pub bus_master_reload: bool,
    pub global_release: bool,
    #[bits(7)]
    __: u8,
    #[bits(3)]
    pub sleep_type: u8,
    /// Write-only.
    pub sleep_enable: bool,
    #[bits(2)]
    __: u8,
}
