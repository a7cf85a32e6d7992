//! SETcc and CMOVcc, and what their conditions mean.

use iced_x86::ConditionCode;

use super::arithmetic::{Int, WideInt, status};
use super::decode::{Form, Shape};
use super::dispatch::{Fast, Outcome, Path, Slow, attempt, fetch, next, stored};
use crate::op::{Handler, Op};
use crate::vcpu::Vcpu;

/// Whether condition `CC` (as encoded in opcodes, SDM volume 1, appendix B) holds.
#[inline(always)]
pub fn holds<const CC: u8>(flags: u32) -> bool {
    let less = (flags >> 15 ^ flags) & 1 != 0;
    let positive = match CC >> 1 {
        0 => flags & status::OF != 0,
        1 => flags & status::CF != 0,
        2 => flags & status::ZF != 0,
        3 => flags & (status::CF | status::ZF) != 0,
        4 => flags & status::SF != 0,
        5 => flags & status::PF != 0,
        6 => less,
        _ => less || flags & status::ZF != 0,
    };
    positive != (CC & 1 != 0)
}

/// The encoding of a condition.
pub fn condition_code(code: ConditionCode) -> Option<u8> {
    Some(match code {
        ConditionCode::o => 0,
        ConditionCode::no => 1,
        ConditionCode::b => 2,
        ConditionCode::ae => 3,
        ConditionCode::e => 4,
        ConditionCode::ne => 5,
        ConditionCode::be => 6,
        ConditionCode::a => 7,
        ConditionCode::s => 8,
        ConditionCode::ns => 9,
        ConditionCode::p => 10,
        ConditionCode::np => 11,
        ConditionCode::l => 12,
        ConditionCode::ge => 13,
        ConditionCode::le => 14,
        ConditionCode::g => 15,
        ConditionCode::None => return None,
    })
}

fn set_reg<const CC: u8>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let value = u8::from(holds::<CC>(cpu.status));
    u8::set(cpu, op.reg, value);
    next(cpu, op)
}

fn set_mem<const CC: u8>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let value = u8::from(holds::<CC>(cpu.status));
    attempt!(cpu, op, cpu.write(op.seg, op.offset(cpu), value));
    stored(cpu, op)
}

/// A 32-bit move clears the upper half even if the condition does not hold.
fn move_reg<T: WideInt, const CC: u8>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (old, new) = (T::get(cpu, op.reg), T::get(cpu, op.rm));
    let value = std::hint::select_unpredictable(holds::<CC>(cpu.status), new, old);
    T::set(cpu, op.reg, value);
    next(cpu, op)
}

/// The operand is read in any case.
fn move_mem<T: WideInt, P: Path, const CC: u8>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let new = fetch!(cpu, op, P, T, op.seg, op.offset(cpu), move_mem::<T, Slow, CC>);
    let old = T::get(cpu, op.reg);
    T::set(cpu, op.reg, if holds::<CC>(cpu.status) { new } else { old });
    next(cpu, op)
}

macro_rules! by_condition {
    ($cc:expr, $($n:literal)*) => {
        match $cc {
            $($n => [
                set_reg::<$n> as Handler,
                set_mem::<$n>,
                move_reg::<u16, $n>,
                move_reg::<u32, $n>,
                move_reg::<u64, $n>,
                move_mem::<u16, Fast, $n>,
                move_mem::<u32, Fast, $n>,
                move_mem::<u64, Fast, $n>,
            ],)*
            _ => return None,
        }
    };
}

/// The handler of an instruction of this module.
pub fn select(form: &Form, _op: &mut Op) -> Option<Handler> {
    use iced_x86::Mnemonic as M;
    let moves = match form.mnemonic {
        M::Seto
        | M::Setno
        | M::Setb
        | M::Setae
        | M::Sete
        | M::Setne
        | M::Setbe
        | M::Seta
        | M::Sets
        | M::Setns
        | M::Setp
        | M::Setnp
        | M::Setl
        | M::Setge
        | M::Setle
        | M::Setg => false,
        M::Cmovo
        | M::Cmovno
        | M::Cmovb
        | M::Cmovae
        | M::Cmove
        | M::Cmovne
        | M::Cmovbe
        | M::Cmova
        | M::Cmovs
        | M::Cmovns
        | M::Cmovp
        | M::Cmovnp
        | M::Cmovl
        | M::Cmovge
        | M::Cmovle
        | M::Cmovg => true,
        _ => return None,
    };
    let cc = condition_code(form.instruction.condition_code())?;
    let [set_reg, set_mem, reg_16, reg_32, reg_64, mem_16, mem_32, mem_64] =
        by_condition!(cc, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    Some(match (moves, form.shape, form.size) {
        (false, Shape::Reg, _) => set_reg,
        (false, Shape::Mem, _) => set_mem,
        (true, Shape::RegReg, 2) => reg_16,
        (true, Shape::RegReg, 4) => reg_32,
        (true, Shape::RegReg, _) => reg_64,
        (true, Shape::RegMem, 2) => mem_16,
        (true, Shape::RegMem, 4) => mem_32,
        (true, Shape::RegMem, _) => mem_64,
        _ => return None,
    })
}
