//! MOV, MOVZX, MOVSX, MOVSXD, MOVBE, LEA, XLAT. Segment, control and debug registers are elsewhere.

use iced_x86::{Mnemonic, Register};

use super::arithmetic::{Int, WideInt};
use super::decode::{Form, Shape};
use super::dispatch::{Outcome, Path, Slow, attempt, fetch, next, put, stored};
use super::operand::{Address, Any, addressed, sized, wide_sized};
use crate::op::{Handler, Op};
use crate::registers::gpr;
use crate::vcpu::Vcpu;

fn reg_reg<T: Int>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let value = T::get(cpu, op.rm);
    T::set(cpu, op.reg, value);
    next(cpu, op)
}

fn reg_imm<T: Int>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    T::set(cpu, op.reg, T::from_u64(op.imm));
    next(cpu, op)
}

fn load<T: Int, A: Address, P: Path>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let value = fetch!(cpu, op, P, T, A::seg(op), A::offset(cpu, op), load::<T, Any, Slow>);
    T::set(cpu, op.reg, value);
    next(cpu, op)
}

fn store<T: Int, A: Address, P: Path>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let value = T::get(cpu, op.reg);
    put!(cpu, op, P, A::seg(op), A::offset(cpu, op), value, store::<T, Any, Slow>, {})
}

fn store_imm<T: Int, A: Address, P: Path>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let value = T::from_u64(op.imm);
    put!(cpu, op, P, A::seg(op), A::offset(cpu, op), value, store_imm::<T, Any, Slow>, {})
}

/// From an address of 64 bits in the instruction.
fn load_far<T: Int>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let value = attempt!(cpu, op, cpu.read::<T>(op.seg, op.imm));
    T::set(cpu, op.reg, value);
    next(cpu, op)
}

fn store_far<T: Int>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let value = T::get(cpu, op.reg);
    attempt!(cpu, op, cpu.write::<T>(op.seg, op.imm, value));
    stored(cpu, op)
}

fn zero_extend_reg<T: WideInt, S: Int>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let value = S::get(cpu, op.rm).to_u64();
    T::set(cpu, op.reg, T::from_u64(value));
    next(cpu, op)
}

fn zero_extend_mem<T: WideInt, S: Int, A: Address, P: Path>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let slow = zero_extend_mem::<T, S, Any, Slow>;
    let value = fetch!(cpu, op, P, S, A::seg(op), A::offset(cpu, op), slow);
    T::set(cpu, op.reg, T::from_u64(value.to_u64()));
    next(cpu, op)
}

fn sign_extend_reg<T: WideInt, S: Int>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let value = S::get(cpu, op.rm).sign_extend();
    T::set(cpu, op.reg, T::from_u64(value));
    next(cpu, op)
}

fn sign_extend_mem<T: WideInt, S: Int, A: Address, P: Path>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let slow = sign_extend_mem::<T, S, Any, Slow>;
    let value = fetch!(cpu, op, P, S, A::seg(op), A::offset(cpu, op), slow);
    T::set(cpu, op.reg, T::from_u64(value.sign_extend()));
    next(cpu, op)
}

fn lea<T: WideInt, A: Address, P: Path>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let offset = A::offset(cpu, op);
    T::set(cpu, op.reg, T::from_u64(offset));
    next(cpu, op)
}

fn load_swapped<T: WideInt>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let value = attempt!(cpu, op, cpu.read::<T>(op.seg, op.offset(cpu)));
    T::set(cpu, op.reg, value.swap_bytes());
    next(cpu, op)
}

fn store_swapped<T: WideInt>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let value = T::get(cpu, op.reg).swap_bytes();
    attempt!(cpu, op, cpu.write::<T>(op.seg, op.offset(cpu), value));
    stored(cpu, op)
}

/// XLAT: `base` is rBX, the index AL.
fn xlat(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let offset = op.offset(cpu).wrapping_add(cpu.regs[gpr::RAX] & 0xff);
    let offset = match op.scale >> 2 {
        0 => offset,
        1 => offset & 0xffff_ffff,
        _ => offset & 0xffff,
    };
    let value = attempt!(cpu, op, cpu.read::<u8>(op.seg, offset));
    u8::set(cpu, gpr::RAX as u8, value);
    next(cpu, op)
}

fn mov(form: &Form, op: &mut Op) -> Option<Handler> {
    let size = form.size;
    let far = form.instruction.memory_displ_size() == 8
        && i64::from(op.disp) != form.instruction.memory_displacement64() as i64
        && form.instruction.memory_base() == Register::None;
    if far && matches!(form.shape, Shape::RegMem | Shape::MemReg) {
        op.imm = form.instruction.memory_displacement64();
        return Some(match form.shape {
            Shape::RegMem => sized!(size, load_far),
            _ => sized!(size, store_far),
        });
    }
    Some(match form.shape {
        Shape::RegReg => sized!(size, reg_reg),
        Shape::RegImm => sized!(size, reg_imm),
        Shape::RegMem => addressed!(op, sized, size, load),
        Shape::MemReg => addressed!(op, sized, size, store),
        Shape::MemImm => addressed!(op, sized, size, store_imm),
        _ => return None,
    })
}

/// The handler of an instruction of this module.
pub fn select(form: &Form, op: &mut Op) -> Option<Handler> {
    let size = form.size;
    Some(match (form.mnemonic, form.shape) {
        (Mnemonic::Mov, _) => return mov(form, op),
        (Mnemonic::Movzx, Shape::RegReg) if form.source_size == 1 => wide_sized!(size, zero_extend_reg, u8),
        (Mnemonic::Movzx, Shape::RegReg) => wide_sized!(size, zero_extend_reg, u16),
        (Mnemonic::Movzx, Shape::RegMem) if form.source_size == 1 => {
            addressed!(op, wide_sized, size, zero_extend_mem, u8)
        }
        (Mnemonic::Movzx, Shape::RegMem) => addressed!(op, wide_sized, size, zero_extend_mem, u16),
        (Mnemonic::Movsx | Mnemonic::Movsxd, Shape::RegReg) => match form.source_size {
            1 => wide_sized!(size, sign_extend_reg, u8),
            2 => wide_sized!(size, sign_extend_reg, u16),
            _ => wide_sized!(size, sign_extend_reg, u32),
        },
        (Mnemonic::Movsx | Mnemonic::Movsxd, Shape::RegMem) => match form.source_size {
            1 => addressed!(op, wide_sized, size, sign_extend_mem, u8),
            2 => addressed!(op, wide_sized, size, sign_extend_mem, u16),
            _ => addressed!(op, wide_sized, size, sign_extend_mem, u32),
        },
        (Mnemonic::Lea, Shape::RegMem) => {
            // Segments play no part.
            op.seg = crate::registers::Seg::Flat;
            addressed!(op, wide_sized, size, lea)
        }
        (Mnemonic::Movbe, Shape::RegMem) if form.host.movbe => wide_sized!(size, load_swapped),
        (Mnemonic::Movbe, Shape::MemReg) if form.host.movbe => wide_sized!(size, store_swapped),
        (Mnemonic::Xlatb, _) => xlat,
        _ => return None,
    })
}
