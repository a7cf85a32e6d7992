//! Names of ports, registers and bits, as in the IBM PS/2 Hardware Interface Technical Reference ("Video Subsystem").

/// Ports.
pub(super) mod port {
    /// The first of the ports 0x3b0–0x3df.
    pub const FIRST: u16 = 0x3b0;
    pub const MONO_CRTC_INDEX: u16 = 0x3b4;
    pub const MONO_CRTC_DATA: u16 = 0x3b5;
    pub const MONO_STATUS_1: u16 = 0x3ba;
    pub const ATTRIBUTE: u16 = 0x3c0;
    pub const ATTRIBUTE_READ: u16 = 0x3c1;
    /// Miscellaneous output when written, input status 0 when read.
    pub const MISC_WRITE: u16 = 0x3c2;
    pub const SEQUENCER_INDEX: u16 = 0x3c4;
    pub const SEQUENCER_DATA: u16 = 0x3c5;
    pub const DAC_MASK: u16 = 0x3c6;
    /// Index for reading when written, state when read.
    pub const DAC_READ_INDEX: u16 = 0x3c7;
    pub const DAC_WRITE_INDEX: u16 = 0x3c8;
    pub const DAC_DATA: u16 = 0x3c9;
    pub const FEATURE_READ: u16 = 0x3ca;
    pub const MISC_READ: u16 = 0x3cc;
    pub const GRAPHICS_INDEX: u16 = 0x3ce;
    pub const GRAPHICS_DATA: u16 = 0x3cf;
    pub const COLOUR_CRTC_INDEX: u16 = 0x3d4;
    pub const COLOUR_CRTC_DATA: u16 = 0x3d5;
    /// Input status 1 when read, feature control when written.
    pub const COLOUR_STATUS_1: u16 = 0x3da;
}

/// Miscellaneous output: the CRTC's ports are at 0x3d0, not 0x3b0.
pub(super) const MISC_COLOUR: u8 = 1;
/// Input status 1: the display is not being drawn.
pub(super) const STATUS_BLANK: u8 = 1;
/// Input status 1: vertical retrace.
pub(super) const STATUS_RETRACE: u8 = 8;
/// Attribute index: the palette is the display's, not the processor's.
pub(super) const ATTRIBUTE_SOURCE: u8 = 0x20;

/// Sequencer registers.
pub(super) mod sequencer {
    pub const COUNT: usize = 5;
    pub const CLOCKING_MODE: usize = 1;
    pub const MAP_MASK: usize = 2;
    pub const CHARACTER_MAP: usize = 3;
    pub const MEMORY_MODE: usize = 4;
    pub const EIGHT_DOTS: u8 = 1;
    pub const SCREEN_OFF: u8 = 0x20;
    pub const ODD_EVEN_OFF: u8 = 4;
    pub const CHAIN_4: u8 = 8;
    /// The bits that exist.
    pub const WRITABLE: [u8; COUNT] = [0x03, 0x3d, 0x0f, 0x3f, 0x0e];
}

/// Graphics controller registers.
pub(super) mod graphics {
    pub const COUNT: usize = 9;
    pub const SET_RESET: usize = 0;
    pub const ENABLE_SET_RESET: usize = 1;
    pub const COLOUR_COMPARE: usize = 2;
    pub const ROTATE: usize = 3;
    pub const READ_MAP: usize = 4;
    pub const MODE: usize = 5;
    pub const MISC: usize = 6;
    pub const COLOUR_IGNORE: usize = 7;
    pub const BIT_MASK: usize = 8;
    pub const READ_MODE_1: u8 = 8;
    pub const ODD_EVEN: u8 = 0x10;
    pub const SHIFT_INTERLEAVE: u8 = 0x20;
    pub const SHIFT_256: u8 = 0x40;
    pub const MISC_GRAPHICS: u8 = 1;
    pub const WRITABLE: [u8; COUNT] = [0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff];
}

/// CRT controller registers.
pub(super) mod crtc {
    pub const COUNT: usize = 25;
    pub const HORIZONTAL_END: usize = 0x01;
    pub const OVERFLOW: usize = 0x07;
    pub const MAXIMUM_SCAN_LINE: usize = 0x09;
    pub const CURSOR_START: usize = 0x0a;
    pub const CURSOR_END: usize = 0x0b;
    pub const START_HIGH: usize = 0x0c;
    pub const CURSOR_HIGH: usize = 0x0e;
    pub const VERTICAL_RETRACE_END: usize = 0x11;
    pub const VERTICAL_END: usize = 0x12;
    pub const OFFSET: usize = 0x13;
    pub const MODE: usize = 0x17;
    /// In [`VERTICAL_RETRACE_END`]: registers 0–7 are read-only, but for bit 4 of 7.
    pub const PROTECT: u8 = 0x80;
    pub const LINE_COMPARE_8: u8 = 0x10;
    pub const CURSOR_OFF: u8 = 0x20;
    pub const DOUBLE_SCAN: u8 = 0x80;
    /// In [`MODE`]: scan lines of a row do not choose among banks of memory.
    pub const NO_BANKS: u8 = 1;
    pub const BYTE_MODE: u8 = 0x40;
}

/// Attribute controller registers.
pub(super) mod attribute {
    pub const COUNT: usize = 21;
    pub const MODE: usize = 0x10;
    pub const PLANE_ENABLE: usize = 0x12;
    pub const COLOUR_SELECT: usize = 0x14;
    pub const LINE_GRAPHICS: u8 = 4;
    pub const BLINK: u8 = 8;
    pub const PALETTE_SIZE: u8 = 0x80;
}
