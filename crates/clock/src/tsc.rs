//! The host's time-stamp counter and its frequency.

use std::arch::x86_64::{__cpuid, __cpuid_count, _rdtsc};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::NANOSECONDS;

/// How long the frequency is measured where the host does not tell it: a reading is off by some tens of nanoseconds, so
/// the result is by some ten millionths.
const CALIBRATION: Duration = Duration::from_millis(4);
/// How long what the host tells is compared with a measurement.
const COMPARISON: Duration = Duration::from_millis(2);

/// The host's monotonic clock and its TSC at one time.
#[derive(Clone, Copy)]
struct Reading {
    time: Instant,
    ticks: u64,
}

/// Where the measurement begins.
static BEGIN: OnceLock<Reading> = OnceLock::new();

impl Reading {
    /// Reads the clock between two readings of the TSC, several times, and takes the pair that lies closest together:
    /// a thread may be made to wait for the processor in between.
    fn take() -> Self {
        const TRIES: usize = 8;
        let one = |_| {
            let before = read();
            let time = Instant::now();
            let width = read().wrapping_sub(before);
            (width, Self { time, ticks: before.wrapping_add(width / 2) })
        };
        let first = one(0);
        (1..TRIES).map(one).fold(first, |best, next| if next.0 < best.0 { next } else { best }).1
    }

    /// Ticks a second from `self` to `later`.
    fn frequency_until(self, later: Self) -> u64 {
        let elapsed = later.time.duration_since(self.time).as_nanos().max(1);
        let ticks = u128::from(later.ticks.wrapping_sub(self.ticks)) * u128::from(NANOSECONDS);
        (ticks / elapsed) as u64
    }
}

/// Begins to measure the frequency of the TSC, so that [`host_tsc_frequency`] waits only for what is left of the
/// time. To be called as the process starts; if not, the measurement begins with the first question.
pub fn begin_tsc_measurement() {
    BEGIN.get_or_init(Reading::take);
}

/// The host's TSC.
#[inline]
pub(crate) fn read() -> u64 {
    // SAFETY: RDTSC is present on every x86-64 processor and reads a counter only.
    unsafe { _rdtsc() }
}

/// Ticks of the host's TSC in a second: from CPUID leaf 0x15 (Intel SDM volume 2, CPUID), or the timing
/// leaf 0x40000010 that hypervisors offer, or measured against the host's monotonic clock.
pub fn host_tsc_frequency() -> u64 {
    static FREQUENCY: OnceLock<u64> = OnceLock::new();
    *FREQUENCY.get_or_init(|| {
        from_crystal().or_else(from_hypervisor).filter(plausible).unwrap_or_else(|| measure_for(CALIBRATION))
    })
}

fn plausible(frequency: &u64) -> bool {
    // A leaf may tell the crystal's nominal value; it must agree with a short measurement to 1 %.
    let measured = measure_for(COMPARISON);
    frequency.abs_diff(measured) < measured / 100
}

fn from_crystal() -> Option<u64> {
    if __cpuid(0).eax < 0x15 {
        return None;
    }
    let leaf = __cpuid_count(0x15, 0);
    if leaf.eax == 0 || leaf.ebx == 0 || leaf.ecx == 0 {
        return None;
    }
    Some(u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax))
}

fn from_hypervisor() -> Option<u64> {
    let hypervisor_present = __cpuid(1).ecx & (1 << 31) != 0;
    if !hypervisor_present || __cpuid(0x4000_0000).eax < 0x4000_0010 {
        return None;
    }
    match __cpuid(0x4000_0010).eax {
        0 => None,
        khz => Some(u64::from(khz) * 1000),
    }
}

/// Measures from where the measurement began, for `time` at the least.
fn measure_for(time: Duration) -> u64 {
    let begin = *BEGIN.get_or_init(Reading::take);
    if let Some(left) = time.checked_sub(begin.time.elapsed()) {
        std::thread::sleep(left);
    }
    begin.frequency_until(Reading::take())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frequency_is_that_of_the_ticks_between_two_readings() {
        let time = Instant::now();
        let begin = Reading { time, ticks: u64::MAX - 499 };
        let end = Reading { time: time + Duration::from_millis(4), ticks: 11_999_500 };
        assert_eq!(begin.frequency_until(end), 3_000_000_000);
    }

    #[test]
    fn a_short_measurement_agrees_with_a_long_one() {
        begin_tsc_measurement();
        let short = measure_for(CALIBRATION);
        let long = measure_for(Duration::from_millis(100));
        assert!(short.abs_diff(long) < long / 2000, "{short} {long}");
    }
}
