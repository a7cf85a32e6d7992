//! A controller as the machine has it: units come and go, channels are opened.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use ::storage::scsi::{DiskUnit, LogicalUnit, Target};
use ::storage::{Owner, Ownership, SharedDisk};
use counters::{DeviceCounters, DeviceState};
use vmbus::protocol::{USER_DATA_SIZE, offer_flags};
use vmbus::{Channel, Device, Doorbell, Guid, Offer, OpenError};
use zerocopy::IntoBytes;

use super::protocol::{IDE_INTERFACE, OFFER_IDE_DEVICE, OfferProperties, SCSI_INTERFACE};
use super::worker::Worker;

/// What a SCSI controller is made of.
#[derive(Debug, Clone)]
pub struct ScsiSettings {
    /// Names the threads and the log.
    pub name: String,
    /// Which controller it is to the guest: see [`scsi_instance`].
    pub instance: Guid,
    /// Subchannels that the guest may ask for: processors less one is a good number.
    pub subchannels: u16,
    /// Its row of the device table.
    pub counters: DeviceCounters,
}

/// The instance of SCSI controller `number`.
pub const fn scsi_instance(number: u16) -> Guid {
    Guid::new(0xf8b3_781a, 0x1e82, 0x4818, {
        let [low, high] = number.to_le_bytes();
        [0xa1, 0xc3, 0x63, 0xd8, 0x06, 0xec, 0x15u8.wrapping_add(high), 0xbbu8.wrapping_add(low)]
    })
}

/// The instance of the disk `device` (0 or 1) on IDE channel `channel` (0 or 1). Guests take the target
/// number from it.
const fn ide_instance(channel: u8, device: u8) -> Guid {
    Guid::new(channel as u32, device as u16, 0x8899, [0; 8])
}

/// What is new for the guest: bits of [`Shared::news`].
pub(super) mod news {
    /// A unit has come.
    pub const ADDED: u8 = 1;
    /// A unit has gone.
    pub const REMOVED: u8 = 2;
}

/// What a controller and its workers share.
pub(super) struct Shared {
    pub name: String,
    pub target: Target,
    pub subchannels: u16,
    pub counters: DeviceCounters,
    /// For a disk of the emulated IDE controller.
    pub ide: Option<Arc<Ownership>>,
    pub news: AtomicU8,
    /// Rung when there are news; every worker puts its own here.
    pub news_bells: Mutex<Vec<Arc<Doorbell>>>,
    /// The guest's driver has said that it is ready.
    pub ready: AtomicBool,
    /// Channels that are open.
    pub channels: AtomicU32,
}

impl Shared {
    fn tell(&self, bit: u8) {
        self.news.fetch_or(bit, Ordering::AcqRel);
        self.lock_bells().iter().for_each(|bell| bell.ring());
    }

    pub fn lock_bells(&self) -> MutexGuard<'_, Vec<Arc<Doorbell>>> {
        self.news_bells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A synthetic storage controller, or an IDE disk's synthetic side.
pub struct Controller {
    shared: Arc<Shared>,
    interface: Guid,
    instance: Guid,
    user_data: [u8; USER_DATA_SIZE],
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controller").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

impl Controller {
    /// A SCSI controller without units.
    pub fn scsi(settings: ScsiSettings) -> Arc<Self> {
        let ScsiSettings { name, instance, subchannels, counters } = settings;
        let user_data = [0; USER_DATA_SIZE];
        Self::new(name, counters, subchannels, None, (SCSI_INTERFACE, instance), user_data)
    }

