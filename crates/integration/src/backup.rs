//! Backup: the guest freezes its file systems, so that a copy of its disks is consistent, and thaws them.
//!
//! The guest's driver passes requests on to a program of the guest (`hv_vss_daemon`).
//!
//! Linux `include/uapi/linux/hyperv.h` (`hv_vss_msg`), `drivers/hv/hv_snapshot.c`.

use vmbus::Guid;

use crate::conversation::Service;
use crate::message::{MessageType, STATUS_OK, Version};
use crate::wishes::{Asked, Outcome, Wishes};

pub(crate) const INTERFACE: Guid =
    Guid::new(0x35fa_2e29, 0xea23, 0x4236, [0x96, 0xae, 0x3a, 0x6e, 0xba, 0xcb, 0xa4, 0x40]);
pub(crate) const INSTANCE: Guid =
    Guid::new(0x2450_ee40, 0x33bf, 0x4fbd, [0x89, 0x2e, 0x9f, 0xb0, 0x6e, 0x92, 0x14, 0xcf]);

/// What the guest is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Say whether it can be backed up while it runs.
    Check = 2,
    /// Freeze its file systems.
    Freeze = 5,
    /// Thaw them.
    Thaw = 6,
}

/// Bytes of a message: an operation in eight, and room for what a freeze tells of disks, which guests do not read.
const LENGTH: usize = 64;

/// The service.
#[derive(Default)]
pub(crate) struct BackupService {
    wishes: Wishes<Wish>,
    current: Option<Wish>,
    /// A freeze that nobody waits for any more is on its way.
    abandoned: bool,
}

impl Asked for BackupService {
    type Wish = Wish;

    fn wishes(&mut self) -> &mut Wishes<Wish> {
        &mut self.wishes
    }

    fn abandon(&mut self) {
        self.abandoned = self.current == Some(Wish::Freeze);
    }
}

impl Service for BackupService {
    const MESSAGE: MessageType = MessageType::BACKUP;
    const VERSIONS: &'static [Version] = &[Version::new(5, 0)];

    fn begin(&mut self, _: Version, _: u64) {}

    fn request(&mut self, _: u64) -> Option<Vec<u8>> {
        let wish = self.wishes.begin()?;
        self.current = Some(wish);
        let mut body = vec![wish as u8];
        body.resize(LENGTH, 0);
        Some(body)
    }

    fn due(&self) -> Option<u64> {
        None
    }

    fn answer(&mut self, status: u32, _: &[u8], _: u64) {
        self.wishes.settle(Outcome::of(status));
        self.current = None;
        if std::mem::take(&mut self.abandoned) && status == STATUS_OK {
            self.wishes.add(Wish::Thaw);
        }
    }

    fn end(&mut self) {
        self.wishes.end();
        (self.current, self.abandoned) = (None, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freeze_that_comes_too_late_is_undone() {
        let mut service = BackupService::default();
        service.wishes.add(Wish::Freeze);
        assert_eq!(service.request(0).unwrap()[0], 5);
        service.abandon();
        service.answer(0, &[], 0);
        assert_eq!(service.request(0).unwrap()[0], 6);
        service.answer(0, &[], 0);
        assert_eq!(service.request(0), None);
    }

    #[test]
    fn a_freeze_that_failed_needs_no_thaw_nor_does_an_abandoned_check() {
        let mut service = BackupService::default();
        service.wishes.add(Wish::Freeze);
        service.request(0);
        service.abandon();
        service.answer(0x8000_4005, &[], 0);
        service.wishes.add(Wish::Check);
        assert_eq!(service.request(0).unwrap()[0], 2);
        service.abandon();
        service.answer(0, &[], 0);
        assert_eq!(service.request(0), None);
    }
}
