//! How memory operands are addressed, and the choice of a handler by size and addressing.

use crate::op::Op;
use crate::registers::Seg;
use crate::vcpu::Vcpu;

/// A way to address the memory operand of an [`Op`]; one handler is built for each.
pub trait Address {
    /// The segment.
    fn seg(op: &Op) -> Seg;
    /// The offset in the segment.
    fn offset(cpu: &Vcpu, op: &Op) -> u64;
}

/// 64-bit code, base and displacement.
pub struct Base;
/// 64-bit code, base, index and displacement.
pub struct Indexed;
/// 64-bit code, a stack register and displacement.
pub struct StackBase;
/// Anything.
pub struct Any;

impl Address for Base {
    #[inline(always)]
    fn seg(_: &Op) -> Seg {
        Seg::Flat
    }

    #[inline(always)]
    fn offset(cpu: &Vcpu, op: &Op) -> u64 {
        cpu.regs[usize::from(op.base)].wrapping_add(op.disp as i64 as u64)
    }
}

impl Address for Indexed {
    #[inline(always)]
    fn seg(_: &Op) -> Seg {
        Seg::Flat
    }

    #[inline(always)]
    fn offset(cpu: &Vcpu, op: &Op) -> u64 {
        let base = cpu.regs[usize::from(op.base)];
        let index = cpu.regs[usize::from(op.index)];
        base.wrapping_add(index << (op.scale & 3)).wrapping_add(op.disp as i64 as u64)
    }
}

impl Address for StackBase {
    #[inline(always)]
    fn seg(_: &Op) -> Seg {
        Seg::FlatStack
    }

    #[inline(always)]
    fn offset(cpu: &Vcpu, op: &Op) -> u64 {
        Base::offset(cpu, op)
    }
}

impl Address for Any {
    #[inline(always)]
    fn seg(op: &Op) -> Seg {
        op.seg
    }

    #[inline(always)]
    fn offset(cpu: &Vcpu, op: &Op) -> u64 {
        op.offset(cpu)
    }
}

/// The addressing of an op, by which the handler is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    Base,
    Indexed,
    StackBase,
    Any,
}

impl Addressing {
    /// The narrowest that fits `op`.
    pub fn of(op: &Op) -> Self {
        let plain = usize::from(op.index) == crate::registers::gpr::ZERO;
        match (op.seg, op.scale >> 2) {
            (Seg::Flat, 0) if plain => Self::Base,
            (Seg::Flat, 0) => Self::Indexed,
            (Seg::FlatStack, 0) if plain => Self::StackBase,
            _ => Self::Any,
        }
    }
}

/// The instance of a generic handler for an operand size in bytes.
macro_rules! sized {
    ($size:expr, $handler:ident $(, $more:ty)*) => {
        match $size {
            1 => $handler::<u8 $(, $more)*> as $crate::op::Handler,
            2 => $handler::<u16 $(, $more)*>,
            4 => $handler::<u32 $(, $more)*>,
            _ => $handler::<u64 $(, $more)*>,
        }
    };
}

/// As `sized!`, without 8 bits.
macro_rules! wide_sized {
    ($size:expr, $handler:ident $(, $more:ty)*) => {
        match $size {
            2 => $handler::<u16 $(, $more)*> as $crate::op::Handler,
            4 => $handler::<u32 $(, $more)*>,
            _ => $handler::<u64 $(, $more)*>,
        }
    };
}

/// As `sized!`, with an [`Address`] and [`Fast`](super::dispatch::Fast) as the last parameters.
macro_rules! addressed {
    ($op:expr, $sized:ident, $size:expr, $handler:ident $(, $more:ty)*) => {
        match $crate::execute::operand::Addressing::of($op) {
            $crate::execute::operand::Addressing::Base => {
                $sized!(
                    $size, $handler $(, $more)*, $crate::execute::operand::Base, $crate::execute::dispatch::Fast
                )
            }
            $crate::execute::operand::Addressing::Indexed => {
                $sized!(
                    $size, $handler $(, $more)*, $crate::execute::operand::Indexed, $crate::execute::dispatch::Fast
                )
            }
            $crate::execute::operand::Addressing::StackBase => {
                $sized!(
                    $size, $handler $(, $more)*, $crate::execute::operand::StackBase, $crate::execute::dispatch::Fast
                )
            }
            $crate::execute::operand::Addressing::Any => {
                $sized!(
                    $size, $handler $(, $more)*, $crate::execute::operand::Any, $crate::execute::dispatch::Fast
                )
            }
        }
    };
}
pub(super) use {addressed, sized, wide_sized};
