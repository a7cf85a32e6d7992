//! What the screen shows.

use display::{Cell, Frame, Rgb, TextScreen};

use super::dispi::Mode;
use super::registers::{attribute, crtc, graphics, sequencer};
use super::{PLANE_MASK, Vga};

/// A glyph in plane 2 has 32 bytes, whatever its height.
const GLYPH_SIZE: usize = 32;
const MOST_LINES: usize = 1024;

/// How the legacy registers lay out the screen.
struct Layout {
    columns: usize,
    /// Scan lines on the screen.
    lines: usize,
    /// Scan lines of a row of characters, or of the same pixels.
    height: usize,
    double: bool,
    start: usize,
    /// Counts of the memory address from one row to the next.
    pitch: usize,
}

impl Vga {
    fn layout(&self) -> Layout {
        let crtc = &self.crtc;
        let overflow = usize::from(crtc[crtc::OVERFLOW]);
        let end = usize::from(crtc[crtc::VERTICAL_END]) | (overflow & 2) << 7 | (overflow & 0x40) << 3;
        Layout {
            columns: usize::from(crtc[crtc::HORIZONTAL_END]) + 1,
            lines: (end + 1).min(MOST_LINES),
            height: usize::from(crtc[crtc::MAXIMUM_SCAN_LINE] & 0x1f) + 1,
            double: crtc[crtc::MAXIMUM_SCAN_LINE] & crtc::DOUBLE_SCAN != 0,
            start: self.crtc_word(crtc::START_HIGH),
            pitch: usize::from(crtc[crtc::OFFSET]) * 2,
        }
    }

    fn crtc_word(&self, high: usize) -> usize {
        usize::from(self.crtc[high]) << 8 | usize::from(self.crtc[high + 1])
    }

