//! Far JMP, CALL and RET (SDM volume 3, sections 6.8.1–6.8.6; volume 2, JMP, CALL, RET).

use processor::Segment;

use super::descriptor::{Descriptor, Found, RPL, code, is_null, kind, null_stack};
use super::next;
use super::pack::Packed;
use super::stack::Stack;
use super::task::Switch;
use crate::fault::{Fault, vector};
use crate::op::{Flow, Op};
use crate::registers::{Seg, attribute, gpr};
use crate::vcpu::Vcpu;

/// JMP ptr16:16 and ptr16:32: the offset is the immediate, the selector is in `reg` and `rm`.
pub fn jump_direct(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let (selector, rip) = direct(op);
    let return_rip = next(vcpu, op);
    vcpu.far_jump(selector, rip, return_rip)?;
    Ok(Flow::Leave)
}

/// JMP m16:16, m16:32, m16:64.
pub fn jump_indirect(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let (selector, rip) = indirect(vcpu, op)?;
    let return_rip = next(vcpu, op);
    vcpu.far_jump(selector, rip, return_rip)?;
    Ok(Flow::Leave)
}

/// CALL ptr16:16 and ptr16:32.
pub fn call_direct(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let (selector, rip) = direct(op);
    let return_rip = next(vcpu, op);
    vcpu.far_call(selector, rip, return_rip, op.packed().size())?;
    Ok(Flow::Leave)
}

/// CALL m16:16, m16:32, m16:64.
pub fn call_indirect(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let (selector, rip) = indirect(vcpu, op)?;
    let return_rip = next(vcpu, op);
    vcpu.far_call(selector, rip, return_rip, op.packed().size())?;
    Ok(Flow::Leave)
}

/// RETF, with the number of bytes to drop as immediate.
pub fn ret(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.far_return(op.packed().size(), u64::from(op.packed().value()))?;
    Ok(Flow::Leave)
}

fn direct(op: &Op) -> (u16, u64) {
    (u16::from(op.reg) | u16::from(op.rm) << 8, u64::from(op.packed().value()))
}

fn indirect(vcpu: &mut Vcpu, op: &Op) -> Result<(u16, u64), Fault> {
    let size = op.packed().size();
    let offset = op.offset(vcpu);
    let mut data = [0; 10];
    let len = usize::from(size) + 2;
    vcpu.read_bytes(op.seg, offset, &mut data[..len])?;
    let selector = u16::from_le_bytes([data[len - 2], data[len - 1]]);
    let mut rip = [0; 8];
    rip[..usize::from(size)].copy_from_slice(&data[..usize::from(size)]);
    Ok((selector, u64::from_le_bytes(rip)))
}

impl Vcpu {
    fn far_real(&mut self, selector: u16, rip: u64) -> Result<(), Fault> {
        if rip > u64::from(self.segments[Seg::Cs as usize].limit) {
            return Err(self.general_protection());
        }
        self.load_real_segment(Seg::Cs, selector);
        self.rip = rip;
        self.mode_changed();
        Ok(())
    }

    /// Checks a code segment that JMP or CALL names directly; it is entered at the present level.
    fn direct_code(&mut self, selector: u16, found: &mut Found) -> Result<Segment, Fault> {
        let descriptor = found.descriptor;
        let rpl = (selector & RPL) as u8;
        let privileged = if descriptor.is_conforming() {
            descriptor.dpl() <= self.cpl
        } else {
            rpl <= self.cpl && descriptor.dpl() == self.cpl
        };
        let both = attribute::LONG | attribute::DEFAULT_BIG;
        if !privileged || (self.long_mode_active() && descriptor.has(both)) {
            return Err(self.raise_code(vector::GENERAL_PROTECTION, code(selector)));
        }
        if !descriptor.present() {
            return Err(self.raise_code(vector::SEGMENT_NOT_PRESENT, code(selector)));
        }
        self.set_accessed(found)?;
        Ok(found.descriptor.segment(selector & !RPL | u16::from(self.cpl)))
    }

    fn enters_64(&self, segment: &Segment) -> bool {
        self.long_mode_active() && segment.attributes.0 & attribute::LONG != 0
    }

