//! A VGA (IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem", 1992) with the modes of Bochs's VBE display
//! interface beyond it, behind the PCI identity of Hyper-V's video adapter.
//!
//! ```text
//! 0xa0000–0xbffff ─▶ memory ─ planes ──┐
//! BAR 0, linear ───▶ 16 MiB ───────────┼─▶ screen: text, or an image
//! 0x3b0–0x3df, 0x1ce–0x1d0: registers ─┘
//! ```
//!
//! As Bochs's adapter, for firmware and drivers that know no other, it has its registers in memory too, and there what the
//! monitor tells of itself (EDID). Hyper-V's has no such place; video BIOSes read it there only, and tell of no monitor.
//!
//! The guest's own font, in plane 2, makes the image of a text screen. Retrace is told from the clock, at 60 Hz; nothing
//! ticks.
//!
//! Not emulated: blinking (characters and the cursor are shown in their bright half), panning by single pixels, split
//! screens (line compare), the border, light pens, interrupts, the wires of DDC,
//! memory beyond 256 KiB in the VGA's own modes, an
//! expansion ROM of its own (firmware gets it otherwise).

mod dispi;
mod edid;
mod memory;
mod register_window;
mod registers;
mod screen;
mod text_mode;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};

use clock::Clock;

use crate::bus::{MmioDevice, PortDevice, read_bytes, write_bytes};
use crate::pci::{BarKind, BarMapping, ConfigSpace, FunctionAddress, Identity, PciFunction};
use crate::sync::lock;
use dispi::{Dispi, Effect};
pub use register_window::RegisterWindow;
use registers::*;

/// Where the adapter sits on the PCI bus, as on Hyper-V.
pub const ADDRESS: FunctionAddress = FunctionAddress::new(8, 0);
/// Microsoft.
pub const VENDOR: u16 = 0x1414;
/// The video adapter.
pub const DEVICE: u16 = 0x5353;
/// What drivers of the display interface that do not know ours look for: vendor and device of Bochs's adapter.
pub const BOCHS: (u16, u16) = (0x1234, 0x1111);
/// First of the registers' ports.
pub const PORT: u16 = port::FIRST;
/// Ports from there on.
pub const PORTS: u16 = 0x30;
/// First of the ports of the display interface.
pub const DISPI_PORT: u16 = 0x1ce;
/// Ports from there on.
pub const DISPI_PORTS: u16 = 3;
/// The region of the linear frame buffer; see [`crate::pci::BarMapping::region`].
pub const LINEAR_REGION: usize = 0;

/// The region of the registers in memory, which the adapter has as Bochs's.
pub const REGISTER_REGION: usize = 2;

/// Bytes of video memory.
const MEMORY_SIZE: usize = 16 << 20;
/// Bytes of the linear frame buffer's region, as on Hyper-V; beyond the memory there is nothing.
const REGION_SIZE: u32 = 64 << 20;
/// The VGA's own modes see 64 KiB of each plane.
const PLANE_MASK: usize = 0xffff;
/// Nanoseconds of a frame, of its vertical retrace at the end, of a scan line and of its blank part.
const FRAME_TIME: u64 = 16_666_667;
const RETRACE_TIME: u64 = 1_400_000;
const LINE_TIME: u64 = 31_778;
const LINE_BLANK_TIME: u64 = 6_356;

/// The digital-to-analogue converter with its palette.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Dac {
    palette: [[u8; 3]; 256],
    mask: u8,
    index: u8,
    /// Which of the three colours comes next.
    part: u8,
    reading: bool,
}

/// The adapter.
pub struct Vga {
    memory: Vec<u8>,
    latch: [u8; 4],
    misc: u8,
    feature: u8,
    sequencer_index: u8,
    sequencer: [u8; sequencer::COUNT],
    graphics_index: u8,
    graphics: [u8; graphics::COUNT],
    crtc_index: u8,
    crtc: [u8; crtc::COUNT],
    attribute_index: u8,
    /// The next write to the attribute port is data.
    attribute_data: bool,
    attribute: [u8; attribute::COUNT],
    dac: Dac,
    dispi: Dispi,
    config: ConfigSpace,
    clock: Arc<dyn Clock>,
}

