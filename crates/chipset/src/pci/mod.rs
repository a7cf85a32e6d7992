//! PCI by configuration mechanism 1 (PCI Local Bus Specification 3.0, section 3.2.2.3.2): the bus at ports
//! 0xcf8–0xcff, the configuration space that functions share, the host bridge and the ISA bridge with its
//! interrupt router.
//!
//! ```text
//! OUT 0xcf8/0xcfc ─▶ PciBus ─▶ PciFunction (ConfigSpace)
//!                      └─ decode changed ─▶ BarListener: the machine maps ports and memory anew
//! ```
//!
//! One bus, number 0. Not emulated: bridges to further buses, capabilities, MSI, expansion ROMs.

mod bridges;
mod bus;
mod config;
mod interrupt_router;

#[cfg(test)]
mod tests;

pub use bridges::{
    HOST_BRIDGE, HostBridge, INTEL, IsaBridge, SOUTH_BRIDGE, SOUTH_BRIDGE_OF_QEMU, Steering, VIRTUAL_MACHINE,
    ide, isa_bridge, power_management,
};
pub use bus::{CONFIG_ADDRESS, CONFIG_DATA, PciBus};
pub use config::{BarKind, Command, ConfigSpace, Identity};
pub use interrupt_router::{FIRMWARE_ROUTES, IOAPIC_PINS, InterruptRouter, pirq_of};

/// Where a function sits on bus 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionAddress {
    /// Device number, 0–31.
    pub device: u8,
    /// Function number, 0–7.
    pub function: u8,
}

impl FunctionAddress {
    /// Device and function.
    pub const fn new(device: u8, function: u8) -> Self {
        Self { device, function }
    }
}

/// What a function's range decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    /// I/O ports.
    Io,
    /// Memory.
    Memory,
}

/// A range of addresses that a function answers at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BarMapping {
    /// Which of the function's ranges: 0–5 for its BARs, more for what it decodes otherwise.
    pub region: usize,
    /// Ports or memory.
    pub space: Space,
    /// First port or guest physical address.
    pub base: u64,
    /// Length, a power of two.
    pub size: u64,
}

/// A PCI function as the bus sees it.
pub trait PciFunction: Send {
    /// Reads the dword at `register` (a multiple of 4) of the configuration space.
    fn config_read(&mut self, register: u8) -> u32;
    /// Writes those bits of the dword at `register` (a multiple of 4) that `mask` names; `mask` is 0xff in
    /// each byte that the guest writes.
    fn config_write(&mut self, register: u8, value: u32, mask: u32);
    /// The ranges that the function answers at present; none whose decoding is switched off.
    fn bars(&self) -> Vec<BarMapping>;
}

/// Who hears when a function begins or ceases to answer addresses: the machine.
pub trait BarListener: Send + Sync {
    /// The function at `address` now answers `mappings` and nothing else. Called with the bus's lock held
    /// and the function's not.
    fn bars_changed(&self, address: FunctionAddress, mappings: &[BarMapping]);
}
