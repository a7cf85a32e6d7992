//! Registers of the IOAPIC, by the names of the 82093AA data sheet.

use bitfield_struct::bitfield;

/// An entry of the redirection table.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub(super) struct Redirection {
    pub vector: u8,
    #[bits(3)]
    pub delivery_mode: u8,
    pub logical: bool,
    /// Read-only; deliveries complete at once.
    pub delivery_status: bool,
    pub active_low: bool,
    /// Read-only: a level interrupt has been accepted and not yet ended.
    pub remote_irr: bool,
    pub level: bool,
    pub masked: bool,
    #[bits(39)]
    __: u64,
    pub destination: u8,
}

/// Bits of an entry that a guest may write.
pub(super) const REDIRECTION_WRITABLE: u64 = 0xff00_0000_0001_afff;

impl Redirection {
    /// Whether the input is sampled as a level: only fixed and lowest-priority interrupts have an end that
    /// could be waited for.
    pub(super) fn acts_on_level(self) -> bool {
        self.level() && self.delivery_mode() <= 1
    }
}
