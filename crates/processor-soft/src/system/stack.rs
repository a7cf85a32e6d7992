//! The stack as control transfers use it: frames are written and read piece by piece, and the stack pointer
//! is committed only when nothing can fault any more.

use processor::Segment;

use crate::fault::{Fault, vector};
use crate::memory::Class;
use crate::registers::{Seg, attribute, gpr};
use crate::vcpu::Vcpu;

/// A stack: the present one or the one that a transfer switches to.
#[derive(Debug, Clone, Copy)]
pub struct Stack {
    segment: Segment,
    /// 64-bit: no segmentation.
    flat: bool,
    mask: u64,
    /// Stack pointer, within `mask`; bits beyond are those of RSP.
    pub pointer: u64,
    class: Class,
    /// Error code of its stack faults.
    fault_code: u32,
}

impl Stack {
    /// The stack as it is.
    pub fn present(vcpu: &Vcpu) -> Self {
        Self {
            segment: vcpu.segments[Seg::Ss as usize],
            flat: vcpu.code_64(),
            mask: vcpu.stack_mask(),
            pointer: vcpu.regs[gpr::RSP],
            class: vcpu.mmu.class(),
            fault_code: 0,
        }
    }

    /// A stack in `segment` at privilege level `cpl`, outside 64-bit mode. Its faults name the selector.
    pub fn in_segment(vcpu: &Vcpu, segment: Segment, pointer: u64, cpl: u8) -> Self {
        let big = segment.attributes.0 & attribute::DEFAULT_BIG != 0;
        Self {
            segment,
            flat: false,
            mask: if big { 0xffff_ffff } else { 0xffff },
            pointer,
            class: vcpu.class_at(cpl),
            fault_code: u32::from(segment.selector & !3),
        }
    }

    /// A stack in 64-bit mode at privilege level `cpl`.
    pub fn in_64_bit(vcpu: &Vcpu, pointer: u64, cpl: u8) -> Self {
        Self {
            segment: Segment::default(),
            flat: true,
            mask: u64::MAX,
            pointer,
            class: vcpu.class_at(cpl),
            fault_code: 0,
        }
    }

    /// Pushes `size` (2, 4 or 8) bytes.
    pub fn push(&mut self, vcpu: &mut Vcpu, size: u8, value: u64) -> Result<(), Fault> {
        let pointer = self.pointer.wrapping_sub(u64::from(size)) & self.mask;
        let linear = self.linear(vcpu, pointer, size)?;
        vcpu.write_as(self.class, linear, size, value)?;
        self.pointer = (self.pointer & !self.mask) | pointer;
        Ok(())
    }

    /// Pops `size` bytes.
    pub fn pop(&mut self, vcpu: &mut Vcpu, size: u8) -> Result<u64, Fault> {
        let value = self.peek(vcpu, 0, size)?;
        self.skip(u64::from(size));
        Ok(value)
    }

    /// Reads `size` bytes at `distance` above the stack pointer.
    pub fn peek(&self, vcpu: &mut Vcpu, distance: u64, size: u8) -> Result<u64, Fault> {
        let linear = self.linear(vcpu, self.pointer.wrapping_add(distance) & self.mask, size)?;
        vcpu.read_as(self.class, linear, size)
    }

    /// Drops bytes.
    pub fn skip(&mut self, bytes: u64) {
        self.pointer = (self.pointer & !self.mask) | (self.pointer.wrapping_add(bytes) & self.mask);
    }

    /// Makes this the stack pointer.
    pub fn commit(&self, vcpu: &mut Vcpu) {
        vcpu.regs[gpr::RSP] = self.pointer;
    }

    fn linear(&self, vcpu: &mut Vcpu, offset: u64, size: u8) -> Result<u64, Fault> {
        let last = offset.wrapping_add(u64::from(size) - 1);
        if self.flat {
            if vcpu.canonical(offset) && vcpu.canonical(last) {
                return Ok(offset);
            }
            return Err(vcpu.raise_code(vector::STACK_FAULT, self.fault_code));
        }
        let attributes = self.segment.attributes.0;
        let limit = u64::from(self.segment.limit);
        let expand_down = attributes & attribute::EXPAND_DOWN_OR_CONFORMING != 0 && !vcpu.real_mode();
        let good = attributes & attribute::UNUSABLE == 0
            && if expand_down {
                offset > limit && last <= self.mask
            } else {
                offset <= limit && last <= limit
            };
        if !good {
            return Err(vcpu.raise_code(vector::STACK_FAULT, self.fault_code));
        }
        Ok(self.segment.base.wrapping_add(offset) & 0xffff_ffff)
    }
}

impl Vcpu {
    /// The class of explicit accesses at privilege level `cpl`.
    fn class_at(&self, cpl: u8) -> Class {
        match cpl {
            3 => Class::User,
            _ if self.smap_enforced() => Class::Supervisor,
            _ => Class::SupervisorAndUser,
        }
    }

    /// Pushes one value on the present stack.
    pub fn push(&mut self, size: u8, value: u64) -> Result<(), Fault> {
        if size == 8 && self.code_64() {
            let pointer = self.regs[gpr::RSP].wrapping_sub(8);
            self.write(Seg::FlatStack, pointer, value)?;
            self.regs[gpr::RSP] = pointer;
            return Ok(());
        }
        let mut stack = Stack::present(self);
        stack.push(self, size, value)?;
        stack.commit(self);
        Ok(())
    }

    /// Pops one value off the present stack.
    pub fn pop(&mut self, size: u8) -> Result<u64, Fault> {
        if size == 8 && self.code_64() {
            let pointer = self.regs[gpr::RSP];
            let value = self.read(Seg::FlatStack, pointer)?;
            self.regs[gpr::RSP] = pointer.wrapping_add(8);
            return Ok(value);
        }
        let mut stack = Stack::present(self);
        let value = stack.pop(self, size)?;
        stack.commit(self);
        Ok(value)
    }
}
