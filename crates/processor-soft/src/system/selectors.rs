//! Instructions on segment registers and selectors: MOV, PUSH, POP, LDS and its kin, LAR, LSL, VERR, VERW,
//! ARPL.

use super::descriptor::{Descriptor, kind};
use super::next;
use super::pack::segment;
use super::stack::Stack;
use crate::fault::Fault;
use crate::op::{Flow, Op};
use crate::registers::{Seg, attribute, flag};
use crate::vcpu::Vcpu;

/// MOV r/m16, Sreg.
pub fn mov_from(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let selector = vcpu.segments[op.packed().number()].selector;
    vcpu.store_selector(op, u64::from(selector))?;
    Ok(Flow::Next)
}

/// MOV Sreg, r/m16.
pub fn mov_to(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let selector = vcpu.operand(op, 2)? as u16;
    vcpu.load(op, selector)
}

/// PUSH Sreg.
pub fn push(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let packed = op.packed();
    vcpu.push(packed.size(), u64::from(vcpu.segments[packed.number()].selector))?;
    Ok(Flow::Next)
}

/// POP Sreg.
pub fn pop(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let mut stack = Stack::present(vcpu);
    let selector = stack.pop(vcpu, op.packed().size())? as u16;
    let flow = vcpu.load(op, selector)?;
    // With POP SS the pointer is cut as the new segment wants it only from the next instruction on.
    stack.commit(vcpu);
    Ok(flow)
}

/// LDS, LES, LFS, LGS, LSS: a far pointer from memory.
pub fn load_pointer(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let size = op.packed().size();
    let len = usize::from(size);
    let mut data = [0; 10];
    let offset = op.offset(vcpu);
    vcpu.read_bytes(op.seg, offset, &mut data[..len + 2])?;
    let selector = u16::from_le_bytes([data[len], data[len + 1]]);
    let flow = vcpu.load(op, selector)?;
    let mut value = [0; 8];
    value[..len].copy_from_slice(&data[..len]);
    vcpu.set_register(op.reg, size, u64::from_le_bytes(value));
    Ok(flow)
}

impl Vcpu {
    fn load(&mut self, op: &Op, selector: u16) -> Result<Flow, Fault> {
        let seg = segment(op.packed().number());
        self.load_segment(seg, selector)?;
        if seg == Seg::Ss {
            self.interrupt_shadow = true;
        } else if self.code_64() {
            return Ok(Flow::Next);
        }
        self.rip = next(self, op);
        Ok(Flow::Leave)
    }

    fn set_zero(&mut self, zero: bool) {
        let flags = self.rflags() & !flag::ZF;
        self.set_arithmetic(flags | if zero { flag::ZF } else { 0 });
    }

    /// The descriptor that LAR and LSL look at, if they may.
    fn inspected(&mut self, op: &Op) -> Result<Option<Descriptor>, Fault> {
        self.require_protected()?;
        let selector = self.operand(op, 2)? as u16;
        self.visible_descriptor(selector)
    }
}

/// LAR.
pub fn lar(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let long = vcpu.long_mode_active();
    let found = vcpu.inspected(op)?.filter(|descriptor| match descriptor.system_kind() {
        None | Some(kind::LDT | kind::TSS_32 | kind::TSS_32_BUSY | kind::CALL_GATE_32) => true,
        Some(kind::TSS_16 | kind::TSS_16_BUSY | kind::CALL_GATE_16 | kind::TASK_GATE) => !long,
        Some(_) => false,
    });
    if let Some(descriptor) = found {
        vcpu.set_register(op.reg, op.packed().size(), descriptor.0 >> 32 & 0x00f0_ff00);
    }
    vcpu.set_zero(found.is_some());
    Ok(Flow::Next)
}

/// LSL.
pub fn lsl(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let long = vcpu.long_mode_active();
    let found = vcpu.inspected(op)?.filter(|descriptor| match descriptor.system_kind() {
        None | Some(kind::LDT | kind::TSS_32 | kind::TSS_32_BUSY) => true,
        Some(kind::TSS_16 | kind::TSS_16_BUSY) => !long,
        Some(_) => false,
    });
    if let Some(descriptor) = found {
        vcpu.set_register(op.reg, op.packed().size(), u64::from(descriptor.limit()));
    }
    vcpu.set_zero(found.is_some());
    Ok(Flow::Next)
}

/// VERR and (register 1) VERW.
pub fn verify(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let write = op.packed().number() == 1;
    let good = vcpu.inspected(op)?.is_some_and(|descriptor| {
        descriptor.has(attribute::CODE_OR_DATA)
            && if write {
                descriptor.is_writable_data()
            } else {
                !descriptor.is_code() || descriptor.has(attribute::WRITABLE_OR_READABLE)
            }
    });
    vcpu.set_zero(good);
    Ok(Flow::Next)
}

/// ARPL: raises the RPL of the r/m operand to that of `reg`.
pub fn arpl(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.require_protected()?;
    let rpl = vcpu.regs[usize::from(op.reg)] as u16 & 3;
    let raise = |value: u16| if value & 3 < rpl { (value & !3 | rpl, true) } else { (value, false) };
    let raised = if op.packed().memory() {
        let offset = op.offset(vcpu);
        vcpu.modify(op.seg, offset, |_, value: u16| raise(value))?
    } else {
        let (value, raised) = raise(vcpu.regs[usize::from(op.rm)] as u16);
        vcpu.set_register(op.rm, 2, u64::from(value));
        raised
    };
    vcpu.set_zero(raised);
    Ok(Flow::Next)
}
