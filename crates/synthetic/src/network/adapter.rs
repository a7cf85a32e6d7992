//! An adapter as the machine has it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use counters::{DeviceCounters, DeviceState};
use network::{Mac, Port};
use vmbus::protocol::{USER_DATA_SIZE, offer_flags};
use vmbus::{Channel, Device, Guid, Offer, OpenError};

use super::protocol::INTERFACE;
use super::worker::Worker;

/// What an adapter is made of.
pub struct NetworkSettings {
    /// Names the thread and the log.
    pub name: String,
    /// Which adapter it is to the guest: see [`network_instance`].
    pub instance: Guid,
    /// Its address.
    pub mac: Mac,
    /// What it is connected to.
    pub port: Port,
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
    pub port: Port,
    pub counters: DeviceCounters,
    /// The guest's driver has opened the channel; it takes frames.
    pub bound: AtomicBool,
    pub ready: AtomicBool,
    /// One worker at a time serves the port.
    pub serving: Mutex<()>,
}

impl Shared {
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
        let (bound, ready) = (AtomicBool::new(false), AtomicBool::new(false));
        let serving = Mutex::default();
        let shared =
            Shared { name, permanent: mac, mac: Mutex::new(mac), port, counters, bound, ready, serving };
        Arc::new(Self { shared: Arc::new(shared), instance })
    }

    /// Connects it, or pulls its plug. The guest is told.
    pub fn set_link(&self, up: bool) {
        self.shared.port.set_link(up);
    }

    /// What the device table says.
    pub fn state(&self) -> DeviceState {
        let Shared { permanent: mac, port, bound, ready, .. } = &*self.shared;
        let driver = match (bound.load(Ordering::Relaxed), ready.load(Ordering::Relaxed)) {
            (false, _) => "no driver",
            (true, false) => "driver bound, interface down",
            (true, true) => "driver bound",
        };
        let link = if port.link() { "" } else { "; no link" };
        let dropped = match port.dropped().value() {
            0 => String::new(),
            dropped => format!("; {dropped} frames dropped"),
        };
        DeviceState::with_driver(format!("{driver}; {mac}{link}{dropped}"), bound.load(Ordering::Relaxed))
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
        thread::Builder::new().name(shared.name.clone()).spawn(move || {
            let serving = shared.serving.lock().unwrap_or_else(PoisonError::into_inner);
            shared.bound.store(true, Ordering::Relaxed);
            let mut worker = Worker::new(Arc::clone(&shared), channel);
            worker.run();
            shared.bound.store(false, Ordering::Relaxed);
            shared.ready.store(false, Ordering::Relaxed);
            drop(serving);
            // The channel goes last: the guest has its memory back then.
            drop(worker);
        })?;
        Ok(())
    }
}
