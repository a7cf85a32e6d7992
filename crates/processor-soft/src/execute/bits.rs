//! BT, BTS, BTR, BTC, BSF, BSR, TZCNT, LZCNT, POPCNT, CRC32, ADCX, ADOX and the bit fields of BMI1 and
//! BMI2.

use std::arch::asm;

use iced_x86::Mnemonic;

use super::arithmetic::{Int, WideInt, merge, status};
use super::decode::{Form, Shape};
use super::dispatch::{Outcome, Path, Slow, attempt, fetch, next, stored};
use super::operand::{Address, Any, addressed, wide_sized};
use crate::op::{Handler, Op};
use crate::vcpu::Vcpu;

/// What becomes of the bit.
trait Change {
    /// Whether the operand is written at all.
    const STORES: bool = true;
    fn apply(value: u64, mask: u64) -> u64;
}

struct Keep;
impl Change for Keep {
    const STORES: bool = false;
    #[inline(always)]
    fn apply(value: u64, _: u64) -> u64 {
        value
    }
}

struct Set;
impl Change for Set {
    #[inline(always)]
    fn apply(value: u64, mask: u64) -> u64 {
        value | mask
    }
}

struct Reset;
impl Change for Reset {
    #[inline(always)]
    fn apply(value: u64, mask: u64) -> u64 {
        value & !mask
    }
}

struct Complement;
impl Change for Complement {
    #[inline(always)]
    fn apply(value: u64, mask: u64) -> u64 {
        value ^ mask
    }
}

/// The operand after the change, and CF in the layout of the status.
#[inline(always)]
fn change<T: Int, C: Change>(value: T, bit: u64) -> (T, u32) {
    let (value, bit) = (value.to_u64(), bit as u32 & (T::BITS - 1));
    (T::from_u64(C::apply(value, 1 << bit)), ((value >> bit) as u32 & 1) << 8)
}

#[inline(always)]
fn set_carry(cpu: &mut Vcpu, carry: u32) {
    cpu.status = cpu.status & !status::CF | carry;
}

fn bit_reg_reg<T: WideInt, C: Change>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (value, carry) = change::<T, C>(T::get(cpu, op.reg), T::get(cpu, op.rm).to_u64());
    set_carry(cpu, carry);
    if C::STORES {
        T::set(cpu, op.reg, value);
    }
    next(cpu, op)
}

fn bit_reg_imm<T: WideInt, C: Change>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (value, carry) = change::<T, C>(T::get(cpu, op.reg), op.imm);
    set_carry(cpu, carry);
    if C::STORES {
        T::set(cpu, op.reg, value);
    }
    next(cpu, op)
}

#[inline(always)]
fn bit_memory<T: WideInt, C: Change>(cpu: &mut Vcpu, op: &Op, offset: u64, bit: u64, lock: bool) -> Outcome {
    if !C::STORES {
        let value = attempt!(cpu, op, cpu.read::<T>(op.seg, offset));
        set_carry(cpu, change::<T, C>(value, bit).1);
        return next(cpu, op);
    }
    let carry = if lock {
        attempt!(cpu, op, cpu.modify_locked(op.seg, offset, |_, value: T| change::<T, C>(value, bit)))
    } else {
        attempt!(cpu, op, cpu.modify(op.seg, offset, |_, value: T| change::<T, C>(value, bit)))
    };
    set_carry(cpu, carry);
    stored(cpu, op)
}

/// The bit string reaches as far as the register tells, below the operand's address too.
#[inline(always)]
fn string_offset<T: WideInt>(cpu: &Vcpu, op: &Op) -> (u64, u64) {
    let bit = T::get(cpu, op.reg).sign_extend();
    let words = bit as i64 >> T::BITS.trailing_zeros();
    let offset = op.offset(cpu).wrapping_add((words * T::SIZE as i64) as u64);
    (op.cut_offset(offset), bit)
}

fn bit_mem_reg<T: WideInt, C: Change>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (offset, bit) = string_offset::<T>(cpu, op);
    bit_memory::<T, C>(cpu, op, offset, bit, false)
}

fn bit_locked_reg<T: WideInt, C: Change>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (offset, bit) = string_offset::<T>(cpu, op);
    bit_memory::<T, C>(cpu, op, offset, bit, true)
}

fn bit_mem_imm<T: WideInt, C: Change>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let offset = op.offset(cpu);
    bit_memory::<T, C>(cpu, op, offset, op.imm, false)
}

