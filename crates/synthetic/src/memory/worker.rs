//! The device, and the event loop of its channel.

use std::error::Error;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use counters::{DeviceCounters, DeviceState};
use guest_memory::{PAGE_SHIFT, PAGE_SIZE};
use vmbus::protocol::{USER_DATA_SIZE, offer_flags};
use vmbus::ring::{OutgoingPacket, RingError};
use vmbus::{Channel, Device, Offer, OpenError};

use super::balloon::Balloon;
use super::protocol::{INSTANCE, INTERFACE, LONGEST, PageRange};

/// Memory that a machine does not have yet. Frames are numbers of pages of 4 KiB.
pub trait MoreMemory: Send + Sync {
    /// The frames that would be added next; `None` if there are no more.
    fn next(&self) -> Option<Range<u64>>;
    /// Adds them: on return the machine's processors and devices have them.
    ///
    /// # Errors
    /// When the host refuses. Nothing more is to be added then.
    fn add(&self) -> Result<(), Box<dyn Error + Send + Sync>>;
    /// How many frames there are to be added.
    fn absent(&self) -> u64;
}

/// What dynamic memory is about.
pub struct MemorySettings {
    /// Bytes of RAM that the machine starts with.
    pub size: u64,
    /// Bytes that the guest is left at the least.
    pub least: u64,
    /// First address beyond all RAM that the machine may ever have.
    pub top: u64,
    /// What can be added to it.
    pub more: Box<dyn MoreMemory>,
    /// Its row of the device table.
    pub counters: DeviceCounters,
}

/// Dynamic memory of one guest.
pub struct DynamicMemory {
    counters: DeviceCounters,
    more: Box<dyn MoreMemory>,
    balloon: Mutex<Balloon>,
}

impl DynamicMemory {
    /// Dynamic memory that no guest uses yet.
    pub fn new(settings: MemorySettings) -> Arc<Self> {
        let MemorySettings { size, least, top, more, counters } = settings;
        let balloon = Balloon::new(size >> PAGE_SHIFT, least >> PAGE_SHIFT, top >> PAGE_SHIFT);
        Arc::new(Self { counters, more, balloon: Mutex::new(balloon) })
    }

    fn lock(&self) -> MutexGuard<'_, Balloon> {
        self.balloon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that the guest has now.
    pub fn assigned(&self) -> u64 {
        let balloon = self.lock();
        balloon.total().saturating_sub(balloon.count()) * PAGE_SIZE
    }

    /// What the device table says.
    pub fn state(&self) -> DeviceState {
        let (ready, most) = {
            let balloon = self.lock();
            (balloon.ready(), (balloon.total() + self.more.absent()) * PAGE_SIZE)
        };
        if !ready {
            return DeviceState::with_driver("no driver", false);
        }
        let (assigned, most) = (self.assigned() >> 20, most >> 20);
        DeviceState::with_driver(format!("driver bound; {assigned} of {most} MiB with the guest"), true)
    }

    fn run(&self, channel: &mut Channel) {
        let mut buffer = vec![0; LONGEST].into_boxed_slice();
        let mut unsent = None;
        let mut broken = false;
        while !channel.closing() {
            if !broken && let Err(error) = self.exchange(channel, &mut buffer, &mut unsent) {
                tracing::error!(%error, "guest breaks the ring of dynamic memory");
                broken = true;
            }
            if let Err(error) = channel.wait(&[], None) {
                tracing::error!(%error, "event loop of dynamic memory fails");
                return;
            }
        }
    }

    fn exchange(
        &self,
        channel: &mut Channel,
        buffer: &mut [u8],
        unsent: &mut Option<Vec<u8>>,
    ) -> Result<(), RingError> {
        loop {
            channel.incoming.mask();
            self.say(channel, unsent)?;
            // One message at a time: each may have an answer, for which there is room before the next is read.
            while unsent.is_none() && self.hear(channel, buffer, unsent)? {
                self.say(channel, unsent)?;
            }
            if !channel.incoming.unmask()? || unsent.is_some() || channel.closing() {
                return Ok(());
            }
        }
    }

    /// Reads a message; its answer is `unsent` then. False if there is none.
    fn hear(
        &self,
        channel: &mut Channel,
        buffer: &mut [u8],
        unsent: &mut Option<Vec<u8>>,
    ) -> Result<bool, RingError> {
        let Some(length) = channel.receive(buffer)? else { return Ok(false) };
        self.counters.bytes_out.add(length as u64);
        let (memory, code) = (channel.memory(), channel.code_pages());
        let mut free = |range: PageRange| {
            let (start, bytes) = (range.start << PAGE_SHIFT, range.count << PAGE_SHIFT);
            if let Err(error) = guest_memory::discard(memory, code, start, bytes) {
                tracing::debug!(start, bytes, %error, "memory that the guest has given stays in use");
            }
        };
        *unsent = self.lock().receive(buffer.get(..length).unwrap_or_default(), &mut free);
        Ok(true)
    }

    fn say(&self, channel: &mut Channel, unsent: &mut Option<Vec<u8>>) -> Result<(), RingError> {
        while let Some(message) = unsent.take().or_else(|| self.lock().next(&*self.more)) {
            if !channel.send(&OutgoingPacket::in_band(0, &message))? {
                *unsent = Some(message);
                return Ok(());
            }
            self.counters.requests.count();
            self.counters.bytes_in.add(message.len() as u64);
        }
        Ok(())
    }
}

/// [`DynamicMemory`] as the bus has it.
pub struct Provider(pub Arc<DynamicMemory>);

impl Device for Provider {
    fn offer(&self) -> Offer {
        Offer {
            interface: INTERFACE,
            instance: INSTANCE,
            flags: offer_flags::ENUMERATE_DEVICE_INTERFACE,
            mmio_megabytes: 0,
            user_data: [0; USER_DATA_SIZE],
            counters: self.0.counters.clone(),
        }
    }

    fn open(&self, mut channel: Channel) -> Result<(), OpenError> {
        let memory = Arc::clone(&self.0);
        thread::Builder::new().name("dynamic-memory".to_owned()).spawn(move || {
            memory.lock().open();
            memory.run(&mut channel);
            // Before the channel goes, after which the guest may open it again.
            memory.lock().close();
            drop(channel);
        })?;
        Ok(())
    }
}
