//! Reference time and synthetic timers (TLFS, "Timers").

use bitfield_struct::bitfield;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// HV_REFERENCE_TSC_PAGE. Reference time = ((TSC × scale) >> 64) + offset, in 100 ns.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReferenceTscPage {
    /// Changes with scale and offset; 0 while the page is of no use.
    pub tsc_sequence: u32,
    /// Zero.
    pub reserved1: u32,
    /// 100 ns in a tick, as a fraction of 2^64.
    pub tsc_scale: u64,
    /// Added to the scaled TSC.
    pub tsc_offset: i64,
    /// Zero.
    pub reserved2: [u64; 509],
}

/// STIMERx_CONFIG.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct StimerConfig {
    /// The timer runs.
    pub enable: bool,
    /// The count is a period, not a time.
    pub periodic: bool,
    /// Expirations may be late.
    pub lazy: bool,
    /// A write to the count enables the timer.
    pub auto_enable: bool,
    /// Vector in direct mode.
    pub apic_vector: u8,
    /// Interrupt with `apic_vector` instead of sending a message.
    pub direct_mode: bool,
    #[bits(3)]
    pub reserved0: u8,
    /// Synthetic interrupt source that gets the message.
    #[bits(4)]
    pub sint: usize,
    #[bits(44)]
    pub reserved1: u64,
}

const _: () = assert!(size_of::<ReferenceTscPage>() == crate::PAGE_SIZE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_configuration_has_its_fields_where_they_belong() {
        let config = StimerConfig::from_bits(0x3_1ed9);
        assert!(config.enable() && !config.periodic() && !config.lazy() && config.auto_enable());
        assert_eq!((config.apic_vector(), config.direct_mode(), config.sint()), (0xed, true, 3));
        assert_eq!((config.reserved0(), config.reserved1()), (0, 0));
    }
}
