//! What the monitor tells of itself (VESA Enhanced EDID Standard, release A, revision 2: EDID 1.4).

const HEADER: [u8; 8] = [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0];
/// Letters of a manufacturer, five bits each.
const MANUFACTURER: [u8; 3] = *b"BDH";
const PRODUCT: u16 = 1;
const YEAR: u16 = 2026;
/// A digital input of 8 bits a colour, by no particular interface.
const INPUT: u8 = 0xa0;
/// Gamma 2.2, in hundredths above 1.
const GAMMA: u8 = 120;
/// Colours are sRGB's; the first detailed timing is the native one.
const FEATURES: u8 = 0x06;
/// The colours of sRGB.
const CHROMATICITY: [u8; 10] = [0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54];
/// At 60 Hz: 640 × 480 and 800 × 600, 1024 × 768.
const ESTABLISHED: [u8; 3] = [0x21, 0x08, 0];
/// Widths at 60 Hz, with the aspect ratio: 0 is 16:10, 1 is 4:3, 2 is 5:4, 3 is 16:9.
const STANDARD: [(u16, u8); 8] =
    [(1280, 3), (1280, 0), (1280, 2), (1440, 0), (1600, 1), (1680, 0), (1920, 3), (1920, 0)];
const NAME: &[u8; 13] = b"bodhi\n       ";

/// One direction of a timing, in pixels or lines.
struct Axis {
    active: u16,
    blank: u16,
    front_porch: u16,
    sync: u16,
}

/// 1024 × 768 at 60 Hz (VESA Display Monitor Timing, 10h): the clock in units of 10 kHz.
const CLOCK: u16 = 6500;
const HORIZONTAL: Axis = Axis { active: 1024, blank: 320, front_porch: 24, sync: 136 };
const VERTICAL: Axis = Axis { active: 768, blank: 38, front_porch: 3, sync: 6 };
/// Separate syncs, both negative.
const SYNCS: u8 = 0x18;

/// The block. It is all there is.
pub(super) fn block() -> [u8; 128] {
    let mut block = [0; 128];
    block[..8].copy_from_slice(&HEADER);
    let letters = MANUFACTURER.iter().fold(0, |id, letter| id << 5 | u16::from(letter - b'A' + 1));
    block[8..10].copy_from_slice(&letters.to_be_bytes());
    block[10..12].copy_from_slice(&PRODUCT.to_le_bytes());
    block[17] = (YEAR - 1990) as u8;
    // The version; its size is not known.
    block[18..20].copy_from_slice(&[1, 4]);
    block[20] = INPUT;
    block[23..25].copy_from_slice(&[GAMMA, FEATURES]);
    block[25..35].copy_from_slice(&CHROMATICITY);
    block[35..38].copy_from_slice(&ESTABLISHED);
    for (entry, (width, aspect)) in block[38..54].chunks_exact_mut(2).zip(STANDARD) {
        entry.copy_from_slice(&[(width / 8 - 31) as u8, aspect << 6]);
    }
    block[54..72].copy_from_slice(&timing());
    // What it can: 50 to 75 Hz, 30 to 160 kHz, up to 250 MHz, without a formula.
    block[72..90].copy_from_slice(&[
        0, 0, 0, 0xfd, 0, 50, 75, 30, 160, 25, 1, 0x0a, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20,
    ]);
    block[90..95].copy_from_slice(&[0, 0, 0, 0xfc, 0]);
    block[95..108].copy_from_slice(NAME);
    block[108..113].copy_from_slice(&[0, 0, 0, 0x10, 0]);
    block[127] = block.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
    block
}

/// The native timing: low bytes, and the bits above them together.
fn timing() -> [u8; 18] {
    let low = |value: u16| value.to_le_bytes()[0];
    let (h, v) = (HORIZONTAL, VERTICAL);
    let mut bytes = [0; 18];
    bytes[..2].copy_from_slice(&CLOCK.to_le_bytes());
    for (axis, bytes) in [&h, &v].into_iter().zip(bytes[2..8].chunks_exact_mut(3)) {
        let high = (axis.active >> 8) << 4 | axis.blank >> 8;
        bytes.copy_from_slice(&[low(axis.active), low(axis.blank), low(high)]);
    }
    bytes[8..11].copy_from_slice(&[low(h.front_porch), low(h.sync), low(v.front_porch << 4 | v.sync & 15)]);
    bytes[11] = low((h.front_porch >> 8) << 6 | (h.sync >> 8) << 4 | (v.front_porch >> 4) << 2 | v.sync >> 4);
    bytes[17] = SYNCS;
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_has_its_checksum_and_its_native_timing() {
        let block = block();
        assert_eq!(block.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        // As VESA prints the timing.
        assert_eq!(block[54..66], [0x64, 0x19, 0x00, 0x40, 0x41, 0x00, 0x26, 0x30, 0x18, 0x88, 0x36, 0x00]);
        assert_eq!(block[8..10], [0x08, 0x88]);
        assert_eq!((block[38], block[39]), (0x81, 0xc0));
    }
}
