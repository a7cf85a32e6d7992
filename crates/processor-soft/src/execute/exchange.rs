//! XCHG, XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B.

use iced_x86::Mnemonic;

use super::arithmetic::{Int, status};
use super::decode::{Form, Shape};
use super::dispatch::{Outcome, attempt, next, stored};
use super::operand::sized;
use crate::op::{Handler, Op};
use crate::registers::gpr;
use crate::vcpu::Vcpu;

const RAX: u8 = gpr::RAX as u8;

fn exchange_reg<T: Int>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (a, b) = (T::get(cpu, op.reg), T::get(cpu, op.rm));
    T::set(cpu, op.reg, b);
    T::set(cpu, op.rm, a);
    next(cpu, op)
}

/// XCHG with memory always locks.
fn exchange_mem<T: Int>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let new = T::get(cpu, op.reg);
    let old = attempt!(cpu, op, cpu.modify_locked(op.seg, op.offset(cpu), |_, old: T| (new, old)));
    T::set(cpu, op.reg, old);
    stored(cpu, op)
}

fn add_reg<T: Int>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (a, b) = (T::get(cpu, op.reg), T::get(cpu, op.rm));
    let (sum, flags) = T::add(a, b);
    cpu.status = flags;
    T::set(cpu, op.rm, a);
    T::set(cpu, op.reg, sum);
    next(cpu, op)
}

/// `LOCK`: with a LOCK prefix.
fn add_mem<T: Int, const LOCK: bool>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (offset, b) = (op.offset(cpu), T::get(cpu, op.reg));
    let step = |_: &mut Vcpu, a: T| {
        let (sum, flags) = T::add(a, b);
        (sum, (a, flags))
    };
    let (old, flags) = if LOCK {
        attempt!(cpu, op, cpu.modify_locked(op.seg, offset, step))
    } else {
        attempt!(cpu, op, cpu.modify(op.seg, offset, step))
    };
    cpu.status = flags;
    T::set(cpu, op.reg, old);
    stored(cpu, op)
}

fn compare_reg<T: Int>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (expected, old) = (T::get(cpu, RAX), T::get(cpu, op.reg));
    cpu.status = T::sub(expected, old).1;
    if expected == old {
        let new = T::get(cpu, op.rm);
        T::set(cpu, op.reg, new);
    } else {
        T::set(cpu, RAX, old);
    }
    next(cpu, op)
}

fn compare_mem<T: Int, const LOCK: bool>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (offset, expected, new) = (op.offset(cpu), T::get(cpu, RAX), T::get(cpu, op.reg));
    // The operand is written in any case, if need be with what was there.
    let step = |_: &mut Vcpu, old: T| (if old == expected { new } else { old }, old);
    let old = if LOCK {
        attempt!(cpu, op, cpu.modify_locked(op.seg, offset, step))
    } else {
        attempt!(cpu, op, cpu.modify(op.seg, offset, step))
    };
    cpu.status = T::sub(expected, old).1;
    if old != expected {
        T::set(cpu, RAX, old);
    }
    stored(cpu, op)
}

fn set_zero(cpu: &mut Vcpu, zero: bool) {
    cpu.status = cpu.status & !status::ZF | if zero { status::ZF } else { 0 };
}

fn compare_8<const LOCK: bool>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let pair = |cpu: &Vcpu, high: usize, low: usize| cpu.regs[high] << 32 | cpu.regs[low] & 0xffff_ffff;
    let expected = pair(cpu, gpr::RDX, gpr::RAX);
    let new = pair(cpu, gpr::RCX, gpr::RBX);
    let step = |_: &mut Vcpu, old: u64| (if old == expected { new } else { old }, old);
    let offset = op.offset(cpu);
    let old = if LOCK {
        attempt!(cpu, op, cpu.modify_locked(op.seg, offset, step))
    } else {
        attempt!(cpu, op, cpu.modify(op.seg, offset, step))
    };
    set_zero(cpu, old == expected);
    if old != expected {
        cpu.regs[gpr::RAX] = old & 0xffff_ffff;
        cpu.regs[gpr::RDX] = old >> 32;
    }
    stored(cpu, op)
}

fn compare_16(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let pair =
        |cpu: &Vcpu, high: usize, low: usize| u128::from(cpu.regs[high]) << 64 | u128::from(cpu.regs[low]);
    let expected = pair(cpu, gpr::RDX, gpr::RAX);
    let new = pair(cpu, gpr::RCX, gpr::RBX);
    let old = attempt!(cpu, op, cpu.compare_exchange_16(op.seg, op.offset(cpu), expected, new));
    set_zero(cpu, old == expected);
    if old != expected {
        cpu.regs[gpr::RAX] = old as u64;
        cpu.regs[gpr::RDX] = (old >> 64) as u64;
    }
    stored(cpu, op)
}

macro_rules! lockable {
    ($lock:expr, $size:expr, $handler:ident) => {
        match ($size, $lock) {
            (1, false) => $handler::<u8, false> as Handler,
            (2, false) => $handler::<u16, false>,
            (4, false) => $handler::<u32, false>,
            (_, false) => $handler::<u64, false>,
            (1, true) => $handler::<u8, true>,
            (2, true) => $handler::<u16, true>,
            (4, true) => $handler::<u32, true>,
            (_, true) => $handler::<u64, true>,
        }
    };
}

/// The handler of an instruction of this module.
pub fn select(form: &Form, _op: &mut Op) -> Option<Handler> {
    let size = form.size;
    Some(match (form.mnemonic, form.shape) {
        (Mnemonic::Xchg, Shape::RegReg) => sized!(size, exchange_reg),
        (Mnemonic::Xchg, Shape::MemReg | Shape::RegMem) => sized!(size, exchange_mem),
        (Mnemonic::Xadd, Shape::RegReg) => sized!(size, add_reg),
        (Mnemonic::Xadd, Shape::MemReg) => lockable!(form.lock, size, add_mem),
        (Mnemonic::Cmpxchg, Shape::RegReg) => sized!(size, compare_reg),
        (Mnemonic::Cmpxchg, Shape::MemReg) => lockable!(form.lock, size, compare_mem),
        (Mnemonic::Cmpxchg8b, _) if form.lock => compare_8::<true>,
        (Mnemonic::Cmpxchg8b, _) => compare_8::<false>,
        (Mnemonic::Cmpxchg16b, _) => compare_16,
        _ => return None,
    })
}
