//! The host bridge and the ISA bridge of a PC of the 440BX generation.

use std::sync::Arc;

use guest_memory::{Attributes, SHADOW_SEGMENTS};

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

/// PAM0–PAM6, the memory attributes, and the dwords that hold them.
const PAM: std::ops::RangeInclusive<u8> = 0x59..=0x5f;
const PAM_DWORDS: [u8; 2] = [0x58, 0x5c];
/// Segments of PAM0, whose low half decides nothing: the last 64 KiB. Every other register decides two of them.
const PAM0_SEGMENTS: usize = 4;

/// Who carries out what the memory attributes say: the machine.
pub trait Steering: Send + Sync {
    /// Processors are to reach these segments of [`guest_memory::SHADOW`] so. Called with the locks of the bus and of the
    /// bridge held, also where nothing has changed.
    fn steer(&self, segments: [Attributes; SHADOW_SEGMENTS]);
}

/// The host bridge: a 440BX without AGP (82443BX data sheet, order number 290633), or, for UEFI firmware, which knows no
/// other one of that kind, a 440FX (82441FX data sheet, order number 290549), with the memory attributes (PAM) of both.
/// The SMRAM register keeps what is written and changes nothing.
///
/// A BIOS for virtual machines programs the attributes of a 440FX only: to it, a 440BX calls itself one until the segment
/// with the BIOS is made read-only, with which it ends.
pub struct HostBridge {
    config: ConfigSpace,
    start: Start,
    steering: Arc<dyn Steering>,
}

/// What a machine starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Kernel,
    Bios,
    Uefi,
}

impl HostBridge {
    /// A host bridge as firmware leaves it to a kernel, but with RAM that can be written.
    pub fn new(steering: Arc<dyn Steering>) -> Self {
        Self::with(Start::Kernel, steering)
    }

    /// A host bridge at power-on, by which a BIOS knows that it runs in a virtual machine.
    pub fn for_firmware(steering: Arc<dyn Steering>) -> Self {
        Self::with(Start::Bios, steering)
    }

    /// A host bridge at power-on, by which UEFI firmware knows on which board it runs.
    pub fn for_uefi(steering: Arc<dyn Steering>) -> Self {
        Self::with(Start::Uefi, steering)
    }

    fn with(start: Start, steering: Arc<dyn Steering>) -> Self {
        Self { config: host_bridge(start), start, steering }
    }

    /// Power-on state.
    pub fn reset(&mut self) {
        self.config = host_bridge(self.start);
        self.steering.steer(self.segments());
    }

    /// What PAM0–PAM6 say.
    fn segments(&self) -> [Attributes; SHADOW_SEGMENTS] {
        std::array::from_fn(|segment| {
            let pair = SHADOW_SEGMENTS - PAM0_SEGMENTS;
            let (register, high) = if segment < pair {
                (PAM.start() + 1 + segment as u8 / 2, segment % 2 == 1)
            } else {
                (*PAM.start(), true)
            };
            let bits = self.config.byte(register) >> if high { 4 } else { 0 };
            Attributes { read: bits & 1 != 0, write: bits & 2 != 0 }
        })
    }

    fn attributes_written(&mut self) {
        let segments = self.segments();
        let bios_is_read_only = segments.last() == Some(&Attributes { read: true, write: false });
        if self.start == Start::Bios && bios_is_read_only {
            self.config.set(0x00, u32::from(DEVICE_440BX) << 16 | u32::from(INTEL));
        }
        self.steering.steer(segments);
    }
}

fn host_bridge(start: Start) -> ConfigSpace {
    let device = if start == Start::Kernel { DEVICE_440BX } else { DEVICE_440FX };
    let (subsystem_vendor, subsystem) = if start == Start::Kernel { (0, 0) } else { VIRTUAL_MACHINE };
    let mut config = ConfigSpace::new(Identity {
        vendor: INTEL,
        device,
        revision: 3,
        class: 0x06_0000,
        subsystem_vendor,
        subsystem,
        ..Identity::default()
    });
    // It is always a bus master and always answers memory.
    config.set(0x04, 0x0200_0006);
    config.set_writable(0x04, 0x0000_0100);
    config.set_writable(0x3c, 0);
    let writable = [0x3333_3000, 0x3333_3333];
    for (register, bits) in PAM_DWORDS.into_iter().zip(writable) {
        config.set_writable(register, bits);
        if start == Start::Kernel {
            config.set(register, bits);
        }
    }
    // SMRAM is at 0x72.
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
        if PAM_DWORDS.contains(&register) {
            self.attributes_written();
        }
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
