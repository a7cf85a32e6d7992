//! SHL, SHR, SAR, ROL, ROR, RCL, RCR, SHLD, SHRD and their BMI2 forms without flags.

use iced_x86::Mnemonic;

use super::arithmetic::{Int, WideInt};
use super::decode::{Form, Shape};
use super::dispatch::{Outcome, Path, Slow, attempt, fetch, next, stored};
use super::operand::{Address, Any, addressed, sized, wide_sized};
use crate::op::{Handler, Op};
use crate::registers::gpr;
use crate::vcpu::Vcpu;

/// An operation with a count.
trait Shift {
    /// The count is masked by the caller and not 0.
    fn apply<T: Int>(a: T, count: u8, flags: u32) -> (T, u32);
    /// The result alone.
    #[inline(always)]
    fn plain<T: Int>(a: T, count: u8) -> T {
        Self::apply(a, count, 0).0
    }
}

macro_rules! shifts {
    ($($name:ident $function:ident),*) => {$(
        struct $name;
        impl Shift for $name {
            #[inline(always)]
            fn apply<T: Int>(a: T, count: u8, flags: u32) -> (T, u32) {
                T::$function(a, count, flags)
            }
        }
    )*};
}
shifts!(Shl shl, Shr shr, Sar sar, Rol rol, Ror ror, Rcl rcl, Rcr rcr);

/// A shift by an immediate count without its flags.
fn quiet<T: Int, S: Shift>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let result = S::plain(T::get(cpu, op.reg), masked::<T>(op.imm));
    T::set(cpu, op.reg, result);
    next(cpu, op)
}

/// The handler that does the same but for the flags. Rotations keep most flags and have none.
pub fn select_quiet(form: &Form) -> Option<Handler> {
    if form.shape != Shape::RegImm {
        return None;
    }
    Some(match form.mnemonic {
        Mnemonic::Shl | Mnemonic::Sal => sized!(form.size, quiet, Shl),
        Mnemonic::Shr => sized!(form.size, quiet, Shr),
        Mnemonic::Sar => sized!(form.size, quiet, Sar),
        _ => return None,
    })
}

/// Where the count comes from.
trait Count {
    fn count(cpu: &Vcpu, op: &Op) -> u64;
}

struct Immediate;
impl Count for Immediate {
    #[inline(always)]
    fn count(_: &Vcpu, op: &Op) -> u64 {
        op.imm
    }
}

struct Cl;
impl Count for Cl {
    #[inline(always)]
    fn count(cpu: &Vcpu, _: &Op) -> u64 {
        cpu.regs[gpr::RCX]
    }
}

#[inline(always)]
fn masked<T: Int>(count: u64) -> u8 {
    (count & if T::SIZE == 8 { 63 } else { 31 }) as u8
}

#[inline(always)]
fn apply<T: Int, S: Shift>(a: T, count: u8, flags: u32) -> (T, u32) {
    if count == 0 { (a, flags) } else { S::apply(a, count, flags) }
}

fn reg<T: Int, S: Shift, C: Count>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let count = masked::<T>(C::count(cpu, op));
    // Even by 0 a 32-bit shift clears the upper half.
    let (result, flags) = apply::<T, S>(T::get(cpu, op.reg), count, cpu.status);
    cpu.status = flags;
    T::set(cpu, op.reg, result);
    next(cpu, op)
}

fn mem<T: Int, S: Shift, C: Count>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let count = masked::<T>(C::count(cpu, op));
    let (offset, before) = (op.offset(cpu), cpu.status);
    cpu.status = attempt!(cpu, op, cpu.modify(op.seg, offset, |_, a: T| apply::<T, S>(a, count, before)));
    stored(cpu, op)
}

fn shift<S: Shift>(form: &Form) -> Option<Handler> {
    let size = form.size;
    Some(match form.shape {
        Shape::RegImm => sized!(size, reg, S, Immediate),
        Shape::RegReg => sized!(size, reg, S, Cl),
        Shape::MemImm => sized!(size, mem, S, Immediate),
        Shape::MemReg => sized!(size, mem, S, Cl),
        _ => return None,
    })
}

/// A double shift.
trait Double {
    fn apply<T: WideInt>(a: T, b: T, count: u8, flags: u32) -> (T, u32);
}

struct Shld;
impl Double for Shld {
    #[inline(always)]
    fn apply<T: WideInt>(a: T, b: T, count: u8, flags: u32) -> (T, u32) {
        if count == 0 { (a, flags) } else { T::shld(a, b, count, flags) }
    }
}

struct Shrd;
impl Double for Shrd {
    #[inline(always)]
    fn apply<T: WideInt>(a: T, b: T, count: u8, flags: u32) -> (T, u32) {
        if count == 0 { (a, flags) } else { T::shrd(a, b, count, flags) }
    }
}

