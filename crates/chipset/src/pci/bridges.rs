//! The host bridge and the ISA bridge of a PC of the 440BX generation.

use std::sync::Arc;

use super::interrupt_router::{FIRMWARE_ROUTES, InterruptRouter};
use super::{BarMapping, ConfigSpace, FunctionAddress, Identity, PciFunction};

/// Where the host bridge sits.
pub const HOST_BRIDGE: FunctionAddress = FunctionAddress::new(0, 0);
/// The device number of the PIIX4, as on Hyper-V.
pub const SOUTH_BRIDGE: u8 = 7;
/// The device number of the PIIX4 where firmware expects that of QEMU's board and does not look.
pub const SOUTH_BRIDGE_OF_QEMU: u8 = 1;

/// Where the ISA bridge sits, if the PIIX4 is device `south`.
pub const fn isa_bridge(south: u8) -> FunctionAddress {
    FunctionAddress::new(south, 0)
}

/// Where the IDE function of the south bridge sits.
pub const fn ide(south: u8) -> FunctionAddress {
    FunctionAddress::new(south, 1)
}

/// Where the power management function of the south bridge sits.
pub const fn power_management(south: u8) -> FunctionAddress {
    FunctionAddress::new(south, 3)
}

const DEVICE_440BX: u16 = 0x7192;
const DEVICE_440FX: u16 = 0x1237;

/// Intel.
pub const INTEL: u16 = 0x8086;

/// Subsystem by which firmware for virtual machines knows that there is a configuration device for it (QEMU,
/// docs/specs/pci-ids: Red Hat, 0x1100): vendor and subsystem of every function that has no other.
pub const VIRTUAL_MACHINE: (u16, u16) = (0x1af4, 0x1100);

/// The host bridge: a 440BX without AGP (82443BX data sheet, order number 290633), or, for UEFI firmware, which knows no
/// other one of that kind, a 440FX (82441FX data sheet, order number 290549). The memory attributes (PAM)
/// and SMRAM registers keep what is written and change nothing: memory from 0xc0000 to 1 MiB is always RAM, as
/// after all of it has been shadowed.
pub struct HostBridge {
    config: ConfigSpace,
    device: u16,
}

impl HostBridge {
    /// A host bridge.
    pub fn new() -> Self {
        Self { config: host_bridge(DEVICE_440BX), device: DEVICE_440BX }
    }

    /// A host bridge by which firmware knows that it runs in a virtual machine.
    pub fn for_firmware() -> Self {
        Self::in_virtual_machine(DEVICE_440BX)
    }

    /// A host bridge by which UEFI firmware knows on which board it runs.
    pub fn for_uefi() -> Self {
        Self::in_virtual_machine(DEVICE_440FX)
    }

    fn in_virtual_machine(device: u16) -> Self {
        let mut bridge = Self { config: host_bridge(device), device };
        let (vendor, subsystem) = VIRTUAL_MACHINE;
        bridge.config.set(0x2c, u32::from(subsystem) << 16 | u32::from(vendor));
        bridge
    }

    /// Power-on state.
    pub fn reset(&mut self) {
        let subsystem = self.config.read(0x2c);
        self.config = host_bridge(self.device);
        self.config.set(0x2c, subsystem);
    }
}

impl Default for HostBridge {
    fn default() -> Self {
        Self::new()
    }
}

fn host_bridge(device: u16) -> ConfigSpace {
    let mut config = ConfigSpace::new(Identity {
        vendor: INTEL,
        device,
        revision: 3,
        class: 0x06_0000,
        ..Identity::default()
    });
    // It is always a bus master and always answers memory.
    config.set(0x04, 0x0200_0006);
    config.set_writable(0x04, 0x0000_0100);
    config.set_writable(0x3c, 0);
    // PAM0–PAM6 at 0x59–0x5f, SMRAM at 0x72.
    config.set_writable(0x58, 0x3333_3000);
    config.set_writable(0x5c, 0x3333_3333);
    config.set_writable(0x70, 0x0078_0000);
    config.set(0x70, 0x0002_0000);
    config
}

impl PciFunction for HostBridge {
    fn config_read(&mut self, register: u8) -> u32 {
        self.config.read(register)
    }

    fn config_write(&mut self, register: u8, value: u32, mask: u32) {
        self.config.write(register, value, mask);
    }

    fn bars(&self) -> Vec<BarMapping> {
        self.config.bars()
    }
}

/// Offset of the four interrupt route registers.
const PIRQ_ROUTES: u8 = 0x60;

/// The PIIX4 ISA bridge (82371AB data sheet, chapter 4): interrupt routing. The other registers keep nothing.
pub struct IsaBridge {
    config: ConfigSpace,
    router: Arc<InterruptRouter>,
}

impl IsaBridge {
    /// An ISA bridge whose route registers steer `router`.
    pub fn new(router: Arc<InterruptRouter>) -> Self {
        Self { config: isa_bridge_config(), router }
    }

    /// The state in which firmware leaves it.
    pub fn reset(&mut self) {
        self.config = isa_bridge_config();
        for (index, route) in FIRMWARE_ROUTES.into_iter().enumerate() {
            self.router.set_route(index, route);
        }
    }
}

fn isa_bridge_config() -> ConfigSpace {
    let mut config = ConfigSpace::new(Identity {
        vendor: INTEL,
        device: 0x7110,
        revision: 1,
        class: 0x06_0100,
        multifunction: true,
        ..Identity::default()
    });
    // Always on.
    config.set(0x04, 0x0280_0007);
    config.set_writable(0x04, 0x0000_0100);
    config.set_writable(0x3c, 0);
    config
}

impl PciFunction for IsaBridge {
    fn config_read(&mut self, register: u8) -> u32 {
        match register {
            PIRQ_ROUTES => u32::from_le_bytes(std::array::from_fn(|index| self.router.route(index))),
            _ => self.config.read(register),
        }
    }

    fn config_write(&mut self, register: u8, value: u32, mask: u32) {
        match register {
            PIRQ_ROUTES => {
                for (index, (value, mask)) in
                    value.to_le_bytes().into_iter().zip(mask.to_le_bytes()).enumerate()
                {
                    if mask != 0 {
                        self.router.set_route(index, value);
                    }
                }
            }
            _ => self.config.write(register, value, mask),
        }
    }

    fn bars(&self) -> Vec<BarMapping> {
        Vec::new()
    }
}
