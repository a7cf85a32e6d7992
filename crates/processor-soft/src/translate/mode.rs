//! What code a block is made of, besides where it is: how it is decoded and what it may do.

use iced_x86::Register;

use crate::memory::CODE_KEY_FREE;
use crate::registers::{Seg, attribute, cr0};
use crate::vcpu::Vcpu;

/// The mode of the processor that a block is translated for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// Privilege level 3, else 0.
    pub user: bool,
    pub bits: Bits,
}

/// How wide code is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bits {
    /// 64-bit code.
    Long,
    /// 32-bit code whose segments have base 0 and no limit. Whether FS and GS have no limit either and may be
    /// read and written: their bases may be anything.
    Flat { fs: bool, gs: bool },
}

/// [`Vcpu::block_key`] has the mode from this bit on, above the privilege level in [`Vcpu::code_key`].
const KEY_SHIFT: u32 = CODE_KEY_FREE + 1;
/// What stands there for a mode whose code is interpreted: no mode's number, for 64-bit code does not ask for FS.
const INTERPRETED: u64 = 4;

impl Mode {
    /// 64-bit code of the operating system.
    pub const KERNEL: Self = Self { user: false, bits: Bits::Long };
    /// 64-bit code of its programs.
    pub const USER: Self = Self { user: true, bits: Bits::Long };

    /// A number below 16 that is the mode's own.
    pub fn number(self) -> u64 {
        let bits = match self.bits {
            Bits::Long => 0,
            Bits::Flat { fs, gs } => 2 | u64::from(fs) << 2 | u64::from(gs) << 3,
        };
        bits | u64::from(self.user)
    }

    /// [`Vcpu::block_key`] of code in this mode, by [`crate::memory::Mmu::code_key`].
    pub fn key(self, code_key: u64) -> u64 {
        code_key | u64::from(self.user) << CODE_KEY_FREE | self.number() << KEY_SHIFT
    }

    /// The opposite.
    pub fn from_number(number: u64) -> Self {
        let bits = match number & 2 {
            0 => Bits::Long,
            _ => Bits::Flat { fs: number & 4 != 0, gs: number & 8 != 0 },
        };
        Self { user: number & 1 != 0, bits }
    }

    /// Whether this is 64-bit code.
    pub fn long(self) -> bool {
        self.bits == Bits::Long
    }

    /// For the decoder.
    pub fn bitness(self) -> u32 {
        if self.long() { 64 } else { 32 }
    }

    /// Bytes of an address on the stack, and of what PUSH and POP move.
    pub fn word(self) -> usize {
        if self.long() { 8 } else { 4 }
    }

    /// Whether accesses by `segment` need no check but by the pages they are in.
    pub fn may_use(self, segment: Register) -> bool {
        match (self.bits, segment) {
            (Bits::Long, _) => true,
            (Bits::Flat { fs, .. }, Register::FS) => fs,
            (Bits::Flat { gs, .. }, Register::GS) => gs,
            // Not to be written.
            (Bits::Flat { .. }, Register::CS) => false,
            (Bits::Flat { .. }, _) => true,
        }
    }
}

impl Vcpu {
    /// What blocks are translated for at present; `None` if code is interpreted.
    #[inline]
    pub fn block_mode(&self) -> Option<Mode> {
        let user = self.cpl == 3;
        if self.code_64() {
            return Some(Mode { user, bits: Bits::Long });
        }
        self.flat_mode(user)
    }

    fn flat_mode(&self, user: bool) -> Option<Mode> {
        const PROTECTED: u64 = cr0::PE;
        const FLAT: u8 = 1 << Seg::Es as u8 | 1 << Seg::Ss as u8 | 1 << Seg::Ds as u8;
        let code = &self.segments[Seg::Cs as usize];
        let stack = &self.segments[Seg::Ss as usize];
        let fits = self.cr0 & PROTECTED != 0
            && !self.virtual_8086()
            && matches!(self.cpl, 0 | 3)
            && code.attributes.0 & attribute::DEFAULT_BIG != 0
            && (code.base, code.limit) == (0, u32::MAX)
            && stack.attributes.0 & attribute::DEFAULT_BIG != 0
            && self.checked_segments & FLAT == 0;
        fits.then(|| {
            let bits = Bits::Flat { fs: self.is_unlimited(Seg::Fs), gs: self.is_unlimited(Seg::Gs) };
            Mode { user, bits }
        })
    }

    /// Whether a data segment may be read and written at any offset.
    fn is_unlimited(&self, seg: Seg) -> bool {
        const KIND: u32 =
            attribute::CODE | attribute::EXPAND_DOWN_OR_CONFORMING | attribute::WRITABLE_OR_READABLE;
        let segment = &self.segments[seg as usize];
        let attributes = segment.attributes.0;
        segment.limit == u32::MAX
            && attributes & attribute::UNUSABLE == 0
            && attributes & KIND == attribute::WRITABLE_OR_READABLE
    }

    /// As [`Self::code_key`], and for the mode: blocks found under a key are good while it is the same.
    #[inline]
    pub fn block_key(&self, linear: u64) -> u64 {
        match self.block_mode() {
            Some(mode) => mode.key(self.mmu.code_key(linear)),
            None => self.code_key(linear) | INTERPRETED << KEY_SHIFT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_has_a_number_of_its_own() {
        let flat = [(false, false), (true, false), (false, true), (true, true)];
        let all = flat.map(|(fs, gs)| Bits::Flat { fs, gs }).into_iter().chain([Bits::Long]);
        let all: Vec<_> = all.flat_map(|bits| [false, true].map(|user| Mode { user, bits })).collect();
        for mode in &all {
            assert_eq!(Mode::from_number(mode.number()), *mode);
            assert_ne!(mode.number(), INTERPRETED);
        }
        assert_eq!(all.iter().map(|mode| mode.number()).max(), Some(15));
    }

    #[test]
    fn code_that_is_interpreted_has_no_key_of_code_that_is_translated() {
        let mut vcpu = Vcpu::for_test_64(4 << 20);
        let linear = vcpu.rip;
        vcpu.cpl = 3;
        vcpu.segments[Seg::Cs as usize].attributes = processor::SegmentAttributes(0xc0fb);
        vcpu.mode_changed();
        assert_eq!(vcpu.block_mode(), Some(Mode::from_number(15)));
        let translated = vcpu.block_key(linear);
        vcpu.segments[Seg::Ds as usize].base = 0x1000;
        vcpu.mode_changed();
        assert_eq!(vcpu.block_mode(), None);
        assert_ne!(vcpu.block_key(linear), translated);
    }

    #[test]
    fn a_flush_of_fetched_code_changes_the_keys_of_each_mode_for_good() {
        let mut vcpu = Vcpu::for_test_64(4 << 20);
        let linear = vcpu.rip;
        let mut keys = std::collections::HashSet::new();
        for _ in 0..40 {
            for level in [0, 3] {
                vcpu.cpl = level;
                assert!(keys.insert(vcpu.block_key(linear)));
            }
            vcpu.code_page(linear).unwrap();
            vcpu.mmu.flush_page(linear);
        }
    }
}
