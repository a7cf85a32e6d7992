//! The synthetic network adapters of a board.

use std::sync::Arc;

use counters::{Kind, Registry};
use network::{Mac, Port};
use synthetic::network::{NetworkAdapter, NetworkSettings, network_instance};
use vmbus::{OfferError, Server};

/// A bus that has adapters, and takes more.
pub(crate) struct NetworkBus {
    server: Server,
    registry: Arc<Registry>,
}

impl NetworkBus {
    /// One without adapters.
    pub fn new(server: Server, registry: Arc<Registry>) -> Self {
        Self { server, registry }
    }

    /// Offers adapter `number` to the guest.
    pub fn offer(&self, number: u16, name: &str, mac: Mac, port: Arc<Port>) -> Result<(), OfferError> {
        let make = |counters| {
            let (name, instance) = (name.to_owned(), network_instance(number));
            Ok(NetworkAdapter::new(NetworkSettings { name, instance, mac, port, counters }))
        };
        let adapter = self.registry.owner(name, Kind::Synthetic, NetworkAdapter::state, make)?;
        self.server.offer(adapter)
    }

    /// Takes adapter `number` from the guest.
    pub fn rescind(&self, number: u16, name: &str) {
        self.server.rescind(network_instance(number));
        self.registry.remove(name);
    }
}
