//! What `prepare` packs into [`Op::imm`] for the handlers of this folder.

use crate::fault::Fault;
use crate::op::Op;
use crate::registers::Seg;
use crate::vcpu::Vcpu;

/// Bits 0–7: operand size in bytes. Bits 8–15: number of a segment, control or debug register. Bit 16: the
/// r/m operand is in memory. Bits 32–63: an immediate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed(pub u64);

impl Packed {
    pub fn new(size: u8) -> Self {
        Self(u64::from(size))
    }

    pub fn with_number(self, number: u8) -> Self {
        Self(self.0 | u64::from(number) << 8)
    }

    pub fn in_memory(self, memory: bool) -> Self {
        Self(self.0 | u64::from(memory) << 16)
    }

    pub fn with_value(self, value: u32) -> Self {
        Self(self.0 | u64::from(value) << 32)
    }

    pub fn size(self) -> u8 {
        self.0 as u8
    }

    pub fn number(self) -> usize {
        usize::from((self.0 >> 8) as u8)
    }

    pub fn memory(self) -> bool {
        self.0 & 1 << 16 != 0
    }

    pub fn value(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl Op {
    pub fn packed(&self) -> Packed {
        Packed(self.imm)
    }
}

/// Segment register `number`, which the decoder has checked.
pub fn segment(number: usize) -> Seg {
    match number {
        0 => Seg::Es,
        1 => Seg::Cs,
        2 => Seg::Ss,
        3 => Seg::Ds,
        4 => Seg::Fs,
        _ => Seg::Gs,
    }
}

impl Vcpu {
    /// Writes the low `size` bytes of a general register as instructions do: 32 bits clear the upper half.
    pub fn set_register(&mut self, index: u8, size: u8, value: u64) {
        let register = &mut self.regs[usize::from(index)];
        *register = match size {
            1 => *register & !0xff | value & 0xff,
            2 => *register & !0xffff | value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        };
    }

    /// Reads the r/m operand, register or memory, of `size` bytes; registers whole.
    pub fn operand(&mut self, op: &Op, size: u8) -> Result<u64, Fault> {
        if !op.packed().memory() {
            return Ok(self.regs[usize::from(op.rm)]);
        }
        let offset = op.offset(self);
        match size {
            2 => self.read::<u16>(op.seg, offset).map(u64::from),
            4 => self.read::<u32>(op.seg, offset).map(u64::from),
            _ => self.read::<u64>(op.seg, offset),
        }
    }

    /// Writes the r/m operand of SLDT, STR, SMSW and MOV from a segment register: 16 bits in memory,
    /// zero-extended to the operand size in a register.
    pub fn store_selector(&mut self, op: &Op, value: u64) -> Result<(), Fault> {
        if op.packed().memory() {
            let offset = op.offset(self);
            return self.write(op.seg, offset, value as u16);
        }
        self.set_register(op.rm, op.packed().size(), value);
        Ok(())
    }
}