fn double_reg<T: WideInt, D: Double, C: Count>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let count = masked::<T>(C::count(cpu, op));
    let (result, flags) = D::apply(T::get(cpu, op.reg), T::get(cpu, op.rm), count, cpu.status);
    cpu.status = flags;
    T::set(cpu, op.reg, result);
    next(cpu, op)
}

fn double_mem<T: WideInt, D: Double, C: Count>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let count = masked::<T>(C::count(cpu, op));
    let (offset, b, before) = (op.offset(cpu), T::get(cpu, op.reg), cpu.status);
    cpu.status = attempt!(cpu, op, cpu.modify(op.seg, offset, |_, a: T| D::apply(a, b, count, before)));
    stored(cpu, op)
}

fn double<D: Double>(form: &Form) -> Option<Handler> {
    let size = form.size;
    Some(match form.shape {
        Shape::RegRegImm => wide_sized!(size, double_reg, D, Immediate),
        Shape::RegRegReg => wide_sized!(size, double_reg, D, Cl),
        Shape::MemRegImm => wide_sized!(size, double_mem, D, Immediate),
        Shape::MemRegReg => wide_sized!(size, double_mem, D, Cl),
        _ => return None,
    })
}

/// A shift of BMI2: any destination, no flags.
trait Plain {
    fn apply<T: WideInt>(a: T, count: u8) -> T;
}

macro_rules! plain {
    ($name:ident, |$a:ident, $count:ident| $body:expr) => {
        struct $name;
        impl Plain for $name {
            #[inline(always)]
            fn apply<T: WideInt>($a: T, $count: u8) -> T {
                T::from_u64($body)
            }
        }
    };
}
plain!(Shlx, |a, count| a.to_u64() << count);
plain!(Shrx, |a, count| a.to_u64() >> count);
plain!(Sarx, |a, count| (a.sign_extend() as i64 >> count) as u64);
plain!(Rorx, |a, count| if T::SIZE == 8 {
    a.to_u64().rotate_right(u32::from(count))
} else {
    u64::from((a.to_u64() as u32).rotate_right(u32::from(count)))
});

/// `reg` ← `rm` shifted by the register in `index`.
fn plain_reg<T: WideInt, P: Plain>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let count = masked::<T>(cpu.regs[usize::from(op.index)]);
    let result = P::apply(T::get(cpu, op.rm), count);
    T::set(cpu, op.reg, result);
    next(cpu, op)
}

/// `reg` ← memory shifted by the register `rm`.
fn plain_mem<T: WideInt, P: Plain>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let a = attempt!(cpu, op, cpu.read::<T>(op.seg, op.offset(cpu)));
    let count = masked::<T>(cpu.regs[usize::from(op.rm)]);
    T::set(cpu, op.reg, P::apply(a, count));
    next(cpu, op)
}

fn plain_imm<T: WideInt, P: Plain>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let result = P::apply(T::get(cpu, op.rm), masked::<T>(op.imm));
    T::set(cpu, op.reg, result);
    next(cpu, op)
}

fn plain_mem_imm<T: WideInt, S: Plain, A: Address, P: Path>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let a = fetch!(cpu, op, P, T, A::seg(op), A::offset(cpu, op), plain_mem_imm::<T, S, Any, Slow>);
    T::set(cpu, op.reg, S::apply(a, masked::<T>(op.imm)));
    next(cpu, op)
}

fn plain<P: Plain>(form: &Form, op: &mut Op) -> Option<Handler> {
    if !form.host.bmi2 {
        return None;
    }
    let size = form.size;
    Some(match form.shape {
        Shape::RegRegReg => {
            op.index = form.third;
            wide_sized!(size, plain_reg, P)
        }
        Shape::RegMemReg => wide_sized!(size, plain_mem, P),
        Shape::RegRegImm => wide_sized!(size, plain_imm, P),
        Shape::RegMemImm => addressed!(op, wide_sized, size, plain_mem_imm, P),
        _ => return None,
    })
}

/// The handler of an instruction of this module.
pub fn select(form: &Form, op: &mut Op) -> Option<Handler> {
    match form.mnemonic {
        Mnemonic::Shl | Mnemonic::Sal => shift::<Shl>(form),
        Mnemonic::Shr => shift::<Shr>(form),
        Mnemonic::Sar => shift::<Sar>(form),
        Mnemonic::Rol => shift::<Rol>(form),
        Mnemonic::Ror => shift::<Ror>(form),
        Mnemonic::Rcl => shift::<Rcl>(form),
        Mnemonic::Rcr => shift::<Rcr>(form),
        Mnemonic::Shld => double::<Shld>(form),
        Mnemonic::Shrd => double::<Shrd>(form),
        Mnemonic::Shlx => plain::<Shlx>(form, op),
        Mnemonic::Shrx => plain::<Shrx>(form, op),
        Mnemonic::Sarx => plain::<Sarx>(form, op),
        Mnemonic::Rorx => plain::<Rorx>(form, op),
        _ => None,
    }
}
