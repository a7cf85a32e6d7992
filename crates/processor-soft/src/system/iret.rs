//! IRET in all modes (SDM volume 2, IRET).

use processor::{Segment, SegmentAttributes};

use super::descriptor::{RPL, code, is_null, null_segment, null_stack};
use super::next;
use super::stack::Stack;
use super::task::Switch;
use crate::fault::{Fault, vector};
use crate::op::{Flow, Op};
use crate::registers::{Seg, attribute, flag, gpr, real_mode_segment};
use crate::vcpu::Vcpu;

/// IRET, IRETD, IRETQ.
pub fn iret(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let size = op.packed().size();
    // NMIs are let in again even if the instruction faults.
    vcpu.nmi_blocked = false;
    if vcpu.real_mode() {
        vcpu.iret_real(size)?;
    } else if vcpu.virtual_8086() {
        if vcpu.flags & flag::IOPL != flag::IOPL {
            return Err(vcpu.general_protection());
        }
        vcpu.iret_real(size)?;
    } else if vcpu.flags & flag::NT != 0 {
        if vcpu.long_mode_active() {
            return Err(vcpu.general_protection());
        }
        let link = vcpu.read_system::<u16>(vcpu.tr.base)?;
        let return_rip = next(vcpu, op);
        vcpu.switch_task(link, Switch::Iret, return_rip)?;
    } else {
        vcpu.iret_protected(size)?;
    }
    Ok(Flow::Leave)
}

impl Vcpu {
    /// Loads the flags that IRET may load at the present privilege level, which is that before the return.
    fn iret_flags(&mut self, value: u64, size: u8) {
        let mut mask = flag::ARITHMETIC | flag::TF | flag::DF | flag::NT;
        if size > 2 {
            mask |= flag::RF | flag::AC | flag::ID;
        }
        let virtual_8086 = self.virtual_8086();
        if self.cpl == 0 && !virtual_8086 {
            mask |= flag::IOPL;
            if size > 2 {
                mask |= flag::VIF | flag::VIP;
            }
        }
        if virtual_8086 || u64::from(self.cpl) <= (self.flags & flag::IOPL) >> 12 {
            mask |= flag::IF;
        }
        let mut flags = (self.rflags() & !mask) | (value & mask);
        if !self.has_breakpoints() {
            // Its only effect would be on the next instruction.
            flags &= !flag::RF;
        }
        self.set_rflags(flags);
    }

    /// Real mode and virtual-8086 mode with IOPL 3.
    fn iret_real(&mut self, size: u8) -> Result<(), Fault> {
        let mut stack = Stack::present(self);
        let rip = stack.pop(self, size)?;
        let selector = stack.pop(self, size)? as u16;
        let flags = stack.pop(self, size)?;
        if rip > u64::from(self.segments[Seg::Cs as usize].limit) {
            return Err(self.general_protection());
        }
        stack.commit(self);
        self.load_real_segment(Seg::Cs, selector);
        self.rip = rip;
        self.iret_flags(flags, size);
        self.mode_changed();
        Ok(())
    }

    fn iret_protected(&mut self, size: u8) -> Result<(), Fault> {
        let from_64 = self.code_64();
        let mut stack = Stack::present(self);
        let rip = stack.pop(self, size)?;
        let selector = stack.pop(self, size)? as u16;
        let flags = stack.pop(self, size)?;
        if size == 4 && flags & flag::VM != 0 && self.cpl == 0 && !self.long_mode_active() {
            return self.iret_to_virtual_8086(stack, rip, selector, flags);
        }
        let (segment, cpl) = self.return_code(selector)?;
        let to_64 = self.long_mode_active() && segment.attributes.0 & attribute::LONG != 0;
        let outer = cpl > self.cpl;
        let mut new_stack = None;
        if outer || from_64 {
            let pointer = stack.pop(self, size)?;
            let selector = stack.pop(self, size)? as u16;
            new_stack = Some((self.return_stack(selector, cpl, to_64)?, pointer));
        }
        self.check_target(rip, &segment, to_64)?;
        // No fault beyond this point.
        self.iret_flags(flags, size);
        match new_stack {
            Some((segment, pointer)) => {
                self.segments[Seg::Ss as usize] = segment;
                self.set_stack_pointer(pointer, size, to_64);
            }
            None => stack.commit(self),
        }
        self.enter_code(segment, cpl, rip);
        if outer {
            self.drop_inner_segments();
        }
        Ok(())
    }

