//! Debug registers and debug traps (SDM volume 3, chapter 19).
//!
//! While a breakpoint is enabled the run loop goes instruction by instruction. Pages with data breakpoints
//! are never entered in the TLB, so that accesses to them are seen. I/O breakpoints are not emulated.

use crate::memory::Access;
use crate::registers::cr4;
use crate::vcpu::Vcpu;

/// Bits of DR7.
pub mod dr7 {
    /// Local and global enables of all four breakpoints.
    pub const ENABLES: u64 = 0xff;
    pub const GENERAL_DETECT: u64 = 1 << 13;
    pub const FIXED: u64 = 1 << 10;
    pub const WRITABLE: u64 = 0xffff_2bff;
}

/// Bits of DR6.
pub mod dr6 {
    pub const GENERAL_DETECT: u64 = 1 << 13;
    pub const SINGLE_STEP: u64 = 1 << 14;
    pub const TASK_SWITCH: u64 = 1 << 15;
    /// Bits that read as 1.
    pub const FIXED: u64 = 0xffff_0ff0;
    /// Bits that software may change.
    pub const WRITABLE: u64 = 0xe00f;
}

/// What a breakpoint watches: R/W field of DR7.
const ON_EXECUTION: u64 = 0;
const ON_WRITE: u64 = 1;
const ON_PORT: u64 = 2;

impl Vcpu {
    fn breakpoint_enabled(&self, index: usize) -> bool {
        self.dr7 >> (2 * index) & 3 != 0
    }

    fn breakpoint_kind(&self, index: usize) -> u64 {
        self.dr7 >> (16 + 4 * index) & 3
    }

    fn breakpoint_length(&self, index: usize) -> u64 {
        match self.dr7 >> (18 + 4 * index) & 3 {
            0 => 1,
            1 => 2,
            2 => 8,
            _ => 4,
        }
    }

    /// Whether any breakpoint is enabled.
    #[inline]
    pub fn has_breakpoints(&self) -> bool {
        self.dr7 & dr7::ENABLES != 0
    }

    /// DR0–DR3 or DR7 have changed: takes the watched pages out of the TLB.
    pub fn debug_registers_changed(&mut self) {
        let mut watched = [u64::MAX; 4];
        for (index, page) in watched.iter_mut().enumerate() {
            let kind = self.breakpoint_kind(index);
            let data = kind != ON_EXECUTION && !(kind == ON_PORT && self.cr4_has(cr4::DE));
            if self.breakpoint_enabled(index) && data {
                *page = self.dr[index] >> 12;
            }
        }
        if watched != self.mmu.watched {
            self.mmu.watched = watched;
            self.mmu.flush_all();
        }
    }

    /// Notes which data breakpoints an access has hit.
    #[cold]
    pub fn note_data_breakpoints(&mut self, linear: u64, len: u64, access: Access) {
        for index in 0..4 {
            let kind = self.breakpoint_kind(index);
            let watches = match kind {
                ON_EXECUTION | ON_PORT => false,
                ON_WRITE => access == Access::Write,
                _ => true,
            };
            let length = self.breakpoint_length(index);
            let start = self.dr[index] & !(length - 1);
            // Overlap of two ranges that may not wrap: breakpoints lie in canonical addresses.
            let hit = linear < start.saturating_add(length) && start < linear.saturating_add(len);
            if self.breakpoint_enabled(index) && watches && hit {
                self.pending_debug |= 1 << index;
            }
        }
    }

    /// DR6 bits of the instruction breakpoints at `linear`.
    pub fn instruction_breakpoints(&self, linear: u64) -> u64 {
        (0..4).fold(0, |bits, index| {
            let hit = self.breakpoint_enabled(index)
                && self.breakpoint_kind(index) == ON_EXECUTION
                && self.dr[index] == linear;
            bits | u64::from(hit) << index
        })
    }
}
