//! The networks of a machine and what its adapters are connected to: there from first power-on to the end, whatever
//! happens to the machine around them; how adapters come and go while the guest runs.
//!
//! ```text
//! attach ─▶ network, port ─▶ adapter on the bus ─▶ the guest is told
//! detach ─▶ the guest is told, and gives the adapter back ─▶ port, network end
//! reset  ─▶ the next board gets an adapter at a new port for each that is present
//! ```

#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use counters::Counter;
use network::nat::{Nat, NatSettings};
use network::tap::Tap;
use network::{Capture, Mac, Port, PortSettings, Switch};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::build::NetworkBus;
use crate::config::{InputError, MAX_NETS, MachineConfig, NetConfig, Network, Nic};
use crate::disks::ChangeError;

/// The first half of the addresses that adapters have by themselves: Microsoft's.
const VENDOR: [u8; 3] = [0x00, 0x15, 0x5d];
/// Queues of an adapter, and of what leads out of its network, at the most: as many as Linux asks for.
const QUEUES: usize = 8;

/// A network adapter that is present.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetStatus {
    /// What it is called: `network0` for the first one.
    pub name: String,
    /// Its address.
    pub mac: String,
    /// What the guest sees of it.
    pub nic: Nic,
    /// What it was made of, and whether its cable is plugged in.
    pub config: NetConfig,
}

struct Adapter {
    number: u16,
    config: NetConfig,
    nic: Nic,
    mac: Mac,
    switch: Switch,
    capture: Option<Capture>,
    /// That of the board which is there.
    port: Weak<Port>,
    /// What leads out of its network.
    _outside: Outside,
}

/// What leads out of a network, as long as it is there.
enum Outside {
    Nat(#[expect(dead_code, reason = "it works by itself")] Nat),
    Tap(#[expect(dead_code, reason = "it works by itself")] Tap),
    Nothing,
}

impl Adapter {
    fn name(&self) -> String {
        format!("network{}", self.number)
    }

    /// A new port for a board.
    fn connect(&mut self, queues: usize) -> io::Result<Arc<Port>> {
        let config = &self.config.port;
        let port = self.switch.port(PortSettings {
            queues: if self.nic == Nic::Synthetic { queues } else { 1 },
            only: (!config.spoofing).then_some(self.mac),
            guards: config.guards,
            limit: config.limit(),
            capture: self.capture.clone(),
            dropped: Counter::default(),
        })?;
        port.set_link(config.link);
        let port = Arc::new(port);
        self.port = Arc::downgrade(&port);
        Ok(port)
    }
}

#[derive(Default)]
struct State {
    adapters: Vec<Adapter>,
    /// Numbers are given once.
    next: u16,
    bus: Option<NetworkBus>,
    ended: bool,
}

/// What a machine's adapters are connected to.
pub(crate) struct Networks {
    /// What the machine is called, by which addresses are chosen.
    name: String,
    /// What adapters are that do not say it themselves.
    nic: Nic,
    queues: usize,
    has_bus: bool,
    isolated: Switch,
    state: Mutex<State>,
}

impl Networks {
    /// Those that `config` names.
    ///
    /// # Errors
    /// When the host does not allow one, such as for a port that is in use.
    pub fn new(config: &MachineConfig) -> Result<Self, InputError> {
        let this = Self {
            name: config.name.clone(),
            nic: config.nic,
            queues: (config.cpus as usize).min(QUEUES),
            has_bus: config.has_vmbus()?,
            isolated: Switch::new(),
            state: Mutex::default(),
        };
        let mut state = this.lock();
        for net in &config.nets {
            let adapter = this.open(state.next, net);
            let adapter = adapter.map_err(|error| InputError::new("net", net, error.to_string()))?;
            state.adapters.push(adapter);
            state.next += 1;
        }
        drop(state);
        Ok(this)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, number: u16, config: &NetConfig) -> io::Result<Adapter> {
        let capture = config.port.capture.as_ref().map(|file| {
            Capture::create(file)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))
        });
        let capture = capture.transpose()?;
        let switch = Switch::new();
        let (switch, outside) = match &config.network {
            Network::Nat { host, forwards } => {
                let settings = NatSettings {
                    name: format!("nat{number}"),
                    hostname: None,
                    host_reachable: *host,
                    forwards: forwards.clone(),
                    dropped: Counter::default(),
                };
                let nat = Nat::start(switch.port(PortSettings::default())?, settings)?;
                (switch, Outside::Nat(nat))
            }
            Network::Tap(name) => {
                let tap = Tap::start(&switch, PortSettings::default(), name, self.queues)?;
                (switch, Outside::Tap(tap))
            }
            Network::Isolated => (self.isolated.clone(), Outside::Nothing),
        };
        Ok(Adapter {
            number,
            config: config.clone(),
            nic: config.nic.unwrap_or(self.nic),
            mac: config.mac.unwrap_or_else(|| address(&self.name, number)),
            switch,
            capture,
            port: Weak::new(),
            _outside: outside,
        })
    }

