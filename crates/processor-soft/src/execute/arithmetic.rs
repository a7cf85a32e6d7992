//! Arithmetic with the host's own flags: the host computes exactly the flags that the guest would see,
//! undefined ones included.
//!
//! Specification: SDM volume 2, the "Flags Affected" of each instruction.

use std::arch::asm;

use crate::memory::Word;
use crate::vcpu::Vcpu;

/// The bits of [`Vcpu::status`].
pub mod status {
    pub const SF: u32 = 1 << 15;
    pub const ZF: u32 = 1 << 14;
    pub const AF: u32 = 1 << 12;
    pub const PF: u32 = 1 << 10;
    pub const CF: u32 = 1 << 8;
    pub const OF: u32 = 1;
    /// All six.
    pub const ALL: u32 = SF | ZF | AF | PF | CF | OF;
}

/// Replaces the flags `mask` of `old` by those of `new`.
#[inline(always)]
pub fn merge(old: u32, new: u32, mask: u32) -> u32 {
    (old & !mask) | (new & mask)
}

/// An operand size: how it lies in the registers, and its arithmetic. Every operation returns its result
/// and the flags in the layout of [`Vcpu::status`].
pub trait Int: Word {
    /// Width in bits.
    const BITS: u32 = Self::SIZE as u32 * 8;

    /// Reads a register operand.
    fn get(cpu: &Vcpu, register: u8) -> Self;
    /// Writes a register operand; 32 bits clear the upper half.
    fn set(cpu: &mut Vcpu, register: u8, value: Self);

    fn add(a: Self, b: Self) -> (Self, u32);
    /// Addition with the carry of `flags`.
    fn adc(a: Self, b: Self, flags: u32) -> (Self, u32);
    fn sub(a: Self, b: Self) -> (Self, u32);
    /// Subtraction with the borrow of `flags`.
    fn sbb(a: Self, b: Self, flags: u32) -> (Self, u32);
    fn and(a: Self, b: Self) -> (Self, u32);
    fn or(a: Self, b: Self) -> (Self, u32);
    fn xor(a: Self, b: Self) -> (Self, u32);
    /// INC; the caller keeps CF.
    fn inc(a: Self) -> (Self, u32);
    /// DEC; the caller keeps CF.
    fn dec(a: Self) -> (Self, u32);
    fn neg(a: Self) -> (Self, u32);
    fn not(a: Self) -> Self;

    /// Shifts and rotates by a masked count that is not 0, with the flags before.
    fn shl(a: Self, count: u8, flags: u32) -> (Self, u32);
    fn shr(a: Self, count: u8, flags: u32) -> (Self, u32);
    fn sar(a: Self, count: u8, flags: u32) -> (Self, u32);
    fn rol(a: Self, count: u8, flags: u32) -> (Self, u32);
    fn ror(a: Self, count: u8, flags: u32) -> (Self, u32);
    fn rcl(a: Self, count: u8, flags: u32) -> (Self, u32);
    fn rcr(a: Self, count: u8, flags: u32) -> (Self, u32);

    /// Unsigned product, low and high half.
    fn mul(a: Self, b: Self) -> (Self, Self, u32);
    /// Signed product, low and high half.
    fn imul(a: Self, b: Self) -> (Self, Self, u32);
    /// Unsigned quotient and remainder; `None` for #DE.
    fn div(low: Self, high: Self, divisor: Self) -> Option<(Self, Self)>;
    /// Signed quotient and remainder; `None` for #DE.
    fn idiv(low: Self, high: Self, divisor: Self) -> Option<(Self, Self)>;

    /// The value sign-extended to 64 bits.
    fn sign_extend(self) -> u64;
}

/// The operations that exist for 16, 32 and 64 bits only.
pub trait WideInt: Int {
    fn shld(a: Self, b: Self, count: u8, flags: u32) -> (Self, u32);
    fn shrd(a: Self, b: Self, count: u8, flags: u32) -> (Self, u32);
    /// Signed product cut to the operand size (IMUL with two or three operands).
    fn imul_cut(a: Self, b: Self) -> (Self, u32);
    /// With the destination before: it stays if the source is 0.
    fn bsf(destination: u64, source: Self) -> (u64, u32);
    fn bsr(destination: u64, source: Self) -> (u64, u32);
    fn tzcnt(source: Self) -> (Self, u32);
    fn lzcnt(source: Self) -> (Self, u32);
    fn popcnt(source: Self) -> (Self, u32);
    fn swap_bytes(self) -> Self;
}

