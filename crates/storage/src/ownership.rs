//! Who serves a disk that is attached twice.
//!
//! A boot disk hangs on the emulated IDE controller, for firmware and guests without VMBus, and on a VMBus
//! channel. It is one [`Disk`] with one owner at a time: the emulated side until the guest opens the
//! channel, the synthetic side from then on until the channel closes or the machine is reset. While the
//! synthetic side owns it, the emulated side ends every command that would touch the medium as aborted.
//!
//! Lock order: the emulated side holds [`EmulatedUse`] while a command runs; [`Ownership::take`] waits for
//! it, so that no emulated write lands after the change of hands.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Disk;

/// A side that may serve a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Owner {
    /// The emulated controller.
    Emulated,
    /// The VMBus channel.
    Synthetic,
}

/// Which side serves the disk now.
#[derive(Debug, Default)]
pub struct Ownership {
    /// 0 emulated, 1 synthetic; changed with the lock held only.
    owner: AtomicU8,
    in_use: Mutex<()>,
}

/// The emulated side uses the disk; the owner does not change until this is dropped.
#[derive(Debug)]
pub struct EmulatedUse<'a> {
    _lock: MutexGuard<'a, ()>,
}

impl Ownership {
    /// The disk begins with the emulated side.
    pub fn new() -> Self {
        Self::default()
    }

    /// The side that serves the disk.
    pub fn owner(&self) -> Owner {
        match self.owner.load(Ordering::Acquire) {
            0 => Owner::Emulated,
            _ => Owner::Synthetic,
        }
    }

    /// Hands the disk to `owner`, after the command that the emulated side may be busy with.
    pub fn take(&self, owner: Owner) {
        let _lock = self.lock();
        self.owner.store(owner as u8, Ordering::Release);
    }

    /// For the emulated side: permission for one command. `None` while the synthetic side owns the disk.
    pub fn emulated(&self) -> Option<EmulatedUse<'_>> {
        let lock = self.lock();
        (self.owner() == Owner::Emulated).then_some(EmulatedUse { _lock: lock })
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A disk and who serves it: what both of its attachments are given.
#[derive(Clone)]
pub struct SharedDisk {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// Who serves it.
    pub ownership: Arc<Ownership>,
}

impl SharedDisk {
    /// A disk that the emulated side serves until told otherwise.
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, ownership: Arc::new(Ownership::new()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_emulated_side_stands_back_while_the_channel_is_open() {
        let ownership = Ownership::new();
        assert!(ownership.emulated().is_some());
        ownership.take(Owner::Synthetic);
        assert!(ownership.emulated().is_none());
        ownership.take(Owner::Emulated);
        assert!(ownership.emulated().is_some());
    }

    #[test]
    fn taking_over_waits_for_the_emulated_command() {
        let ownership = Arc::new(Ownership::new());
        let permission = ownership.emulated().unwrap();
        let taker = std::thread::spawn({
            let ownership = Arc::clone(&ownership);
            move || ownership.take(Owner::Synthetic)
        });
        assert_eq!(ownership.owner(), Owner::Emulated);
        drop(permission);
        taker.join().unwrap();
        assert_eq!(ownership.owner(), Owner::Synthetic);
    }
}