    /// Byte `address` of all planes.
    fn planes(&self, address: usize) -> [u8; 4] {
        let start = (address & PLANE_MASK) * 4;
        self.memory.get(start..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default()
    }

    /// What mode the screen is in, for the device table.
    pub fn mode(&self) -> String {
        if let Some(mode) = self.dispi.mode() {
            return format!("{}×{}, {} bits", mode.width, mode.height, mode.bits);
        }
        match self.text() {
            Some(text) if text.columns > 1 => {
                format!("text, {}×{}", text.columns, text.cells.len() / text.columns)
            }
            Some(_) => "not set up".to_owned(),
            None => {
                let frame = self.legacy_frame();
                format!("{}×{}", frame.width(), frame.height())
            }
        }
    }

    /// The screen, if it is in text mode.
    pub fn text(&self) -> Option<TextScreen> {
        if self.dispi.mode().is_some() || self.graphics[graphics::MISC] & graphics::MISC_GRAPHICS != 0 {
            return None;
        }
        let Layout { columns, lines, height, start, pitch, .. } = self.layout();
        let rows = lines / height;
        let cell = |row: usize, column: usize| {
            let [character, attribute, ..] = self.planes(start + row * pitch + column);
            Cell { character, attribute }
        };
        let cells = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        let cells = cells.map(|(row, column)| cell(row, column)).collect();
        let cursor = self.cursor(start, pitch, rows, columns);
        Some(TextScreen { columns, cells, cursor })
    }

    fn cursor(&self, start: usize, pitch: usize, rows: usize, columns: usize) -> Option<(usize, usize)> {
        let off = self.crtc[crtc::CURSOR_START] & crtc::CURSOR_OFF != 0;
        let offset = self.crtc_word(crtc::CURSOR_HIGH).checked_sub(start)?;
        let (row, column) = (offset.checked_div(pitch)?, offset.checked_rem(pitch)?);
        (!off && row < rows && column < columns).then_some((column, row))
    }

    /// The screen as an image.
    pub fn frame(&self) -> Frame {
        if let Some(mode) = self.dispi.mode() {
            return if mode.bits == 4 { self.planar_frame(mode) } else { self.linear_frame(mode) };
        }
        let off = self.sequencer[sequencer::CLOCKING_MODE] & sequencer::SCREEN_OFF != 0 || !self.display_on();
        match self.text() {
            _ if off => Frame::new(640, 400),
            Some(text) => self.text_frame(&text),
            None => self.legacy_frame(),
        }
    }

    /// The colour of the palette at `index`.
    fn colour(&self, index: u8) -> Rgb {
        let [red, green, blue] = self.dac.palette[usize::from(index & self.dac.mask)];
        let wide = self.dispi.wide_palette();
        [red, green, blue].map(|part| if wide { part } else { (part & 0x3f) << 2 | part >> 4 & 3 })
    }

    /// The colour that the attribute controller makes of four bits.
    fn attribute_colour(&self, value: u8) -> Rgb {
        let registers = &self.attribute;
        let palette = registers[usize::from(value & 15 & registers[attribute::PLANE_ENABLE])];
        let select = registers[attribute::COLOUR_SELECT];
        let index = if registers[attribute::MODE] & attribute::PALETTE_SIZE != 0 {
            palette & 0x0f | (select & 0x0f) << 4
        } else {
            palette & 0x3f | (select & 0x0c) << 4
        };
        self.colour(index)
    }

    fn text_frame(&self, text: &TextScreen) -> Frame {
        let height = self.layout().height;
        let wide = self.sequencer[sequencer::CLOCKING_MODE] & sequencer::EIGHT_DOTS == 0;
        let width = if wide { 9 } else { 8 };
        let rows = text.cells.len().checked_div(text.columns).unwrap_or(0);
        let mut frame = Frame::new(text.columns * width, rows * height);
        let mode = self.attribute[attribute::MODE];
        let colours: [Rgb; 16] = std::array::from_fn(|value| self.attribute_colour(value as u8));
        for (index, cell) in text.cells.iter().enumerate() {
            let (column, row) = (index % text.columns, index / text.columns);
            let blinks = mode & attribute::BLINK != 0;
            let background = cell.attribute >> 4 & if blinks { 7 } else { 15 };
            let (foreground, background) =
                (colours[usize::from(cell.attribute & 15)], colours[usize::from(background)]);
            let cursor = text.cursor == Some((column, row));
            // The ninth dot repeats the eighth in characters that make lines.
            let joins = mode & attribute::LINE_GRAPHICS != 0 && (0xc0..0xe0).contains(&cell.character);
            for line in 0..height {
                let glyph = if cursor && self.in_cursor(line) { 0xff } else { self.glyph(*cell, line) };
                let dots =
                    u16::from(glyph) << 1 | u16::from(glyph & 1 != 0 && (joins || glyph == 0xff && cursor));
                for dot in 0..width {
                    let colour = if dots >> (8 - dot) & 1 != 0 { foreground } else { background };
                    frame.set(column * width + dot, row * height + line, colour);
                }
            }
        }
        frame
    }

    fn in_cursor(&self, line: usize) -> bool {
        let (first, last) = (self.crtc[crtc::CURSOR_START] & 0x1f, self.crtc[crtc::CURSOR_END] & 0x1f);
        (usize::from(first)..=usize::from(last)).contains(&line)
    }

    /// A line of a character in the font that the guest has loaded.
    fn glyph(&self, cell: Cell, line: usize) -> u8 {
        let map = self.sequencer[sequencer::CHARACTER_MAP];
        // Bit 3 of the attribute chooses one of two fonts.
        let select =
            if cell.attribute & 8 != 0 { map >> 2 & 3 | map >> 3 & 4 } else { map & 3 | map >> 2 & 4 };
        let font = usize::from(select & 3) << 14 | usize::from(select >> 2) << 13;
        self.planes(font + usize::from(cell.character) * GLYPH_SIZE + line)[2]
    }

    /// A graphics mode of the VGA: 2, 4, 16 or 256 colours.
    fn legacy_frame(&self) -> Frame {
        let Layout { columns, lines, height, double, start, pitch } = self.layout();
        let mode = self.graphics[graphics::MODE];
        let banks = self.crtc[crtc::MODE] & crtc::NO_BANKS == 0;
        let bytes = self.crtc[crtc::MODE] & crtc::BYTE_MODE != 0;
        let deep = mode & graphics::SHIFT_256 != 0;
        let double = if double { 2 } else { 1 };
        // Lines that only repeat the one above are left out.
        let repeats = if banks { double } else { double * height };
        let width = if deep { columns * 4 } else { columns * 8 };
        let mut frame = Frame::new(width, lines / repeats);
        let colours: [Rgb; 16] = std::array::from_fn(|value| self.attribute_colour(value as u8));
        for (y, row) in frame.rows_mut().enumerate() {
            let line = y * repeats / double;
            let mut base = start + line / height * pitch;
            if banks {
                // A scan line's lowest bit stands for address bit 13, which with words is bit 12 of the count.
                let bit = if bytes { 13 } else { 12 };
                base = base & !(1 << bit) | ((line % height) & 1) << bit;
            }
            for (x, pixel) in row.iter_mut().enumerate() {
                *pixel = if deep {
                    self.colour(self.planes(base + x / 4)[x % 4])
                } else if mode & graphics::SHIFT_INTERLEAVE != 0 {
                    colours[usize::from(interleaved(self.planes(base + x / 8), x % 8))]
                } else {
                    colours[usize::from(planar(self.planes(base + x / 8), x % 8))]
                };
            }
        }
        frame
    }

    fn planar_frame(&self, mode: Mode) -> Frame {
        let colours: [Rgb; 16] = std::array::from_fn(|value| self.attribute_colour(value as u8));
        let mut frame = Frame::new(mode.width, mode.height);
        for (y, row) in frame.rows_mut().enumerate() {
            let line = self.memory.get(mode.line(y)..).unwrap_or(&[]);
            let (groups, _) = line.as_chunks::<4>();
            for (pixels, planes) in row.chunks_mut(8).zip(groups) {
                pixels
                    .iter_mut()
                    .enumerate()
                    .for_each(|(x, pixel)| *pixel = colours[usize::from(planar(*planes, x))]);
            }
        }
        frame
    }

    fn linear_frame(&self, mode: Mode) -> Frame {
        let mut frame = Frame::new(mode.width, mode.height);
        for (y, row) in frame.rows_mut().enumerate() {
            let line = self.memory.get(mode.line(y)..).unwrap_or(&[]);
            let bytes = usize::from(mode.bits).div_ceil(8);
            for (pixel, bytes) in row.iter_mut().zip(line.chunks_exact(bytes)) {
                *pixel = match *bytes {
                    [index] => self.colour(index),
                    [low, high] => {
                        let value = u16::from_le_bytes([low, high]);
                        if mode.bits == 15 {
                            packed(value, [10, 5, 0], [5, 5, 5])
                        } else {
                            packed(value, [11, 5, 0], [5, 6, 5])
                        }
                    }
                    [blue, green, red, ..] => [red, green, blue],
                    [] => [0; 3],
                };
            }
        }
        frame
    }
}

/// Pixel `x` of eight: a bit of each plane.
fn planar(planes: [u8; 4], x: usize) -> u8 {
    (0..4).fold(0, |value, plane| value | (planes[plane] >> (7 - x) & 1) << plane)
}

/// Pixel `x` of eight: two bits of plane 0, or of plane 1 behind it, with two of plane 2 or 3 above them.
fn interleaved(planes: [u8; 4], x: usize) -> u8 {
    let shift = 6 - 2 * (x & 3);
    let bits = |plane: usize| planes[plane + x / 4] >> shift & 3;
    bits(0) | bits(2) << 2
}

/// A colour whose parts are `widths` bits at `shifts`.
fn packed(value: u16, shifts: [u16; 3], widths: [u32; 3]) -> Rgb {
    std::array::from_fn(|part| {
        let most = (1_u32 << widths[part]) - 1;
        ((u32::from(value >> shifts[part]) & most) * 255 / most) as u8
    })
}
