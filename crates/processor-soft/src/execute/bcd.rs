//! AAA, AAS, AAM, AAD, DAA, DAS and BOUND: instructions that 64-bit code does not have.
//!
//! Flags that the manual calls undefined come out as the operations leave them that these are made of.

use iced_x86::{Code, Mnemonic};

use super::arithmetic::{Int, merge, status};
use super::decode::Form;
use super::dispatch::{Outcome, attempt, faulted, next};
use crate::fault::vector;
use crate::op::{Handler, Op};
use crate::registers::gpr;
use crate::vcpu::Vcpu;

const AL: u8 = gpr::RAX as u8;
const AH: u8 = 0x20;
const AX: u8 = gpr::RAX as u8;

/// SF, ZF and PF of a value.
fn signs(value: u8) -> u32 {
    u8::and(value, value).1 & (status::SF | status::ZF | status::PF)
}

/// AAA and AAS; `SUBTRACT` is AAS.
fn ascii_adjust<const SUBTRACT: bool>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let ax = u16::get(cpu, AX);
    let adjust = ax & 0xf > 9 || cpu.status & status::AF != 0;
    let result = match (adjust, SUBTRACT) {
        (false, _) => ax,
        (true, false) => ax.wrapping_add(0x106),
        (true, true) => ax.wrapping_sub(6).wrapping_sub(0x100),
    };
    let carries = if adjust { status::AF | status::CF } else { 0 };
    cpu.status = signs(result as u8) | carries;
    u16::set(cpu, AX, result & 0xff0f);
    next(cpu, op)
}

/// DAA and DAS; `SUBTRACT` is DAS.
fn decimal_adjust<const SUBTRACT: bool>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (old, carry) = (u8::get(cpu, AL), cpu.carry());
    let step = |value: u8, amount: u8| {
        if SUBTRACT { value.overflowing_sub(amount) } else { value.overflowing_add(amount) }
    };
    let mut value = old;
    let mut flags = 0;
    if old & 0xf > 9 || cpu.status & status::AF != 0 {
        let (adjusted, overflow) = step(value, 6);
        value = adjusted;
        flags |= status::AF;
        // DAA's second step sets the carry whenever this one overflows.
        if SUBTRACT && (carry || overflow) {
            flags |= status::CF;
        }
    }
    if old > 0x99 || carry {
        value = step(value, 0x60).0;
        flags |= status::CF;
    }
    cpu.status = flags | signs(value);
    u8::set(cpu, AL, value);
    next(cpu, op)
}

fn split(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let base = op.imm as u8;
    if base == 0 {
        let fault = cpu.raise(vector::DIVIDE_ERROR);
        return faulted(cpu, op, fault);
    }
    let al = u8::get(cpu, AL);
    u8::set(cpu, AH, al / base);
    u8::set(cpu, AL, al % base);
    cpu.status = signs(al % base);
    next(cpu, op)
}

fn join(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let product = u8::get(cpu, AH).wrapping_mul(op.imm as u8);
    let (result, flags) = u8::add(u8::get(cpu, AL), product);
    u16::set(cpu, AX, u16::from(result));
    cpu.status = merge(0, flags, status::ALL);
    next(cpu, op)
}

/// BOUND: the index in `reg` must lie between the two bounds in memory.
fn bound<T: Int>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let offset = op.offset(cpu);
    let low = attempt!(cpu, op, cpu.read::<T>(op.seg, offset)).sign_extend() as i64;
    let behind = op.cut_offset(offset.wrapping_add(T::SIZE as u64));
    let high = attempt!(cpu, op, cpu.read::<T>(op.seg, behind)).sign_extend() as i64;
    let index = T::get(cpu, op.reg).sign_extend() as i64;
    if index < low || index > high {
        let fault = cpu.raise(vector::BOUND_RANGE);
        return faulted(cpu, op, fault);
    }
    next(cpu, op)
}

/// The handler of an instruction of this module.
pub fn select(form: &Form, _op: &mut Op) -> Option<Handler> {
    Some(match form.mnemonic {
        Mnemonic::Aaa => ascii_adjust::<false>,
        Mnemonic::Aas => ascii_adjust::<true>,
        Mnemonic::Daa => decimal_adjust::<false>,
        Mnemonic::Das => decimal_adjust::<true>,
        Mnemonic::Aam => split,
        Mnemonic::Aad => join,
        Mnemonic::Bound if form.instruction.code() == Code::Bound_r16_m1616 => bound::<u16>,
        Mnemonic::Bound => bound::<u32>,
        _ => return None,
    })
}
