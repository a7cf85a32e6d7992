//! The state of one virtual processor.

use std::sync::Arc;

use processor::{DescriptorTable, Segment};

use crate::execute::Blocks;
use crate::extension::ExtensionState;
use crate::fault::Exception;
use crate::memory::Mmu;
use crate::partition::{Shared, VpShared};
use crate::registers::{Seg, attribute, cr0, cr4, efer, flag, gpr};
use crate::system::MsrState;

/// One virtual processor. Owned by its thread; what other threads may touch is in [`VpShared`].
pub struct Vcpu {
    /// General registers and two pseudo registers, see [`gpr`].
    pub regs: [u64; gpr::COUNT],
    /// RIP of the next instruction, up to date at block boundaries only.
    pub rip: u64,
    /// RFLAGS without the arithmetic flags, which live in `status`.
    pub flags: u64,
    /// The arithmetic flags as LAHF and SETO deliver them on the host: AH in bits 8–15 (SF 15, ZF 14, AF 12,
    /// PF 10, CF 8), OF in bit 0. All other bits are noise.
    pub status: u32,
    /// The exception of a [`crate::fault::Fault`].
    pub exception: Option<Exception>,

    /// ES, CS, SS, DS, FS, GS and `Flat` (base 0).
    pub segments: [Segment; 7],
    /// Bit n: accesses by segment n need limit and type checks. 0 in 64-bit mode.
    pub checked_segments: u8,
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: DescriptorTable,
    pub idtr: DescriptorTable,
    /// Current privilege level.
    pub cpl: u8,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub xcr0: u64,
    pub efer: u64,
    pub dr: [u64; 4],
    pub dr6: u64,
    pub dr7: u64,

    /// Interrupts are held off for one instruction, after STI or a load of SS.
    pub interrupt_shadow: bool,
    /// Between an NMI's delivery and IRET.
    pub nmi_blocked: bool,
    /// HLT is in effect.
    pub halted: bool,
    /// INIT has been received (or the processor is an application processor after reset): waits for SIPI.
    pub wait_for_sipi: bool,

    pub mmu: Mmu,
    pub blocks: Blocks,
    pub extension: Box<ExtensionState>,
    pub msrs: MsrState,
    /// Instructions carried out.
    pub instructions: u64,

    pub index: u32,
    pub shared: Arc<Shared>,
    pub vp: Arc<VpShared>,
}

impl Vcpu {
    /// RFLAGS as PUSHF would show them.
    #[inline]
    pub fn rflags(&self) -> u64 {
        let ax = u64::from(self.status);
        let low = (ax >> 8) & (flag::SF | flag::ZF | flag::AF | flag::PF | flag::CF);
        self.flags | flag::FIXED | low | ((ax & 1) << 11)
    }

    /// Sets RFLAGS, unchecked but for the fixed bits.
    #[inline]
    pub fn set_rflags(&mut self, value: u64) {
        self.set_arithmetic(value);
        self.flags = (value & !flag::ARITHMETIC & 0x3f_7fd5) | flag::FIXED;
    }

    /// Sets the arithmetic flags from the layout of RFLAGS.
    #[inline]
    pub fn set_arithmetic(&mut self, value: u64) {
        self.status = ((value & 0xd5) << 8) as u32 | (value >> 11 & 1) as u32;
    }

    /// The carry flag.
    #[inline(always)]
    pub fn carry(&self) -> bool {
        self.status & 1 << 8 != 0
    }

    /// Whether IA-32e mode is active (64-bit or compatibility mode).
    #[inline(always)]
    pub fn long_mode_active(&self) -> bool {
        self.efer & efer::LMA != 0
    }

    /// Whether the code segment is a 64-bit one.
    #[inline(always)]
    pub fn code_64(&self) -> bool {
        self.long_mode_active() && self.segments[Seg::Cs as usize].attributes.0 & attribute::LONG != 0
    }

    /// Real mode: CR0.PE clear.
    #[inline(always)]
    pub fn real_mode(&self) -> bool {
        self.cr0 & cr0::PE == 0
    }

    /// Virtual-8086 mode.
    #[inline(always)]
    pub fn virtual_8086(&self) -> bool {
        self.flags & flag::VM != 0
    }

    /// Default operand size of the code segment in bits, 64-bit code counting as 32.
    #[inline(always)]
    pub fn code_32(&self) -> bool {
        self.segments[Seg::Cs as usize].attributes.0 & attribute::DEFAULT_BIG != 0
    }

    /// The mask of the stack pointer: 64 bits in 64-bit mode, else by SS.B.
    #[inline(always)]
    pub fn stack_mask(&self) -> u64 {
        if self.code_64() {
            u64::MAX
        } else if self.segments[Seg::Ss as usize].attributes.0 & attribute::DEFAULT_BIG != 0 {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    /// Whether CR4 has all of `bits`.
    #[inline(always)]
    pub fn cr4_has(&self, bits: u64) -> bool {
        self.cr4 & bits == bits
    }

    /// Whether SMAP holds for supervisor accesses at this moment.
    #[inline(always)]
    pub fn smap_enforced(&self) -> bool {
        self.cr4 & cr4::SMAP != 0 && self.flags & flag::AC == 0
    }
}
