//! Registers of the synthetic interrupt controller, and of crash reporting.

use bitfield_struct::bitfield;

/// SCONTROL.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Scontrol {
    /// Messages and event flags may be directed to this processor.
    pub enable: bool,
    /// Preserved.
    #[bits(63)]
    pub reserved: u64,
}

/// SINTx.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Sint {
    /// Interrupt vector.
    pub vector: u8,
    /// Preserved.
    pub reserved0: u8,
    /// No interrupt.
    pub masked: bool,
    /// The interrupt ends itself on delivery.
    pub auto_eoi: bool,
    /// Unmasked, but without an interrupt.
    pub polling: bool,
    /// Preserved.
    #[bits(45)]
    pub reserved1: u64,
}

impl Sint {
    /// Value after reset: masked.
    pub const RESET: Self = Self::new().with_masked(true);

    /// The vector to interrupt with, if the source interrupts.
    pub fn interrupts(self) -> Option<u8> {
        (!self.masked() && !self.polling()).then(|| self.vector())
    }
}

/// CRASH_CTL.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct CrashControl {
    #[bits(62)]
    pub reserved: u64,
    /// P3 is the guest physical address of a text, P4 its length.
    pub crash_message: bool,
    /// The parameters are complete: report them.
    pub crash_notify: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_masked_after_reset() {
        assert_eq!(Sint::RESET.into_bits(), 0x1_0000);
        assert_eq!(Sint::RESET.interrupts(), None);
    }

    #[test]
    fn a_polled_source_does_not_interrupt() {
        assert_eq!(Sint::from_bits(0x0_0030).interrupts(), Some(0x30));
        assert_eq!(Sint::from_bits(0x4_0030).interrupts(), None);
    }
}
