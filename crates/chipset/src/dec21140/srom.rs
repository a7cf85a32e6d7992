//! The serial ROM: a 93C46 of 64 words (Microchip DS21749), and what is in it (Digital Semiconductor 21X4 Serial ROM
//! Format, version 4.05). It is write-protected: instructions but READ do nothing.

use super::check::crc;
use crate::pci::Identity;

const WORDS: usize = 64;
/// Bits of a word's address.
const ADDRESS_BITS: u32 = 6;
/// READ, with the start bit.
const READ: u16 = 0b110;

/// Where things are, in bytes.
const ID_BLOCK_CRC: usize = 16;
const FORMAT: usize = 18;
const CONTROLLERS: usize = 19;
const ADDRESS: usize = 20;
const DEVICE: usize = 26;
const LEAF_OFFSET: usize = 27;
const LEAF: usize = 30;
const CHECKSUM: usize = 126;

/// What the adapter is connected by: which is found out, pins of the general-purpose port that are outputs, and one
/// medium.
const MEDIA: [u8; 17] = [
    0x00,
    0x08,      // the medium is sensed
    0x00,      // no outputs
    1,         // one block follows
    0x80 | 12, // extended format, 12 bytes behind this one
    1,         // of an MII PHY
    0,         // the first one
    0,         // nothing has to be written to the port to select it,
    0,         // nor to reset it
    0x00,
    0x78, // it can do 10 and 100 Mbit/s, half and full duplex,
    0xe0,
    0x01, // says so,
    0x00,
    0x50, // and these are the full-duplex ones,
    0x00,
    0x18, // these the ones of 10 Mbit/s
];

/// What the ROM of an adapter with this address says.
fn image(mac: [u8; 6], identity: &Identity) -> [u8; 2 * WORDS] {
    let mut image = [0; 2 * WORDS];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &identity.subsystem_vendor.to_le_bytes());
    put(2, &identity.subsystem.to_le_bytes());
    put(FORMAT, &[4]);
    put(CONTROLLERS, &[1]);
    put(ADDRESS, &mac);
    put(DEVICE, &[0]);
    put(LEAF_OFFSET, &(LEAF as u16).to_le_bytes());
    put(LEAF, &MEDIA);
    image[ID_BLOCK_CRC] = id_block_crc(&image);
    let sum = !crc(&image[..CHECKSUM]);
    image[CHECKSUM..].copy_from_slice(&(sum as u16).to_le_bytes());
    image
}

/// The polynomial x⁸ + x² + x + 1 over the words of the identification block, the upper byte of each first, without the
/// byte that it goes to.
fn id_block_crc(image: &[u8]) -> u8 {
    let swapped = image[..ID_BLOCK_CRC].chunks_exact(2).flat_map(|word| [word[1], word[0]]);
    swapped.chain([image[ID_BLOCK_CRC + 1]]).fold(0xff, |crc, byte| {
        (0..8).fold(crc ^ byte, |crc: u8, _| crc << 1 ^ if crc & 0x80 != 0 { 0x07 } else { 0 })
    })
}

/// How far an instruction has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Waits for a start bit.
    Idle,
    /// Has taken `count` bits, the start bit among them.
    Instruction { bits: u16, count: u32 },
    /// Says the word at `address`, of which `left` bits are left.
    Read { address: usize, left: u32 },
    /// Has done what there was to do.
    Done,
}

pub(super) struct SerialRom {
    words: [u16; WORDS],
    state: State,
    clock: bool,
    out: bool,
}

impl SerialRom {
    pub fn new(mac: [u8; 6], identity: &Identity) -> Self {
        let image = image(mac, identity);
        let words = std::array::from_fn(|index| u16::from_le_bytes([image[2 * index], image[2 * index + 1]]));
        Self { words, state: State::Idle, clock: false, out: true }
    }

    /// What it says. Nothing drives the pin, which a resistor keeps high, unless a word is read.
    pub fn out(&self) -> bool {
        self.out
    }

    /// Levels of chip select, clock and input.
    pub fn drive(&mut self, select: bool, clock: bool, input: bool) {
        let rises = clock && !self.clock;
        self.clock = clock;
        if !select {
            (self.state, self.out) = (State::Idle, true);
        } else if rises {
            self.clocked(input);
        }
    }