    /// The number of each legacy adapter, a new port for it, and its address.
    pub fn connect_legacy(&self) -> Result<Vec<(u16, Arc<Port>, Mac)>, Error> {
        let mut state = self.lock();
        let legacy = state.adapters.iter_mut().filter(|adapter| adapter.nic == Nic::Legacy);
        legacy
            .map(|adapter| {
                let port = adapter.connect(self.queues).map_err(Error::Network)?;
                Ok((adapter.number, port, adapter.mac))
            })
            .collect()
    }

    /// A board has a bus: it gets the synthetic adapters that are present, and those to come.
    pub fn connect(&self, bus: NetworkBus) -> Result<(), Error> {
        let mut state = self.lock();
        for adapter in state.adapters.iter_mut().filter(|adapter| adapter.nic == Nic::Synthetic) {
            let port = adapter.connect(self.queues).map_err(Error::Network)?;
            bus.offer(adapter.number, &adapter.name(), adapter.mac, port)?;
        }
        state.bus = Some(bus);
        Ok(())
    }

    /// The board is gone, or about to.
    pub fn reset(&self) {
        self.lock().bus = None;
    }

    /// The machine has come to its end: nothing comes or goes any more.
    pub fn end(&self) {
        self.lock().ended = true;
    }

    /// The adapters that are present.
    pub fn status(&self) -> Vec<NetStatus> {
        let status = |adapter: &Adapter| NetStatus {
            name: adapter.name(),
            mac: adapter.mac.to_string(),
            nic: adapter.nic,
            config: adapter.config.clone(),
        };
        self.lock().adapters.iter().map(status).collect()
    }

    /// What the adapters that are present are made of.
    pub fn present(&self) -> Vec<NetConfig> {
        self.lock().adapters.iter().map(|adapter| adapter.config.clone()).collect()
    }

    /// Makes a network and puts an adapter on the bus. Returns its name.
    pub fn attach(&self, config: &NetConfig) -> Result<String, ChangeError> {
        let refused = |reason: String| ChangeError::Refused(format!("{config}: {reason}"));
        let mut state = self.running()?;
        if config.nic.unwrap_or(self.nic) != Nic::Synthetic {
            let reason = "a running machine takes synthetic adapters only, nic=synthetic";
            return Err(ChangeError::Input(format!("{config}: {reason}")));
        }
        if !self.has_bus {
            let reason = "the machine has no VMBus: --synthetic or --enlightenments leave it out";
            return Err(refused(reason.to_owned()));
        }
        if state.adapters.len() >= MAX_NETS || state.next == u16::MAX {
            return Err(refused(format!("a machine has up to {MAX_NETS} network adapters")));
        }
        let adapter = self.open(state.next, config);
        let mut adapter = adapter.map_err(|error| ChangeError::Input(format!("{config}: {error}")))?;
        let name = adapter.name();
        if let Some(bus) = &state.bus {
            let port = adapter.connect(self.queues).map_err(|error| refused(error.to_string()))?;
            bus.offer(adapter.number, &name, adapter.mac, port)
                .map_err(|error| refused(error.to_string()))?;
        }
        state.next += 1;
        state.adapters.push(adapter);
        Ok(name)
    }

    /// Takes the adapter called `name` away, with its network.
    pub fn detach(&self, name: &str) -> Result<(), ChangeError> {
        let mut state = self.running()?;
        let index = position(&state.adapters, name)?;
        let Adapter { number, nic, .. } = state.adapters[index];
        if nic == Nic::Legacy {
            let reason = format!("{name} is a legacy adapter, which a running machine keeps");
            return Err(ChangeError::Refused(reason));
        }
        if let Some(bus) = &state.bus {
            bus.rescind(number, name);
        }
        let adapter = state.adapters.remove(index);
        drop(state);
        // Its threads end without the lock.
        drop(adapter);
        Ok(())
    }

    /// Plugs in the cable of the adapter called `name`, or pulls it out.
    pub fn set_link(&self, name: &str, up: bool) -> Result<(), ChangeError> {
        let mut state = self.running()?;
        let index = position(&state.adapters, name)?;
        let adapter = &mut state.adapters[index];
        adapter.config.port.link = up;
        if let Some(port) = adapter.port.upgrade() {
            port.set_link(up);
        }
        Ok(())
    }

    fn running(&self) -> Result<MutexGuard<'_, State>, ChangeError> {
        let state = self.lock();
        if state.ended {
            return Err(ChangeError::Refused("the machine has come to its end".to_owned()));
        }
        Ok(state)
    }
}

fn position(adapters: &[Adapter], name: &str) -> Result<usize, ChangeError> {
    let found = adapters.iter().position(|adapter| adapter.name() == name);
    found.ok_or_else(|| ChangeError::Input(format!("{name}: no such network adapter")))
}

/// The address of adapter `number` of a machine of this name, the same each time.
fn address(name: &str, number: u16) -> Mac {
    // FNV-1a: machines of different names should not meet.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let [a, b, c, ..] = hash.wrapping_add(number.into()).to_le_bytes();
    let [x, y, z] = VENDOR;
    Mac([x, y, z, c, b, a])
}
