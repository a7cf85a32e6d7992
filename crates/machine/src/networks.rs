//! The networks of a machine, which are there from its first power-on to its end.

use std::io;

use counters::Counter;
use network::nat::{Nat, NatSettings};
use network::{Mac, Port, PortSettings, Switch};
use synthetic::network::network_instance;
use vmbus::Guid;

use crate::config::{InputError, MachineConfig, NetConfig, Network};

/// The first half of the addresses that adapters have by themselves: Microsoft's.
const VENDOR: [u8; 3] = [0x00, 0x15, 0x5d];

struct Adapter {
    switch: Switch,
    mac: Mac,
    /// What leads out of its network.
    _nat: Option<Nat>,
}

/// What a machine's adapters are connected to.
pub(crate) struct Networks {
    adapters: Vec<Adapter>,
}

impl Networks {
    /// Those that `config` names.
    ///
    /// # Errors
    /// When the host does not allow one, such as for a port that is in use.
    pub fn new(config: &MachineConfig) -> Result<Self, InputError> {
        let isolated = Switch::new();
        let adapter = |(index, net): (usize, &NetConfig)| {
            let (switch, nat) = match &net.network {
                Network::Nat { host, forwards } => {
                    let switch = Switch::new();
                    let settings = NatSettings {
                        name: format!("nat{index}"),
                        hostname: None,
                        host_reachable: *host,
                        forwards: forwards.clone(),
                        dropped: Counter::default(),
                    };
                    let nat =
                        switch.port(PortSettings::default()).and_then(|port| Nat::start(port, settings));
                    (switch, Some(nat.map_err(|error| InputError::new("net", net, error.to_string()))?))
                }
                Network::Isolated => (isolated.clone(), None),
            };
            let mac = net.mac.unwrap_or_else(|| address(&config.name, index));
            Ok(Adapter { switch, mac, _nat: nat })
        };
        let adapters = config.nets.iter().enumerate().map(adapter).collect::<Result<_, InputError>>()?;
        Ok(Self { adapters })
    }

    /// The name of each adapter in the device table, what VMBus device it is, and its address.
    pub fn adapters(&self) -> impl Iterator<Item = (String, Guid, Mac)> {
        (0_u16..)
            .zip(&self.adapters)
            .map(|(index, Adapter { mac, .. })| (format!("network{index}"), network_instance(index), *mac))
    }

    /// A new port for each adapter, and its address.
    pub fn ports(&self) -> impl Iterator<Item = (io::Result<Port>, Mac)> {
        self.adapters.iter().map(|Adapter { switch, mac, .. }| (switch.port(PortSettings::default()), *mac))
    }
}

/// The address of adapter `index` of a machine of this name, the same each time.
fn address(name: &str, index: usize) -> Mac {
    // FNV-1a: machines of different names should not meet.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let [a, b, c, ..] = hash.wrapping_add(index as u64).to_le_bytes();
    let [x, y, z] = VENDOR;
    Mac([x, y, z, c, b, a])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_have_addresses_of_their_own_which_stay() {
        let all = [address("a", 0), address("a", 1), address("b", 0)];
        assert_eq!(address("a", 0), all[0]);
        assert!(all[0] != all[1] && all[0] != all[2] && all[1] != all[2]);
        assert!(all.iter().all(|mac| !mac.is_group()));
    }
}
