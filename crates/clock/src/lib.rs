//! The clock of a virtual machine and the timers that hang from it.
//!
//! One clock per machine: everything that a guest can read (TSC, reference time, PM timer, PIT, RTC,
//! synthetic timers) derives from it, so that pausing shifts all of them together.
//!
//! The clock *is* the host's time-stamp counter: guest TSC = host TSC + an offset, and nanoseconds are
//! guest TSC ticks scaled by one fixed-point factor. Thus the TSC and every other time source of a guest
//! can never drift apart.

mod fake;
mod queue;
mod tsc;

pub use fake::{FakeClock, FakeTimers};
pub use queue::TimerQueue;
pub use tsc::{begin_tsc_measurement, host_tsc_frequency};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Nanoseconds in a second.
pub const NANOSECONDS: u64 = 1_000_000_000;

/// Time as a guest sees it.
pub trait Clock: Send + Sync {
    /// Nanoseconds since the machine was powered on, pauses left out.
    fn now(&self) -> u64;
    /// The guest's time-stamp counter; 0 at power-on.
    fn tsc(&self) -> u64;
    /// Ticks of [`Self::tsc`] in a second.
    fn tsc_frequency(&self) -> u64;
    /// The time, as of [`Self::now`], when the TSC will read `tsc`; the present or past for a value that
    /// has passed.
    fn time_of_tsc(&self, tsc: u64) -> u64;
    /// Wall-clock time in nanoseconds since 1970-01-01 UTC.
    fn wall(&self) -> u64;
}

/// A one-shot timer. Dropping it disarms it.
pub trait Timer: Send + Sync {
    /// Calls back once when [`Clock::now`] reaches `deadline` (at once if it has); replaces what was armed.
    fn arm(&self, deadline: u64);
    /// Forgets the deadline. A callback that has begun may still run.
    fn disarm(&self);
}

/// Where devices get their timers.
pub trait Timers: Send + Sync {
    /// A new, disarmed timer. The callback runs on the timers' own thread with no lock held; it must not
    /// block.
    fn timer(&self, callback: Box<dyn FnMut() + Send>) -> Box<dyn Timer>;
}

/// The clock of a running machine, on the host's TSC.
pub struct VmClock {
    frequency: u64,
    /// Nanoseconds per tick, 32.32 fixed point.
    scale: u64,
    /// Subtracted from the host's TSC.
    origin: AtomicU64,
    /// Guest TSC while stopped.
    stopped_at: AtomicU64,
    stopped: AtomicBool,
}

impl VmClock {
    /// A clock that starts now, at 0.
    pub fn new() -> Arc<Self> {
        let frequency = host_tsc_frequency();
        Arc::new(Self {
            frequency,
            scale: ((u128::from(NANOSECONDS) << 32) / u128::from(frequency)) as u64,
            origin: AtomicU64::new(tsc::read()),
            stopped_at: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        })
    }

    /// Stops time. Call only while no processor runs.
    pub fn stop(&self) {
        self.stopped_at.store(self.tsc(), Ordering::SeqCst);
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// Lets time go on from where it stopped.
    pub fn resume(&self) {
        if self.stopped.load(Ordering::SeqCst) {
            let origin = tsc::read().wrapping_sub(self.stopped_at.load(Ordering::SeqCst));
            self.origin.store(origin, Ordering::SeqCst);
            self.stopped.store(false, Ordering::SeqCst);
        }
    }

    /// What to add to the host's TSC to get the guest's, while time runs.
    pub fn tsc_offset(&self) -> u64 {
        self.origin.load(Ordering::Relaxed).wrapping_neg()
    }

    fn ticks_to_ns(&self, ticks: u64) -> u64 {
        ((u128::from(ticks) * u128::from(self.scale)) >> 32) as u64
    }
}

impl Clock for VmClock {
    fn now(&self) -> u64 {
        self.ticks_to_ns(self.tsc())
    }

    fn tsc(&self) -> u64 {
        if self.stopped.load(Ordering::Relaxed) {
            return self.stopped_at.load(Ordering::Relaxed);
        }
        tsc::read().wrapping_sub(self.origin.load(Ordering::Relaxed))
    }

    fn tsc_frequency(&self) -> u64 {
        self.frequency
    }

    fn time_of_tsc(&self, tsc: u64) -> u64 {
        // Rounded up, so that the TSC has reached the value when the time comes.
        self.ticks_to_ns(tsc).saturating_add(1)
    }

    fn wall(&self) -> u64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stands_still_while_stopped() {
        let clock = VmClock::new();
        clock.stop();
        let at = clock.now();
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert_eq!(clock.now(), at);
        clock.resume();
        assert!(clock.now() - at < 4_000_000);
    }

    #[test]
    fn the_scale_agrees_with_the_hosts_clock() {
        let clock = VmClock::new();
        let (host, guest) = (std::time::Instant::now(), clock.now());
        std::thread::sleep(std::time::Duration::from_millis(50));
        let (host, guest) = (host.elapsed().as_nanos() as f64, (clock.now() - guest) as f64);
        assert!((guest / host - 1.0).abs() < 0.01, "guest {guest} host {host}");
    }
}