impl Vga {
    /// An adapter that takes the time of its retrace from `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_identity(clock, (VENDOR, DEVICE))
    }

    /// As [`Self::new`], with another vendor and device.
    pub fn with_identity(clock: Arc<dyn Clock>, (vendor, device): (u16, u16)) -> Self {
        let identity = Identity { vendor, device, class: 0x03_0000, ..Identity::default() };
        let linear = BarKind::Memory { prefetchable: true };
        let bochs = (vendor, device) == BOCHS;
        // Drivers for Bochs's adapter miss the memory that a larger region would have.
        let size = if bochs { MEMORY_SIZE as u32 } else { REGION_SIZE };
        let mut config = ConfigSpace::new(identity).with_bar(LINEAR_REGION, linear, size);
        if bochs {
            let registers = BarKind::Memory { prefetchable: false };
            config = config.with_bar(REGISTER_REGION, registers, register_window::SIZE);
        }
        Self {
            memory: vec![0; MEMORY_SIZE],
            latch: [0; 4],
            misc: 0,
            feature: 0,
            sequencer_index: 0,
            sequencer: [0; sequencer::COUNT],
            graphics_index: 0,
            graphics: [0; graphics::COUNT],
            crtc_index: 0,
            crtc: [0; crtc::COUNT],
            attribute_index: 0,
            attribute_data: false,
            attribute: [0; attribute::COUNT],
            dac: Dac { palette: [[0; 3]; 256], mask: 0xff, index: 0, part: 0, reading: false },
            dispi: Dispi::new(),
            config,
            clock,
        }
    }

    fn display_on(&self) -> bool {
        self.attribute_index & ATTRIBUTE_SOURCE != 0
    }

    fn colour_ports(&self) -> bool {
        self.misc & MISC_COLOUR != 0
    }

    fn status_1(&mut self) -> u8 {
        self.attribute_data = false;
        let in_frame = self.clock.now() % FRAME_TIME;
        if in_frame >= FRAME_TIME - RETRACE_TIME {
            return STATUS_RETRACE | STATUS_BLANK;
        }
        if in_frame % LINE_TIME >= LINE_TIME - LINE_BLANK_TIME { STATUS_BLANK } else { 0 }
    }

    fn read_register(&mut self, port: u16) -> u8 {
        let at = |registers: &[u8], index: u8| registers.get(usize::from(index)).copied().unwrap_or(0xff);
        match port {
            port::MONO_CRTC_INDEX | port::MONO_CRTC_DATA | port::MONO_STATUS_1 if self.colour_ports() => 0xff,
            port::COLOUR_CRTC_INDEX | port::COLOUR_CRTC_DATA | port::COLOUR_STATUS_1
                if !self.colour_ports() =>
            {
                0xff
            }
            port::MONO_CRTC_INDEX | port::COLOUR_CRTC_INDEX => self.crtc_index,
            port::MONO_CRTC_DATA | port::COLOUR_CRTC_DATA => at(&self.crtc, self.crtc_index),
            port::MONO_STATUS_1 | port::COLOUR_STATUS_1 => self.status_1(),
            port::ATTRIBUTE => self.attribute_index,
            port::ATTRIBUTE_READ => at(&self.attribute, self.attribute_index & 0x1f),
            // The sense line of a colour monitor.
            port::MISC_WRITE => 0x10,
            port::SEQUENCER_INDEX => self.sequencer_index,
            port::SEQUENCER_DATA => at(&self.sequencer, self.sequencer_index),
            port::DAC_MASK => self.dac.mask,
            port::DAC_READ_INDEX => {
                if self.dac.reading {
                    3
                } else {
                    0
                }
            }
            port::DAC_WRITE_INDEX => self.dac.index,
            port::DAC_DATA => self.dac.read(),
            port::FEATURE_READ => self.feature,
            port::MISC_READ => self.misc,
            port::GRAPHICS_INDEX => self.graphics_index,
            port::GRAPHICS_DATA => at(&self.graphics, self.graphics_index),
            _ => 0xff,
        }
    }

    fn write_register(&mut self, port: u16, value: u8) {
        match port {
            port::MONO_CRTC_INDEX | port::MONO_CRTC_DATA | port::MONO_STATUS_1 if self.colour_ports() => {}
            port::COLOUR_CRTC_INDEX | port::COLOUR_CRTC_DATA | port::COLOUR_STATUS_1
                if !self.colour_ports() => {}
            port::MONO_CRTC_INDEX | port::COLOUR_CRTC_INDEX => self.crtc_index = value & 0x3f,
            port::MONO_CRTC_DATA | port::COLOUR_CRTC_DATA => self.write_crtc(value),
            port::MONO_STATUS_1 | port::COLOUR_STATUS_1 => self.feature = value & 3,
            port::ATTRIBUTE => self.write_attribute(value),
            port::MISC_WRITE => self.misc = value & 0xef,
            port::SEQUENCER_INDEX => self.sequencer_index = value & 7,
            port::SEQUENCER_DATA => {
                put(&mut self.sequencer, self.sequencer_index, value, &sequencer::WRITABLE)
            }
            port::DAC_MASK => self.dac.mask = value,
            port::DAC_READ_INDEX => self.dac.select(value, true),
            port::DAC_WRITE_INDEX => self.dac.select(value, false),
            port::DAC_DATA => self.dac.write(value, self.dispi.wide_palette()),
            port::GRAPHICS_INDEX => self.graphics_index = value & 15,
            port::GRAPHICS_DATA => put(&mut self.graphics, self.graphics_index, value, &graphics::WRITABLE),
            _ => {}
        }
    }

    fn write_crtc(&mut self, value: u8) {
        let index = usize::from(self.crtc_index);
        let protected = self.crtc[crtc::VERTICAL_RETRACE_END] & crtc::PROTECT != 0 && index <= crtc::OVERFLOW;
        let Some(register) = self.crtc.get_mut(index) else { return };
        if !protected {
            *register = value;
        } else if index == crtc::OVERFLOW {
            *register = *register & !crtc::LINE_COMPARE_8 | value & crtc::LINE_COMPARE_8;
        }
    }

    fn write_attribute(&mut self, value: u8) {
        if !self.attribute_data {
            self.attribute_index = value & 0x3f;
        } else {
            let index = usize::from(self.attribute_index & 0x1f);
            // The palette is the display's while that is on.
            let shown = index < attribute::MODE && self.display_on();
            if let Some(register) = self.attribute.get_mut(index).filter(|_| !shown) {
                *register = if index < attribute::MODE { value & 0x3f } else { value };
            }
        }
        self.attribute_data = !self.attribute_data;
    }

    fn write_dispi_at(&mut self, index: u16, value: u16) {
        if self.dispi.write_at(index, value) == Effect::Clear {
            self.memory.fill(0);
        }
    }
}

