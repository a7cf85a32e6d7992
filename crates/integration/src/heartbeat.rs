//! Heartbeat: the guest shows that it is alive by counting what the host counts.
//!
//! Its answer says, too, how the applications are that it watches over, if it does: Windows' integration services tell
//! what applications have told them. Linux gives back what the host has sent there, zero: unknown.
//!
//! Linux `drivers/hv/hv_util.c` (`heartbeat_onchannelcallback`); OpenVMM `hyperv_ic_protocol` (`HeartbeatMessage`), which
//! alone describes the state of applications. What Hyper-V makes of it for its users: `Msvm_HeartbeatComponent`,
//! OperationalStatus.

use serde::{Deserialize, Serialize};
use vmbus::Guid;

use crate::conversation::Service;
use crate::message::{MessageType, Version};

pub(crate) const INTERFACE: Guid =
    Guid::new(0x5716_4f39, 0x9115, 0x4e78, [0xab, 0x55, 0x38, 0x2f, 0x3b, 0xd5, 0x42, 0x2d]);
pub(crate) const INSTANCE: Guid =
    Guid::new(0xfd14_9e91, 0x82e0, 0x4a7d, [0xaf, 0xa6, 0x2a, 0x41, 0x66, 0xcb, 0xd7, 0xc0]);

/// Nanoseconds between two beats.
const INTERVAL: u64 = 2 * clock::NANOSECONDS;
/// Bytes after the number: the state of applications in an answer, and what is reserved.
const REST: usize = 32;

/// How the applications are that a guest watches over, as it tells with each beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Applications {
    /// It does not watch over any, or says something that is not known.
    #[default]
    Unknown,
    /// They are well.
    Healthy,
    /// One of them has told of a critical error.
    Critical,
    /// They run no more.
    Stopped,
}

impl Applications {
    /// As it stands in an answer.
    const fn of(value: u32) -> Self {
        match value {
            1 => Self::Healthy,
            2 => Self::Critical,
            3 => Self::Stopped,
            _ => Self::Unknown,
        }
    }

    /// In words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Critical => "critical",
            Self::Stopped => "stopped",
        }
    }
}

/// The service.
#[derive(Default)]
pub(crate) struct HeartbeatService {
    sequence: u64,
    next: Option<u64>,
    /// Answers that did not count.
    pub wrong: u64,
    /// Answers that did.
    pub beats: u64,
    applications: Option<Applications>,
}

impl HeartbeatService {
    /// How the guest's applications are, once it has told.
    pub fn applications(&self) -> Option<Applications> {
        self.applications
    }
}

impl Service for HeartbeatService {
    const MESSAGE: MessageType = MessageType::HEARTBEAT;
    const VERSIONS: &'static [Version] = &[Version::new(3, 0), Version::new(1, 0)];

    fn begin(&mut self, _: Version, now: u64) {
        self.next = Some(now);
    }

    fn request(&mut self, now: u64) -> Option<Vec<u8>> {
        if self.next? > now {
            return None;
        }
        self.next = Some(now + INTERVAL);
        let mut body = self.sequence.to_le_bytes().to_vec();
        body.resize(body.len() + REST, 0);
        Some(body)
    }

    fn due(&self) -> Option<u64> {
        self.next
    }

    fn answer(&mut self, _: u32, body: &[u8], _: u64) {
        let counted = body.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let right = counted == Some(self.sequence.wrapping_add(1));
        if right {
            self.beats += 1;
            let state = body.get(8..).and_then(|rest| rest.first_chunk());
            self.applications =
                Some(state.map(|bytes| Applications::of(u32::from_le_bytes(*bytes))).unwrap_or_default());
        } else {
            self.wrong += 1;
        }
        self.sequence = self.sequence.wrapping_add(2);
    }

    fn end(&mut self) {
        (self.next, self.applications) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_every_two_seconds_whose_number_the_guest_raises() {
        let mut service = HeartbeatService::default();
        assert_eq!(service.request(0), None);
        service.begin(Version::new(3, 0), 100);
        let mut body = service.request(100).unwrap();
        assert_eq!((body.len(), service.request(101)), (40, None));
        assert_eq!(service.due(), Some(100 + INTERVAL));
        body[0] += 1;
        service.answer(0, &body, 200);
        assert_eq!((service.beats, service.wrong), (1, 0));
        let body = service.request(100 + INTERVAL).unwrap();
        assert_eq!(body[0], 2);
        service.answer(0, &body, 200);
        service.answer(0, &[], 200);
        assert_eq!((service.beats, service.wrong), (1, 2));
    }

    #[test]
    fn what_a_guest_tells_of_its_applications_is_kept_until_it_goes() {
        let mut service = HeartbeatService::default();
        service.begin(Version::new(3, 0), 0);
        assert_eq!(service.applications(), None);
        let told = [
            (0, Applications::Unknown),
            (1, Applications::Healthy),
            (2, Applications::Critical),
            (3, Applications::Stopped),
            (0xffff_ffff, Applications::Unknown),
        ];
        for (beat, (value, applications)) in told.into_iter().enumerate() {
            let mut body = service.request(beat as u64 * INTERVAL).unwrap();
            // What Linux gives back: unknown.
            assert_eq!(body[8..], [0; REST]);
            body[0] += 1;
            body[8..12].copy_from_slice(&u32::to_le_bytes(value));
            service.answer(0, &body, 0);
            assert_eq!(service.applications(), Some(applications));
        }
        service.end();
        assert_eq!(service.applications(), None);
    }

    #[test]
    fn an_answer_without_a_state_tells_nothing_and_one_with_a_wrong_number_does_not_count() {
        let mut service = HeartbeatService::default();
        service.begin(Version::new(1, 0), 0);
        let mut wrong = service.request(0).unwrap();
        wrong[8] = 1;
        service.answer(0, &wrong, 0);
        assert_eq!((service.applications(), service.wrong), (None, 1));
        let mut short = service.request(INTERVAL).unwrap();
        short[0] += 1;
        short.truncate(11);
        service.answer(0, &short, 0);
        assert_eq!((service.applications(), service.beats), (Some(Applications::Unknown), 1));
    }
}
