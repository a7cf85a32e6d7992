//! Heartbeat: the guest shows that it is alive by counting what the host counts.
//!
//! Linux `drivers/hv/hv_util.c` (`heartbeat_onchannelcallback`).

use vmbus::Guid;

use crate::conversation::Service;
use crate::message::{MessageType, Version};

pub(crate) const INTERFACE: Guid =
    Guid::new(0x5716_4f39, 0x9115, 0x4e78, [0xab, 0x55, 0x38, 0x2f, 0x3b, 0xd5, 0x42, 0x2d]);
pub(crate) const INSTANCE: Guid =
    Guid::new(0xfd14_9e91, 0x82e0, 0x4a7d, [0xaf, 0xa6, 0x2a, 0x41, 0x66, 0xcb, 0xd7, 0xc0]);

/// Nanoseconds between two beats.
const INTERVAL: u64 = 2 * clock::NANOSECONDS;
/// Reserved bytes after the number.
const RESERVED: usize = 32;

/// The service.
#[derive(Default)]
pub(crate) struct HeartbeatService {
    sequence: u64,
    next: Option<u64>,
    /// Answers that did not count.
    pub wrong: u64,
    /// Answers that did.
    pub beats: u64,
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
        body.resize(body.len() + RESERVED, 0);
        Some(body)
    }

    fn due(&self) -> Option<u64> {
        self.next
    }

    fn answer(&mut self, _: u32, body: &[u8], _: u64) {
        let counted = body.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let right = counted == Some(self.sequence.wrapping_add(1));
        *(if right { &mut self.beats } else { &mut self.wrong }) += 1;
        self.sequence = self.sequence.wrapping_add(2);
    }

    fn end(&mut self) {
        self.next = None;
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
}
