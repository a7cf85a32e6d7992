//! The configuration space header that functions have in common (PCI Local Bus Specification 3.0, chapter
//! 6).

use bitfield_struct::bitfield;

use super::{BarMapping, Space};

/// Offset of the command and status registers.
const COMMAND: u8 = 0x04;
/// Offset of the first base address register.
const BAR_0: u8 = 0x10;
/// Offset behind the last base address register.
const BARS_END: u8 = 0x28;
/// Offset of interrupt line and interrupt pin.
const INTERRUPT: u8 = 0x3c;

/// Status bits that a guest clears by writing ones.
const STATUS_CLEARABLE: u32 = 0xf900_0000;

/// The command register.
#[bitfield(u16)]
pub struct Command {
    /// Answers I/O space.
    pub io_space: bool,
    /// Answers memory space.
    pub memory_space: bool,
    /// May be a bus master.
    pub bus_master: bool,
    pub special_cycles: bool,
    pub write_and_invalidate: bool,
    pub palette_snoop: bool,
    pub parity_error_response: bool,
    pub stepping: bool,
    pub system_error: bool,
    pub fast_back_to_back: bool,
    /// Holds the function's INTx low.
    pub interrupt_disable: bool,
    #[bits(5)]
    __: u8,
}

/// What a function says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Identity {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Base class, subclass, programming interface: 0xBBSSPP.
    pub class: u32,
    /// Subsystem vendor.
    pub subsystem_vendor: u16,
    /// Subsystem.
    pub subsystem: u16,
    /// Whether the device has further functions.
    pub multifunction: bool,
}

/// The kind of a base address register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarKind {
    /// Ports.
    Io,
    /// Memory below 4 GiB.
    Memory {
        /// Reads have no side effects.
        prefetchable: bool,
    },
}

impl BarKind {
    fn flags(self) -> u32 {
        match self {
            Self::Io => 1,
            Self::Memory { prefetchable } => u32::from(prefetchable) << 3,
        }
    }

    fn space(self) -> Space {
        match self {
            Self::Io => Space::Io,
            Self::Memory { .. } => Space::Memory,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bar {
    kind: BarKind,
    size: u32,
}

/// 256 bytes of configuration space with the header's behaviour. Registers behind the header are read-only
/// until [`Self::set_writable`] says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigSpace {
    registers: [u32; 64],
    writable: [u32; 64],
    bars: [Option<Bar>; 6],
}

impl ConfigSpace {
    /// A header with command register and interrupt line; no BARs.
    pub fn new(identity: Identity) -> Self {
        let mut space = Self { registers: [0; 64], writable: [0; 64], bars: [None; 6] };
        space.set(0x00, u32::from(identity.device) << 16 | u32::from(identity.vendor));
        space.set(0x08, identity.class << 8 | u32::from(identity.revision));
        space.set(0x0c, u32::from(identity.multifunction) << 23);
        space.set(0x2c, u32::from(identity.subsystem) << 16 | u32::from(identity.subsystem_vendor));
        space.set_writable(COMMAND, 0x0000_0547);
        space.set_writable(0x0c, 0x0000_ffff);
        space.set_writable(INTERRUPT, 0x0000_00ff);
        space
    }

    /// Adds base address register `index` (0–5) of `size` bytes.
    ///
    /// # Panics
    /// When the size is no power of two or below the least that PCI knows (4 ports, 16 bytes of memory), or
    /// the index is out of range: mistakes of the device's author.
    #[must_use]
    pub fn with_bar(mut self, index: usize, kind: BarKind, size: u32) -> Self {
        let least = if kind == BarKind::Io { 4 } else { 16 };
        assert!(index < 6 && size.is_power_of_two() && size >= least, "BAR {index} of {size:#x} bytes");
        self.bars[index] = Some(Bar { kind, size });
        let register = BAR_0 + 4 * index as u8;
        self.set(register, kind.flags());
        self.set_writable(register, !(size - 1));
        self
    }

    /// Sets the interrupt pin: 1 for INTA to 4 for INTD.
    #[must_use]
    pub fn with_interrupt_pin(mut self, pin: u8) -> Self {
        let line = self.read(INTERRUPT) & 0xff;
        self.set(INTERRUPT, u32::from(pin) << 8 | line);
        self
    }

    /// The dword at `register`.
    pub fn read(&self, register: u8) -> u32 {
        self.registers[usize::from(register >> 2)]
    }

    /// A guest's write of the bytes of the dword at `register` that `mask` names.
    pub fn write(&mut self, register: u8, value: u32, mask: u32) {
        let index = usize::from(register >> 2);
        let mut new = self.registers[index];
        if register & 0xfc == COMMAND {
            new &= !(value & mask & STATUS_CLEARABLE);
        }
        let mask = mask & self.writable[index];
        self.registers[index] = new & !mask | value & mask;
    }

    /// Sets the dword at `register`, whether or not a guest may write it.
    pub fn set(&mut self, register: u8, value: u32) {
        self.registers[usize::from(register >> 2)] = value;
    }

    /// Lets a guest write those bits of the dword at `register` that are 1 in `bits`, and no others.
    pub fn set_writable(&mut self, register: u8, bits: u32) {
        self.writable[usize::from(register >> 2)] = bits;
    }

    /// The byte at `offset`.
    pub fn byte(&self, offset: u8) -> u8 {
        self.read(offset).to_le_bytes()[usize::from(offset & 3)]
    }

    /// The command register.
    pub fn command(&self) -> Command {
        Command::from_bits(self.read(COMMAND) as u16)
    }

    /// The base addresses that are decoded at present. A BAR at 0 decodes nothing: that is its value before
    /// it is assigned.
    pub fn bars(&self) -> Vec<BarMapping> {
        let command = self.command();
        let registers = (BAR_0..BARS_END).step_by(4);
        self.bars
            .iter()
            .zip(registers)
            .enumerate()
            .filter_map(|(region, (bar, register))| {
                let bar = (*bar)?;
                let space = bar.kind.space();
                let (enabled, base, last) = match space {
                    Space::Io => (command.io_space(), self.read(register) & !3, 0xffff),
                    Space::Memory => (command.memory_space(), self.read(register) & !15, u32::MAX),
                };
                let fits = base != 0 && base <= last && last - base >= bar.size - 1;
                (enabled && fits).then_some(BarMapping {
                    region,
                    space,
                    base: u64::from(base),
                    size: u64::from(bar.size),
                })
            })
            .collect()
    }

    /// Back to power-on values of what a guest may change in the header: decoding off, BARs unassigned.
    pub fn reset_header(&mut self) {
        self.set(COMMAND, self.read(COMMAND) & 0x06ff_0000);
        for register in (BAR_0..BARS_END).step_by(4) {
            self.set(register, self.read(register) & !self.writable[usize::from(register >> 2)]);
        }
        self.set(INTERRUPT, self.read(INTERRUPT) & !0xff);
    }
}
