//! Decoded instructions as the interpreter runs them.

use crate::fault::Fault;
use crate::registers::Seg;
use crate::vcpu::Vcpu;

/// What happens after an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Flow {
    /// Go on with the next [`Op`] of the block. RIP is not up to date.
    Next,
    /// The instruction has set [`Vcpu::rip`]; the block ends.
    Jump,
    /// As `Jump`, and the processor must look at what has changed before it goes on: mode, interrupts,
    /// paging, code pages, halt.
    Leave,
}

/// Carries out one instruction. On `Err` no architectural state has changed but what the SDM says, and
/// [`Vcpu::exception`] holds the exception; RIP is put right by the caller.
pub type Handler = fn(&mut Vcpu, &Op) -> Result<Flow, Fault>;

/// One decoded instruction. 32 bytes, so that two share a cache line.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Op {
    pub handler: Handler,
    /// Immediate, sign-extended as the instruction wants it; or, by the handler's choice, a pointer or
    /// index of what it prepared at decoding time (a thunk).
    pub imm: u64,
    /// Displacement of the memory operand. For RIP-relative operands the base is the block's start.
    pub disp: i32,
    /// Distance of the *next* instruction from the block's start, in bytes.
    pub next: u16,
    /// Register operands, indices into [`Vcpu::regs`]; AH, CH, DH and BH are 0x20–0x23. `reg` is the first
    /// general register among the operands, `rm` the second.
    pub reg: u8,
    pub rm: u8,
    /// Memory operand: indices into [`Vcpu::regs`] incl. the pseudo registers.
    pub base: u8,
    pub index: u8,
    /// Shift of the index in bits 0–1; address size in bits 2–3 (0: 64, 1: 32, 2: 16 bits).
    pub scale: u8,
    pub seg: Seg,
}

const _: () = assert!(size_of::<Op>() == 32);

impl Op {
    /// Offset of the memory operand in its segment.
    #[inline(always)]
    pub fn offset(&self, vcpu: &Vcpu) -> u64 {
        let base = vcpu.regs[usize::from(self.base)];
        let index = vcpu.regs[usize::from(self.index)];
        let sum = base.wrapping_add(index << (self.scale & 3)).wrapping_add(self.disp as i64 as u64);
        self.cut_offset(sum)
    }

    /// Cuts an offset to the address size.
    #[inline(always)]
    pub fn cut_offset(&self, offset: u64) -> u64 {
        match self.scale >> 2 {
            0 => offset,
            1 => offset & 0xffff_ffff,
            _ => offset & 0xffff,
        }
    }

    /// RIP of the next instruction, before it is cut to the operand size.
    #[inline(always)]
    pub fn next_rip(&self, vcpu: &Vcpu) -> u64 {
        vcpu.regs[crate::registers::gpr::BLOCK_RIP].wrapping_add(u64::from(self.next))
    }
}
