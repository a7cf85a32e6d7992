//! ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST, INC, DEC, NEG, NOT.

use iced_x86::Mnemonic;

use super::arithmetic::{Int, merge, status};
use super::branch;
use super::decode::{Form, Shape};
use super::dispatch::{Outcome, Path, Slow, attempt, change, fetch, following, next, stored};
use super::operand::{Address, Any, addressed, sized};
use crate::op::{Handler, Op};
use crate::vcpu::Vcpu;

/// An operation of two operands.
pub trait Binary {
    /// Whether the result is stored (not by CMP and TEST).
    const STORES: bool = true;
    /// The result and the flags after, from the flags before.
    fn apply<T: Int>(a: T, b: T, flags: u32) -> (T, u32);
    /// The result alone.
    fn plain<T: Int>(a: T, b: T) -> T;
}

/// The same operation without its flags.
struct Quiet<B>(std::marker::PhantomData<B>);

impl<B: Binary> Binary for Quiet<B> {
    #[inline(always)]
    fn apply<T: Int>(a: T, b: T, flags: u32) -> (T, u32) {
        (B::plain(a, b), flags)
    }

    #[inline(always)]
    fn plain<T: Int>(a: T, b: T) -> T {
        B::plain(a, b)
    }
}

/// An operation of one operand.
pub trait Unary {
    /// The result and the flags after, from the flags before.
    fn apply<T: Int>(a: T, flags: u32) -> (T, u32);
}

macro_rules! binary {
    ($name:ident, $stores:literal, |$a:ident, $b:ident, $flags:ident| $body:expr, $plain:expr) => {
        struct $name;
        impl Binary for $name {
            const STORES: bool = $stores;
            #[inline(always)]
            fn apply<T: Int>($a: T, $b: T, $flags: u32) -> (T, u32) {
                $body
            }

            #[inline(always)]
            fn plain<T: Int>(a: T, b: T) -> T {
                let plain: fn(u64, u64) -> u64 = $plain;
                T::from_u64(plain(a.to_u64(), b.to_u64()))
            }
        }
    };
}

/// An operation that needs the flags before, and so is never without them.
macro_rules! carrying {
    ($name:ident, |$a:ident, $b:ident, $flags:ident| $body:expr) => {
        struct $name;
        impl Binary for $name {
            #[inline(always)]
            fn apply<T: Int>($a: T, $b: T, $flags: u32) -> (T, u32) {
                $body
            }

            #[inline(always)]
            fn plain<T: Int>(a: T, b: T) -> T {
                Self::apply(a, b, 0).0
            }
        }
    };
}

macro_rules! unary {
    ($name:ident, |$a:ident, $flags:ident| $body:expr) => {
        struct $name;
        impl Unary for $name {
            #[inline(always)]
            fn apply<T: Int>($a: T, $flags: u32) -> (T, u32) {
                $body
            }
        }
    };
}

binary!(Add, true, |a, b, _flags| T::add(a, b), u64::wrapping_add);
carrying!(Adc, |a, b, flags| T::adc(a, b, flags));
binary!(Sub, true, |a, b, _flags| T::sub(a, b), u64::wrapping_sub);
carrying!(Sbb, |a, b, flags| T::sbb(a, b, flags));
binary!(And, true, |a, b, _flags| T::and(a, b), |a, b| a & b);
binary!(Or, true, |a, b, _flags| T::or(a, b), |a, b| a | b);
binary!(Xor, true, |a, b, _flags| T::xor(a, b), |a, b| a ^ b);
binary!(Cmp, false, |a, b, _flags| T::sub(a, b), |a, _| a);
binary!(Test, false, |a, b, _flags| T::and(a, b), |a, _| a);

unary!(Inc, |a, flags| {
    let (result, new) = T::inc(a);
    (result, merge(new, flags, status::CF))
});
unary!(Dec, |a, flags| {
    let (result, new) = T::dec(a);
    (result, merge(new, flags, status::CF))
});
unary!(Neg, |a, _flags| T::neg(a));
unary!(Not, |a, flags| (T::not(a), flags));