    /// Sets RSP to a value popped with `size` bytes for the stack segment that is in force.
    pub fn set_stack_pointer(&mut self, pointer: u64, size: u8, to_64: bool) {
        let big = self.segments[Seg::Ss as usize].attributes.0 & attribute::DEFAULT_BIG != 0;
        self.regs[gpr::RSP] = match size {
            8 => pointer,
            _ if to_64 || big => pointer & 0xffff_ffff,
            _ => self.regs[gpr::RSP] & !0xffff | pointer & 0xffff,
        };
    }

    /// The code segment that a far return leads to, and its privilege level: that of the selector.
    pub fn return_code(&mut self, selector: u16) -> Result<(Segment, u8), Fault> {
        let gp = vector::GENERAL_PROTECTION;
        if is_null(selector) {
            return Err(self.general_protection());
        }
        let mut found = self.descriptor(selector, gp)?;
        let descriptor = found.descriptor;
        let rpl = (selector & RPL) as u8;
        let privileged =
            if descriptor.is_conforming() { descriptor.dpl() <= rpl } else { descriptor.dpl() == rpl };
        let both = attribute::LONG | attribute::DEFAULT_BIG;
        let ambiguous = self.long_mode_active() && descriptor.has(both);
        if !descriptor.is_code() || rpl < self.cpl || !privileged || ambiguous {
            return Err(self.raise_code(gp, code(selector)));
        }
        if !descriptor.present() {
            return Err(self.raise_code(vector::SEGMENT_NOT_PRESENT, code(selector)));
        }
        self.set_accessed(&mut found)?;
        Ok((found.descriptor.segment(selector), rpl))
    }

    /// The stack segment that a far return to privilege level `cpl` loads.
    pub fn return_stack(&mut self, selector: u16, cpl: u8, to_64: bool) -> Result<Segment, Fault> {
        if is_null(selector) {
            if to_64 && cpl < 3 && (selector & RPL) as u8 == cpl {
                return Ok(null_stack(selector, cpl));
            }
            return Err(self.general_protection());
        }
        self.stack_segment(selector, cpl, vector::GENERAL_PROTECTION)
    }

    /// #GP(0) if `rip` does not lie in the segment that is about to be entered.
    pub fn check_target(&mut self, rip: u64, segment: &Segment, to_64: bool) -> Result<(), Fault> {
        let good = if to_64 { self.canonical(rip) } else { rip <= u64::from(segment.limit) };
        if good { Ok(()) } else { Err(self.general_protection()) }
    }

    /// Goes on in another code segment.
    pub fn enter_code(&mut self, segment: Segment, cpl: u8, rip: u64) {
        self.segments[Seg::Cs as usize] = segment;
        self.cpl = cpl;
        self.rip = rip;
        self.mode_changed();
    }

    /// Empties the data segment registers that the privilege level, just lowered, may not use.
    pub fn drop_inner_segments(&mut self) {
        for seg in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
            let segment = &mut self.segments[seg as usize];
            let attributes = segment.attributes.0;
            let conforming =
                attributes & attribute::CODE != 0 && attributes & attribute::EXPAND_DOWN_OR_CONFORMING != 0;
            let dpl = (attributes >> attribute::DPL_SHIFT & 3) as u8;
            if attributes & attribute::UNUSABLE == 0 && !conforming && dpl < self.cpl {
                *segment = null_segment(0);
            }
        }
        self.segments_changed();
    }

    fn iret_to_virtual_8086(
        &mut self,
        mut stack: Stack,
        rip: u64,
        selector: u16,
        flags: u64,
    ) -> Result<(), Fault> {
        let pointer = stack.pop(self, 4)?;
        let mut selectors = [0; 5];
        for selector in &mut selectors {
            *selector = stack.pop(self, 4)? as u16;
        }
        self.set_rflags(flags);
        self.regs[gpr::RSP] = pointer;
        let [ss, es, ds, fs, gs] = selectors;
        for (seg, selector) in
            [(Seg::Cs, selector), (Seg::Ss, ss), (Seg::Es, es), (Seg::Ds, ds), (Seg::Fs, fs), (Seg::Gs, gs)]
        {
            self.segments[seg as usize] = virtual_8086_segment(selector);
        }
        self.cpl = 3;
        self.rip = rip & 0xffff;
        self.mode_changed();
        Ok(())
    }
}

/// A segment register as entry into virtual-8086 mode leaves it.
pub fn virtual_8086_segment(selector: u16) -> Segment {
    let attributes = attribute::CODE_OR_DATA | attribute::PRESENT | 3 | 3 << attribute::DPL_SHIFT;
    Segment { attributes: SegmentAttributes(attributes), ..real_mode_segment(selector, false) }
}
