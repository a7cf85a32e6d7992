//! Instructions on the system flags: CLI, STI, PUSHF, POPF, STAC, CLAC.

use super::next;
use crate::fault::Fault;
use crate::op::{Flow, Op};
use crate::registers::flag;
use crate::vcpu::Vcpu;

impl Vcpu {
    /// I/O privilege level.
    pub fn iopl(&self) -> u8 {
        ((self.flags & flag::IOPL) >> 12) as u8
    }

    /// Whether IF may be changed here. In virtual-8086 mode CPL is 3.
    fn require_iopl(&mut self) -> Result<(), Fault> {
        if !self.real_mode() && self.cpl > self.iopl() { Err(self.general_protection()) } else { Ok(()) }
    }
}

/// CLI.
pub fn cli(vcpu: &mut Vcpu, _op: &Op) -> Result<Flow, Fault> {
    vcpu.require_iopl()?;
    vcpu.flags &= !flag::IF;
    Ok(Flow::Next)
}

/// STI. The shadow that it casts on the next instruction is looked at when an interrupt is to be delivered;
/// if none is by then the shadow is gone, it delays one by an instruction, which is harmless.
pub fn sti(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.require_iopl()?;
    if vcpu.flags & flag::IF == 0 {
        vcpu.flags |= flag::IF;
        vcpu.interrupt_shadow = true;
        if vcpu.interrupt_waiting {
            vcpu.rip = next(vcpu, op);
            return Ok(Flow::Leave);
        }
    }
    Ok(Flow::Next)
}

/// PUSHF, PUSHFD, PUSHFQ.
pub fn pushf(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    if vcpu.virtual_8086() && vcpu.iopl() < 3 {
        return Err(vcpu.general_protection());
    }
    let image = vcpu.rflags() & !(flag::VM | flag::RF);
    vcpu.push(op.packed().size(), image)?;
    Ok(Flow::Next)
}

/// POPF, POPFD, POPFQ.
pub fn popf(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    if vcpu.virtual_8086() && vcpu.iopl() < 3 {
        return Err(vcpu.general_protection());
    }
    let size = op.packed().size();
    let value = vcpu.pop(size)?;
    let mut mask = flag::ARITHMETIC | flag::TF | flag::DF | flag::NT;
    if size > 2 {
        mask |= flag::AC | flag::ID;
    }
    if vcpu.cpl == 0 {
        mask |= flag::IOPL;
    }
    if vcpu.real_mode() || vcpu.cpl <= vcpu.iopl() {
        mask |= flag::IF;
    }
    let before = vcpu.flags;
    let flags = (vcpu.rflags() & !(mask | flag::RF)) | (value & mask);
    vcpu.set_rflags(flags);
    let risen = vcpu.flags & !before;
    if (vcpu.flags ^ before) & flag::AC != 0 {
        vcpu.access_changed();
    }
    if risen & flag::TF != 0 || (risen & flag::IF != 0 && vcpu.interrupt_waiting) {
        vcpu.rip = next(vcpu, op);
        return Ok(Flow::Leave);
    }
    Ok(Flow::Next)
}

/// STAC and (register 1) CLAC.
pub fn access_check(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    if vcpu.cpl != 0 {
        return Err(vcpu.invalid_opcode());
    }
    if op.packed().number() == 0 {
        vcpu.flags |= flag::AC;
    } else {
        vcpu.flags &= !flag::AC;
    }
    vcpu.access_changed();
    Ok(Flow::Next)
}
