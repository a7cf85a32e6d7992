//! A machine that is paused: its processors wait outside the guest and its time stands still, while devices and their
//! threads stay as they are.
//!
//! ```text
//!   Running ──pause──▶ processors come out ──the last──▶ time stops: Paused
//!      ▲                                                              │
//!      └────────────── time goes on, processors go in ◀───resume──────┘
//! ```
//!
//! Of requests that are under way, those of disks come to their end; what devices have to say waits for the guest.
//!
//! Locks: `state` before those of the partition and of the clock.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use clock::VmClock;
use processor::{Exit, Partition, Processor};

/// Why a machine is not paused, or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// It is so already.
    #[error("the machine is {0} already")]
    Already(&'static str),
    /// A debugger has that in its hands.
    #[error("the machine can be debugged: pausing it is left to the debugger")]
    Debugged,
    /// It has come to its end, or is between a reset and the next start.
    #[error("the machine does not run")]
    Gone,
    /// The host refuses.
    #[error(transparent)]
    Host(#[from] processor::Error),
}

struct Present {
    partition: Arc<dyn Partition>,
    clock: Arc<VmClock>,
}

#[derive(Default)]
struct State {
    present: Option<Present>,
    paused: bool,
    /// The board is being taken apart: processors leave.
    leaving: bool,
    /// Processors in [`Processor::run`], or on their way to it.
    inside: usize,
}

/// Where processors wait while the machine is paused.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// A board has been built, of whose processors so many are to be run by [`Self::run`].
    pub fn begin(&self, partition: Arc<dyn Partition>, clock: Arc<VmClock>, processors: usize) {
        let present = Some(Present { partition, clock });
        *self.lock() = State { present, paused: false, leaving: false, inside: processors };
    }

    /// The board is about to be taken apart: nobody waits any more.
    pub fn leave(&self) {
        let mut state = self.lock();
        (state.leaving, state.present) = (true, None);
        self.changed.notify_all();
    }

    /// Runs a processor until the board goes or it cannot go on.
    pub fn run(&self, processor: &mut dyn Processor) -> Exit {
        loop {
            let exit = processor.run();
            let mut state = self.lock();
            state.inside = state.inside.saturating_sub(1);
            self.changed.notify_all();
            if exit != Exit::Stopped {
                return exit;
            }
            while state.paused && !state.leaving {
                state = self.wait(state);
            }
            if state.leaving {
                return Exit::Stopped;
            }
            state.inside += 1;
        }
    }

    /// Stops processors and time. On return they are.
    pub fn pause(&self) -> Result<(), PauseError> {
        let mut state = self.lock();
        let present = state.present.as_ref().ok_or(PauseError::Gone)?;
        if state.paused {
            return Err(PauseError::Already("paused"));
        }
        present.partition.stop();
        state.paused = true;
        while state.inside > 0 && !state.leaving {
            state = self.wait(state);
        }
        let Some(present) = &state.present else { return Err(PauseError::Gone) };
        let stopped = present.partition.stop_time();
        if stopped.is_ok() {
            present.clock.stop();
        } else {
            present.partition.resume();
            state.paused = false;
            self.changed.notify_all();
        }
        Ok(stopped?)
    }

    /// Lets time and processors go on.
    pub fn resume(&self) -> Result<(), PauseError> {
        let mut state = self.lock();
        let present = state.present.as_ref().ok_or(PauseError::Gone)?;
        if !state.paused || state.inside > 0 {
            return Err(PauseError::Already("running"));
        }
        present.clock.resume();
        let resumed = present.partition.resume_time();
        present.partition.resume();
        state.paused = false;
        self.changed.notify_all();
        Ok(resumed?)
    }

    /// Whether it is paused.
    pub fn paused(&self) -> bool {
        self.lock().paused
    }
}