    /// The synthetic side of a disk that is device `device` (0 or 1) on channel `channel` (0 or 1) of the
    /// emulated IDE controller.
    pub fn ide(name: &str, channel: u8, device: u8, disk: SharedDisk, counters: DeviceCounters) -> Arc<Self> {
        let properties = OfferProperties {
            reserved: 0,
            path: channel,
            target: device,
            reserved2: 0,
            flags: OFFER_IDE_DEVICE,
            reserved3: [0; 3],
        };
        let mut user_data = [0; USER_DATA_SIZE];
        user_data[..size_of::<OfferProperties>()].copy_from_slice(properties.as_bytes());
        let identity = (IDE_INTERFACE, ide_instance(channel, device));
        let controller = Self::new(name.to_owned(), counters, 0, Some(disk.ownership), identity, user_data);
        controller.shared.target.attach(0, Arc::new(DiskUnit::new(disk.disk)));
        controller
    }

    fn new(
        name: String,
        counters: DeviceCounters,
        subchannels: u16,
        ide: Option<Arc<Ownership>>,
        (interface, instance): (Guid, Guid),
        user_data: [u8; USER_DATA_SIZE],
    ) -> Arc<Self> {
        let shared = Arc::new(Shared {
            name,
            target: Target::new(),
            subchannels,
            counters,
            ide,
            news: AtomicU8::new(0),
            news_bells: Mutex::default(),
            ready: AtomicBool::new(false),
            channels: AtomicU32::new(0),
        });
        Arc::new(Self { shared, interface, instance, user_data })
    }

    /// Which device this is on the bus.
    pub fn instance(&self) -> Guid {
        self.instance
    }

    /// Puts a unit at `lun`; a guest that runs is told. Returns what was there.
    pub fn attach(&self, lun: u8, unit: Arc<dyn LogicalUnit>) -> Option<Arc<dyn LogicalUnit>> {
        let before = self.shared.target.attach(lun, unit);
        self.shared.tell(news::ADDED);
        before
    }

    /// Takes the unit at `lun` away; a guest that runs is told. Requests that have begun are carried out.
    pub fn detach(&self, lun: u8) -> Option<Arc<dyn LogicalUnit>> {
        let unit = self.shared.target.detach(lun)?;
        self.shared.tell(news::REMOVED);
        Some(unit)
    }

    /// A drive among the units has another medium now, or none: what served the old one is given up. The guest
    /// learns of it from the drive.
    pub fn medium_changed(&self) {
        self.shared.lock_bells().iter().for_each(|bell| bell.ring());
    }

    /// The numbers of all units.
    pub fn luns(&self) -> Vec<u8> {
        self.shared.target.luns()
    }

    /// What the device table says: whether a driver is bound, by how many channels, and, of a SCSI controller,
    /// which units there are.
    pub fn state(&self) -> DeviceState {
        let bound = self.shared.ready.load(Ordering::Relaxed);
        let mut state = match self.shared.channels.load(Ordering::Relaxed) {
            0 => "no driver".to_owned(),
            _ if !bound => "driver starting".to_owned(),
            1 => "driver bound".to_owned(),
            channels => format!("driver bound, {channels} channels"),
        };
        if self.shared.ide.is_none() {
            let luns: Vec<_> = self.luns().iter().map(u8::to_string).collect();
            match luns.as_slice() {
                [] => state.push_str("; no units"),
                luns => state.extend(["; units ", &luns.join(" ")]),
            }
        }
        DeviceState::with_driver(state, bound)
    }
}

impl Device for Controller {
    fn offer(&self) -> Offer {
        Offer {
            interface: self.interface,
            instance: self.instance,
            flags: offer_flags::ENUMERATE_DEVICE_INTERFACE,
            mmio_megabytes: 0,
            user_data: self.user_data,
            counters: self.shared.counters.clone(),
        }
    }

    fn open(&self, channel: Channel) -> Result<(), OpenError> {
        let name = format!("{}-{}", self.shared.name, channel.subchannel_index());
        let worker = Worker::new(Arc::clone(&self.shared), channel)?;
        // From here on the disk is the guest's synthetic driver's; the worker gives it back.
        if let Some(ownership) = &self.shared.ide {
            ownership.take(Owner::Synthetic);
        }
        thread::Builder::new().name(name).spawn(move || worker.run())?;
        Ok(())
    }
}
