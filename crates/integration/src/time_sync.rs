//! Time synchronization: the host tells the guest the time of day.
//!
//! The first message after the guest's driver has come tells the guest to set its clock; samples follow, by which
//! a guest disciplines it if it wants to (Linux: `/dev/ptp_hyperv`). Linux sets its clock by the former alone, whatever a
//! sample differs (since 6.8 also by samples, with `hv_utils.timesync_implicit`), so a guest that was paused needs another.
//!
//! Linux `drivers/hv/hv_util.c` (`timesync_onchannelcallback`, `adj_guesttime`).

use std::sync::Arc;

use vmbus::Guid;

use crate::conversation::Service;
use crate::message::{MessageType, Version};

pub(crate) const INTERFACE: Guid =
    Guid::new(0x9527_e630, 0xd0ae, 0x497b, [0xad, 0xce, 0xe8, 0x0a, 0xb0, 0x17, 0x5c, 0xaf]);
pub(crate) const INSTANCE: Guid =
    Guid::new(0x2497_f4de, 0xe9fa, 0x4204, [0x80, 0xe4, 0x4b, 0x75, 0xc4, 0x64, 0x19, 0xc0]);

/// Nanoseconds between two samples.
const INTERVAL: u64 = 5 * clock::NANOSECONDS;
/// Set the clock.
const SYNC: u8 = 1;
/// A sample.
const SAMPLE: u8 = 2;
/// From here on messages have the partition's reference time.
const WITH_REFERENCE: Version = Version::new(4, 0);
/// Units of 100 ns from 1601-01-01 to 1970-01-01.
const EPOCH: u64 = 116_444_736_000_000_000;
/// The length of messages in protocol 4.0, and before.
const LENGTH: usize = 24;
const LENGTH_BEFORE: usize = 25;

/// Where time comes from.
pub trait TimeSource: Send + Sync {
    /// Wall-clock time in nanoseconds since 1970-01-01 UTC.
    fn wall(&self) -> u64;
    /// The partition's reference time at the same moment, in units of 100 ns (TLFS, "Partition Reference Counter").
    fn reference(&self) -> u64;
}

/// The service.
pub(crate) struct TimeSyncService {
    source: Arc<dyn TimeSource>,
    version: Version,
    next: Option<u64>,
    set_clock: bool,
    /// Messages answered.
    pub samples: u64,
}

impl TimeSyncService {
    pub fn new(source: Arc<dyn TimeSource>) -> Self {
        Self { source, version: Version::new(0, 0), next: None, set_clock: false, samples: 0 }
    }

    /// The guest is to set its clock at once.
    pub fn set_clock(&mut self) {
        self.set_clock = true;
        if let Some(next) = &mut self.next {
            *next = 0;
        }
    }
}

impl Service for TimeSyncService {
    const MESSAGE: MessageType = MessageType::TIME_SYNC;
    const VERSIONS: &'static [Version] = &[WITH_REFERENCE, Version::new(3, 0), Version::new(1, 0)];

    fn begin(&mut self, version: Version, now: u64) {
        (self.version, self.next, self.set_clock) = (version, Some(now), true);
    }

    fn request(&mut self, now: u64) -> Option<Vec<u8>> {
        if self.next? > now {
            return None;
        }
        self.next = Some(now + INTERVAL);
        let flags = if std::mem::take(&mut self.set_clock) { SYNC } else { SAMPLE };
        let (reference, wall) = (self.source.reference(), self.source.wall() / 100 + EPOCH);
        let mut body = wall.to_le_bytes().to_vec();
        if self.version >= WITH_REFERENCE {
            body.extend(reference.to_le_bytes());
            body.push(flags);
            body.resize(LENGTH, 0);
        } else {
            // The guest's time and the round trip, which nobody fills in.
            body.resize(LENGTH_BEFORE - 1, 0);
            body.push(flags);
        }
        Some(body)
    }

    fn due(&self) -> Option<u64> {
        self.next
    }

    fn answer(&mut self, _: u32, _: &[u8], _: u64) {
        self.samples += 1;
    }

    fn end(&mut self) {
        self.next = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl TimeSource for Fixed {
        fn wall(&self) -> u64 {
            1_500
        }

        fn reference(&self) -> u64 {
            77
        }
    }

    #[test]
    fn the_first_message_sets_the_clock_and_samples_follow() {
        let mut service = TimeSyncService::new(Arc::new(Fixed));
        service.begin(WITH_REFERENCE, 0);
        let first = service.request(0).unwrap();
        assert_eq!(first[..8], (EPOCH + 15).to_le_bytes());
        assert_eq!(first[8..16], 77_u64.to_le_bytes());
        assert_eq!((first[16], first.len(), service.request(1)), (SYNC, 24, None));
        let second = service.request(INTERVAL).unwrap();
        assert_eq!(second[16], SAMPLE);
    }

    #[test]
    fn a_guest_that_has_slept_sets_its_clock_at_once() {
        let mut service = TimeSyncService::new(Arc::new(Fixed));
        service.begin(WITH_REFERENCE, 0);
        service.request(0).unwrap();
        service.set_clock();
        assert_eq!(service.request(1).unwrap()[16], SYNC);
        assert_eq!((service.request(2), service.due()), (None, Some(1 + INTERVAL)));
        // One that has not agreed on a version is told once it has.
        service.end();
        service.set_clock();
        assert_eq!((service.request(3), service.due()), (None, None));
    }

    #[test]
    fn older_guests_get_no_reference_time() {
        let mut service = TimeSyncService::new(Arc::new(Fixed));
        service.begin(Version::new(3, 0), 0);
        let body = service.request(0).unwrap();
        assert_eq!((body[24], body.len()), (SYNC, 25));
        assert_eq!(body[8..24], [0; 16]);
    }
}
