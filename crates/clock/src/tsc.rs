//! The host's time-stamp counter and its frequency.

use std::arch::x86_64::{__cpuid, __cpuid_count, _rdtsc};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::NANOSECONDS;

/// How long the frequency is measured where the host does not tell it.
const CALIBRATION: Duration = Duration::from_millis(10);

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
    *FREQUENCY
        .get_or_init(|| from_crystal().or_else(from_hypervisor).filter(plausible).unwrap_or_else(measure))
}

fn plausible(frequency: &u64) -> bool {
    // A leaf may tell the crystal's nominal value; it must agree with a short measurement to 1 %.
    let measured = measure_for(Duration::from_millis(2));
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

fn measure() -> u64 {
    measure_for(CALIBRATION)
}

fn measure_for(time: Duration) -> u64 {
    let (start, from) = (Instant::now(), read());
    std::thread::sleep(time);
    let (elapsed, to) = (start.elapsed(), read());
    let ticks = u128::from(to.wrapping_sub(from)) * u128::from(NANOSECONDS);
    (ticks / elapsed.as_nanos().max(1)) as u64
}