    fn clocked(&mut self, input: bool) {
        self.state = match self.state {
            State::Idle if input => State::Instruction { bits: 1, count: 1 },
            State::Idle => State::Idle,
            State::Instruction { bits, count } => {
                let (bits, count) = (bits << 1 | u16::from(input), count + 1);
                let address = usize::from(bits) % WORDS;
                match bits >> ADDRESS_BITS {
                    _ if count < 3 + ADDRESS_BITS => State::Instruction { bits, count },
                    READ => {
                        // A 0 comes before the first word.
                        self.out = false;
                        State::Read { address, left: 16 }
                    }
                    _ => State::Done,
                }
            }
            State::Read { address, left } => {
                self.out = self.words[address] >> (left - 1) & 1 != 0;
                match left {
                    1 => State::Read { address: (address + 1) % WORDS, left: 16 },
                    left => State::Read { address, left: left - 1 },
                }
            }
            State::Done => State::Done,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x00, 0x15, 0x5d, 0x01, 0x02, 0x03];

    fn rom() -> SerialRom {
        SerialRom::new(MAC, &super::super::IDENTITY)
    }

    /// One clock; what it says while the clock is high.
    fn bit(rom: &mut SerialRom, input: bool) -> bool {
        rom.drive(true, false, input);
        rom.drive(true, true, input);
        rom.out()
    }

    /// Bits as a driver shifts them, after a new selection.
    fn instruct(rom: &mut SerialRom, bits: u32, count: u32) {
        rom.drive(false, false, false);
        (0..count).rev().for_each(|index| {
            bit(rom, bits >> index & 1 != 0);
        });
    }

    fn word(rom: &mut SerialRom) -> u16 {
        (0..16).fold(0, |word, _| word << 1 | u16::from(bit(rom, false)))
    }

    fn contents() -> Vec<u8> {
        let mut rom = rom();
        let mut read = |address: u32| {
            instruct(&mut rom, 0b110 << 6 | address, 11);
            word(&mut rom)
        };
        (0..64).flat_map(|address| read(address).to_le_bytes()).collect()
    }

    #[test]
    fn the_image_says_what_the_format_wants() {
        let bytes = contents();
        assert_eq!(bytes[..4], [0x00, 0x0a, 0x14, 0x21]);
        assert_eq!(bytes[18..20], [4, 1]);
        assert_eq!(bytes[20..26], MAC);
        // The leaf of the only controller, of which the first block is an MII PHY's.
        let leaf = usize::from(u16::from_le_bytes([bytes[27], bytes[28]]));
        assert_eq!(bytes[leaf..leaf + 7], [0x00, 0x08, 0, 1, 0x8c, 1, 0]);
        // Over all but itself and inverted, the register of a CRC-32 has a known rest only with all 32 bits: by hand.
        let mut register = u32::MAX;
        for byte in &bytes[..126] {
            register ^= u32::from(*byte);
            for _ in 0..8 {
                register = register >> 1 ^ if register & 1 != 0 { 0xedb8_8320 } else { 0 };
            }
        }
        assert_eq!(u16::from_le_bytes([bytes[126], bytes[127]]), !register as u16);
    }

    #[test]
    fn words_follow_each_other_while_the_chip_is_selected() {
        let mut rom = rom();
        instruct(&mut rom, 0b110 << 6 | 10, 11);
        assert_eq!([word(&mut rom), word(&mut rom), word(&mut rom)], [0x1500, 0x015d, 0x0302]);
    }

    #[test]
    fn a_driver_that_probes_for_long_addresses_sees_six_bits() {
        // As Linux does: eight bits of address; the pin falls with the sixth.
        let mut rom = rom();
        rom.drive(false, false, false);
        let says: Vec<bool> =
            (0..13).rev().map(|index| bit(&mut rom, (6 << 8 | 0xff) >> index & 1 != 0)).collect();
        assert!(says[..10].iter().all(|high| *high) && !says[10]);
    }

    #[test]
    fn it_cannot_be_written() {
        let mut rom = rom();
        instruct(&mut rom, 0b1_0011_0000, 9);
        instruct(&mut rom, 0b101 << 6 | 10, 9);
        (0..16).for_each(|_| {
            bit(&mut rom, true);
        });
        instruct(&mut rom, 0b110 << 6 | 10, 9);
        assert_eq!(word(&mut rom), 0x1500);
    }
}
