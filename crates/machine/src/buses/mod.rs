//! The buses of the machine: which device answers which port and which address.
//!
//! ```text
//! IN/OUT ─▶ PortBus: 65536 entries ─▶ slot (device, its count of exits)
//! load/store beyond RAM ─▶ MemoryBus: sorted ranges ─▶ device
//! PCI decode changes ─▶ BarListener ─▶ entries and ranges move
//! ```
//!
//! An access goes to the device that claims its first byte. What nobody claims reads as all ones and is
//! told in the log once.
//!
//! Locks: the port table has none. The list of memory ranges is locked while a range is looked up, not
//! while its device works.

mod memory;
mod port;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chipset::pci::{BarListener, BarMapping, FunctionAddress, Space};
use chipset::{MmioDevice, PortDevice};
use counters::{Counter, DeviceCounters};
use processor::Bus;

use memory::MemoryBus;
use port::{PortBus, SlotIndex};

/// A device on the port bus.
pub type SharedPorts = Arc<Mutex<dyn PortDevice>>;
/// A device on the memory bus.
pub type SharedMemory = Arc<Mutex<dyn MmioDevice>>;

/// What answers a range of a PCI function.
enum Region {
    Ports(SlotIndex),
    Memory(SharedMemory, Counter),
}

/// Port and memory bus of one machine.
#[derive(Default)]
pub struct Buses {
    ports: PortBus,
    memory: MemoryBus,
    regions: Mutex<HashMap<(FunctionAddress, usize), Region>>,
    mapped: Mutex<HashMap<FunctionAddress, Vec<BarMapping>>>,
}

impl Buses {
    /// Buses without devices.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Lets `device` answer each of `ranges`: first port and number of ports. Ports that are taken stay
    /// with their device.
    pub fn add_ports(&self, device: SharedPorts, counters: &DeviceCounters, ranges: &[(u16, u16)]) {
        let slot = self.ports.slot(device, counters.exits.clone());
        for &(first, count) in ranges {
            self.ports.claim(slot, first, count);
        }
    }

    /// Lets `device` answer `size` bytes from `base`.
    pub fn add_memory(&self, device: SharedMemory, counters: &DeviceCounters, base: u64, size: u64) {
        self.memory.claim(device, counters.exits.clone(), base, size);
    }

    /// Says that `device` answers the ports of region `region` of the PCI function at `address`, wherever
    /// the guest puts them.
    pub fn add_port_region(
        &self,
        address: FunctionAddress,
        region: usize,
        device: SharedPorts,
        counters: &DeviceCounters,
    ) {
        let slot = self.ports.slot(device, counters.exits.clone());
        lock(&self.regions).insert((address, region), Region::Ports(slot));
    }

    /// Says that `device` answers the memory of region `region` of the PCI function at `address`, wherever
    /// the guest puts it.
    pub fn add_memory_region(
        &self,
        address: FunctionAddress,
        region: usize,
        device: SharedMemory,
        counters: &DeviceCounters,
    ) {
        let region_device = Region::Memory(device, counters.exits.clone());
        lock(&self.regions).insert((address, region), region_device);
    }

    fn unmap(&self, address: FunctionAddress, mapping: &BarMapping) {
        match lock(&self.regions).get(&(address, mapping.region)) {
            Some(Region::Ports(slot)) => {
                if let Some((first, count)) = port_range(mapping) {
                    self.ports.release(*slot, first, count);
                }
            }
            Some(Region::Memory(device, _)) => self.memory.release(device, mapping.base),
            None => {}
        }
    }

    fn map(&self, address: FunctionAddress, mapping: &BarMapping) {
        match (lock(&self.regions).get(&(address, mapping.region)), mapping.space) {
            (Some(Region::Ports(slot)), Space::Io) => {
                if let Some((first, count)) = port_range(mapping) {
                    self.ports.claim(*slot, first, count);
                }
            }
            (Some(Region::Memory(device, exits)), Space::Memory) => {
                self.memory.claim(Arc::clone(device), exits.clone(), mapping.base, mapping.size);
            }
            _ => tracing::warn!(?address, ?mapping, "a PCI function decodes what no device answers"),
        }
    }
}

fn port_range(mapping: &BarMapping) -> Option<(u16, u16)> {
    Some((u16::try_from(mapping.base).ok()?, u16::try_from(mapping.size).ok()?))
}

impl BarListener for Buses {
    fn bars_changed(&self, address: FunctionAddress, mappings: &[BarMapping]) {
        let before = lock(&self.mapped).insert(address, mappings.to_vec()).unwrap_or_default();
        for gone in before.iter().filter(|mapping| !mappings.contains(mapping)) {
            self.unmap(address, gone);
        }
        for new in mappings.iter().filter(|mapping| !before.contains(mapping)) {
            self.map(address, new);
        }
    }
}

impl Bus for Buses {
    fn port_read(&self, port: u16, data: &mut [u8]) {
        self.ports.read(port, data);
    }

    fn port_write(&self, port: u16, data: &[u8]) {
        self.ports.write(port, data);
    }

    fn port_read_string(&self, port: u16, size: usize, data: &mut [u8]) {
        self.ports.read_string(port, size, data);
    }

    fn port_write_string(&self, port: u16, size: usize, data: &[u8]) {
        self.ports.write_string(port, size, data);
    }

    fn memory_read(&self, gpa: u64, data: &mut [u8]) {
        self.memory.read(gpa, data);
    }

    fn memory_write(&self, gpa: u64, data: &[u8]) {
        self.memory.write(gpa, data);
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
