//! An adapter as the machine has it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use counters::{Counter, DeviceCounters, DeviceState};
use network::{Mac, Port};
use vmbus::protocol::{USER_DATA_SIZE, offer_flags};
use vmbus::{Channel, Device, Guid, Offer, OpenError};

use super::protocol::INTERFACE;
use super::rndis::objects::Line;
use super::session::Session;
use super::worker::Worker;

/// Channels at the most.
const CHANNELS: usize = 32;

/// What an adapter is made of.
pub struct NetworkSettings {
    /// Names the thread and the log.
    pub name: String,
    /// Which adapter it is to the guest: see [`network_instance`].
    pub instance: Guid,
    /// Its address.
    pub mac: Mac,
    /// What it is connected to, with a queue for each channel that the guest may have: 32 at the most.
    pub port: Arc<Port>,
    /// Its row of the device table.
    pub counters: DeviceCounters,
}

/// The instance of adapter `number`.
pub const fn network_instance(number: u16) -> Guid {
    Guid::new(0x0a2c_7d51, 0x4c5e, 0x4d0b, {
        let [low, high] = number.to_le_bytes();
        [0x9c, 0x2f, 0x61, 0x38, 0x72, 0x0e, high, low]
    })
}

/// What an adapter and its worker share.
pub(super) struct Shared {
    pub name: String,
    pub permanent: Mac,
    /// What the guest has made of it.
    mac: Mutex<Mac>,
    pub port: Arc<Port>,
    /// Frames and their bytes.
    pub counters: DeviceCounters,
    /// Of the frames, those that the guest has sent.
    pub sent: Counter,
    /// The guest's driver takes frames.
    pub ready: AtomicBool,
    /// Channels that are open.
    pub channels: AtomicU32,
    /// What they share. It is that of the primary channel, which comes first.
    session: Mutex<Option<Arc<Session>>>,
    /// One worker at a time serves a queue of the port.
    serving: Box<[Mutex<()>]>,
}

impl Shared {
    /// Channels that there can be: queues of the port.
    pub fn queues(&self) -> u16 {
        // As many as there are, which are few.
        self.serving.len() as u16
    }

    /// What the guest is told of the connection.
    pub fn line(&self) -> Line {
        let (sent, frames) = (self.sent.value(), self.counters.requests.value());
        Line {
            link: self.port.link(),
            sent,
            received: frames.saturating_sub(sent),
            dropped: self.port.dropped().value(),
        }
    }

    fn session(&self) -> MutexGuard<'_, Option<Arc<Session>>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn mac(&self) -> Mac {
        *self.mac.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_mac(&self, mac: Mac) {
        *self.mac.lock().unwrap_or_else(PoisonError::into_inner) = mac;
    }
}

/// A synthetic network adapter.
pub struct NetworkAdapter {
    shared: Arc<Shared>,
    instance: Guid,
}

impl fmt::Debug for NetworkAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkAdapter").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

impl NetworkAdapter {
    /// An adapter that no guest uses yet.
    pub fn new(settings: NetworkSettings) -> Arc<Self> {
        let NetworkSettings { name, instance, mac, port, counters } = settings;
        let serving = (0..port.queues().min(CHANNELS)).map(|_| Mutex::default()).collect();
        let shared = Shared {
            name,
            permanent: mac,
            mac: Mutex::new(mac),
            port,
            counters,
            sent: Counter::default(),
            ready: AtomicBool::new(false),
            channels: AtomicU32::new(0),
            session: Mutex::default(),
            serving,
        };
        Arc::new(Self { shared: Arc::new(shared), instance })
    }

    /// What the device table says.
    pub fn state(&self) -> DeviceState {
        let Shared { permanent: mac, port, channels, ready, .. } = &*self.shared;
        let channels = channels.load(Ordering::Relaxed);
        let mut driver = match channels {
            0 => "no driver".to_owned(),
            1 => "driver bound".to_owned(),
            channels => format!("driver bound, {channels} channels"),
        };
        if channels > 0 && !ready.load(Ordering::Relaxed) {
            driver.push_str(", interface down");
        }
        let remarks = port.remarks(0);
        DeviceState::with_driver(format!("{driver}; {mac}{remarks}"), channels > 0)
    }
}

impl Device for NetworkAdapter {
    fn offer(&self) -> Offer {
        Offer {
            interface: INTERFACE,
            instance: self.instance,
            flags: offer_flags::ENUMERATE_DEVICE_INTERFACE,
            mmio_megabytes: 0,
            user_data: [0; USER_DATA_SIZE],
            counters: self.shared.counters.clone(),
        }
    }

    fn open(&self, channel: Channel) -> Result<(), OpenError> {
        let shared = Arc::clone(&self.shared);
        let queue = usize::from(channel.subchannel_index());
        let session = {
            let mut session = shared.session();
            if queue == 0 {
                *session = Some(Arc::new(Session::new(&shared)));
            }
            session.clone().ok_or("there is no primary channel")?
        };
        if queue >= shared.serving.len() {
            return Err("there are fewer queues".into());
        }
        // Frames may come as soon as the guest knows that the channel is open.
        session.set_open(&shared.port, queue, true);
        let worker = Worker::new(Arc::clone(&shared), Arc::clone(&session), channel);
        let name = format!("{}-{queue}", shared.name);
        let spawned = thread::Builder::new().name(name).spawn(move || serve(worker));
        if spawned.is_err() {
            session.set_open(&self.shared.port, queue, false);
        }
        spawned?;
        Ok(())
    }
}

fn serve(mut worker: Worker) {
    let shared = Arc::clone(worker.shared());
    let serving = shared.serving.get(worker.queue());
    let serving = serving.map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner));
    shared.channels.fetch_add(1, Ordering::Relaxed);
    worker.run();
    shared.channels.fetch_sub(1, Ordering::Relaxed);
    drop(serving);
    // The channel goes last: the guest has its memory back then.
    drop(worker);
}
