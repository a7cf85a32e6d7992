//! An open channel, as its device has it.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use std::{fmt, io};

use counters::DeviceCounters;
use guest_memory::{CodePages, GuestMemory};
use rustix::event::{PollFd, PollFlags};

use crate::Doorbell;
use crate::protocol::USER_DATA_SIZE;
use crate::ring::{GuestPages, IncomingRing, OutgoingPacket, OutgoingRing, RingError};
use crate::server::{Hub, OfferError, Synic};

/// What the server and a device share of an open channel.
pub(crate) struct Line {
    pub relid: u32,
    pub subchannel: u16,
    pub sint: u8,
    pub target_vp: AtomicU32,
    pub closing: AtomicBool,
    pub doorbell: Doorbell,
    pub counters: DeviceCounters,
}

impl Line {
    /// The guest has signalled.
    pub fn signal(&self) {
        self.doorbell.ring();
    }

    /// Asks the device to give the channel back.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.doorbell.ring();
    }
}

/// An open channel. Dropping it gives it back to the server: from then on its rings are the guest's.
pub struct Channel {
    /// What the guest writes.
    pub incoming: IncomingRing<GuestPages>,
    /// What the guest reads.
    pub outgoing: OutgoingRing<GuestPages>,
    pub(crate) line: Arc<Line>,
    pub(crate) user_data: [u8; USER_DATA_SIZE],
    pub(crate) synic: Arc<dyn Synic>,
    pub(crate) memory: GuestMemory,
    pub(crate) code: Arc<CodePages>,
    pub(crate) hub: Weak<Hub>,
}

impl Channel {
    /// Rings when the guest has signalled and when the channel is to be given back.
    pub fn doorbell(&self) -> &Doorbell {
        &self.line.doorbell
    }

    /// Sleeps until the doorbell or one of `others` rings, or `timeout` is over, and answers all of them. May come back
    /// early.
    ///
    /// # Errors
    /// When the host does not let the thread wait.
    pub fn wait(&self, others: &[&Doorbell], timeout: Option<Duration>) -> io::Result<()> {
        self.wait_too(others, None, timeout)
    }

    /// As [`Self::wait`], also for `file` to be ready for what `flags` say.
    ///
    /// # Errors
    /// When the host does not let the thread wait.
    pub fn wait_for_file(&self, file: &impl AsFd, flags: PollFlags) -> io::Result<()> {
        self.wait_too(&[], Some(PollFd::new(file, flags)), None)
    }

    fn wait_too(
        &self,
        others: &[&Doorbell],
        file: Option<PollFd<'_>>,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        let bells: Vec<&Doorbell> = [self.doorbell()].into_iter().chain(others.iter().copied()).collect();
        let bell_fds = bells.iter().map(|bell| PollFd::new(*bell, PollFlags::IN));
        let mut fds: Vec<PollFd<'_>> = bell_fds.chain(file).collect();
        doorbell::wait(&mut fds, timeout)?;
        for bell in bells {
            bell.answer();
        }
        Ok(())
    }

    /// Whether the device is to finish what it has begun and drop the channel. Looked at whenever the
    /// doorbell has rung.
    pub fn closing(&self) -> bool {
        self.line.closing.load(Ordering::Acquire)
    }

    /// Interrupts the guest, on the processor that the guest has chosen for the channel.
    pub fn interrupt(&self) {
        self.line.counters.interrupts.count();
        self.synic.signal_event(
            self.line.target_vp.load(Ordering::Relaxed),
            self.line.sint,
            // Relids are below the number of event flags.
            self.line.relid as u16,
        );
    }

    /// Sends a packet, and interrupts the guest if it waits for one. False if there is no room: the guest signals when
    /// there is.
    ///
    /// # Errors
    /// When the guest breaks the ring.
    ///
    /// # Panics
    /// As [`OutgoingRing::write`].
    pub fn send(&mut self, packet: &OutgoingPacket<'_>) -> Result<bool, RingError> {
        if !self.outgoing.write_or_wait(packet)? {
            return Ok(false);
        }
        if self.outgoing.commit() {
            self.interrupt();
        }
        Ok(true)
    }

    /// Takes the next packet's data, as much as `buffer` has room for, and signals the guest if it waits for the room; how
    /// many bytes it was. `None` if there is no packet.
    ///
    /// # Errors
    /// When the guest breaks the ring.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, RingError> {
        let mut batch = self.incoming.batch()?;
        let length = batch.next_packet()?.map(|packet| packet.data().read(buffer));
        if batch.finish()? {
            self.interrupt();
        }
        Ok(length)
    }

    /// Zero for the primary channel of a device.
    pub fn subchannel_index(&self) -> u16 {
        self.line.subchannel
    }

    /// What the guest has said when it opened the channel.
    pub fn user_data(&self) -> &[u8; USER_DATA_SIZE] {
        &self.user_data
    }

    /// Guest memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The record of guest code, for those who write guest memory by themselves.
    pub fn code_pages(&self) -> &Arc<CodePages> {
        &self.code
    }

    /// The guest frames of the pages that the guest has described to this channel under `gpadl`: one range of whole
    /// pages. They are RAM. `None` if there are none such.
    pub fn pages_of(&self, gpadl: u32) -> Option<Box<[u64]>> {
        self.hub.upgrade()?.pages_of(gpadl, self.line.relid)
    }

    /// Offers subchannels 1 to `count` of this device, those that are not offered already. They vanish
    /// when the primary channel is closed.
    ///
    /// # Errors
    /// When the bus has no room for them.
    pub fn offer_subchannels(&self, count: u16) -> Result<(), OfferError> {
        match self.hub.upgrade() {
            Some(hub) => hub.offer_subchannels(self.line.relid, count),
            // The bus is gone; so is the guest.
            None => Ok(()),
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if let Some(hub) = self.hub.upgrade() {
            hub.released(&self.line);
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("relid", &self.line.relid)
            .field("subchannel", &self.line.subchannel)
            .finish_non_exhaustive()
    }
}