fn reg_reg<T: Int, B: Binary>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (result, flags) = B::apply(T::get(cpu, op.reg), T::get(cpu, op.rm), cpu.status);
    cpu.status = flags;
    if B::STORES {
        T::set(cpu, op.reg, result);
    }
    next(cpu, op)
}

fn reg_imm<T: Int, B: Binary>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (result, flags) = B::apply(T::get(cpu, op.reg), T::from_u64(op.imm), cpu.status);
    cpu.status = flags;
    if B::STORES {
        T::set(cpu, op.reg, result);
    }
    next(cpu, op)
}

fn reg_mem<T: Int, B: Binary, A: Address, P: Path>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let b = fetch!(cpu, op, P, T, A::seg(op), A::offset(cpu, op), reg_mem::<T, B, Any, Slow>);
    let (result, flags) = B::apply(T::get(cpu, op.reg), b, cpu.status);
    cpu.status = flags;
    if B::STORES {
        T::set(cpu, op.reg, result);
    }
    next(cpu, op)
}

#[inline(always)]
fn to_memory<T: Int, B: Binary, A: Address, P: Path>(
    cpu: &mut Vcpu,
    op: &Op,
    b: T,
    slow: Handler,
) -> Outcome {
    let (seg, offset, before) = (A::seg(op), A::offset(cpu, op), cpu.status);
    if B::STORES {
        change!(cpu, op, P, seg, offset, |a: T| B::apply(a, b, before), slow)
    } else {
        let a = fetch!(cpu, op, P, T, seg, offset, slow);
        cpu.status = B::apply(a, b, before).1;
        next(cpu, op)
    }
}

fn mem_reg<T: Int, B: Binary, A: Address, P: Path>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let b = T::get(cpu, op.reg);
    to_memory::<T, B, A, P>(cpu, op, b, mem_reg::<T, B, Any, Slow>)
}

fn mem_imm<T: Int, B: Binary, A: Address, P: Path>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    to_memory::<T, B, A, P>(cpu, op, T::from_u64(op.imm), mem_imm::<T, B, Any, Slow>)
}

fn locked_reg<T: Int, B: Binary>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (offset, b, before) = (op.offset(cpu), T::get(cpu, op.reg), cpu.status);
    cpu.status = attempt!(cpu, op, cpu.modify_locked(op.seg, offset, |_, a: T| B::apply(a, b, before)));
    stored(cpu, op)
}

fn locked_imm<T: Int, B: Binary>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (offset, b, before) = (op.offset(cpu), T::from_u64(op.imm), cpu.status);
    cpu.status = attempt!(cpu, op, cpu.modify_locked(op.seg, offset, |_, a: T| B::apply(a, b, before)));
    stored(cpu, op)
}

fn unary_reg<T: Int, U: Unary>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (result, flags) = U::apply(T::get(cpu, op.reg), cpu.status);
    cpu.status = flags;
    T::set(cpu, op.reg, result);
    next(cpu, op)
}

fn unary_mem<T: Int, U: Unary, A: Address, P: Path>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (seg, offset, before) = (A::seg(op), A::offset(cpu, op), cpu.status);
    change!(cpu, op, P, seg, offset, |a: T| U::apply(a, before), unary_mem::<T, U, Any, Slow>)
}

fn unary_locked<T: Int, U: Unary>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (offset, before) = (op.offset(cpu), cpu.status);
    cpu.status = attempt!(cpu, op, cpu.modify_locked(op.seg, offset, |_, a: T| U::apply(a, before)));
    stored(cpu, op)
}

/// `xor r, r` and `sub r, r`.
fn zero<T: Int>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    cpu.status = status::ZF | status::PF;
    T::set(cpu, op.reg, T::from_u64(0));
    next(cpu, op)
}

fn binary<B: Binary>(form: &Form, op: &Op) -> Option<Handler> {
    let size = form.size;
    Some(match form.shape {
        Shape::RegReg => sized!(size, reg_reg, B),
        Shape::RegImm => sized!(size, reg_imm, B),
        Shape::RegMem => addressed!(op, sized, size, reg_mem, B),
        Shape::MemReg if form.lock => sized!(size, locked_reg, B),
        Shape::MemImm if form.lock => sized!(size, locked_imm, B),
        Shape::MemReg => addressed!(op, sized, size, mem_reg, B),
        Shape::MemImm => addressed!(op, sized, size, mem_imm, B),
        _ => return None,
    })
}

