//! The four synthetic timers of a virtual processor (TLFS, "Synthetic Timers").
//!
//! Periodic timers keep their schedule: an expiration that comes late is followed by a shorter period.
//! Lazy timers, and others that are many periods behind, skip what they missed. No period is shorter than
//! [`MIN_PERIOD`], lest a guest keep the timers' thread busy.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use clock::Timer;
use interrupt::GeneralProtection;
use tlfs::{STIMER_COUNT, StimerConfig};

use crate::reference_time::ReferenceTime;

/// The shortest time between two expirations of a periodic timer, in 100 ns.
pub const MIN_PERIOD: u64 = 500;
/// Periods that a timer may be behind before it skips.
const MAX_LAG: u64 = 8;

/// What an expired timer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// Interrupts with this vector.
    Interrupt(u8),
    /// Sends its message to a source.
    Message { sint: usize, expiration: u64 },
}

#[derive(Clone, Copy, Default)]
struct State {
    config: StimerConfig,
    count: u64,
    /// Reference time of the next expiration, while the timer runs.
    next: Option<u64>,
}

/// The synthetic timers.
pub(crate) struct SyntheticTimers {
    time: Arc<ReferenceTime>,
    /// Whether direct mode is offered.
    direct: bool,
    states: Mutex<[State; STIMER_COUNT]>,
    timers: OnceLock<[Box<dyn Timer>; STIMER_COUNT]>,
}

impl SyntheticTimers {
    pub fn new(time: Arc<ReferenceTime>, direct: bool) -> Self {
        Self { time, direct, states: Mutex::default(), timers: OnceLock::new() }
    }

    /// Gives them the clock's timers, whose callbacks call [`Self::elapsed`].
    pub fn set_timers(&self, timers: [Box<dyn Timer>; STIMER_COUNT]) {
        self.timers.get_or_init(|| timers);
    }

    fn states(&self) -> MutexGuard<'_, [State; STIMER_COUNT]> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// CONFIG of timer `index`.
    pub fn config(&self, index: usize) -> u64 {
        self.states().get(index).map_or(0, |state| state.config.into_bits())
    }

    /// COUNT of timer `index`.
    pub fn count(&self, index: usize) -> u64 {
        self.states().get(index).map_or(0, |state| state.count)
    }

    /// Writes CONFIG of timer `index`.
    ///
    /// # Errors
    /// When reserved bits are set, or direct mode and that is not offered.
    pub fn set_config(&self, index: usize, value: u64) -> Result<Option<Expiry>, GeneralProtection> {
        let mut config = StimerConfig::from_bits(value);
        let reserved = config.reserved0() != 0 || config.reserved1() != 0;
        if reserved || (config.direct_mode() && !self.direct) {
            return Err(GeneralProtection);
        }
        if config.sint() == 0 && !config.direct_mode() {
            config.set_enable(false);
        }
        let mut states = self.states();
        let state = states.get_mut(index).ok_or(GeneralProtection)?;
        state.config = config;
        Ok(self.restart(index, state))
    }

    /// Writes COUNT of timer `index`.
    pub fn set_count(&self, index: usize, value: u64) -> Option<Expiry> {
        let mut states = self.states();
        let state = states.get_mut(index)?;
        state.count = value;
        if value == 0 {
            state.config.set_enable(false);
        } else if state.config.auto_enable() && (state.config.sint() != 0 || state.config.direct_mode()) {
            state.config.set_enable(true);
        }
        self.restart(index, state)
    }

    /// The clock's timer `index` has fired.
    pub fn elapsed(&self, index: usize) -> Option<Expiry> {
        let mut states = self.states();
        let state = states.get_mut(index)?;
        self.run(index, state)
    }

    /// Starts the timer anew if it is enabled, and stops it if not.
    fn restart(&self, index: usize, state: &mut State) -> Option<Expiry> {
        state.next = match state.config.enable() && state.count != 0 {
            true if state.config.periodic() => Some(self.time.now().saturating_add(state.count)),
            true => Some(state.count),
            false => None,
        };
        if state.next.is_none() {
            if let Some(timer) = self.timer(index) {
                timer.disarm();
            }
            return None;
        }
        self.run(index, state)
    }

