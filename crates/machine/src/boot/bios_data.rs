//! What a PC's BIOS leaves in memory for those who still look there: the interrupt table, the BIOS data area and the
//! extended one (IBM PS/2 and PC BIOS Interface Technical Reference, section 3).
//!
//! Kernels that begin in the world of a BIOS find the end of conventional memory and the screen by it, and some go back to
//! real mode to ask for more. There is no BIOS to answer: each interrupt returns with the carry flag set, as a BIOS answers
//! to a function that it does not have.

use guest_memory::GuestMemory;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::memory_map::{BIOS_STUB, CONVENTIONAL_END};

const VECTORS: u64 = 256;
const DATA_AREA: u64 = 0x400;
const COM_1: u16 = 0x3f8;
/// Equipment: a coprocessor, a pointing device, a screen of 80 columns in colour, one serial port.
const EQUIPMENT: u16 = 1 << 1 | 1 << 2 | 0b10 << 4 | 1 << 9;
/// Text of 80 × 25 characters in 16 colours.
const VIDEO_MODE: u8 = 3;
const CRT_CONTROLLER: u16 = 0x3d4;

/// `push bp; mov bp, sp; or byte [bp + 6], 1; pop bp; iret`: the flags are the third word of what an interrupt pushes.
const REFUSE: [u8; 9] = [0x55, 0x89, 0xe5, 0x80, 0x4e, 0x06, 0x01, 0x5d, 0xcf];

/// Writes all of it.
pub(super) fn write(memory: &GuestMemory) -> Result<(), GuestMemoryError> {
    memory.write_slice(&REFUSE, GuestAddress(BIOS_STUB))?;
    let vector =
        [((BIOS_STUB & 0xffff) as u16).to_le_bytes(), ((BIOS_STUB >> 4) as u16 & 0xf000).to_le_bytes()];
    memory.write_slice(&vector.concat().repeat(VECTORS as usize), GuestAddress(0))?;
    let word =
        |offset, value: u16| memory.write_slice(&value.to_le_bytes(), GuestAddress(DATA_AREA + offset));
    word(0x00, COM_1)?;
    word(0x0e, (CONVENTIONAL_END >> 4) as u16)?;
    word(0x10, EQUIPMENT)?;
    word(0x13, (CONVENTIONAL_END >> 10) as u16)?;
    word(0x49, VIDEO_MODE.into())?;
    word(0x4a, 80)?;
    // Bytes of a page of the screen.
    word(0x4c, 0x1000)?;
    word(0x63, CRT_CONTROLLER)?;
    // Rows, less one; lines of a character.
    word(0x84, 24 | 16 << 8)?;
    // The extended area begins with its size in KiB.
    memory.write_obj(1_u8, GuestAddress(CONVENTIONAL_END))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_conventional_memory_stands_where_kernels_look_and_interrupts_are_refused() {
        let (memory, _) = guest_memory::allocate(1 << 20).unwrap();
        write(&memory).unwrap();
        let word = |address| memory.read_obj::<u16>(GuestAddress(address)).unwrap();
        assert_eq!([word(0x40e), word(0x413), word(0x463), word(0x44a)], [0x9fc0, 639, 0x3d4, 80]);
        let (offset, segment) = (word(0x15 * 4), word(0x15 * 4 + 2));
        assert_eq!((u64::from(segment) << 4) + u64::from(offset), BIOS_STUB);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(BIOS_STUB + 8)).unwrap(), 0xcf);
        assert_eq!((word(0xff * 4 + 2), word(DATA_AREA)), (segment, COM_1));
    }
}