    fn far_jump(&mut self, selector: u16, rip: u64, return_rip: u64) -> Result<(), Fault> {
        if self.real_mode() || self.virtual_8086() {
            return self.far_real(selector, rip);
        }
        let mut found = self.far_target(selector)?;
        if found.descriptor.is_code() {
            let segment = self.direct_code(selector, &mut found)?;
            let to_64 = self.enters_64(&segment);
            self.check_target(rip, &segment, to_64)?;
            self.enter_code(segment, self.cpl, rip);
            return Ok(());
        }
        match self.gate_or_task(selector, &found)? {
            Target::Gate(gate) => {
                let (segment, rip, cpl) = self.call_gate(selector, &found, gate)?;
                if cpl != self.cpl {
                    // A jump cannot raise the privilege level.
                    return Err(self.raise_code(vector::GENERAL_PROTECTION, code(gate.gate_selector())));
                }
                self.enter_code(segment, cpl, rip);
                Ok(())
            }
            Target::Task(task) => self.switch_task(task, Switch::Jump, return_rip),
        }
    }

    fn far_call(&mut self, selector: u16, rip: u64, return_rip: u64, size: u8) -> Result<(), Fault> {
        let old_code = u64::from(self.segments[Seg::Cs as usize].selector);
        if self.real_mode() || self.virtual_8086() {
            let mut stack = Stack::present(self);
            stack.push(self, size, old_code)?;
            stack.push(self, size, return_rip)?;
            self.far_real(selector, rip)?;
            stack.commit(self);
            return Ok(());
        }
        let mut found = self.far_target(selector)?;
        if found.descriptor.is_code() {
            let segment = self.direct_code(selector, &mut found)?;
            let mut stack = Stack::present(self);
            stack.push(self, size, old_code)?;
            stack.push(self, size, return_rip)?;
            let to_64 = self.enters_64(&segment);
            self.check_target(rip, &segment, to_64)?;
            stack.commit(self);
            self.enter_code(segment, self.cpl, rip);
            return Ok(());
        }
        match self.gate_or_task(selector, &found)? {
            Target::Gate(gate) => self.call_through_gate(selector, &found, gate, return_rip),
            Target::Task(task) => self.switch_task(task, Switch::Call, return_rip),
        }
    }

    fn far_target(&mut self, selector: u16) -> Result<Found, Fault> {
        if is_null(selector) {
            return Err(self.general_protection());
        }
        self.descriptor(selector, vector::GENERAL_PROTECTION)
    }

    /// What a system descriptor leads to, with the checks that JMP and CALL share.
    fn gate_or_task(&mut self, selector: u16, found: &Found) -> Result<Target, Fault> {
        let descriptor = found.descriptor;
        let long = self.long_mode_active();
        let target = match descriptor.system_kind() {
            Some(kind::CALL_GATE_32) => Target::Gate(descriptor),
            Some(kind::CALL_GATE_16) if !long => Target::Gate(descriptor),
            Some(kind::TASK_GATE) if !long => Target::Task(descriptor.gate_selector()),
            Some(kind::TSS_16 | kind::TSS_32) if !long => Target::Task(selector),
            _ => return Err(self.raise_code(vector::GENERAL_PROTECTION, code(selector))),
        };
        let privilege = self.cpl.max((selector & RPL) as u8);
        if descriptor.dpl() < privilege {
            return Err(self.raise_code(vector::GENERAL_PROTECTION, code(selector)));
        }
        if !descriptor.present() {
            return Err(self.raise_code(vector::SEGMENT_NOT_PRESENT, code(selector)));
        }
        Ok(target)
    }

    /// Code segment, RIP and privilege level that a call gate leads to.
    fn call_gate(
        &mut self,
        selector: u16,
        found: &Found,
        gate: Descriptor,
    ) -> Result<(Segment, u64, u8), Fault> {
        let gp = vector::GENERAL_PROTECTION;
        let long = self.long_mode_active();
        let mut rip = u64::from(gate.gate_offset());
        if long {
            rip |= self.descriptor_high(selector, found, gp)? << 32;
        } else if gate.system_kind() == Some(kind::CALL_GATE_16) {
            rip &= 0xffff;
        }
        let target_selector = gate.gate_selector();
        if is_null(target_selector) {
            return Err(self.general_protection());
        }
        let mut target = self.descriptor(target_selector, gp)?;
        let descriptor = target.descriptor;
        let wrong_width =
            long && descriptor.attributes() & (attribute::LONG | attribute::DEFAULT_BIG) != attribute::LONG;
        if !descriptor.is_code() || descriptor.dpl() > self.cpl || wrong_width {
            return Err(self.raise_code(gp, code(target_selector)));
        }
        if !descriptor.present() {
            return Err(self.raise_code(vector::SEGMENT_NOT_PRESENT, code(target_selector)));
        }
        self.set_accessed(&mut target)?;
        let cpl = if descriptor.is_conforming() { self.cpl } else { descriptor.dpl() };
        let segment = target.descriptor.segment(target_selector & !RPL | u16::from(cpl));
        self.check_target(rip, &segment, long)?;
        Ok((segment, rip, cpl))
    }