fn bit_locked_imm<T: WideInt, C: Change>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let offset = op.offset(cpu);
    bit_memory::<T, C>(cpu, op, offset, op.imm, true)
}

fn bit<C: Change>(form: &Form) -> Option<Handler> {
    let size = form.size;
    Some(match form.shape {
        Shape::RegReg => wide_sized!(size, bit_reg_reg, C),
        Shape::RegImm => wide_sized!(size, bit_reg_imm, C),
        Shape::MemReg if form.lock => wide_sized!(size, bit_locked_reg, C),
        Shape::MemReg => wide_sized!(size, bit_mem_reg, C),
        Shape::MemImm if form.lock => wide_sized!(size, bit_locked_imm, C),
        Shape::MemImm => wide_sized!(size, bit_mem_imm, C),
        _ => return None,
    })
}

/// A scan: the whole destination register before and after.
trait Scan {
    fn apply<T: WideInt>(destination: u64, source: T) -> (u64, u32);
}

struct Forward;
impl Scan for Forward {
    #[inline(always)]
    fn apply<T: WideInt>(destination: u64, source: T) -> (u64, u32) {
        T::bsf(destination, source)
    }
}

struct Reverse;
impl Scan for Reverse {
    #[inline(always)]
    fn apply<T: WideInt>(destination: u64, source: T) -> (u64, u32) {
        T::bsr(destination, source)
    }
}

fn scan_reg<T: WideInt, S: Scan>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (result, flags) = S::apply(cpu.regs[usize::from(op.reg)], T::get(cpu, op.rm));
    cpu.status = flags;
    cpu.regs[usize::from(op.reg)] = result;
    next(cpu, op)
}

fn scan_mem<T: WideInt, S: Scan>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let source = attempt!(cpu, op, cpu.read::<T>(op.seg, op.offset(cpu)));
    let (result, flags) = S::apply(cpu.regs[usize::from(op.reg)], source);
    cpu.status = flags;
    cpu.regs[usize::from(op.reg)] = result;
    next(cpu, op)
}

/// An operation of one source, result and flags.
trait Count {
    fn apply<T: WideInt>(source: T) -> (T, u32);
}

macro_rules! count {
    ($name:ident, |$a:ident| $body:expr) => {
        struct $name;
        impl Count for $name {
            #[inline(always)]
            fn apply<T: WideInt>($a: T) -> (T, u32) {
                $body
            }
        }
    };
}
count!(Tzcnt, |a| T::tzcnt(a));
count!(Lzcnt, |a| T::lzcnt(a));
count!(Popcnt, |a| T::popcnt(a));
// BLSR, BLSI and BLSMSK by the operations that they are made of; CF by the source.
count!(Blsr, |a| {
    let (result, flags) = T::and(a, T::sub(a, T::from_u64(1)).0);
    (result, with_carry(flags, a.to_u64() == 0))
});
count!(Blsi, |a| {
    let (result, flags) = T::and(a, T::neg(a).0);
    (result, with_carry(flags, a.to_u64() != 0))
});
count!(Blsmsk, |a| {
    let (result, flags) = T::xor(a, T::sub(a, T::from_u64(1)).0);
    (result, with_carry(flags, a.to_u64() == 0))
});

#[inline(always)]
fn with_carry(flags: u32, carry: bool) -> u32 {
    flags & !status::CF | u32::from(carry) << 8
}

fn count_reg<T: WideInt, C: Count>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (result, flags) = C::apply(T::get(cpu, op.rm));
    cpu.status = flags;
    T::set(cpu, op.reg, result);
    next(cpu, op)
}

fn count_mem<T: WideInt, C: Count>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let source = attempt!(cpu, op, cpu.read::<T>(op.seg, op.offset(cpu)));
    let (result, flags) = C::apply(source);
    cpu.status = flags;
    T::set(cpu, op.reg, result);
    next(cpu, op)
}

/// An operation of two sources and a destination of its own; the flags before and after.
trait Field {
    fn apply<T: WideInt>(a: T, b: T, flags: u32) -> (T, u32);
}

macro_rules! field {
    ($name:ident, |$a:ident, $b:ident, $flags:ident| $body:expr) => {
        struct $name;
        impl Field for $name {
            #[inline(always)]
            fn apply<T: WideInt>($a: T, $b: T, $flags: u32) -> (T, u32) {
                $body
            }
        }
    };
}

