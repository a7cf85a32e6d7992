//! The check sequence of Ethernet frames (IEEE 802.3, section 3.2.9), which also hashes addresses.

const POLYNOMIAL: u32 = 0xedb8_8320;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let (mut value, mut bit) = (index as u32, 0);
        while bit < 8 {
            value = value >> 1 ^ if value & 1 != 0 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

/// The register behind `data`; its complement is the check sequence.
pub(super) fn crc(data: &[u8]) -> u32 {
    data.iter().fold(u32::MAX, |crc, byte| crc >> 8 ^ TABLE[(crc as u8 ^ byte) as usize])
}

/// What goes behind a frame.
pub(super) fn sequence(frame: &[u8]) -> [u8; 4] {
    (!crc(frame)).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_is_the_known_one() {
        assert_eq!(!crc(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn broadcast_hashes_to_the_bit_that_drivers_set() {
        assert_eq!(crc(&[0xff; 6]) & 0x1ff, 255);
    }
}
