//! Configuration mechanism 1.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::{BarListener, BarMapping, FunctionAddress, PciFunction};
use crate::bus::{PortDevice, put_value, value_of};

/// The address port; dword accesses only.
pub const CONFIG_ADDRESS: u16 = 0xcf8;
/// The first of four data ports.
pub const CONFIG_DATA: u16 = 0xcfc;

const ENABLE: u32 = 1 << 31;

struct Slot {
    function: Arc<Mutex<dyn PciFunction>>,
    /// What the listener has been told last.
    told: Vec<BarMapping>,
}

/// Bus 0 behind ports 0xcf8–0xcff.
///
/// Port 0xcf9 belongs to the reset control register: the machine's bus goes by the first port of an access,
/// so that bytes written there never come here, while dwords to 0xcf8 do.
pub struct PciBus {
    address: u32,
    slots: BTreeMap<FunctionAddress, Slot>,
    listener: Arc<dyn BarListener>,
}

impl PciBus {
    /// A bus without functions.
    pub fn new(listener: Arc<dyn BarListener>) -> Self {
        Self { address: 0, slots: BTreeMap::new(), listener }
    }

    /// Puts a function on the bus, in place of one that may be there, and tells the listener what it
    /// decodes from the start, if anything.
    pub fn add(&mut self, address: FunctionAddress, function: Arc<Mutex<dyn PciFunction>>) {
        let told = self.slots.remove(&address).map(|slot| slot.told).unwrap_or_default();
        self.slots.insert(address, Slot { function, told });
        self.tell(address);
    }

    /// Compares what a function decodes with what the listener knows. To be called when a function's
    /// decoding has changed otherwise than by a configuration write: after a reset.
    pub fn tell(&mut self, address: FunctionAddress) {
        let Some(slot) = self.slots.get_mut(&address) else { return };
        let mappings = slot.function.lock().unwrap_or_else(PoisonError::into_inner).bars();
        if mappings != slot.told {
            self.listener.bars_changed(address, &mappings);
            slot.told = mappings;
        }
    }

    /// Forgets the selected address and tells the listener of all changes: to be called after the functions
    /// have been reset.
    pub fn reset(&mut self) {
        self.address = 0;
        for address in self.slots.keys().copied().collect::<Vec<_>>() {
            self.tell(address);
        }
    }

    /// The function and register that the address port selects.
    fn selected(&self) -> Option<(FunctionAddress, u8)> {
        let [register, device_function, bus, _] = self.address.to_le_bytes();
        let address = FunctionAddress::new(device_function >> 3, device_function & 7);
        (self.address & ENABLE != 0 && bus == 0 && self.slots.contains_key(&address))
            .then_some((address, register & 0xfc))
    }

    fn config_read(&self) -> Option<u32> {
        let (address, register) = self.selected()?;
        let function = &self.slots.get(&address)?.function;
        Some(function.lock().unwrap_or_else(PoisonError::into_inner).config_read(register))
    }

    fn config_write(&mut self, value: u32, mask: u32) {
        let Some((address, register)) = self.selected() else { return };
        let Some(slot) = self.slots.get(&address) else { return };
        slot.function.lock().unwrap_or_else(PoisonError::into_inner).config_write(register, value, mask);
        self.tell(address);
    }
}

impl PortDevice for PciBus {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        match (port, data.len()) {
            (CONFIG_ADDRESS, 4) => put_value(data, self.address),
            (CONFIG_DATA..=0xcff, _) => {
                let value = self.config_read().unwrap_or(u32::MAX).to_le_bytes();
                let bytes = value.iter().skip(usize::from(port - CONFIG_DATA));
                data.iter_mut().zip(bytes).for_each(|(byte, value)| *byte = *value);
            }
            _ => data.fill(0xff),
        }
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        match (port, data.len()) {
            (CONFIG_ADDRESS, 4) => self.address = value_of(data) & 0x80ff_fffc,
            (CONFIG_DATA..=0xcff, 1..=4) => {
                let shift = 8 * u32::from(port - CONFIG_DATA);
                let all = u32::MAX >> (32 - 8 * data.len() as u32);
                self.config_write(value_of(data) << shift, all << shift);
            }
            // Byte and word accesses to the address port pass by to the ISA bus.
            _ => {}
        }
    }
}
