//! What happens to a machine from outside its processors' loops: power-off, reset, stop, failure.

use std::sync::{Condvar, Mutex, PoisonError};

use chipset::power::PowerControl;
use chipset::test_devices::DebugExitControl;

/// Why a machine failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The guest's operating system has crashed and said so.
    #[error("the guest has crashed: {0}")]
    Crash(String),
    /// A fault while a double fault was to be handled: the guest is lost.
    #[error("triple fault of processor {vp}")]
    TripleFault {
        /// Which processor.
        vp: u32,
    },
    /// A processor cannot go on.
    #[error("processor {vp} cannot go on: {reason}")]
    Processor {
        /// Which processor.
        vp: u32,
        /// Why, in one line.
        reason: String,
    },
    /// A thread of the machine has panicked: a defect of this program.
    #[error("a thread of the machine has panicked: {0}")]
    Panic(String),
    /// After a reset the machine could not be built again.
    #[error("the machine cannot start again after a reset: {0}")]
    Restart(#[source] Box<crate::Error>),
    /// The disks could not be brought to stable storage at the end.
    #[error("disk {disk} cannot be flushed")]
    Flush {
        /// The disk's file.
        disk: String,
        /// The host's reason.
        #[source]
        source: std::io::Error,
    },
}

/// How a machine came to its end.
#[derive(Debug)]
pub enum End {
    /// The guest has powered it off.
    PoweredOff,
    /// The guest has ended it by the debug-exit port, with this exit code.
    DebugExit(u8),
    /// It was stopped from outside.
    Stopped,
    /// It failed.
    Failed(Failure),
}

/// What is to happen next.
#[derive(Debug)]
pub(crate) enum Wish {
    Reset,
    End(End),
}

#[derive(Debug, Default)]
struct State {
    wish: Option<Wish>,
    ended: bool,
}

/// Where wishes go and where the machine waits for them. Wishes only note themselves: they may come from a
/// device that has its lock held.
#[derive(Debug, Default)]
pub(crate) struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

impl Control {
    /// The first wish counts, since processors run on until they have been stopped; a stop from outside
    /// overrides a reset.
    pub(crate) fn wish(&self, wish: Wish) {
        let mut state = self.lock();
        let stop = matches!(wish, Wish::End(End::Stopped));
        if state.wish.is_none() || (stop && matches!(state.wish, Some(Wish::Reset))) {
            state.wish = Some(wish);
            self.changed.notify_all();
        }
    }

    pub(crate) fn fail(&self, failure: Failure) {
        self.wish(Wish::End(End::Failed(failure)));
    }

    /// Whether something has been wished: what processors meet on the way there does not count.
    pub(crate) fn is_wished(&self) -> bool {
        self.lock().wish.is_some()
    }

    /// Waits for a wish and leaves it there, so that what follows from it cannot override it.
    pub(crate) fn wait(&self) {
        let mut state = self.lock();
        while state.wish.is_none() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes the wish. Call with the processors stopped.
    pub(crate) fn take(&self) -> Option<Wish> {
        self.lock().wish.take()
    }

    pub(crate) fn set_ended(&self) {
        self.lock().ended = true;
    }

    pub(crate) fn ended(&self) -> bool {
        self.lock().ended
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PowerControl for Control {
    fn power_off(&self) {
        self.wish(Wish::End(End::PoweredOff));
    }

    fn reset(&self) {
        self.wish(Wish::Reset);
    }
}

impl DebugExitControl for Control {
    fn debug_exit(&self, code: u8) {
        self.wish(Wish::End(End::DebugExit(code)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wish_counts() {
        let control = Control::default();
        control.reset();
        control.fail(Failure::Panic("a triple fault on the way to the reset".to_owned()));
        control.wait();
        assert!(matches!(control.take(), Some(Wish::Reset)));
        assert!(control.take().is_none());
    }

    #[test]
    fn a_stop_overrides_a_reset_and_nothing_else() {
        let control = Control::default();
        control.reset();
        control.wish(Wish::End(End::Stopped));
        assert!(matches!(control.take(), Some(Wish::End(End::Stopped))));
        control.power_off();
        control.wish(Wish::End(End::Stopped));
        assert!(matches!(control.take(), Some(Wish::End(End::PoweredOff))));
    }
}
