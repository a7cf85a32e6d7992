//! The last 256 KiB below 1 MiB, where a PC has both RAM and ROM: which of them a processor finds, the host bridge decides
//! for each segment of 16 KiB (82443BX data sheet, order number 290633, section 3.3.17: PAM).
//!
//! ```text
//! 0xc0000                     0xe0000                  0x100000
//! RAM  |── 16 segments of 16 KiB ───────────────────────|
//! ROM  |  nobody answers      |  the end of the firmware |
//! ```
//!
//! RAM keeps its contents behind ROM. Devices always reach RAM.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::{Error, GuestMemory, rom};

/// Where it is.
pub const SHADOW: Range<u64> = 0xc_0000..0x10_0000;
/// Bytes of a segment.
pub const SHADOW_SEGMENT: u64 = 0x4000;
/// Number of segments.
pub const SHADOW_SEGMENTS: usize = 16;
/// Where the end of the firmware shows.
const ROM_START: u64 = 0xe_0000;

/// What a processor reaches in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Attributes {
    /// Reads go to RAM, else to ROM.
    pub read: bool,
    /// Writes go to RAM, else nowhere.
    pub write: bool,
}

impl Attributes {
    /// RAM is not there: the state at power-on.
    pub const ROM: Self = Self { read: false, write: false };
    /// All is RAM.
    pub const RAM: Self = Self { read: true, write: true };
}

/// RAM and ROM at [`SHADOW`], and which of them is there now. Shared by processors and devices.
#[derive(Debug)]
pub struct Shadow {
    /// Two bits a segment: reads, writes.
    attributes: AtomicU32,
    /// What is there from [`ROM_START`] on.
    rom: Option<GuestMemory>,
}

impl Default for Shadow {
    /// All is RAM, and there is no ROM behind it: a machine that does not start with firmware.
    fn default() -> Self {
        Self { attributes: AtomicU32::new(u32::MAX), rom: None }
    }
}

impl Shadow {
    /// As at power-on: no RAM, and the last 128 KiB of `firmware`, or all of it, at the end.
    ///
    /// # Errors
    /// When the host has no memory for it.
    pub fn of_firmware(firmware: &[u8]) -> Result<Self, Error> {
        let mut bytes = vec![0xff; (SHADOW.end - ROM_START) as usize];
        let len = firmware.len().min(bytes.len());
        let place = bytes.len() - len;
        bytes[place..].copy_from_slice(&firmware[firmware.len() - len..]);
        Ok(Self { attributes: AtomicU32::new(0), rom: Some(rom(ROM_START, &bytes)?) })
    }

    /// What a processor reaches at `gpa`, anywhere: elsewhere all is RAM.
    #[inline]
    pub fn attributes(&self, gpa: u64) -> Attributes {
        if !SHADOW.contains(&gpa) {
            return Attributes::RAM;
        }
        let segment = (gpa - SHADOW.start) / SHADOW_SEGMENT;
        attributes_of(self.attributes.load(Ordering::Acquire), segment as usize)
    }

    /// What a processor reaches, by segments.
    pub fn all(&self) -> [Attributes; SHADOW_SEGMENTS] {
        let bits = self.attributes.load(Ordering::Acquire);
        std::array::from_fn(|segment| attributes_of(bits, segment))
    }

    /// Decides what a processor reaches from now on. Processors have to be told, and that decoded code of the range is not
    /// valid any more: `Partition::shadow_changed`. False if that is what they reach already.
    pub fn set(&self, segments: [Attributes; SHADOW_SEGMENTS]) -> bool {
        let bits = segments
            .iter()
            .rev()
            .fold(0, |bits, segment| bits << 2 | u32::from(segment.write) << 1 | u32::from(segment.read));
        self.attributes.swap(bits, Ordering::AcqRel) != bits
    }

    /// Reads what a processor finds at `gpa`, in `ram` or in ROM, within one segment. `None` if it is neither.
    pub fn read(&self, ram: &GuestMemory, gpa: u64, data: &mut [u8]) -> Option<()> {
        let memory = if self.attributes(gpa).read { ram } else { self.rom.as_ref()? };
        memory.read_slice(data, GuestAddress(gpa)).ok()
    }

    /// Where `gpa` is in host memory if reads go to ROM there, good to the end of its page; null if there is none.
    pub fn rom_pointer(&self, gpa: u64) -> *mut u8 {
        let rom = self.rom.as_ref().and_then(|rom| rom.iter().next());
        let offset = |region: &_| gpa.checked_sub(GuestMemoryRegion::start_addr(region).0);
        rom.and_then(|region| {
            let offset = offset(region).filter(|offset| *offset < region.len())?;
            Some(region.as_ptr().wrapping_add(usize::try_from(offset).ok()?))
        })
        .unwrap_or(std::ptr::null_mut())
    }
}

fn attributes_of(bits: u32, segment: usize) -> Attributes {
    let bits = bits >> (2 * segment);
    Attributes { read: bits & 1 != 0, write: bits & 2 != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocate;

    const READ_ONLY: Attributes = Attributes { read: true, write: false };

    #[test]
    fn at_power_on_the_end_of_the_firmware_is_there() {
        let (ram, _) = allocate(1 << 20).unwrap();
        let firmware: Vec<u8> = (0..256 << 10).map(|at| (at >> 12) as u8).collect();
        let shadow = Shadow::of_firmware(&firmware).unwrap();
        let byte = |gpa| {
            let mut byte = [0xee];
            shadow.read(&ram, gpa, &mut byte).map(|()| byte[0])
        };
        assert_eq!([0xb_ffff, 0xc_0000, 0xd_ffff].map(byte), [Some(0), None, None]);
        assert_eq!([0xe_0000, 0xf_0fff, 0xf_ffff].map(byte), [Some(32), Some(48), Some(63)]);
        assert!(shadow.rom_pointer(0xd_ffff).is_null() && shadow.rom_pointer(0x10_0000).is_null());
        assert!(!shadow.rom_pointer(0xe_0000).is_null());
    }

    #[test]
    fn a_small_firmware_is_at_the_end() {
        let (ram, _) = allocate(1 << 20).unwrap();
        let shadow = Shadow::of_firmware(&[9; 64 << 10]).unwrap();
        let mut bytes = [0; 2];
        for (gpa, expected) in [(0xe_fffe, [0xff; 2]), (0xf_0000, [9; 2])] {
            shadow.read(&ram, gpa, &mut bytes).unwrap();
            assert_eq!(bytes, expected);
        }
    }

    #[test]
    fn segments_are_steered_one_by_one() {
        let shadow = Shadow::default();
        assert_eq!(shadow.all(), [Attributes::RAM; SHADOW_SEGMENTS]);
        let mut segments = [Attributes::ROM; SHADOW_SEGMENTS];
        segments[3] = READ_ONLY;
        segments[15] = Attributes { read: false, write: true };
        assert!(shadow.set(segments) && !shadow.set(segments));
        assert_eq!(shadow.all(), segments);
        assert_eq!(shadow.attributes(0xc_bfff), Attributes::ROM);
        assert_eq!([0xc_c000, 0xc_ffff].map(|gpa| shadow.attributes(gpa)), [READ_ONLY; 2]);
        assert_eq!(shadow.attributes(0xf_c000), segments[15]);
        assert_eq!([0xb_ffff, 0x10_0000].map(|gpa| shadow.attributes(gpa)), [Attributes::RAM; 2]);
    }
}
