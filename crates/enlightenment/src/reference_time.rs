//! Partition reference time (TLFS, "Timers"): 100 ns units, derived from the TSC by the very formula that
//! the guest applies to the reference TSC page, so that the page, the counter and the synthetic timers
//! agree to the last unit.

use std::sync::Arc;

use clock::Clock;
use tlfs::{PAGE_SIZE, ReferenceTscPage};
use zerocopy::IntoBytes;

use crate::overlay::Page;

/// Units in a second.
const UNITS: u64 = 10_000_000;
/// Sequence number of the page. Scale and offset never change while a machine runs, because the clock
/// stands still while it is paused.
const SEQUENCE: u32 = 1;

/// Reference time of a partition.
pub(crate) struct ReferenceTime {
    clock: Arc<dyn Clock>,
    /// Units in a tick of the TSC, as a fraction of 2^64.
    scale: u64,
}

impl ReferenceTime {
    /// The reference time of `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        // Rounded up, so that a second has all its units.
        let scale = (u128::from(UNITS) << 64).div_ceil(clock.tsc_frequency().max(1).into());
        Self { clock, scale: u64::try_from(scale).unwrap_or(u64::MAX) }
    }

    /// Reference time now.
    pub fn now(&self) -> u64 {
        ((u128::from(self.clock.tsc()) * u128::from(self.scale)) >> 64) as u64
    }

    /// When, by the clock, reference time will be `time`; `None` if the TSC never gets there.
    pub fn deadline(&self, time: u64) -> Option<u64> {
        let tsc = (u128::from(time) << 64).div_ceil(u128::from(self.scale.max(1)));
        u64::try_from(tsc).ok().map(|tsc| self.clock.time_of_tsc(tsc))
    }

    /// The reference TSC page.
    pub fn page(&self) -> Box<Page> {
        let page = ReferenceTscPage {
            tsc_sequence: SEQUENCE,
            reserved1: 0,
            tsc_scale: self.scale,
            tsc_offset: 0,
            reserved2: [0; 509],
        };
        let mut bytes = Box::new([0; PAGE_SIZE]);
        bytes.copy_from_slice(page.as_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clock::FakeClock;

    #[test]
    fn a_unit_is_a_hundred_nanoseconds() {
        let clock = FakeClock::new();
        let time = ReferenceTime::new(clock.clone());
        clock.advance(1_000_000_007);
        assert_eq!(time.now(), 10_000_000);
    }

    #[test]
    fn at_the_deadline_the_time_has_come_and_not_before() {
        let clock = FakeClock::new();
        let time = ReferenceTime::new(clock.clone());
        for wanted in [1, 3, 999, 123_456_789] {
            let deadline = time.deadline(wanted).unwrap();
            clock.advance(deadline - 1 - clock.now());
            assert!(time.now() < wanted);
            clock.advance(1);
            assert_eq!(time.now(), wanted);
        }
    }

    #[test]
    fn a_time_beyond_the_tsc_has_no_deadline() {
        assert_eq!(ReferenceTime::new(FakeClock::new()).deadline(u64::MAX), None);
    }

    #[test]
    fn the_page_has_a_sequence_and_the_scale_of_the_counter() {
        let clock = FakeClock::new();
        let time = ReferenceTime::new(clock.clone());
        clock.advance(987_654_321);
        let page = time.page();
        let scale = u64::from_le_bytes(page[8..16].try_into().unwrap());
        assert_eq!(u32::from_le_bytes(page[..4].try_into().unwrap()), 1);
        assert_eq!(((u128::from(clock.tsc()) * u128::from(scale)) >> 64) as u64, time.now());
    }
}