/// A two-operand instruction whose flags `lahf` and `seto` collect.
macro_rules! two {
    ($name:ident, $text:literal, $class:ident, $m:literal) => {
        #[inline(always)]
        fn $name(a: Self, b: Self) -> (Self, u32) {
            let (result, flags): (Self, u32);
            // SAFETY: register arithmetic only.
            unsafe {
                asm!(
                    concat!($text, " {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                    a = inout($class) a => result, b = in($class) b, out("eax") flags,
                    options(pure, nomem, nostack)
                );
            }
            (result, flags)
        }
    };
}

/// As `two!`, for instructions that clear OF.
macro_rules! logic {
    ($name:ident, $text:literal, $class:ident, $m:literal) => {
        #[inline(always)]
        fn $name(a: Self, b: Self) -> (Self, u32) {
            let (result, flags): (Self, u32);
            // SAFETY: register arithmetic only.
            unsafe {
                asm!(
                    "xor eax, eax", concat!($text, " {a", $m, "}, {b", $m, "}"), "lahf",
                    a = inout($class) a => result, b = in($class) b, out("eax") flags,
                    options(pure, nomem, nostack)
                );
            }
            (result, flags)
        }
    };
}

/// As `two!`, with the carry taken from the flags before.
macro_rules! with_carry {
    ($name:ident, $text:literal, $class:ident, $m:literal) => {
        #[inline(always)]
        fn $name(a: Self, b: Self, before: u32) -> (Self, u32) {
            let (result, flags): (Self, u32);
            // SAFETY: register arithmetic only.
            unsafe {
                asm!(
                    "bt {before:e}, 8", concat!($text, " {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                    before = in(reg) before,
                    a = inout($class) a => result, b = in($class) b, out("eax") flags,
                    options(pure, nomem, nostack)
                );
            }
            (result, flags)
        }
    };
}

macro_rules! one {
    ($name:ident, $text:literal, $class:ident, $m:literal) => {
        #[inline(always)]
        fn $name(a: Self) -> (Self, u32) {
            let (result, flags): (Self, u32);
            // SAFETY: register arithmetic only.
            unsafe {
                asm!(
                    concat!($text, " {a", $m, "}"), "lahf", "seto al",
                    a = inout($class) a => result, out("eax") flags,
                    options(pure, nomem, nostack)
                );
            }
            (result, flags)
        }
    };
}

/// A shift by CL, of a count that is not 0: computes all flags.
macro_rules! shift {
    ($name:ident, $text:literal, $class:ident, $m:literal) => {
        #[inline(always)]
        fn $name(a: Self, count: u8, _: u32) -> (Self, u32) {
            let (result, flags): (Self, u32);
            // SAFETY: register arithmetic only.
            unsafe {
                asm!(
                    concat!($text, " {a", $m, "}, cl"), "lahf", "seto al",
                    a = inout($class) a => result, in("cl") count, out("eax") flags,
                    options(pure, nomem, nostack)
                );
            }
            (result, flags)
        }
    };
}

/// A rotation by CL, of a count that is not 0: computes CF and OF, and keeps the others.
macro_rules! rotate {
    ($name:ident, $text:literal, $class:ident, $m:literal) => {
        #[inline(always)]
        fn $name(a: Self, count: u8, before: u32) -> (Self, u32) {
            let (result, flags): (Self, u32);
            // SAFETY: register arithmetic only.
            unsafe {
                asm!(
                    concat!($text, " {a", $m, "}, cl"), "lahf", "seto al",
                    a = inout($class) a => result, in("cl") count, out("eax") flags,
                    options(pure, nomem, nostack)
                );
            }
            (result, merge(before, flags, status::CF | status::OF))
        }
    };
}

/// As `rotate!`, through the carry. OF is loaded too: a count that comes back to the start leaves it.
macro_rules! rotate_through {
    ($name:ident, $text:literal, $class:ident, $m:literal) => {
        #[inline(always)]
        fn $name(a: Self, count: u8, before: u32) -> (Self, u32) {
            let (result, flags): (Self, u32);
            // SAFETY: register arithmetic only. ADD of 0x7f to AL sets OF again if it was set.
            unsafe {
                asm!(
                    "add al, 0x7f", "sahf",
                    concat!($text, " {a", $m, "}, cl"), "lahf", "seto al",
                    a = inout($class) a => result, in("cl") count,
                    inout("eax") (before & 0xff01) => flags,
                    options(pure, nomem, nostack)
                );
            }
            (result, flags)
        }
    };
}

/// A double shift by CL. All of the flags before are loaded first, because of counts beyond the width.
macro_rules! double_shift {
    ($name:ident, $text:literal, $m:literal) => {
        #[inline(always)]
        fn $name(a: Self, b: Self, count: u8, before: u32) -> (Self, u32) {
            let (result, flags): (Self, u32);
            // SAFETY: register arithmetic only. ADD of 0x7f to AL sets OF again if it was set.
            unsafe {
                asm!(
                    "add al, 0x7f", "sahf",
                    concat!($text, " {a", $m, "}, {b", $m, "}, cl"), "lahf", "seto al",
                    a = inout(reg) a => result, b = in(reg) b, in("cl") count,
                    inout("eax") (before & 0xff01) => flags,
                    options(pure, nomem, nostack)
                );
            }
            (result, flags)
        }
    };
}

macro_rules! common {
    ($class:ident, $m:literal) => {
        two!(add, "add", $class, $m);
        two!(sub, "sub", $class, $m);
        with_carry!(adc, "adc", $class, $m);
        with_carry!(sbb, "sbb", $class, $m);
        logic!(and, "and", $class, $m);
        logic!(or, "or", $class, $m);
        logic!(xor, "xor", $class, $m);
        one!(inc, "inc", $class, $m);
        one!(dec, "dec", $class, $m);
        one!(neg, "neg", $class, $m);
        shift!(shl, "shl", $class, $m);
        shift!(shr, "shr", $class, $m);
        shift!(sar, "sar", $class, $m);
        rotate!(rol, "rol", $class, $m);
        rotate!(ror, "ror", $class, $m);
        rotate_through!(rcl, "rcl", $class, $m);
        rotate_through!(rcr, "rcr", $class, $m);

        #[inline(always)]
        fn not(a: Self) -> Self {
            !a
        }
    };
}

/// The product of the accumulator and an operand, in two halves.
macro_rules! product {
    ($name:ident, $text:literal, $m:literal, $low:tt, $high:tt) => {
        #[inline(always)]
        fn $name(a: Self, b: Self) -> (Self, Self, u32) {
            let (low, high, flags): (Self, Self, u32);
            // SAFETY: register arithmetic only.
            unsafe {
                asm!(
                    concat!($text, " {b", $m, "}"), concat!("mov {b", $m, "}, ", $low), "lahf", "seto al",
                    "mov {flags:e}, eax",
                    b = inout(reg) b => low, flags = out(reg) flags,
                    inout($low) a => _, out($high) high,
                    options(pure, nomem, nostack)
                );
            }
            (low, high, flags)
        }
    };
}

/// Division by way of the next wider integers.
macro_rules! divide {
    ($signed:ty, $wide:ty, $wide_signed:ty) => {
        #[inline]
        fn div(low: Self, high: Self, divisor: Self) -> Option<(Self, Self)> {
            // A high half below the divisor is the same as a quotient that fits.
            if high >= divisor {
                return None;
            }
            if high == 0 {
                return Some((low / divisor, low % divisor));
            }
            let dividend = <$wide>::from(high) << Self::BITS | <$wide>::from(low);
            let divisor = <$wide>::from(divisor);
            Some(((dividend / divisor) as Self, (dividend % divisor) as Self))
        }

        #[inline]
        fn idiv(low: Self, high: Self, divisor: Self) -> Option<(Self, Self)> {
            let dividend = (<$wide>::from(high) << Self::BITS | <$wide>::from(low)) as $wide_signed;
            let divisor = divisor as $signed;
            if let (Ok(dividend), true) = (<$signed>::try_from(dividend), divisor != 0) {
                let quotient = dividend.checked_div(divisor)?;
                return Some((quotient as Self, dividend.wrapping_rem(divisor) as Self));
            }
            let quotient = dividend.checked_div(<$wide_signed>::from(divisor))?;
            let remainder = dividend.wrapping_rem(<$wide_signed>::from(divisor));
            Some((<$signed>::try_from(quotient).ok()? as Self, remainder as Self))
        }

        #[inline(always)]
        fn sign_extend(self) -> u64 {
            self as $signed as i64 as u64
        }
    };
}

macro_rules! wide {
    ($t:ty, $m:literal) => {
        impl WideInt for $t {
            double_shift!(shld, "shld", $m);
            double_shift!(shrd, "shrd", $m);
            two!(imul_cut, "imul", reg, $m);
            wide!(scan, bsf, "bsf", $m);
            wide!(scan, bsr, "bsr", $m);
            wide!(count, tzcnt, "tzcnt", $m);
            wide!(count, lzcnt, "lzcnt", $m);
            wide!(count, popcnt, "popcnt", $m);

            #[inline(always)]
            fn swap_bytes(self) -> Self {
                <$t>::swap_bytes(self)
            }
        }
    };
    (scan, $name:ident, $text:literal, $m:literal) => {
        #[inline(always)]
        fn $name(destination: u64, source: Self) -> (u64, u32) {
            let (result, flags): (u64, u32);
            // SAFETY: register arithmetic only.
            unsafe {
                asm!(
                    concat!($text, " {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                    a = inout(reg) destination => result, b = in(reg) source, out("eax") flags,
                    options(pure, nomem, nostack)
                );
            }
            (result, flags)
        }
    };
    (count, $name:ident, $text:literal, $m:literal) => {
        #[inline(always)]
        fn $name(source: Self) -> (Self, u32) {
            let (result, flags): (Self, u32);
            // SAFETY: register arithmetic only; the decoder offers what the host has.
            unsafe {
                asm!(
                    concat!($text, " {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                    a = inout(reg) source => result, b = in(reg) source, out("eax") flags,
                    options(pure, nomem, nostack)
                );
            }
            (result, flags)
        }
    };
}

impl Int for u8 {
    #[inline(always)]
    fn get(cpu: &Vcpu, register: u8) -> Self {
        (cpu.regs[usize::from(register & 0x1f)] >> (register >> 2 & 8)) as u8
    }

    #[inline(always)]
    fn set(cpu: &mut Vcpu, register: u8, value: Self) {
        let shift = register >> 2 & 8;
        let whole = &mut cpu.regs[usize::from(register & 0x1f)];
        *whole = *whole & !(0xff << shift) | u64::from(value) << shift;
    }

    common!(reg_byte, "");
    divide!(i8, u16, i16);

    #[inline(always)]
    fn mul(a: Self, b: Self) -> (Self, Self, u32) {
        let (product, flags): (u16, u32);
        // SAFETY: register arithmetic only.
        unsafe {
            asm!(
                "mul {b}", "mov {product:x}, ax", "lahf", "seto al", "mov {flags:e}, eax",
                b = in(reg_byte) b, product = out(reg) product, flags = out(reg) flags,
                inout("ax") u16::from(a) => _,
                options(pure, nomem, nostack)
            );
        }
        (product as u8, (product >> 8) as u8, flags)
    }

    #[inline(always)]
    fn imul(a: Self, b: Self) -> (Self, Self, u32) {
        let (product, flags): (u16, u32);
        // SAFETY: register arithmetic only.
        unsafe {
            asm!(
                "imul {b}", "mov {product:x}, ax", "lahf", "seto al", "mov {flags:e}, eax",
                b = in(reg_byte) b, product = out(reg) product, flags = out(reg) flags,
                inout("ax") u16::from(a) => _,
                options(pure, nomem, nostack)
            );
        }
        (product as u8, (product >> 8) as u8, flags)
    }
}

impl Int for u16 {
    #[inline(always)]
    fn get(cpu: &Vcpu, register: u8) -> Self {
        cpu.regs[usize::from(register)] as u16
    }

    #[inline(always)]
    fn set(cpu: &mut Vcpu, register: u8, value: Self) {
        let whole = &mut cpu.regs[usize::from(register)];
        *whole = *whole & !0xffff | u64::from(value);
    }

    common!(reg, ":x");
    divide!(i16, u32, i32);
    product!(mul, "mul", ":x", "ax", "dx");
    product!(imul, "imul", ":x", "ax", "dx");
}

impl Int for u32 {
    #[inline(always)]
    fn get(cpu: &Vcpu, register: u8) -> Self {
        cpu.regs[usize::from(register)] as u32
    }

    #[inline(always)]
    fn set(cpu: &mut Vcpu, register: u8, value: Self) {
        cpu.regs[usize::from(register)] = u64::from(value);
    }

    common!(reg, ":e");
    divide!(i32, u64, i64);
    product!(mul, "mul", ":e", "eax", "edx");
    product!(imul, "imul", ":e", "eax", "edx");
}

impl Int for u64 {
    #[inline(always)]
    fn get(cpu: &Vcpu, register: u8) -> Self {
        cpu.regs[usize::from(register)]
    }

    #[inline(always)]
    fn set(cpu: &mut Vcpu, register: u8, value: Self) {
        cpu.regs[usize::from(register)] = value;
    }

    common!(reg, ":r");
    divide!(i64, u128, i128);
    product!(mul, "mul", ":r", "rax", "rdx");
    product!(imul, "imul", ":r", "rax", "rdx");
}

wide!(u16, ":x");
wide!(u32, ":e");
wide!(u64, ":r");
