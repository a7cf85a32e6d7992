//! What a provider of a synthetic device is to the bus.

use counters::DeviceCounters;

use crate::protocol::USER_DATA_SIZE;
use crate::{Channel, Guid};

/// How a device presents itself to the guest.
#[derive(Debug, Clone)]
pub struct Offer {
    /// What kind of device it is; the guest finds a driver by it.
    pub interface: Guid,
    /// Which device it is; unique on a bus.
    pub instance: Guid,
    /// See [`crate::protocol::offer_flags`].
    pub flags: u16,
    /// MMIO space that the device wants.
    pub mmio_megabytes: u16,
    /// For the driver.
    pub user_data: [u8; USER_DATA_SIZE],
    /// Counts the device's signals and interrupts.
    pub counters: DeviceCounters,
}

/// Why a device does not open a channel.
pub type OpenError = Box<dyn std::error::Error + Send + Sync>;

/// A provider of a synthetic device.
pub trait Device: Send + Sync {
    /// How the device presents itself. Asked once, when it is offered.
    fn offer(&self) -> Offer;

    /// The guest has opened the device's primary channel or, after [`Channel::offer_subchannels`], one of
    /// its subchannels. Called on the thread of a processor: hand the channel to an event loop. The guest
    /// may use the rings once this returns.
    ///
    /// The device gives the channel back by dropping it, when [`Channel::closing`] says so.
    ///
    /// # Errors
    /// When the device cannot serve the channel. The guest is told so.
    fn open(&self, channel: Channel) -> Result<(), OpenError>;
}
