//! A clock and timers that move only when a test says so.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Clock, NANOSECONDS, Timer, Timers};

/// A clock that a test moves. Its TSC ticks at 1 GHz.
#[derive(Debug, Default)]
pub struct FakeClock {
    now: AtomicU64,
    wall: AtomicU64,
}

impl FakeClock {
    /// A clock at 0, on 1970-01-01.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Sets the wall clock of time 0, in nanoseconds since 1970.
    pub fn set_wall(&self, wall: u64) {
        self.wall.store(wall, Ordering::SeqCst);
    }

    /// Moves the time on without firing timers.
    pub fn advance(&self, ns: u64) {
        self.now.fetch_add(ns, Ordering::SeqCst);
    }
}

impl Clock for FakeClock {
    fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    fn tsc(&self) -> u64 {
        self.now()
    }

    fn tsc_frequency(&self) -> u64 {
        NANOSECONDS
    }

    fn time_of_tsc(&self, tsc: u64) -> u64 {
        tsc
    }

    fn wall(&self) -> u64 {
        self.wall.load(Ordering::SeqCst) + self.now()
    }
}

type Callback = Arc<Mutex<Box<dyn FnMut() + Send>>>;

#[derive(Default)]
struct Slot {
    deadline: Mutex<Option<u64>>,
    callback: Mutex<Option<Callback>>,
}

/// Timers on a [`FakeClock`].
pub struct FakeTimers {
    clock: Arc<FakeClock>,
    slots: Mutex<Vec<Arc<Slot>>>,
}

impl FakeTimers {
    /// Timers on `clock`.
    pub fn new(clock: Arc<FakeClock>) -> Arc<Self> {
        Arc::new(Self { clock, slots: Mutex::new(Vec::new()) })
    }

    /// Moves the clock on by `ns`, stopping at every deadline on the way to call back.
    pub fn advance(&self, ns: u64) {
        let end = self.clock.now() + ns;
        while let Some((deadline, slot)) = self.first_due(end) {
            *lock(&slot.deadline) = None;
            self.clock.advance(deadline.saturating_sub(self.clock.now()));
            let callback = lock(&slot.callback).clone();
            if let Some(callback) = callback {
                lock(&callback)();
            }
        }
        self.clock.advance(end.saturating_sub(self.clock.now()));
    }

    /// The earliest deadline that is armed.
    pub fn next_deadline(&self) -> Option<u64> {
        lock(&self.slots).iter().filter_map(|slot| *lock(&slot.deadline)).min()
    }

    fn first_due(&self, end: u64) -> Option<(u64, Arc<Slot>)> {
        lock(&self.slots)
            .iter()
            .filter_map(|slot| lock(&slot.deadline).map(|deadline| (deadline, Arc::clone(slot))))
            .filter(|(deadline, _)| *deadline <= end)
            .min_by_key(|(deadline, _)| *deadline)
    }
}

impl Timers for FakeTimers {
    fn timer(&self, callback: Box<dyn FnMut() + Send>) -> Box<dyn Timer> {
        let slot = Arc::new(Slot {
            deadline: Mutex::new(None),
            callback: Mutex::new(Some(Arc::new(Mutex::new(callback)))),
        });
        lock(&self.slots).push(Arc::clone(&slot));
        Box::new(FakeTimer(slot))
    }
}

struct FakeTimer(Arc<Slot>);

impl Timer for FakeTimer {
    fn arm(&self, deadline: u64) {
        *lock(&self.0.deadline) = Some(deadline);
    }

    fn disarm(&self) {
        *lock(&self.0.deadline) = None;
    }
}

impl Drop for FakeTimer {
    fn drop(&mut self) {
        self.disarm();
        lock(&self.0.callback).take();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_fire_in_order_and_a_callback_may_arm_again() {
        let clock = FakeClock::new();
        let timers = FakeTimers::new(clock.clone());
        let fired = Arc::new(Mutex::new(Vec::new()));
        let again: Arc<Mutex<Option<Box<dyn Timer>>>> = Arc::default();
        let timer = timers.timer(Box::new({
            let (fired, clock, again) = (fired.clone(), clock.clone(), again.clone());
            move || {
                fired.lock().unwrap().push(clock.now());
                again.lock().unwrap().as_ref().unwrap().arm(clock.now() + 30);
            }
        }));
        timer.arm(10);
        *again.lock().unwrap() = Some(timer);
        timers.advance(100);
        assert_eq!(*fired.lock().unwrap(), [10, 40, 70, 100]);
        assert_eq!(clock.now(), 100);
    }
}