fn unary<U: Unary>(form: &Form, op: &Op) -> Option<Handler> {
    let size = form.size;
    Some(match form.shape {
        Shape::Reg => sized!(size, unary_reg, U),
        Shape::Mem if form.lock => sized!(size, unary_locked, U),
        Shape::Mem => addressed!(op, sized, size, unary_mem, U),
        _ => return None,
    })
}

/// The handler of an instruction of this module.
pub fn select(form: &Form, op: &mut Op) -> Option<Handler> {
    match form.mnemonic {
        Mnemonic::Add => binary::<Add>(form, op),
        Mnemonic::Or => binary::<Or>(form, op),
        Mnemonic::Adc => binary::<Adc>(form, op),
        Mnemonic::Sbb => binary::<Sbb>(form, op),
        Mnemonic::And => binary::<And>(form, op),
        Mnemonic::Xor | Mnemonic::Sub if form.shape == Shape::RegReg && op.reg == op.rm => {
            Some(sized!(form.size, zero))
        }
        Mnemonic::Sub => binary::<Sub>(form, op),
        Mnemonic::Xor => binary::<Xor>(form, op),
        Mnemonic::Cmp => binary::<Cmp>(form, op),
        Mnemonic::Test => binary::<Test>(form, op),
        Mnemonic::Inc => unary::<Inc>(form, op),
        Mnemonic::Dec => unary::<Dec>(form, op),
        Mnemonic::Neg => unary::<Neg>(form, op),
        Mnemonic::Not => unary::<Not>(form, op),
        _ => None,
    }
}

fn without_flags<B: Binary>(form: &Form, op: &Op) -> Option<Handler> {
    matches!(form.shape, Shape::RegReg | Shape::RegImm | Shape::RegMem)
        .then(|| binary::<Quiet<B>>(form, op))
        .flatten()
}

/// The handler that does the same but for the flags.
pub fn select_quiet(form: &Form, op: &Op) -> Option<Handler> {
    match form.mnemonic {
        Mnemonic::Add => without_flags::<Add>(form, op),
        Mnemonic::Or => without_flags::<Or>(form, op),
        Mnemonic::And => without_flags::<And>(form, op),
        Mnemonic::Sub => without_flags::<Sub>(form, op),
        Mnemonic::Xor => without_flags::<Xor>(form, op),
        _ => None,
    }
}

/// The handler of CMP or TEST of registers together with the conditional jump behind it, which stands in
/// the op that follows.
pub fn select_fused(form: &Form, condition: u8) -> Option<Handler> {
    let size = form.size;
    macro_rules! table {
        ($handler:ident, $binary:ty, $($n:literal)*) => {
            match (condition, size) {
                $(
                    ($n, 1) => $handler::<u8, $binary, $n> as Handler,
                    ($n, 2) => $handler::<u16, $binary, $n>,
                    ($n, 4) => $handler::<u32, $binary, $n>,
                    ($n, _) => $handler::<u64, $binary, $n>,
                )*
                _ => return None,
            }
        };
    }
    Some(match (form.mnemonic, form.shape) {
        (Mnemonic::Cmp, Shape::RegReg) => table!(fused_reg, Cmp, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
        (Mnemonic::Cmp, Shape::RegImm) => table!(fused_imm, Cmp, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
        (Mnemonic::Test, Shape::RegReg) => table!(fused_reg, Test, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
        (Mnemonic::Test, Shape::RegImm) => table!(fused_imm, Test, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
        _ => return None,
    })
}

fn fused_reg<T: Int, B: Binary, const CC: u8>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let flags = B::apply(T::get(cpu, op.reg), T::get(cpu, op.rm), 0).1;
    cpu.status = flags;
    branch::jump_if::<CC>(cpu, following(op), flags)
}

fn fused_imm<T: Int, B: Binary, const CC: u8>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let flags = B::apply(T::get(cpu, op.reg), T::from_u64(op.imm), 0).1;
    cpu.status = flags;
    branch::jump_if::<CC>(cpu, following(op), flags)
}
