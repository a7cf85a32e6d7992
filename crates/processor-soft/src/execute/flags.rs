//! CLC, STC, CMC, CLD, STD, LAHF, SAHF, SALC, CLI, STI.

use iced_x86::Mnemonic;

use super::arithmetic::{Int, status};
use super::decode::Form;
use super::dispatch::{Outcome, attempt, faulted, leave, next};
use crate::fault::Fault;
use crate::op::{Handler, Op};
use crate::registers::{cr4, flag, gpr};
use crate::vcpu::Vcpu;

fn clear_carry(cpu: &mut Vcpu, op: &Op) -> Outcome {
    cpu.status &= !status::CF;
    next(cpu, op)
}

fn set_carry(cpu: &mut Vcpu, op: &Op) -> Outcome {
    cpu.status |= status::CF;
    next(cpu, op)
}

fn complement_carry(cpu: &mut Vcpu, op: &Op) -> Outcome {
    cpu.status ^= status::CF;
    next(cpu, op)
}

fn clear_direction(cpu: &mut Vcpu, op: &Op) -> Outcome {
    cpu.flags &= !flag::DF;
    next(cpu, op)
}

fn set_direction(cpu: &mut Vcpu, op: &Op) -> Outcome {
    cpu.flags |= flag::DF;
    next(cpu, op)
}

fn load_ah(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let value = cpu.rflags() as u8;
    u8::set(cpu, 0x20, value);
    next(cpu, op)
}

fn store_ah(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let overflow = cpu.status & status::OF;
    cpu.status = (cpu.regs[gpr::RAX] as u32 & 0xd500) | overflow;
    next(cpu, op)
}

fn carry_to_al(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let value = if cpu.carry() { 0xff } else { 0 };
    u8::set(cpu, gpr::RAX as u8, value);
    next(cpu, op)
}

/// Which flag CLI and STI act upon: IF, or VIF under the virtual interrupt extensions.
fn interrupt_flag(cpu: &mut Vcpu) -> Result<u64, Fault> {
    let iopl = (cpu.flags & flag::IOPL) >> 12;
    if cpu.virtual_8086() {
        if iopl == 3 {
            return Ok(flag::IF);
        }
        if cpu.cr4_has(cr4::VME) {
            return Ok(flag::VIF);
        }
    } else {
        if cpu.real_mode() || u64::from(cpu.cpl) <= iopl {
            return Ok(flag::IF);
        }
        if cpu.cpl == 3 && cpu.cr4_has(cr4::PVI) {
            return Ok(flag::VIF);
        }
    }
    Err(cpu.general_protection())
}

fn clear_interrupt(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let which = attempt!(cpu, op, interrupt_flag(cpu));
    cpu.flags &= !which;
    next(cpu, op)
}

fn set_interrupt(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let which = attempt!(cpu, op, interrupt_flag(cpu));
    if which == flag::VIF {
        if cpu.flags & flag::VIP != 0 {
            let fault = cpu.general_protection();
            return faulted(cpu, op, fault);
        }
        cpu.flags |= flag::VIF;
        return next(cpu, op);
    }
    if cpu.flags & flag::IF != 0 {
        return next(cpu, op);
    }
    cpu.flags |= flag::IF;
    cpu.interrupt_shadow = true;
    leave(cpu, op)
}

/// The handler of an instruction of this module.
pub fn select(form: &Form, _op: &mut Op) -> Option<Handler> {
    Some(match form.mnemonic {
        Mnemonic::Clc => clear_carry,
        Mnemonic::Stc => set_carry,
        Mnemonic::Cmc => complement_carry,
        Mnemonic::Cld => clear_direction,
        Mnemonic::Std => set_direction,
        Mnemonic::Lahf => load_ah,
        Mnemonic::Sahf => store_ah,
        Mnemonic::Salc => carry_to_al,
        Mnemonic::Cli => clear_interrupt,
        Mnemonic::Sti => set_interrupt,
        _ => return None,
    })
}
