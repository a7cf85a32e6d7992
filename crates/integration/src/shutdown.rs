//! Shutdown: the host asks the guest's system to power off, to restart or to hibernate.
//!
//! Linux `drivers/hv/hv_util.c` (`shutdown_onchannelcallback`).

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use vmbus::Guid;

use crate::conversation::Service;
use crate::message::{MessageType, STATUS_OK, Version};

pub(crate) const INTERFACE: Guid =
    Guid::new(0x0e0b_6031, 0x5213, 0x4934, [0x81, 0x8b, 0x38, 0xd9, 0x0c, 0xed, 0x39, 0xdb]);
pub(crate) const INSTANCE: Guid =
    Guid::new(0xb6650ff7, 0x33bc, 0x4840, [0x80, 0x48, 0xe0, 0x67, 0x67, 0x86, 0xf3, 0x93]);

/// What a guest is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shutdown {
    /// Power off.
    #[default]
    PowerOff,
    /// Restart.
    Restart,
    /// Write memory to disk and power off.
    Hibernate,
}

impl Shutdown {
    const fn flags(self) -> u32 {
        match self {
            Self::PowerOff => 0,
            Self::Restart => 2,
            Self::Hibernate => 4,
        }
    }
}

/// Without asking programs that might object.
const FORCE: u32 = 1;
/// Planned, by an application of unknown nature: SHTDN_REASON_FLAG_PLANNED.
const REASON: u32 = 0x8000_0000;
/// Seconds that programs are given.
const GRACE: u32 = 60;
/// Bytes of the message that is shown to users; always there.
const DISPLAY: usize = 2048;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Accepted,
    /// With the guest's status.
    Refused(u32),
    /// The guest's driver has gone.
    Gone,
}

/// The service.
#[derive(Default)]
pub(crate) struct ShutdownService {
    wanted: VecDeque<(u64, Shutdown, bool)>,
    asked: Option<u64>,
    next: u64,
    outcomes: VecDeque<(u64, Outcome)>,
}

/// Outcomes that nobody has fetched are kept up to this number.
const KEPT: usize = 16;

impl ShutdownService {
    /// Notes a wish; its number is for [`Self::outcome`].
    pub fn ask(&mut self, what: Shutdown, force: bool) -> u64 {
        self.next += 1;
        self.wanted.push_back((self.next, what, force));
        self.next
    }

    /// What became of a wish, once it is known.
    pub fn outcome(&mut self, number: u64) -> Option<Outcome> {
        let at = self.outcomes.iter().position(|&(n, _)| n == number)?;
        self.outcomes.remove(at).map(|(_, outcome)| outcome)
    }

    /// Takes a wish back that has not been sent.
    pub fn withdraw(&mut self, number: u64) {
        self.wanted.retain(|&(n, ..)| n != number);
    }

    fn settle(&mut self, number: u64, outcome: Outcome) {
        if self.outcomes.len() == KEPT {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back((number, outcome));
    }
}

impl Service for ShutdownService {
    const MESSAGE: MessageType = MessageType::SHUTDOWN;
    const VERSIONS: &'static [Version] =
        &[Version::new(3, 2), Version::new(3, 1), Version::new(3, 0), Version::new(1, 0)];

    fn begin(&mut self, _: Version, _: u64) {}

    fn request(&mut self, _: u64) -> Option<Vec<u8>> {
        let (number, what, force) = self.wanted.pop_front()?;
        self.asked = Some(number);
        let flags = what.flags() | if force { FORCE } else { 0 };
        let mut body: Vec<u8> = [REASON, GRACE, flags].into_iter().flat_map(u32::to_le_bytes).collect();
        body.resize(body.len() + DISPLAY, 0);
        Some(body)
    }

    fn due(&self) -> Option<u64> {
        None
    }

    fn answer(&mut self, status: u32, _: &[u8], _: u64) {
        if let Some(number) = self.asked.take() {
            let outcome = if status == STATUS_OK { Outcome::Accepted } else { Outcome::Refused(status) };
            self.settle(number, outcome);
        }
    }

    fn end(&mut self) {
        let wanted: Vec<u64> =
            self.asked.take().into_iter().chain(self.wanted.drain(..).map(|w| w.0)).collect();
        for number in wanted {
            self.settle(number, Outcome::Gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(body: &[u8]) -> u32 {
        u32::from_le_bytes(body[8..12].try_into().unwrap())
    }

    #[test]
    fn wishes_are_sent_in_order_and_each_has_its_outcome() {
        let mut service = ShutdownService::default();
        let (first, second) =
            (service.ask(Shutdown::PowerOff, false), service.ask(Shutdown::Hibernate, true));
        assert_eq!(flags(&service.request(0).unwrap()), 0);
        assert_eq!(service.outcome(first), None);
        service.answer(STATUS_OK, &[], 1);
        let body = service.request(1).unwrap();
        assert_eq!((flags(&body), body.len()), (5, 12 + 2048));
        service.answer(0x8000_4005, &[], 2);
        assert_eq!(service.outcome(second), Some(Outcome::Refused(0x8000_4005)));
        assert_eq!(service.outcome(first), Some(Outcome::Accepted));
        assert_eq!((service.outcome(first), service.request(3)), (None, None));
    }

    #[test]
    fn a_driver_that_goes_leaves_no_wish_unanswered() {
        let mut service = ShutdownService::default();
        let (first, second) = (service.ask(Shutdown::Restart, false), service.ask(Shutdown::Restart, false));
        service.request(0);
        service.end();
        assert_eq!(
            (service.outcome(first), service.outcome(second)),
            (Some(Outcome::Gone), Some(Outcome::Gone))
        );
    }

    #[test]
    fn outcomes_that_nobody_fetches_do_not_pile_up() {
        let mut service = ShutdownService::default();
        for _ in 0..100 {
            service.ask(Shutdown::PowerOff, false);
            service.request(0);
            service.answer(STATUS_OK, &[], 0);
        }
        assert_eq!(service.outcomes.len(), KEPT);
    }
}
