//! The device, and the event loop of its channel.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use counters::{DeviceCounters, DeviceState};
use guest_memory::{DEVICE_HOLE_END, DEVICE_HOLE_START, PAGE_SHIFT, PAGE_SIZE};
use vmbus::protocol::{USER_DATA_SIZE, offer_flags};
use vmbus::ring::{OutgoingPacket, RingError};
use vmbus::{Channel, Device, Offer, OpenError};

use super::balloon::Balloon;
use super::protocol::{INSTANCE, INTERFACE, LONGEST, PageRange};

/// What dynamic memory is about.
#[derive(Debug, Clone)]
pub struct MemorySettings {
    /// Bytes of RAM that the machine has.
    pub size: u64,
    /// Bytes that the guest is left at the least.
    pub least: u64,
    /// Its row of the device table.
    pub counters: DeviceCounters,
}

/// Dynamic memory of one guest.
pub struct DynamicMemory {
    size: u64,
    counters: DeviceCounters,
    balloon: Mutex<Balloon>,
}

impl DynamicMemory {
    /// Dynamic memory that no guest uses yet.
    pub fn new(settings: MemorySettings) -> Arc<Self> {
        let MemorySettings { size, least, counters } = settings;
        let top = if size > DEVICE_HOLE_START { size - DEVICE_HOLE_START + DEVICE_HOLE_END } else { size };
        let balloon = Balloon::new(size >> PAGE_SHIFT, least >> PAGE_SHIFT, top >> PAGE_SHIFT);
        Arc::new(Self { size, counters, balloon: Mutex::new(balloon) })
    }

    fn lock(&self) -> MutexGuard<'_, Balloon> {
        self.balloon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that the guest has now.
    pub fn assigned(&self) -> u64 {
        self.size.saturating_sub(self.lock().count() * PAGE_SIZE)
    }

    /// What the device table says.
    pub fn state(&self) -> DeviceState {
        if !self.lock().ready() {
            return DeviceState::with_driver("no driver", false);
        }
        let (assigned, size) = (self.assigned() >> 20, self.size >> 20);
        DeviceState::with_driver(format!("driver bound; {assigned} of {size} MiB with the guest"), true)
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
        while let Some(message) = unsent.take().or_else(|| self.lock().next()) {
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
