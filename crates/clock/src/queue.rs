//! The timers of a running machine: one thread that sleeps until the earliest deadline.
//!
//! Locks: `state` is never held while a callback runs; a timer's callback has a lock of its own, held
//! while it runs.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{JoinHandle, current};
use std::time::Duration;

use crate::{Clock, Timer, Timers};

/// How often a stopped clock is looked at, at the most.
const STOPPED: Duration = Duration::from_millis(1);

type Callback = Arc<Mutex<Box<dyn FnMut() + Send>>>;

#[derive(Default)]
struct State {
    /// (deadline, id) of what is armed.
    armed: BTreeSet<(u64, u64)>,
    timers: HashMap<u64, (Option<u64>, Callback)>,
    next_id: u64,
    ended: bool,
}

struct Shared {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Timers served by one thread, which ends when the queue is dropped. No callback runs afterwards.
pub struct TimerQueue {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl TimerQueue {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the host can start no thread.
    pub fn start(clock: Arc<dyn Clock>) -> std::io::Result<Arc<Self>> {
        let shared = Arc::new(Shared { clock, state: Mutex::default(), changed: Condvar::new() });
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("timers".to_owned()).spawn(move || {
            // The default slack of 50 µs would delay every guest timer by as much.
            // SAFETY: prctl with PR_SET_TIMERSLACK takes one integer and touches no memory.
            unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1000_u64, 0, 0, 0) };
            serve(&serving);
        })?;
        Ok(Arc::new(Self { shared, thread: Some(thread) }))
    }
}

impl Drop for TimerQueue {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
        // A callback may be what drops the queue.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != current().id()) {
            // The thread catches no panics, and one in a callback has been told of.
            let _ = thread.join();
        }
    }
}

fn serve(shared: &Shared) {
    let mut state = shared.lock();
    let mut before = None;
    while !state.ended {
        let Some(&(deadline, id)) = state.armed.first() else {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let now = shared.clock.now();
        if deadline > now {
            // A stopped clock is looked at again after a while, which is not too short.
            let stopped = before.replace(now) == Some(now);
            let sleep = Duration::from_nanos((deadline - now).min(1_000_000_000));
            let sleep = if stopped { sleep.max(STOPPED) } else { sleep };
            state = shared.changed.wait_timeout(state, sleep).unwrap_or_else(PoisonError::into_inner).0;
            continue;
        }
        state.armed.pop_first();
        let Some((armed, callback)) = state.timers.get_mut(&id) else { continue };
        *armed = None;
        let callback = Arc::clone(callback);
        drop(state);
        callback.lock().unwrap_or_else(PoisonError::into_inner)();
        state = shared.lock();
    }
}

impl Timers for TimerQueue {
    fn timer(&self, callback: Box<dyn FnMut() + Send>) -> Box<dyn Timer> {
        let mut state = self.shared.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.timers.insert(id, (None, Arc::new(Mutex::new(callback))));
        Box::new(QueuedTimer { queue: Arc::downgrade(&self.shared), id })
    }
}

struct QueuedTimer {
    queue: Weak<Shared>,
    id: u64,
}

impl QueuedTimer {
    fn set(&self, deadline: Option<u64>) {
        let Some(shared) = self.queue.upgrade() else { return };
        let mut state = shared.lock();
        let first = state.armed.first().copied();
        let id = self.id;
        let Some((armed, _)) = state.timers.get_mut(&id) else { return };
        if let Some(old) = std::mem::replace(armed, deadline) {
            state.armed.remove(&(old, id));
        }
        if let Some(new) = deadline {
            state.armed.insert((new, id));
        }
        // Only an earlier first deadline needs the thread's attention; a later one finds it awake early.
        let wake = deadline.is_some() && state.armed.first().copied() < first.or(Some((u64::MAX, u64::MAX)));
        drop(state);
        if wake {
            shared.changed.notify_one();
        }
    }
}

impl Timer for QueuedTimer {
    fn arm(&self, deadline: u64) {
        self.set(Some(deadline));
    }

    fn disarm(&self) {
        self.set(None);
    }
}

impl Drop for QueuedTimer {
    fn drop(&mut self) {
        let Some(shared) = self.queue.upgrade() else { return };
        let mut state = shared.lock();
        // The callback is dropped outside the lock: it may own another timer.
        let removed = state.timers.remove(&self.id);
        if let Some((Some(deadline), _)) = &removed {
            state.armed.remove(&(*deadline, self.id));
        }
        drop(state);
        drop(removed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VmClock;
    use std::sync::mpsc;

    #[test]
    fn deadlines_fire_in_order_and_disarmed_ones_do_not() {
        let clock = VmClock::new();
        let queue = TimerQueue::start(clock.clone()).unwrap();
        let (sender, receiver) = mpsc::channel();
        let timers: Vec<_> = (0..3)
            .map(|n| {
                let sender = sender.clone();
                queue.timer(Box::new(move || sender.send(n).unwrap()))
            })
            .collect();
        let now = clock.now();
        timers[0].arm(now + 30_000_000);
        timers[1].arm(now + 10_000_000);
        timers[2].arm(now + 20_000_000);
        timers[2].disarm();
        let wait = Duration::from_secs(10);
        assert_eq!(receiver.recv_timeout(wait), Ok(1));
        assert_eq!(receiver.recv_timeout(wait), Ok(0));
        assert!(receiver.try_recv().is_err());
    }
}