/// Writes those bits of a register that exist, of one that exists.
fn put(registers: &mut [u8], index: u8, value: u8, writable: &[u8]) {
    let index = usize::from(index);
    if let (Some(register), Some(bits)) = (registers.get_mut(index), writable.get(index)) {
        *register = value & bits;
    }
}

impl Dac {
    fn select(&mut self, index: u8, reading: bool) {
        self.index = index;
        self.part = 0;
        self.reading = reading;
    }

    fn next(&mut self) {
        self.part = (self.part + 1) % 3;
        if self.part == 0 {
            self.index = self.index.wrapping_add(1);
        }
    }

    fn read(&mut self) -> u8 {
        let value = self.palette[usize::from(self.index)][usize::from(self.part)];
        self.next();
        value
    }

    fn write(&mut self, value: u8, wide: bool) {
        let value = if wide { value } else { value & 0x3f };
        self.palette[usize::from(self.index)][usize::from(self.part)] = value;
        self.next();
    }
}

impl PortDevice for Vga {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        match (port, data.len()) {
            (DISPI_PORT, 2) => data.copy_from_slice(&self.dispi.index.to_le_bytes()),
            (0x1cf..=0x1d0, 2) => data.copy_from_slice(&self.dispi.read().to_le_bytes()),
            (DISPI_PORT..=0x1d0, _) => {}
            _ => read_bytes(port, data, |port| self.read_register(port)),
        }
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        match (port, data) {
            (DISPI_PORT, &[low, high]) => self.dispi.index = u16::from_le_bytes([low, high]),
            (0x1cf..=0x1d0, &[low, high]) => {
                self.write_dispi_at(self.dispi.index, u16::from_le_bytes([low, high]));
            }
            (DISPI_PORT..=0x1d0, _) => {}
            _ => write_bytes(port, data, |port, value| self.write_register(port, value)),
        }
    }
}

/// The legacy window at 0xa0000.
impl MmioDevice for Vga {
    fn memory_read(&mut self, offset: u64, data: &mut [u8]) {
        for (byte, offset) in data.iter_mut().zip(offset..) {
            *byte = self.read_byte(offset as usize);
        }
    }

    fn memory_write(&mut self, offset: u64, data: &[u8]) {
        for (byte, offset) in data.iter().zip(offset..) {
            self.write_byte(offset as usize, *byte);
        }
    }
}

impl PciFunction for Vga {
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

/// The linear frame buffer.
pub struct LinearWindow(Arc<Mutex<Vga>>);

impl LinearWindow {
    /// That of `vga`.
    pub fn new(vga: Arc<Mutex<Vga>>) -> Self {
        Self(vga)
    }
}

impl MmioDevice for LinearWindow {
    fn memory_read(&mut self, offset: u64, data: &mut [u8]) {
        let vga = lock(&self.0);
        let from = usize::try_from(offset).ok().and_then(|offset| vga.memory.get(offset..)).unwrap_or(&[]);
        data.iter_mut().zip(from).for_each(|(to, byte)| *to = *byte);
    }

    fn memory_write(&mut self, offset: u64, data: &[u8]) {
        let mut vga = lock(&self.0);
        let to = usize::try_from(offset).ok().and_then(|offset| vga.memory.get_mut(offset..));
        to.into_iter().flatten().zip(data).for_each(|(to, byte)| *to = *byte);
    }
}
