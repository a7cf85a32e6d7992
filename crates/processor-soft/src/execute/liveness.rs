//! Which instructions need not compute their flags: those whose flags are all computed again before
//! anything can see them. A fault, a store that ends the block and the end of the block see all flags.

use iced_x86::Mnemonic;

use super::arithmetic::status;
use super::decode::{BLOCK_LIMIT, Form, Shape};
use super::{alu, multiply, shift};
use crate::op::{Handler, Op};

/// What an instruction does to the flags.
#[derive(Clone, Copy)]
struct Effect {
    /// Its op, counted from the block's first one.
    op: usize,
    reads: u32,
    writes: u32,
    /// Whether the block may be left at this instruction.
    leaves: bool,
    /// A handler that leaves the flags alone.
    quiet: Option<Handler>,
}

/// The effects of a block's instructions.
pub struct Effects {
    effects: [Effect; BLOCK_LIMIT as usize],
    count: usize,
}

impl Effects {
    pub fn new() -> Self {
        let none = Effect { op: 0, reads: 0, writes: 0, leaves: true, quiet: None };
        Self { effects: [none; BLOCK_LIMIT as usize], count: 0 }
    }

    /// Notes the instruction of `form`, whose op has the number `number`.
    pub fn note(&mut self, form: &Form, op: &Op, number: usize) {
        let Some(effect) = self.effects.get_mut(self.count) else { return };
        self.count += 1;
        let in_registers = matches!(
            form.shape,
            Shape::Reg | Shape::RegReg | Shape::RegImm | Shape::RegRegReg | Shape::RegRegImm | Shape::None
        );
        let (reads, writes) = flags(form, op);
        *effect = Effect {
            op: number,
            reads,
            writes,
            leaves: !(in_registers && is_plain(form.mnemonic)) && form.mnemonic != Mnemonic::Lea,
            quiet: quiet(form, op).filter(|_| writes == status::ALL),
        };
    }

    /// Makes instructions quiet whose flags nobody sees. `ops` are those of the block.
    pub fn silence(&self, ops: &mut [Op]) {
        let mut live = status::ALL;
        for effect in self.effects[..self.count].iter().rev() {
            match (effect.quiet, ops.get_mut(effect.op)) {
                (Some(handler), Some(op)) if effect.writes & live == 0 => op.handler = handler,
                _ => live = live & !effect.writes | effect.reads,
            }
            if effect.leaves {
                live = status::ALL;
            }
        }
    }
}

/// Instructions that, on registers, do nothing but compute.
fn is_plain(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Mov
            | M::Movzx
            | M::Movsx
            | M::Movsxd
            | M::Add
            | M::Or
            | M::Adc
            | M::Sbb
            | M::And
            | M::Sub
            | M::Xor
            | M::Cmp
            | M::Test
            | M::Inc
            | M::Dec
            | M::Neg
            | M::Not
            | M::Shl
            | M::Sal
            | M::Shr
            | M::Sar
            | M::Rol
            | M::Ror
            | M::Rorx
            | M::Shlx
            | M::Shrx
            | M::Sarx
            | M::Imul
            | M::Mulx
            | M::Bswap
            | M::Cdq
            | M::Cdqe
            | M::Cqo
            | M::Cwde
            | M::Nop
            | M::Andn
            | M::Bt
            | M::Xchg
    )
}

/// The flags that an instruction reads, and those that it writes whatever its operands are. What is not
/// known to be read or not is read.
fn flags(form: &Form, op: &Op) -> (u32, u32) {
    use Mnemonic as M;
    let all = status::ALL;
    match form.mnemonic {
        M::Add | M::Or | M::And | M::Sub | M::Xor | M::Cmp | M::Test | M::Neg | M::Andn => (0, all),
        M::Adc | M::Sbb => (status::CF, all),
        M::Inc | M::Dec => (0, all & !status::CF),
        M::Imul
            if matches!(form.shape, Shape::RegReg | Shape::RegMem | Shape::RegRegImm | Shape::RegMemImm) =>
        {
            (0, all)
        }
        M::Shl | M::Sal | M::Shr | M::Sar if form.shape == Shape::RegImm => {
            let count = op.imm & if form.size == 8 { 63 } else { 31 };
            (0, if count == 0 { 0 } else { all })
        }
        // They keep what they do not write.
        M::Rol | M::Ror | M::Bt | M::Shl | M::Sal | M::Shr | M::Sar => (0, 0),
        M::Mov
        | M::Movzx
        | M::Movsx
        | M::Movsxd
        | M::Lea
        | M::Not
        | M::Rorx
        | M::Shlx
        | M::Shrx
        | M::Sarx
        | M::Mulx
        | M::Bswap
        | M::Cdq
        | M::Cdqe
        | M::Cqo
        | M::Cwde
        | M::Nop
        | M::Xchg => (0, 0),
        _ => (all, 0),
    }
}

fn quiet(form: &Form, op: &Op) -> Option<Handler> {
    alu::select_quiet(form, op).or_else(|| shift::select_quiet(form)).or_else(|| multiply::select_quiet(form))
}
