//! The networks of a machine, which are there from its first power-on to its end.

use std::io;

use counters::Counter;
use network::nat::{Nat, NatSettings};
use network::tap::Tap;
use network::{Mac, Port, PortSettings, Switch};

use crate::config::{InputError, MachineConfig, NetConfig, Network, Nic};

/// The first half of the addresses that adapters have by themselves: Microsoft's.
const VENDOR: [u8; 3] = [0x00, 0x15, 0x5d];

struct Adapter {
    switch: Switch,
    mac: Mac,
    nic: Nic,
    /// What leads out of its network.
    _outside: Outside,
}

/// What leads out of a network, as long as it is there.
enum Outside {
    Nat(#[expect(dead_code, reason = "it works by itself")] Nat),
    Tap(#[expect(dead_code, reason = "it works by itself")] Tap),
    Nothing,
}

/// Queues of an adapter, and of what leads out of its network, at the most: as many as Linux asks for.
const QUEUES: usize = 8;

/// What a machine's adapters are connected to.
pub(crate) struct Networks {
    adapters: Vec<Adapter>,
    queues: usize,
}

impl Networks {
    /// Those that `config` names.
    ///
    /// # Errors
    /// When the host does not allow one, such as for a port that is in use.
    pub fn new(config: &MachineConfig) -> Result<Self, InputError> {
        let isolated = Switch::new();
        let queues = (config.cpus as usize).min(QUEUES);
        let adapter = |(index, net): (usize, &NetConfig)| {
            let refused = |error: io::Error| InputError::new("net", net, error.to_string());
            let switch = Switch::new();
            let (switch, outside) = match &net.network {
                Network::Nat { host, forwards } => {
                    let settings = NatSettings {
                        name: format!("nat{index}"),
                        hostname: None,
                        host_reachable: *host,
                        forwards: forwards.clone(),
                        dropped: Counter::default(),
                    };
                    let nat =
                        switch.port(PortSettings::default()).and_then(|port| Nat::start(port, settings));
                    (switch, Outside::Nat(nat.map_err(refused)?))
                }
                Network::Tap(name) => {
                    let tap = Tap::start(&switch, PortSettings::default(), name, queues);
                    (switch, Outside::Tap(tap.map_err(refused)?))
                }
                Network::Isolated => (isolated.clone(), Outside::Nothing),
            };
            let mac = net.mac.unwrap_or_else(|| address(&config.name, index));
            Ok(Adapter { switch, mac, nic: config.nic_of(net), _outside: outside })
        };
        let adapters = config.nets.iter().enumerate().map(adapter).collect::<Result<_, InputError>>()?;
        Ok(Self { adapters, queues })
    }

    /// The number of each adapter of this kind, a new port for it, with a queue for each processor, and its address.
    pub fn ports(&self, kind: Nic) -> impl Iterator<Item = (u16, io::Result<Port>, Mac)> {
        let queues = if kind == Nic::Synthetic { self.queues } else { 1 };
        let settings = move || PortSettings { queues, ..PortSettings::default() };
        let adapters = (0..).zip(&self.adapters).filter(move |(_, adapter)| adapter.nic == kind);
        adapters.map(move |(index, Adapter { switch, mac, .. })| (index, switch.port(settings()), *mac))
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
