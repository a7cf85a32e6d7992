//! The synthetic network adapters of a board.

use counters::{Kind, Registry};
use synthetic::network::{NetworkAdapter, NetworkSettings, network_instance};
use vmbus::Server;

use crate::Error;
use crate::config::Nic;
use crate::networks::Networks;

/// Offers them on `bus`.
pub(super) fn offer(bus: &Server, networks: &Networks, registry: &Registry) -> Result<(), Error> {
    for (index, port, mac) in networks.ports(Nic::Synthetic) {
        let (name, port) = (format!("network{index}"), port.map_err(Error::Network)?);
        let adapter = registry.owner(&name, Kind::Synthetic, NetworkAdapter::state, |counters| {
            let instance = network_instance(index);
            Ok::<_, Error>(NetworkAdapter::new(NetworkSettings {
                name: name.clone(),
                instance,
                mac,
                port,
                counters,
            }))
        })?;
        bus.offer(adapter)?;
    }
    Ok(())
}
