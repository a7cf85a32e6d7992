//! Text mode 3 (80×25 in 16 colours, 9×16 dots) as a video BIOS sets it, for machines that start without firmware. It
//! loads a font too, which we have not.

use super::Vga;
use super::registers::{ATTRIBUTE_SOURCE, attribute, crtc, graphics, sequencer};

const MISC: u8 = 0x67;
const SEQUENCER: [u8; sequencer::COUNT] = [0x03, 0x00, 0x03, 0x00, 0x02];
const CRTC: [u8; crtc::COUNT] = [
    0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x0d, 0x0e, 0x00, 0x00, 0x00, 0x00, 0x9c,
    0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff,
];
const GRAPHICS: [u8; graphics::COUNT] = [0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x0e, 0x0f, 0xff];
const ATTRIBUTE: [u8; attribute::COUNT] = [
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 0x0c,
    0x00, 0x0f, 0x08, 0x00,
];
/// A blank in light grey on black.
const BLANK: [u8; 4] = [b' ', 0x07, 0, 0];
/// Characters of a screen's memory of 32 KiB.
const CHARACTERS: usize = 16 << 10;

impl Vga {
    /// Sets text mode 3 with a clear screen.
    pub fn set_text_mode(&mut self) {
        self.misc = MISC;
        self.sequencer = SEQUENCER;
        self.crtc = CRTC;
        self.graphics = GRAPHICS;
        self.attribute = ATTRIBUTE;
        self.attribute_index = ATTRIBUTE_SOURCE;
        // Colours of six bits: a strong and a weak one of each part.
        for (index, colour) in self.dac.palette.iter_mut().take(64).enumerate() {
            let part = |strong: usize, weak: usize| {
                (index >> strong & 1) as u8 * 42 + (index >> weak & 1) as u8 * 21
            };
            *colour = [part(2, 5), part(1, 4), part(0, 3)];
        }
        self.memory.chunks_exact_mut(4).take(CHARACTERS).for_each(|cell| cell.copy_from_slice(&BLANK));
    }
}