field!(Andn, |a, b, _flags| T::and(T::not(a), b));
// The control of BEXTR and BZHI is the second source.
field!(Bextr, |a, control, flags| {
    let (result, new): (u64, u32);
    // SAFETY: register arithmetic only; the decoder offers what the host has. A 32-bit operand that is
    // extended with zeros gives the same result, but for the sign, which these leave undefined.
    unsafe {
        asm!(
            "bextr {r}, {a}, {c}", "lahf", "seto al",
            r = lateout(reg) result, a = in(reg) a.to_u64(), c = in(reg) control.to_u64(),
            inout("eax") flags => new,
            options(pure, nomem, nostack)
        );
    }
    (T::from_u64(result), new)
});
field!(Bzhi, |a, index, _flags| {
    let index = index.to_u64() & 0xff;
    let cut = index < u64::from(T::BITS);
    let mask = if cut { (1u64 << index) - 1 } else { u64::MAX };
    let value = T::from_u64(a.to_u64() & mask);
    (value, with_carry(T::and(value, value).1, !cut))
});
field!(Pext, |a, mask, flags| {
    let result: u64;
    // SAFETY: register arithmetic only; the decoder offers what the host has.
    unsafe {
        asm!("pext {r}, {a}, {m}", r = lateout(reg) result, a = in(reg) a.to_u64(),
             m = in(reg) mask.to_u64(), options(pure, nomem, nostack, preserves_flags));
    }
    (T::from_u64(result), flags)
});
field!(Pdep, |a, mask, flags| {
    let result: u64;
    // SAFETY: as for PEXT.
    unsafe {
        asm!("pdep {r}, {a}, {m}", r = lateout(reg) result, a = in(reg) a.to_u64(),
             m = in(reg) mask.to_u64(), options(pure, nomem, nostack, preserves_flags));
    }
    (T::from_u64(result), flags)
});

/// The sources are `rm` and `index`.
fn field_reg<T: WideInt, F: Field>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (result, flags) = F::apply(T::get(cpu, op.rm), T::get(cpu, op.index), cpu.status);
    cpu.status = flags;
    T::set(cpu, op.reg, result);
    next(cpu, op)
}

/// The second source is in memory.
fn field_reg_mem<T: WideInt, F: Field>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let b = attempt!(cpu, op, cpu.read::<T>(op.seg, op.offset(cpu)));
    let (result, flags) = F::apply(T::get(cpu, op.rm), b, cpu.status);
    cpu.status = flags;
    T::set(cpu, op.reg, result);
    next(cpu, op)
}

/// The first source is in memory, the second is `rm`.
fn field_mem_reg<T: WideInt, F: Field>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let a = attempt!(cpu, op, cpu.read::<T>(op.seg, op.offset(cpu)));
    let (result, flags) = F::apply(a, T::get(cpu, op.rm), cpu.status);
    cpu.status = flags;
    T::set(cpu, op.reg, result);
    next(cpu, op)
}

fn field<F: Field>(form: &Form, op: &mut Op) -> Option<Handler> {
    Some(match form.shape {
        Shape::RegRegReg => {
            op.index = form.third;
            wide_sized!(form.size, field_reg, F)
        }
        Shape::RegRegMem => wide_sized!(form.size, field_reg_mem, F),
        Shape::RegMemReg => wide_sized!(form.size, field_mem_reg, F),
        _ => return None,
    })
}

/// ADCX (through CF) and ADOX (through OF): no other flag changes.
trait Chain {
    fn apply<T: WideInt>(a: T, b: T, flags: u32) -> (T, u32);
}

struct Adcx;
impl Chain for Adcx {
    #[inline(always)]
    fn apply<T: WideInt>(a: T, b: T, flags: u32) -> (T, u32) {
        let (result, new) = T::adc(a, b, flags);
        (result, merge(flags, new, status::CF))
    }
}

struct Adox;
impl Chain for Adox {
    #[inline(always)]
    fn apply<T: WideInt>(a: T, b: T, flags: u32) -> (T, u32) {
        let (result, new) = T::adc(a, b, (flags & status::OF) << 8);
        (result, flags & !status::OF | new >> 8 & 1)
    }
}

fn chain_reg<T: WideInt, C: Chain>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (result, flags) = C::apply(T::get(cpu, op.reg), T::get(cpu, op.rm), cpu.status);
    cpu.status = flags;
    T::set(cpu, op.reg, result);
    next(cpu, op)
}

fn chain_mem<T: WideInt, C: Chain>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let b = attempt!(cpu, op, cpu.read::<T>(op.seg, op.offset(cpu)));
    let (result, flags) = C::apply(T::get(cpu, op.reg), b, cpu.status);
    cpu.status = flags;
    T::set(cpu, op.reg, result);
    next(cpu, op)
}

