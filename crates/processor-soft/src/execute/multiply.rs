//! MUL, IMUL, DIV, IDIV, MULX.

use iced_x86::Mnemonic;

use super::arithmetic::{Int, WideInt};
use super::decode::{Form, Shape};
use super::dispatch::{Outcome, Path, Slow, attempt, fetch, next};
use super::operand::{Address, Any, addressed, sized, wide_sized};
use crate::fault::{Fault, vector};
use crate::op::{Handler, Op};
use crate::registers::gpr;
use crate::vcpu::Vcpu;

const RAX: u8 = gpr::RAX as u8;
const RDX: u8 = gpr::RDX as u8;
/// AH as an operand of 8 bits.
const AH: u8 = 0x20;

/// The register of the upper half: AH for bytes, else rDX.
const fn upper<T: Int>() -> u8 {
    if T::SIZE == 1 { AH } else { RDX }
}

/// An operation on the accumulator and its upper half.
trait Long {
    fn apply<T: Int>(cpu: &mut Vcpu, b: T) -> Result<(), Fault>;
}

struct Mul;
impl Long for Mul {
    #[inline(always)]
    fn apply<T: Int>(cpu: &mut Vcpu, b: T) -> Result<(), Fault> {
        let (low, high, flags) = T::mul(T::get(cpu, RAX), b);
        cpu.status = flags;
        T::set(cpu, RAX, low);
        T::set(cpu, upper::<T>(), high);
        Ok(())
    }
}

struct Imul;
impl Long for Imul {
    #[inline(always)]
    fn apply<T: Int>(cpu: &mut Vcpu, b: T) -> Result<(), Fault> {
        let (low, high, flags) = T::imul(T::get(cpu, RAX), b);
        cpu.status = flags;
        T::set(cpu, RAX, low);
        T::set(cpu, upper::<T>(), high);
        Ok(())
    }
}

struct Div;
impl Long for Div {
    #[inline(always)]
    fn apply<T: Int>(cpu: &mut Vcpu, b: T) -> Result<(), Fault> {
        let found = T::div(T::get(cpu, RAX), T::get(cpu, upper::<T>()), b);
        let (quotient, remainder) = found.ok_or_else(|| cpu.raise(vector::DIVIDE_ERROR))?;
        T::set(cpu, RAX, quotient);
        T::set(cpu, upper::<T>(), remainder);
        Ok(())
    }
}

struct Idiv;
impl Long for Idiv {
    #[inline(always)]
    fn apply<T: Int>(cpu: &mut Vcpu, b: T) -> Result<(), Fault> {
        let found = T::idiv(T::get(cpu, RAX), T::get(cpu, upper::<T>()), b);
        let (quotient, remainder) = found.ok_or_else(|| cpu.raise(vector::DIVIDE_ERROR))?;
        T::set(cpu, RAX, quotient);
        T::set(cpu, upper::<T>(), remainder);
        Ok(())
    }
}

fn long_reg<T: Int, L: Long>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let b = T::get(cpu, op.reg);
    attempt!(cpu, op, L::apply(cpu, b));
    next(cpu, op)
}

fn long_mem<T: Int, L: Long>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let b = attempt!(cpu, op, cpu.read::<T>(op.seg, op.offset(cpu)));
    attempt!(cpu, op, L::apply(cpu, b));
    next(cpu, op)
}

fn long<L: Long>(form: &Form) -> Option<Handler> {
    Some(match form.shape {
        Shape::Reg => sized!(form.size, long_reg, L),
        Shape::Mem => sized!(form.size, long_mem, L),
        _ => return None,
    })
}

#[inline(always)]
fn cut<T: WideInt>(cpu: &mut Vcpu, op: &Op, a: T, b: T) -> Outcome {
    let (result, flags) = T::imul_cut(a, b);
    cpu.status = flags;
    T::set(cpu, op.reg, result);
    next(cpu, op)
}

fn cut_reg<T: WideInt>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (a, b) = (T::get(cpu, op.reg), T::get(cpu, op.rm));
    cut(cpu, op, a, b)
}

fn cut_mem<T: WideInt, A: Address, P: Path>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let b = fetch!(cpu, op, P, T, A::seg(op), A::offset(cpu, op), cut_mem::<T, Any, Slow>);
    cut(cpu, op, T::get(cpu, op.reg), b)
}

fn cut_reg_imm<T: WideInt>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let a = T::get(cpu, op.rm);
    cut(cpu, op, a, T::from_u64(op.imm))
}

fn cut_mem_imm<T: WideInt, A: Address, P: Path>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let a = fetch!(cpu, op, P, T, A::seg(op), A::offset(cpu, op), cut_mem_imm::<T, Any, Slow>);
    cut(cpu, op, a, T::from_u64(op.imm))
}

/// MULX: `reg` gets the upper half last, `rm` the lower one.
#[inline(always)]
fn mulx<T: WideInt>(cpu: &mut Vcpu, op: &Op, b: T) -> Outcome {
    let (low, high, _) = T::mul(T::get(cpu, RDX), b);
    T::set(cpu, op.rm, low);
    T::set(cpu, op.reg, high);
    next(cpu, op)
}

fn mulx_reg<T: WideInt>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let b = T::get(cpu, op.index);
    mulx(cpu, op, b)
}

fn mulx_mem<T: WideInt>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let b = attempt!(cpu, op, cpu.read::<T>(op.seg, op.offset(cpu)));
    mulx(cpu, op, b)
}

/// The handler of an instruction of this module.
pub fn select(form: &Form, op: &mut Op) -> Option<Handler> {
    let size = form.size;
    Some(match (form.mnemonic, form.shape) {
        (Mnemonic::Mul, _) => return long::<Mul>(form),
        (Mnemonic::Imul, Shape::Reg | Shape::Mem) => return long::<Imul>(form),
        (Mnemonic::Imul, Shape::RegReg) => wide_sized!(size, cut_reg),
        (Mnemonic::Imul, Shape::RegMem) => addressed!(op, wide_sized, size, cut_mem),
        (Mnemonic::Imul, Shape::RegRegImm) => wide_sized!(size, cut_reg_imm),
        (Mnemonic::Imul, Shape::RegMemImm) => addressed!(op, wide_sized, size, cut_mem_imm),
        (Mnemonic::Div, _) => return long::<Div>(form),
        (Mnemonic::Idiv, _) => return long::<Idiv>(form),
        (Mnemonic::Mulx, Shape::RegRegReg) if form.host.bmi2 => {
            op.index = form.third;
            wide_sized!(size, mulx_reg)
        }
        (Mnemonic::Mulx, Shape::RegRegMem) if form.host.bmi2 => wide_sized!(size, mulx_mem),
        _ => return None,
    })
}

fn quiet_reg<T: WideInt>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let product = T::get(cpu, op.reg).to_u64().wrapping_mul(T::get(cpu, op.rm).to_u64());
    T::set(cpu, op.reg, T::from_u64(product));
    next(cpu, op)
}

fn quiet_reg_imm<T: WideInt>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let product = T::get(cpu, op.rm).to_u64().wrapping_mul(op.imm);
    T::set(cpu, op.reg, T::from_u64(product));
    next(cpu, op)
}

/// The handler that does the same but for the flags.
pub fn select_quiet(form: &Form) -> Option<Handler> {
    Some(match (form.mnemonic, form.shape) {
        (Mnemonic::Imul, Shape::RegReg) => wide_sized!(form.size, quiet_reg),
        (Mnemonic::Imul, Shape::RegRegImm) => wide_sized!(form.size, quiet_reg_imm),
        _ => return None,
    })
}
