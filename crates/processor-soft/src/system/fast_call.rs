//! SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS (SDM volume 2; AMD64 manual volume 3 where they differ).

use processor::{Segment, SegmentAttributes};

use super::next;
use crate::fault::Fault;
use crate::op::{Flow, Op};
use crate::registers::{Seg, attribute, efer, flag, gpr};
use crate::vcpu::Vcpu;

/// A flat code segment. `long`: 64-bit.
fn flat_code(selector: u16, cpl: u8, long: bool) -> Segment {
    let width = if long { attribute::LONG } else { attribute::DEFAULT_BIG };
    flat(selector, cpl, 0xb | width)
}

/// A flat stack segment.
fn flat_stack(selector: u16, cpl: u8) -> Segment {
    flat(selector, cpl, 0x3 | attribute::DEFAULT_BIG)
}

fn flat(selector: u16, cpl: u8, kind: u32) -> Segment {
    let attributes = kind
        | attribute::CODE_OR_DATA
        | attribute::PRESENT
        | attribute::GRANULARITY
        | u32::from(cpl) << attribute::DPL_SHIFT;
    Segment {
        selector: selector & !3 | u16::from(cpl),
        base: 0,
        limit: u32::MAX,
        attributes: SegmentAttributes(attributes),
    }
}

/// Code and stack segment after SYSCALL, by IA32_STAR, in long mode or not.
pub fn syscall_segments(star: u64, long: bool) -> (Segment, Segment) {
    let selector = (star >> 32) as u16;
    (flat_code(selector, 0, long), flat_stack((selector & !3).wrapping_add(8), 0))
}

/// The same after SYSRET, to 64-bit code or not.
pub fn sysret_segments(star: u64, to_64: bool) -> (Segment, Segment) {
    let selector = (star >> 48) as u16;
    let code =
        if to_64 { flat_code(selector.wrapping_add(16), 3, true) } else { flat_code(selector, 3, false) };
    (code, flat_stack(selector.wrapping_add(8) | 3, 3))
}

/// SYSCALL. Outside 64-bit mode only processors of AMD know it.
pub fn syscall(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let from_64 = vcpu.code_64();
    let allowed = vcpu.efer & efer::SCE != 0 && !vcpu.real_mode() && !vcpu.virtual_8086();
    if !allowed || !(from_64 || vcpu.msrs.amd()) {
        return Err(vcpu.invalid_opcode());
    }
    let star = vcpu.msrs.star;
    let return_rip = next(vcpu, op);
    vcpu.regs[gpr::RCX] = return_rip;
    let long = vcpu.long_mode_active();
    let rip = if long {
        vcpu.regs[gpr::R11] = vcpu.rflags() & !flag::RF;
        let flags = vcpu.rflags() & !(vcpu.msrs.fmask | flag::RF);
        vcpu.set_rflags(flags);
        vcpu.step_spared = flags & flag::TF == 0;
        if from_64 { vcpu.msrs.lstar } else { vcpu.msrs.cstar }
    } else {
        vcpu.flags &= !(flag::IF | flag::RF);
        star & 0xffff_ffff
    };
    let (code, stack) = syscall_segments(star, long);
    vcpu.segments[Seg::Ss as usize] = stack;
    vcpu.enter_code(code, 0, rip);
    Ok(Flow::Leave)
}

/// SYSRET; operand size 8 returns to 64-bit code.
pub fn sysret(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let amd = vcpu.msrs.amd();
    let allowed = vcpu.efer & efer::SCE != 0 && !vcpu.real_mode() && !vcpu.virtual_8086();
    if !allowed || !(vcpu.code_64() || amd) {
        return Err(vcpu.invalid_opcode());
    }
    vcpu.require_supervisor()?;
    let to_64 = op.packed().size() == 8;
    let rip = vcpu.regs[gpr::RCX];
    if to_64 && !vcpu.canonical(rip) {
        return Err(vcpu.general_protection());
    }
    if vcpu.long_mode_active() {
        let mut flags = vcpu.regs[gpr::R11] & 0x003c_7fd7;
        if !vcpu.has_breakpoints() {
            flags &= !flag::RF;
        }
        vcpu.set_rflags(flags);
    } else {
        vcpu.flags |= flag::IF;
    }
    let (code, stack) = sysret_segments(vcpu.msrs.star, to_64);
    vcpu.segments[Seg::Ss as usize] = stack;
    vcpu.enter_code(code, 3, if to_64 { rip } else { rip & 0xffff_ffff });
    Ok(Flow::Leave)
}

/// SYSENTER.
pub fn sysenter(vcpu: &mut Vcpu, _op: &Op) -> Result<Flow, Fault> {
    let long = vcpu.long_mode_active();
    if long && vcpu.msrs.amd() {
        return Err(vcpu.invalid_opcode());
    }
    let selector = vcpu.msrs.sysenter_cs as u16;
    if vcpu.real_mode() || selector & !3 == 0 {
        return Err(vcpu.general_protection());
    }
    vcpu.flags &= !(flag::VM | flag::IF | flag::RF);
    let (rsp, rip) = (vcpu.msrs.sysenter_esp, vcpu.msrs.sysenter_eip);
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    vcpu.regs[gpr::RSP] = rsp & mask;
    vcpu.segments[Seg::Ss as usize] = flat_stack((selector & !3).wrapping_add(8), 0);
    vcpu.enter_code(flat_code(selector, 0, long), 0, rip & mask);
    Ok(Flow::Leave)
}

/// SYSEXIT; operand size 8 returns to 64-bit code.
pub fn sysexit(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    if vcpu.long_mode_active() && vcpu.msrs.amd() {
        return Err(vcpu.invalid_opcode());
    }
    let selector = vcpu.msrs.sysenter_cs as u16;
    if vcpu.real_mode() || vcpu.cpl != 0 || selector & !3 == 0 {
        return Err(vcpu.general_protection());
    }
    let to_64 = op.packed().size() == 8;
    let (rip, rsp) = (vcpu.regs[gpr::RDX], vcpu.regs[gpr::RCX]);
    if to_64 && !(vcpu.canonical(rip) && vcpu.canonical(rsp)) {
        return Err(vcpu.general_protection());
    }
    let (mask, distance) = if to_64 { (u64::MAX, 32) } else { (0xffff_ffff, 16) };
    let selector = (selector & !3).wrapping_add(distance);
    vcpu.regs[gpr::RSP] = rsp & mask;
    vcpu.segments[Seg::Ss as usize] = flat_stack(selector.wrapping_add(8), 3);
    vcpu.enter_code(flat_code(selector, 3, to_64), 3, rip & mask);
    Ok(Flow::Leave)
}

/// SWAPGS.
pub fn swapgs(vcpu: &mut Vcpu, _op: &Op) -> Result<Flow, Fault> {
    vcpu.require_supervisor()?;
    std::mem::swap(&mut vcpu.segments[Seg::Gs as usize].base, &mut vcpu.msrs.kernel_gs_base);
    Ok(Flow::Next)
}
