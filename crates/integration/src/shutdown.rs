//! Shutdown: the host asks the guest's system to power off, to restart or to hibernate.
//!
//! Linux `drivers/hv/hv_util.c` (`shutdown_onchannelcallback`).

use serde::{Deserialize, Serialize};
use vmbus::Guid;

use crate::conversation::Service;
use crate::message::{MessageType, Version};
use crate::wishes::{Asked, Outcome, Wishes};

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

/// A wish: what, and whether whatever the guest's programs say.
pub(crate) struct Wish(pub Shutdown, pub bool);

/// The service.
#[derive(Default)]
pub(crate) struct ShutdownService {
    wishes: Wishes<Wish>,
}

impl Asked for ShutdownService {
    type Wish = Wish;

    fn wishes(&mut self) -> &mut Wishes<Wish> {
        &mut self.wishes
    }
}

impl Service for ShutdownService {
    const MESSAGE: MessageType = MessageType::SHUTDOWN;
    const VERSIONS: &'static [Version] =
        &[Version::new(3, 2), Version::new(3, 1), Version::new(3, 0), Version::new(1, 0)];

    fn begin(&mut self, _: Version, _: u64) {}

    fn request(&mut self, _: u64) -> Option<Vec<u8>> {
        let Wish(what, force) = self.wishes.begin()?;
        let flags = what.flags() | if force { FORCE } else { 0 };
        let mut body: Vec<u8> = [REASON, GRACE, flags].into_iter().flat_map(u32::to_le_bytes).collect();
        body.resize(body.len() + DISPLAY, 0);
        Some(body)
    }

    fn due(&self) -> Option<u64> {
        None
    }

    fn answer(&mut self, status: u32, _: &[u8], _: u64) {
        self.wishes.settle(Outcome::of(status));
    }

    fn end(&mut self) {
        self.wishes.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_in_the_flags() {
        let mut service = ShutdownService::default();
        let wishes =
            [(Shutdown::PowerOff, false, 0), (Shutdown::Restart, false, 2), (Shutdown::Hibernate, true, 5)];
        for (what, force, flags) in wishes {
            service.wishes.add(Wish(what, force));
            let body = service.request(0).unwrap();
            assert_eq!((&body[8..12], body.len()), (&[flags, 0, 0, 0][..], 12 + 2048));
            service.answer(0, &[], 1);
        }
        assert_eq!(service.request(0), None);
    }
}