    /// Expires the timer if its time has come, and waits for the next time.
    fn run(&self, index: usize, state: &mut State) -> Option<Expiry> {
        let expiration = state.next?;
        let now = self.time.now();
        if now < expiration {
            self.arm(index, expiration);
            return None;
        }
        if state.config.periodic() {
            let next = next_expiration(expiration, state.count, now, state.config.lazy());
            state.next = Some(next);
            self.arm(index, next.max(now.saturating_add((state.count / 2).max(MIN_PERIOD))));
        } else {
            state.next = None;
            state.config.set_enable(false);
        }
        Some(match state.config.direct_mode() {
            true => Expiry::Interrupt(state.config.apic_vector()),
            false => Expiry::Message { sint: state.config.sint(), expiration },
        })
    }

    fn arm(&self, index: usize, time: u64) {
        let Some(timer) = self.timer(index) else { return };
        match self.time.deadline(time) {
            Some(deadline) => timer.arm(deadline),
            None => timer.disarm(),
        }
    }

    fn timer(&self, index: usize) -> Option<&dyn Timer> {
        self.timers.get().and_then(|timers| timers.get(index)).map(|timer| &**timer)
    }

    /// Back to the state after reset: all stopped.
    pub fn reset(&self) {
        let mut states = self.states();
        for (index, state) in states.iter_mut().enumerate() {
            *state = State::default();
            self.restart(index, state);
        }
    }
}

