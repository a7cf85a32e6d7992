//! The registers by which virtual machines' video BIOSes set modes beyond those of the VGA: Bochs's VBE display
//! interface (Bochs, iodev/display/vga; QEMU, docs/specs/standard-vga), version 5.
//!
//! ```text
//! 0x1ce index   0x1cf data, 16 bits (also at 0x1d0, where unaligned words are no words)
//! ```

use super::MEMORY_SIZE;

const ID: u16 = 0;
const X_RESOLUTION: u16 = 1;
const Y_RESOLUTION: u16 = 2;
const BITS_PER_PIXEL: u16 = 3;
const ENABLE: u16 = 4;
const BANK: u16 = 5;
const VIRTUAL_WIDTH: u16 = 6;
const VIRTUAL_HEIGHT: u16 = 7;
const X_OFFSET: u16 = 8;
const Y_OFFSET: u16 = 9;
const MEMORY_64K: u16 = 10;

const FIRST_ID: u16 = 0xb0c0;
const LAST_ID: u16 = 0xb0c5;

const ENABLED: u16 = 0x01;
const CAPABILITIES: u16 = 0x02;
const DAC_8_BITS: u16 = 0x20;
const LINEAR: u16 = 0x40;
const KEEP_MEMORY: u16 = 0x80;

const MOST_X: u16 = 2560;
const MOST_Y: u16 = 1600;
const MOST_BITS: u16 = 32;
/// Bytes of a bank.
const BANK_SIZE: usize = 64 << 10;

/// What is to be done beside the registers' change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    /// A mode has been set: the memory is to be cleared.
    Clear,
}

/// The registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dispi {
    pub index: u16,
    id: u16,
    x_resolution: u16,
    y_resolution: u16,
    bits: u16,
    enable: u16,
    bank: u16,
    virtual_width: u16,
    x_offset: u16,
    y_offset: u16,
}

/// A mode as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mode {
    pub width: usize,
    pub height: usize,
    /// 4, 8, 15, 16, 24 or 32.
    pub bits: u16,
    /// Pixels from one line to the next.
    pub pitch: usize,
    pub x: usize,
    pub y: usize,
}

impl Mode {
    /// Bytes of `pixels` pixels. Those of 4 bits lie in planes, 8 to 4 bytes.
    fn bytes(&self, pixels: usize) -> usize {
        match self.bits {
            4 => pixels / 2,
            15 => pixels * 2,
            bits => pixels * usize::from(bits) / 8,
        }
    }

    /// Where line `y` begins in memory.
    pub fn line(&self, y: usize) -> usize {
        self.bytes((self.y + y) * self.pitch + self.x)
    }

    fn fits(&self) -> bool {
        let Some(last) = self.height.checked_sub(1) else { return false };
        self.width > 0 && self.line(last) + self.bytes(self.width) <= MEMORY_SIZE
    }
}

impl Dispi {
    pub fn new() -> Self {
        Self {
            index: 0,
            id: FIRST_ID,
            x_resolution: 0,
            y_resolution: 0,
            bits: 0,
            enable: 0,
            bank: 0,
            virtual_width: 0,
            x_offset: 0,
            y_offset: 0,
        }
    }

    /// The mode that is set, unless it is none of the adapter's own or reaches beyond its memory.
    pub fn mode(&self) -> Option<Mode> {
        let mode = self.described();
        let known = matches!(self.bits, 4 | 8 | 15 | 16 | 24 | 32);
        (self.enable & ENABLED != 0 && known && mode.fits()).then_some(mode)
    }

    fn described(&self) -> Mode {
        Mode {
            width: self.x_resolution.into(),
            height: self.y_resolution.into(),
            bits: self.bits,
            pitch: self.virtual_width.max(self.x_resolution).into(),
            x: self.x_offset.into(),
            y: self.y_offset.into(),
        }
    }

    /// Where the window at 0xa0000 begins in memory.
    pub fn bank_offset(&self) -> usize {
        if self.enable & ENABLED != 0 { usize::from(self.bank) * BANK_SIZE } else { 0 }
    }

    /// Whether the palette has 8 bits for each colour, not 6.
    pub fn wide_palette(&self) -> bool {
        self.enable & DAC_8_BITS != 0
    }

    /// The register that the index chooses.
    pub fn read(&self) -> u16 {
        self.read_at(self.index)
    }

    /// Register `index`.
    pub fn read_at(&self, index: u16) -> u16 {
        let capabilities = self.enable & CAPABILITIES != 0;
        match index {
            ID => self.id,
            X_RESOLUTION => {
                if capabilities {
                    MOST_X
                } else {
                    self.x_resolution
                }
            }
            Y_RESOLUTION => {
                if capabilities {
                    MOST_Y
                } else {
                    self.y_resolution
                }
            }
            BITS_PER_PIXEL => {
                if capabilities {
                    MOST_BITS
                } else {
                    self.bits
                }
            }
            ENABLE => self.enable,
            BANK => self.bank,
            VIRTUAL_WIDTH => self.virtual_width,
            VIRTUAL_HEIGHT => self.virtual_height(),
            X_OFFSET => self.x_offset,
            Y_OFFSET => self.y_offset,
            MEMORY_64K => (MEMORY_SIZE / BANK_SIZE) as u16,
            _ => 0,
        }
    }

    /// As many lines as the memory holds.
    fn virtual_height(&self) -> u16 {
        let line = self.described().bytes(self.virtual_width.into());
        MEMORY_SIZE.checked_div(line).unwrap_or(0).min(usize::from(u16::MAX)) as u16
    }

    /// Writes register `index`.
    pub fn write_at(&mut self, index: u16, value: u16) -> Effect {
        match index {
            ID if (FIRST_ID..=LAST_ID).contains(&value) => self.id = value,
            X_RESOLUTION if value <= MOST_X && value.is_multiple_of(8) => self.x_resolution = value,
            Y_RESOLUTION if value <= MOST_Y => self.y_resolution = value,
            // 0 is 8, as old software writes it.
            BITS_PER_PIXEL if matches!(value, 0 | 4 | 8 | 15 | 16 | 24 | 32) => {
                self.bits = if value == 0 { 8 } else { value };
            }
            ENABLE => return self.enable(value),
            BANK if usize::from(value) < MEMORY_SIZE / BANK_SIZE => self.bank = value,
            // A mode that does not fit is not shown: see `mode`.
            VIRTUAL_WIDTH => self.virtual_width = value.max(self.x_resolution),
            X_OFFSET => self.x_offset = value,
            Y_OFFSET => self.y_offset = value,
            _ => {}
        }
        Effect::Nothing
    }

    fn enable(&mut self, value: u16) -> Effect {
        let sets_mode = value & ENABLED != 0 && self.enable & ENABLED == 0;
        self.enable = value & (ENABLED | CAPABILITIES | DAC_8_BITS | LINEAR | KEEP_MEMORY);
        if !sets_mode {
            return Effect::Nothing;
        }
        self.virtual_width = self.x_resolution;
        (self.x_offset, self.y_offset, self.bank) = (0, 0, 0);
        if value & KEEP_MEMORY == 0 { Effect::Clear } else { Effect::Nothing }
    }
}