fn chain<C: Chain>(form: &Form) -> Option<Handler> {
    Some(match form.shape {
        Shape::RegReg => wide_sized!(form.size, chain_reg, C),
        Shape::RegMem => wide_sized!(form.size, chain_mem, C),
        _ => return None,
    })
}

/// One step of the checksum with the polynomial 0x1edc6f41 over an operand.
#[inline(always)]
fn checksum<T: Int>(sum: u64, value: T) -> u64 {
    let mut sum = sum;
    let value = value.to_u64();
    // SAFETY: register arithmetic only; the decoder offers what the host has.
    unsafe {
        match T::SIZE {
            1 => asm!("crc32 {s:e}, {v}", s = inout(reg) sum, v = in(reg_byte) value as u8,
                      options(pure, nomem, nostack, preserves_flags)),
            2 => asm!("crc32 {s:e}, {v:x}", s = inout(reg) sum, v = in(reg) value,
                      options(pure, nomem, nostack, preserves_flags)),
            4 => asm!("crc32 {s:e}, {v:e}", s = inout(reg) sum, v = in(reg) value,
                      options(pure, nomem, nostack, preserves_flags)),
            _ => asm!("crc32 {s}, {v}", s = inout(reg) sum, v = in(reg) value,
                      options(pure, nomem, nostack, preserves_flags)),
        }
    }
    sum
}

fn checksum_reg<T: Int>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    cpu.regs[usize::from(op.reg)] = checksum(cpu.regs[usize::from(op.reg)], T::get(cpu, op.rm));
    next(cpu, op)
}

fn checksum_mem<T: Int, A: Address, P: Path>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let value = fetch!(cpu, op, P, T, A::seg(op), A::offset(cpu, op), checksum_mem::<T, Any, Slow>);
    cpu.regs[usize::from(op.reg)] = checksum(cpu.regs[usize::from(op.reg)], value);
    next(cpu, op)
}

/// The handler of an instruction of this module.
pub fn select(form: &Form, op: &mut Op) -> Option<Handler> {
    use super::operand::sized;
    let size = form.size;
    let (bmi1, bmi2) = (form.host.bmi1, form.host.bmi2);
    macro_rules! of_one {
        ($reg:ident, $mem:ident, $kind:ty) => {
            match form.shape {
                Shape::RegReg => wide_sized!(size, $reg, $kind),
                Shape::RegMem => wide_sized!(size, $mem, $kind),
                _ => return None,
            }
        };
    }
    Some(match form.mnemonic {
        Mnemonic::Bt => return bit::<Keep>(form),
        Mnemonic::Bts => return bit::<Set>(form),
        Mnemonic::Btr => return bit::<Reset>(form),
        Mnemonic::Btc => return bit::<Complement>(form),
        Mnemonic::Bsf => of_one!(scan_reg, scan_mem, Forward),
        Mnemonic::Bsr => of_one!(scan_reg, scan_mem, Reverse),
        // On a host without them these are BSF and BSR, as on any processor.
        Mnemonic::Tzcnt => of_one!(count_reg, count_mem, Tzcnt),
        Mnemonic::Lzcnt => of_one!(count_reg, count_mem, Lzcnt),
        Mnemonic::Popcnt if form.host.popcnt => of_one!(count_reg, count_mem, Popcnt),
        Mnemonic::Blsr if bmi1 => of_one!(count_reg, count_mem, Blsr),
        Mnemonic::Blsi if bmi1 => of_one!(count_reg, count_mem, Blsi),
        Mnemonic::Blsmsk if bmi1 => of_one!(count_reg, count_mem, Blsmsk),
        Mnemonic::Andn if bmi1 => return field::<Andn>(form, op),
        Mnemonic::Bextr if bmi1 => return field::<Bextr>(form, op),
        Mnemonic::Bzhi if bmi2 => return field::<Bzhi>(form, op),
        Mnemonic::Pext if bmi2 => return field::<Pext>(form, op),
        Mnemonic::Pdep if bmi2 => return field::<Pdep>(form, op),
        Mnemonic::Adcx if form.host.adx => return chain::<Adcx>(form),
        Mnemonic::Adox if form.host.adx => return chain::<Adox>(form),
        Mnemonic::Crc32 if form.host.crc32 => match form.shape {
            Shape::RegReg => sized!(form.source_size, checksum_reg),
            Shape::RegMem => addressed!(op, sized, form.source_size, checksum_mem),
            _ => return None,
        },
        _ => return None,
    })
}
