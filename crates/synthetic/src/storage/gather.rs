//! Whether a guest has several requests at a time, and what is done about it.
//!
//! A guest that waits for each answer (queue depth 1) is served at once. A guest with many requests in flight writes them
//! one by one all the same, and would signal each and be interrupted for each, were it served as fast: then it pays to
//! let it write what it has. The two look alike to a thread that takes each request as soon as it is there; only what
//! is found in the ring *together* tells them apart. So every now and then the thread lets itself be woken late, and
//! looks whether that has brought more than one.
//!
//! ```text
//!            64 requests, each alone          two or more at a look
//!  ┌─▶ single ─────────────────────▶ probing ─────────────────▶ deep ─┐
//!  │     ▲──────────────────────────────┘ alone                       │
//!  └────────────────────────────────────────────── 8 looks, each alone┘
//! ```
//!
//! Where the guest's processor has a processor of the host to itself, the thread is never late, and finds several when
//! the guest is faster; what it does about it then is to look for a moment longer before it sleeps.

use std::time::Duration;

use ::storage::scheduling::Wakeup;

/// Requests that come alone between two probes: what a probe costs (the guest halts once) is shared by as many.
const PROBE_AFTER: u32 = 64;
/// Looks at the ring that find one request each before a guest is taken for one that waits.
const GIVE_UP_AFTER: u32 = 8;
/// The longest that is waited for more, however long the requests have taken.
const LINGER_MAX: Duration = Duration::from_micros(50);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Single,
    Probing,
    Deep,
}

/// What one channel's guest does.
#[derive(Debug)]
pub(super) struct Gather {
    state: State,
    /// Looks that have found one request each.
    alone: u32,
}

impl Gather {
    pub fn new() -> Self {
        Self { state: State::Single, alone: 0 }
    }

    /// Told of one look at the ring that has found something: how many requests the guest has in flight then.
    pub fn found(&mut self, requests: usize) {
        match (requests, self.state) {
            (1, State::Single) => {
                self.alone += 1;
                if self.alone == PROBE_AFTER {
                    *self = Self { state: State::Probing, alone: 0 };
                }
            }
            (1, State::Probing) => *self = Self::new(),
            (1, State::Deep) => {
                self.alone += 1;
                if self.alone == GIVE_UP_AFTER {
                    *self = Self::new();
                }
            }
            _ => *self = Self { state: State::Deep, alone: 0 },
        }
    }

    /// Told that a request has come while the guest had not been interrupted for the answer to the one before.
    pub fn sent_unanswered(&mut self) {
        *self = Self { state: State::Deep, alone: 0 };
    }

    /// How the thread is to be woken.
    pub fn wakeup(&self) -> Wakeup {
        match self.state {
            State::Single => Wakeup::AtOnce,
            State::Probing | State::Deep => Wakeup::WhenFree,
        }
    }

    /// How long to look for more after `requests` that have taken `work`: a guest that sends one in about the time that
    /// it takes to serve one is not asked to signal it.
    pub fn linger(&self, requests: usize, work: Duration) -> Duration {
        match (self.state, u32::try_from(requests)) {
            (State::Deep, Ok(requests @ 1..)) => (2 * work / requests).min(LINGER_MAX),
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(looks: impl IntoIterator<Item = usize>) -> Gather {
        let mut gather = Gather::new();
        looks.into_iter().for_each(|requests| gather.found(requests));
        gather
    }

    #[test]
    fn a_guest_that_waits_is_served_at_once_but_for_one_probe_in_many() {
        let mut gather = Gather::new();
        let late = (0..650).filter(|_| {
            gather.found(1);
            gather.wakeup() == Wakeup::WhenFree
        });
        assert_eq!(late.count(), 10);
        assert_eq!(gather.linger(1, Duration::from_micros(5)), Duration::ZERO);
    }

    #[test]
    fn what_a_probe_brings_decides() {
        let probing = || after([1; PROBE_AFTER as usize]);
        let mut several = probing();
        several.found(32);
        assert_eq!((several.state, several.wakeup()), (State::Deep, Wakeup::WhenFree));
        let mut alone = probing();
        alone.found(1);
        assert_eq!((alone.state, alone.wakeup()), (State::Single, Wakeup::AtOnce));
    }

    #[test]
    fn several_at_a_look_need_no_probe() {
        assert_eq!(after([1, 2]).wakeup(), Wakeup::WhenFree);
    }

    #[test]
    fn a_guest_that_comes_to_wait_is_soon_served_at_once() {
        let alone = |looks| after([32].into_iter().chain(std::iter::repeat_n(1, looks)));
        assert_eq!(alone(GIVE_UP_AFTER as usize - 1).state, State::Deep);
        assert_eq!(alone(GIVE_UP_AFTER as usize).state, State::Single);
    }

    #[test]
    fn a_guest_that_does_not_wait_for_answers_stays_deep_one_by_one() {
        let mut gather = after([2]);
        for _ in 0..100 {
            gather.found(1);
            gather.sent_unanswered();
        }
        assert_eq!(gather.wakeup(), Wakeup::WhenFree);
    }

    #[test]
    fn more_is_waited_for_as_long_as_two_requests_take_and_not_long() {
        let deep = after([4]);
        assert_eq!(deep.linger(4, Duration::from_micros(20)), Duration::from_micros(10));
        assert_eq!(deep.linger(1, Duration::from_secs(1)), LINGER_MAX);
        assert_eq!(deep.linger(0, Duration::from_secs(1)), Duration::ZERO);
    }
}