/// When a periodic timer that expired at `now` instead of `expiration` expires next.
fn next_expiration(expiration: u64, period: u64, now: u64, lazy: bool) -> u64 {
    let behind = (now - expiration) / period;
    let skipped = if lazy || behind > MAX_LAG { behind } else { 0 };
    expiration.saturating_add(period.saturating_mul(skipped + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clock::{Clock, FakeClock, FakeTimers, Timers};
    use std::sync::Weak;

    /// 100 ns.
    const UNIT: u64 = 100;
    const SINT2: u64 = 2 << 16;
    const ENABLE: u64 = 1;
    const PERIODIC: u64 = 2;
    const LAZY: u64 = 4;
    const AUTO: u64 = 8;
    const DIRECT: u64 = 1 << 12 | 0xed << 4;

    struct Fixture {
        clock: Arc<FakeClock>,
        queue: Arc<FakeTimers>,
        timers: Arc<SyntheticTimers>,
        /// Clock and what happened.
        fired: Arc<Mutex<Vec<(u64, Expiry)>>>,
    }

    fn timers() -> Fixture {
        let clock = FakeClock::new();
        let queue = FakeTimers::new(clock.clone());
        let fired: Arc<Mutex<Vec<_>>> = Arc::default();
        let timers = Arc::new(SyntheticTimers::new(Arc::new(ReferenceTime::new(clock.clone())), true));
        timers.set_timers(std::array::from_fn(|index| {
            let (timers, fired, clock): (Weak<SyntheticTimers>, _, _) =
                (Arc::downgrade(&timers), fired.clone(), clock.clone());
            queue.timer(Box::new(move || {
                let expiry = timers.upgrade().and_then(|timers| timers.elapsed(index));
                fired.lock().unwrap().extend(expiry.map(|expiry| (clock.now() / UNIT, expiry)));
            }))
        }));
        Fixture { clock, queue, timers, fired }
    }

    impl Fixture {
        fn advance(&self, units: u64) {
            self.queue.advance(units * UNIT);
        }

        fn times(&self) -> Vec<u64> {
            self.fired.lock().unwrap().iter().map(|(at, _)| *at).collect()
        }
    }

    #[test]
    fn a_one_shot_timer_expires_at_its_time_and_is_disabled_then() {
        let f = timers();
        f.timers.set_count(0, 1000);
        assert_eq!(f.timers.set_config(0, SINT2 | ENABLE), Ok(None));
        f.advance(999);
        assert!(f.times().is_empty());
        f.advance(5000);
        assert_eq!(*f.fired.lock().unwrap(), [(1000, Expiry::Message { sint: 2, expiration: 1000 })]);
        assert_eq!(f.timers.config(0), SINT2);
    }

    #[test]
    fn a_one_shot_timer_in_the_past_expires_at_once() {
        let f = timers();
        f.advance(500);
        assert_eq!(f.timers.set_config(1, DIRECT | AUTO | ENABLE), Ok(None), "no count yet");
        assert_eq!(f.timers.set_count(1, 20), Some(Expiry::Interrupt(0xed)));
        assert_eq!(f.timers.config(1), DIRECT | AUTO);
    }

    #[test]
    fn auto_enable_starts_the_timer_when_the_count_is_written() {
        let f = timers();
        assert_eq!(f.timers.set_config(0, DIRECT | AUTO), Ok(None));
        assert_eq!(f.timers.set_count(0, 100), None);
        assert_eq!(f.timers.config(0), DIRECT | AUTO | ENABLE);
        f.advance(100);
        f.timers.set_count(0, 300);
        f.advance(1000);
        assert_eq!(f.times(), [100, 300]);
    }

    #[test]
    fn without_auto_enable_a_count_alone_starts_nothing() {
        let f = timers();
        assert_eq!(f.timers.set_config(0, DIRECT), Ok(None));
        f.timers.set_count(0, 100);
        f.advance(1000);
        assert!(f.times().is_empty());
    }

    #[test]
    fn a_count_of_zero_stops_the_timer() {
        let f = timers();
        assert_eq!(f.timers.set_config(0, DIRECT | AUTO), Ok(None));
        f.timers.set_count(0, 100);
        f.timers.set_count(0, 0);
        f.advance(1000);
        assert!(f.times().is_empty());
        assert_eq!(f.timers.config(0), DIRECT | AUTO);
    }

    #[test]
    fn a_periodic_timer_expires_again_and_again_until_disabled() {
        let f = timers();
        f.advance(7);
        f.timers.set_count(3, 1000);
        assert_eq!(f.timers.set_config(3, SINT2 | PERIODIC | ENABLE), Ok(None));
        f.advance(3500);
        assert_eq!(f.times(), [1007, 2007, 3007]);
        assert_eq!(f.timers.set_config(3, SINT2 | PERIODIC), Ok(None));
        f.advance(3500);
        assert_eq!(f.times().len(), 3);
    }

    #[test]
    fn a_late_periodic_timer_catches_up_by_shorter_periods() {
        let f = timers();
        f.timers.set_count(0, 1000);
        assert_eq!(f.timers.set_config(0, DIRECT | PERIODIC | ENABLE), Ok(None));
        f.clock.advance(2900 * UNIT);
        f.advance(5000);
        assert_eq!(f.times(), [2900, 3400, 3900, 4400, 5000, 6000, 7000]);
    }

    #[test]
    fn a_late_lazy_timer_skips() {
        let f = timers();
        f.timers.set_count(0, 1000);
        assert_eq!(f.timers.set_config(0, DIRECT | PERIODIC | LAZY | ENABLE), Ok(None));
        f.clock.advance(2100 * UNIT);
        f.advance(2000);
        assert_eq!(f.times(), [2100, 3000, 4000]);
    }

    #[test]
    fn a_tiny_period_does_not_flood_the_host() {
        let f = timers();
        f.timers.set_count(0, 1);
        assert_eq!(f.timers.set_config(0, DIRECT | PERIODIC | ENABLE), Ok(None));
        f.advance(100_000);
        assert!(f.times().len() as u64 <= 100_000 / MIN_PERIOD + 1);
    }

    #[test]
    fn a_timer_without_source_cannot_be_enabled() {
        let f = timers();
        f.timers.set_count(0, 100);
        assert_eq!(f.timers.set_config(0, ENABLE | AUTO), Ok(None));
        assert_eq!(f.timers.config(0), AUTO);
        f.timers.set_count(0, 200);
        assert_eq!(f.timers.config(0), AUTO);
    }

    #[test]
    fn reserved_bits_and_unoffered_direct_mode_are_refused() {
        let f = timers();
        assert_eq!(f.timers.set_config(0, 1 << 13), Err(GeneralProtection));
        assert_eq!(f.timers.set_config(0, 1 << 20), Err(GeneralProtection));
        let plain = SyntheticTimers::new(Arc::new(ReferenceTime::new(FakeClock::new())), false);
        assert_eq!(plain.set_config(0, DIRECT), Err(GeneralProtection));
    }

    #[test]
    fn reset_stops_all() {
        let f = timers();
        assert_eq!(f.timers.set_config(2, DIRECT | AUTO), Ok(None));
        f.timers.set_count(2, 100);
        f.timers.reset();
        f.advance(1000);
        assert!(f.times().is_empty());
        assert_eq!((f.timers.config(2), f.timers.count(2)), (0, 0));
    }
}
