//! The way from the legacy window at 0xa0000 to the four planes.
//!
//! Byte `n` of plane `p` lies at `4n + p` of the memory: in 256-colour modes and in those with a linear frame buffer,
//! memory is then one byte behind the other. With odd/even addressing (text), byte `n` of the window is byte `n / 2` of
//! plane 0 or 1, so that a character and its attribute have the same number, as with chain-4 they have a quarter of it.

use super::Vga;
use super::registers::{graphics, sequencer};

const KIB_32: usize = 32 << 10;
const KIB_64: usize = 64 << 10;

impl Vga {
    /// What of the memory the byte at `offset` from 0xa0000 is, before the planes are chosen.
    fn window(&self, offset: usize) -> Option<usize> {
        let bank = self.dispi.bank_offset();
        let within = |start: usize, size: usize| offset.checked_sub(start).filter(|offset| *offset < size);
        match self.graphics[graphics::MISC] >> 2 & 3 {
            0 => within(0, 2 * KIB_64),
            1 => within(0, KIB_64).map(|offset| offset + bank),
            2 => within(KIB_64, KIB_32),
            _ => within(KIB_64 + KIB_32, KIB_32),
        }
    }

    fn chain_4(&self) -> bool {
        self.sequencer[sequencer::MEMORY_MODE] & sequencer::CHAIN_4 != 0
    }

    fn plane_bytes(&self, address: usize) -> Option<[u8; 4]> {
        self.memory.get(address.checked_mul(4)?..)?.first_chunk().copied()
    }

    pub(super) fn read_byte(&mut self, offset: usize) -> u8 {
        let Some(address) = self.window(offset) else { return 0xff };
        if self.chain_4() {
            return self.memory.get(address).copied().unwrap_or(0xff);
        }
        let mode = self.graphics[graphics::MODE];
        let (address, plane) = if mode & graphics::ODD_EVEN != 0 {
            (address >> 1, self.graphics[graphics::READ_MAP] & 2 | address as u8 & 1)
        } else {
            (address, self.graphics[graphics::READ_MAP] & 3)
        };
        let Some(latch) = self.plane_bytes(address) else { return 0xff };
        self.latch = latch;
        if mode & graphics::READ_MODE_1 == 0 {
            return latch[usize::from(plane)];
        }
        // A bit is set where all planes that count have the colour that is compared with.
        let (colour, counts) =
            (self.graphics[graphics::COLOUR_COMPARE], self.graphics[graphics::COLOUR_IGNORE]);
        let differs = (0..4).filter(|plane| counts >> plane & 1 != 0).fold(0, |differs, plane| {
            differs | latch[plane] ^ if colour >> plane & 1 != 0 { 0xff } else { 0 }
        });
        !differs
    }

    pub(super) fn write_byte(&mut self, offset: usize, value: u8) {
        let Some(address) = self.window(offset) else { return };
        let map_mask = self.sequencer[sequencer::MAP_MASK];
        if self.chain_4() {
            if map_mask >> (address & 3) & 1 != 0
                && let Some(byte) = self.memory.get_mut(address)
            {
                *byte = value;
            }
            return;
        }
        if self.sequencer[sequencer::MEMORY_MODE] & sequencer::ODD_EVEN_OFF == 0 {
            // Even addresses go to planes 0 and 2, odd ones to 1 and 3.
            let planes = map_mask & if address & 1 == 0 { 0b0101 } else { 0b1010 };
            return self.write_planes(address >> 1, planes, value);
        }
        self.write_planes(address, map_mask, value);
    }

    fn write_planes(&mut self, address: usize, planes: u8, value: u8) {
        let registers = &self.graphics;
        let (set_reset, enable) = (registers[graphics::SET_RESET], registers[graphics::ENABLE_SET_RESET]);
        let (rotate, function) = (registers[graphics::ROTATE] & 7, registers[graphics::ROTATE] >> 3 & 3);
        let rotated = value.rotate_right(rotate.into());
        let expand = |bits: u8, plane: usize| if bits >> plane & 1 != 0 { 0xff } else { 0 };
        let mode = registers[graphics::MODE] & 3;
        let bit_mask = match mode {
            1 => 0,
            3 => registers[graphics::BIT_MASK] & rotated,
            _ => registers[graphics::BIT_MASK],
        };
        let latch = self.latch;
        let new: [u8; 4] = std::array::from_fn(|plane| {
            let input = match mode {
                0 if enable >> plane & 1 == 0 => rotated,
                0 | 3 => expand(set_reset, plane),
                2 => expand(value, plane),
                _ => 0,
            };
            let combined = match function {
                1 => input & latch[plane],
                2 => input | latch[plane],
                3 => input ^ latch[plane],
                _ => input,
            };
            combined & bit_mask | latch[plane] & !bit_mask
        });
        let start = address.saturating_mul(4);
        let Some(bytes) = self.memory.get_mut(start..).and_then(|rest| rest.first_chunk_mut::<4>()) else {
            return;
        };
        for plane in (0..4).filter(|plane| planes >> plane & 1 != 0) {
            bytes[plane] = new[plane];
        }
    }
}