    fn call_through_gate(
        &mut self,
        selector: u16,
        found: &Found,
        gate: Descriptor,
        return_rip: u64,
    ) -> Result<(), Fault> {
        let (segment, rip, cpl) = self.call_gate(selector, found, gate)?;
        let long = self.long_mode_active();
        let size = match gate.system_kind() {
            _ if long => 8,
            Some(kind::CALL_GATE_16) => 2,
            _ => 4,
        };
        let old_code = u64::from(self.segments[Seg::Cs as usize].selector);
        let old_stack = u64::from(self.segments[Seg::Ss as usize].selector);
        if cpl == self.cpl {
            let mut stack =
                if long { Stack::in_64_bit(self, self.regs[gpr::RSP], cpl) } else { Stack::present(self) };
            stack.push(self, size, old_code)?;
            stack.push(self, size, return_rip)?;
            stack.commit(self);
            self.enter_code(segment, cpl, rip);
            return Ok(());
        }
        let (mut stack, new_segment) = if long {
            let pointer = self.task_stack_64(4 + 8 * u32::from(cpl))?;
            (Stack::in_64_bit(self, pointer, cpl), null_stack(u16::from(cpl), cpl))
        } else {
            let (segment, pointer) = self.task_stack(cpl)?;
            (Stack::in_segment(self, segment, pointer, cpl), segment)
        };
        let old = Stack::present(self);
        stack.push(self, size, old_stack)?;
        stack.push(self, size, self.regs[gpr::RSP])?;
        if !long {
            for index in (0..u64::from(gate.gate_parameters())).rev() {
                let parameter = old.peek(self, index * u64::from(size), size)?;
                stack.push(self, size, parameter)?;
            }
        }
        stack.push(self, size, old_code)?;
        stack.push(self, size, return_rip)?;
        self.segments[Seg::Ss as usize] = new_segment;
        stack.commit(self);
        self.enter_code(segment, cpl, rip);
        Ok(())
    }

    fn far_return(&mut self, size: u8, drop: u64) -> Result<(), Fault> {
        let mut stack = Stack::present(self);
        let rip = stack.pop(self, size)?;
        let selector = stack.pop(self, size)? as u16;
        if self.real_mode() || self.virtual_8086() {
            self.far_real(selector, rip)?;
            stack.skip(drop);
            stack.commit(self);
            return Ok(());
        }
        let (segment, cpl) = self.return_code(selector)?;
        let to_64 = self.enters_64(&segment);
        stack.skip(drop);
        if cpl == self.cpl {
            self.check_target(rip, &segment, to_64)?;
            stack.commit(self);
            self.enter_code(segment, cpl, rip);
            return Ok(());
        }
        let pointer = stack.pop(self, size)?;
        let selector = stack.pop(self, size)? as u16;
        let stack_segment = self.return_stack(selector, cpl, to_64)?;
        self.check_target(rip, &segment, to_64)?;
        self.segments[Seg::Ss as usize] = stack_segment;
        self.set_stack_pointer(pointer, size, to_64);
        self.enter_code(segment, cpl, rip);
        let mut outer = Stack::present(self);
        outer.skip(drop);
        outer.commit(self);
        self.drop_inner_segments();
        Ok(())
    }
}

/// Where a system descriptor leads.
enum Target {
    Gate(Descriptor),
    Task(u16),
}

/// The immediate of a direct far transfer.
pub fn pack_direct(op: &mut Op, size: u8, selector: u16, offset: u32) {
    op.reg = selector as u8;
    op.rm = (selector >> 8) as u8;
    op.imm = Packed::new(size).with_value(offset).0;
}
