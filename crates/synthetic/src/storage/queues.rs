//! The queues of one worker: one for every medium that its requests are for.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ::storage::scsi::Target;
use ::storage::{Disk, DiskQueue};
use guest_memory::GuestMemory;
use rustix::event::epoll;

use super::SLOTS;

/// The first number by which the event loop knows a queue.
pub(super) const FIRST_QUEUE: u64 = 16;

struct Queue {
    lun: u8,
    queue: Box<dyn DiskQueue>,
    /// Goes after its queue: who is the last to have the disk may take it for unused.
    disk: Arc<dyn Disk>,
    /// Submitted since the last kick.
    dirty: bool,
}

/// Queues by index.
#[derive(Default)]
pub(super) struct Queues {
    table: Vec<Option<Queue>>,
    /// A medium has gone while requests for it were in flight.
    retiring: bool,
}

impl Queues {
    /// The queue for `disk`, the medium of unit `lun`; made at its first use.
    pub fn find(
        &mut self,
        lun: u8,
        disk: &Arc<dyn Disk>,
        memory: &GuestMemory,
        epoll: &OwnedFd,
    ) -> io::Result<&mut dyn DiskQueue> {
        let is_it = |queue: &Queue| queue.lun == lun && Arc::ptr_eq(&queue.disk, disk);
        let index = match self.table.iter().position(|queue| queue.as_ref().is_some_and(is_it)) {
            Some(index) => index,
            None => self.open(lun, disk, memory, epoll)?,
        };
        match &mut self.table[index] {
            Some(queue) => {
                queue.dirty = true;
                Ok(&mut *queue.queue)
            }
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn open(
        &mut self,
        lun: u8,
        disk: &Arc<dyn Disk>,
        memory: &GuestMemory,
        epoll: &OwnedFd,
    ) -> io::Result<usize> {
        let queue = Arc::clone(disk).queue(SLOTS, memory).map_err(io::Error::other)?;
        let index = self.table.iter().position(Option::is_none).unwrap_or(self.table.len());
        let data = epoll::EventData::new_u64(FIRST_QUEUE + index as u64);
        epoll::add(epoll, queue.event(), data, epoll::EventFlags::IN)?;
        let queue = Queue { lun, disk: Arc::clone(disk), queue, dirty: false };
        match self.table.get_mut(index) {
            Some(slot) => *slot = Some(queue),
            None => self.table.push(Some(queue)),
        }
        Ok(index)
    }

    /// Starts what has been submitted, and hands out what is complete already.
    pub fn kick(&mut self, done: &mut dyn FnMut(u64, io::Result<usize>)) {
        for queue in self.table.iter_mut().flatten().filter(|queue| queue.dirty) {
            match queue.queue.kick() {
                Ok(()) => queue.dirty = false,
                // The requests stay where they are; the next kick tries again.
                Err(error) => tracing::warn!(lun = queue.lun, %error, "disk requests are deferred"),
            }
            queue.queue.complete(done);
        }
    }

    /// Whether a kick failed and is to be tried again.
    pub fn is_deferred(&self) -> bool {
        self.table.iter().flatten().any(|queue| queue.dirty)
    }

    /// Hands out what is complete in the queue that the event loop knows by `number`.
    pub fn complete(&mut self, number: u64, done: &mut dyn FnMut(u64, io::Result<usize>)) {
        let index = number.checked_sub(FIRST_QUEUE).and_then(|index| usize::try_from(index).ok());
        if let Some(Some(queue)) = index.and_then(|index| self.table.get_mut(index)) {
            queue.queue.complete(done);
        }
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.table.iter().flatten().map(|queue| queue.queue.in_flight()).sum()
    }

    /// Whether [`Self::prune`] has left a queue because requests are in flight.
    pub fn is_retiring(&self) -> bool {
        self.retiring
    }

    /// Gives up queues of media that their units no longer have, once they are idle.
    pub fn prune(&mut self, target: &Target, epoll: &OwnedFd) {
        self.retiring = false;
        for slot in &mut self.table {
            let gone = slot.as_ref().is_some_and(|queue| {
                let medium = target.unit(queue.lun).and_then(|unit| unit.medium());
                !medium.is_some_and(|medium| Arc::ptr_eq(&medium, &queue.disk))
            });
            if !gone {
                continue;
            }
            if slot.as_ref().is_some_and(|queue| queue.queue.in_flight() > 0) {
                self.retiring = true;
            } else if let Some(queue) = slot.take()
                && let Err(error) = epoll::delete(epoll, queue.queue.event())
            {
                tracing::warn!(lun = queue.lun, %error, "disk queue stays in the event loop");
            }
        }
    }
}
