//! A service as a device of the bus: an event loop for its channel.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clock::Clock;
use counters::DeviceCounters;
use vmbus::protocol::{USER_DATA_SIZE, offer_flags};
use vmbus::ring::{OutgoingPacket, RingError};
use vmbus::{Channel, Device, Doorbell, Guid, Offer, OpenError};

use crate::conversation::{Conversation, Service, State};
use crate::message::{LONGEST, Version};
use crate::wishes::{Asked, Outcome};

/// The mode of a pipe that keeps messages apart: VMBUS_PIPE_TYPE_MESSAGE in Linux `include/linux/hyperv.h`.
const PIPE_OF_MESSAGES: [u8; 4] = 4_u32.to_le_bytes();

/// How a service is, as far as its channel tells.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Contact {
    pub state: State,
    /// Of the framework and of the service.
    pub versions: Option<(Version, Version)>,
    /// Nanoseconds since the guest was heard last.
    pub silence: Option<u64>,
}

/// A service on the bus.
pub(crate) struct Provider<S> {
    name: &'static str,
    interface: Guid,
    instance: Guid,
    clock: Arc<dyn Clock>,
    counters: DeviceCounters,
    talk: Mutex<Conversation<S>>,
    /// The guest has answered, or gone.
    changed: Condvar,
    /// Rings when there is something to ask of the guest.
    bell: Doorbell,
}

impl<S: Service> Provider<S> {
    /// # Errors
    /// When the host gives no eventfd.
    pub fn new(
        name: &'static str,
        (interface, instance): (Guid, Guid),
        service: S,
        clock: Arc<dyn Clock>,
        counters: DeviceCounters,
    ) -> io::Result<Self> {
        let talk = Mutex::new(Conversation::new(service));
        let bell = Doorbell::new()?;
        Ok(Self { name, interface, instance, clock, counters, talk, changed: Condvar::new(), bell })
    }

    fn lock(&self) -> MutexGuard<'_, Conversation<S>> {
        self.talk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the service.
    pub fn with<R>(&self, look: impl FnOnce(&mut S) -> R) -> R {
        look(&mut self.lock().service)
    }

    /// Has the service say what it has to say now.
    pub fn wake(&self) {
        self.bell.ring();
    }

    /// Serves a channel until it is to be closed.
    fn run(&self, channel: &mut Channel) {
        let mut buffer = vec![0; LONGEST].into_boxed_slice();
        let mut unsent = None;
        let mut broken = false;
        while !channel.closing() {
            if !broken && let Err(error) = self.exchange(channel, &mut buffer, &mut unsent) {
                tracing::error!(name = self.name, %error, "guest breaks the ring of an integration service");
                broken = true;
            }
            // While there is something unsent, or nothing to be had, only the guest can change that.
            let due = if broken || unsent.is_some() { None } else { self.lock().due() };
            let timeout = due.map(|due| Duration::from_nanos(due.saturating_sub(self.clock.now())));
            if let Err(error) = channel.wait(&[&self.bell], timeout) {
                tracing::error!(name = self.name, %error, "event loop of an integration service fails");
                return;
            }
        }
    }

    /// Reads what the guest has written and writes what there is to say; `unsent` is what found no room.
    fn exchange(
        &self,
        channel: &mut Channel,
        buffer: &mut [u8],
        unsent: &mut Option<Vec<u8>>,
    ) -> Result<(), RingError> {
        loop {
            channel.incoming.mask();
            let mut batch = channel.incoming.batch()?;
            let mut heard = false;
            while let Some(packet) = batch.next_packet()? {
                let length = packet.data().read(buffer);
                self.counters.bytes_out.add(length as u64);
                self.lock().receive(buffer.get(..length).unwrap_or_default(), self.clock.now());
                heard = true;
            }
            if batch.finish()? {
                channel.interrupt();
            }
            if heard {
                self.changed.notify_all();
            }
            self.say(channel, unsent)?;
            if !channel.incoming.unmask()? || channel.closing() {
                return Ok(());
            }
        }
    }

    fn say(&self, channel: &mut Channel, unsent: &mut Option<Vec<u8>>) -> Result<(), RingError> {
        while let Some(message) = unsent.take().or_else(|| self.lock().send(self.clock.now())) {
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

impl<S: Asked> Provider<S> {
    /// Wants something of the guest, and waits for the outcome for as long as `patience`.
    pub fn ask(&self, wish: S::Wish, patience: Duration) -> Option<Outcome> {
        let end = Instant::now() + patience;
        let mut talk = self.lock();
        let number = talk.service.wishes().add(wish);
        self.bell.ring();
        loop {
            if let Some(outcome) = talk.service.wishes().outcome(number) {
                return Some(outcome);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                if !talk.service.wishes().withdraw(number) {
                    talk.service.abandon();
                }
                return None;
            }
            talk = self.changed.wait_timeout(talk, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A [`Provider`] of any service.
pub(crate) trait AnyProvider {
    /// How the service is.
    fn contact(&self) -> Contact;
    /// Which device it is on the bus.
    fn instance(&self) -> Guid;
    /// The device.
    fn device(self: Arc<Self>) -> Arc<dyn Device>;
}

impl<S: Service> AnyProvider for Provider<S> {
    fn contact(&self) -> Contact {
        let now = self.clock.now();
        let talk = self.lock();
        let silence = talk.last_contact().map(|then| now.saturating_sub(then));
        Contact { state: talk.state(now), versions: talk.versions(), silence }
    }

    fn instance(&self) -> Guid {
        self.instance
    }

    fn device(self: Arc<Self>) -> Arc<dyn Device> {
        Arc::new(Shared(self))
    }
}

/// A [`Provider`] that its channels share.
struct Shared<S>(Arc<Provider<S>>);

impl<S: Service> Device for Shared<S> {
    fn offer(&self) -> Offer {
        let mut user_data = [0; USER_DATA_SIZE];
        user_data[..PIPE_OF_MESSAGES.len()].copy_from_slice(&PIPE_OF_MESSAGES);
        Offer {
            interface: self.0.interface,
            instance: self.0.instance,
            flags: offer_flags::ENUMERATE_DEVICE_INTERFACE | offer_flags::NAMED_PIPE_MODE,
            mmio_megabytes: 0,
            user_data,
            counters: self.0.counters.clone(),
        }
    }

    fn open(&self, mut channel: Channel) -> Result<(), OpenError> {
        let provider = Arc::clone(&self.0);
        let name = format!("ic-{}", provider.name);
        thread::Builder::new().name(name).spawn(move || {
            provider.lock().open();
            provider.run(&mut channel);
            // Before the channel goes, after which the guest may open it again.
            provider.lock().close();
            provider.changed.notify_all();
            drop(channel);
        })?;
        Ok(())
    }
}
