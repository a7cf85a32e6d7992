//! 32-bit code: what of it means something else in the 64-bit code that it becomes, and its transfers.
//!
//! Addresses are computed by LEA of 32 bits, which wraps as they do and ignores what may be in the upper halves
//! of registers. Blocks keep RIP below 4 GiB in the same way.

use iced_x86::{Code, Instruction, OpKind, Register};

use super::classify::{Kind, memory_operand};

/// Gives an instruction that has been decoded as 32-bit code a form that 64-bit code has, too, if there is
/// one, and its displacement a sign.
pub fn convert(instruction: &mut Instruction) {
    let code = match instruction.code() {
        Code::Inc_r32 => Code::Inc_rm32,
        Code::Dec_r32 => Code::Dec_rm32,
        Code::Inc_r16 => Code::Inc_rm16,
        Code::Dec_r16 => Code::Dec_rm16,
        Code::Mov_AL_moffs8 => Code::Mov_r8_rm8,
        Code::Mov_AX_moffs16 => Code::Mov_r16_rm16,
        Code::Mov_EAX_moffs32 => Code::Mov_r32_rm32,
        Code::Mov_moffs8_AL => Code::Mov_rm8_r8,
        Code::Mov_moffs16_AX => Code::Mov_rm16_r16,
        Code::Mov_moffs32_EAX => Code::Mov_rm32_r32,
        code => code,
    };
    instruction.set_code(code);
    let displacement = instruction.memory_displacement64() as u32 as i32;
    if memory_operand(instruction).is_some() && instruction.memory_displ_size() != 2 {
        instruction.set_memory_displacement64(i64::from(displacement) as u64);
    }
}

/// Whether the address of the memory operand can be computed by one LEA of 32 bits.
pub fn address_fits(instruction: &Instruction) -> bool {
    let fits = |register: Register| register == Register::None || register.is_gpr32();
    fits(instruction.memory_base())
        && fits(instruction.memory_index())
        && instruction.memory_displ_size() != 2
}

/// Jumps, calls, returns and what uses the stack. `fits` tells whether the operands can be replaced.
pub fn transfer(instruction: &Instruction, fits: impl Fn() -> bool) -> Option<Kind> {
    let near = instruction.op0_kind() == OpKind::NearBranch32;
    // It wraps at 4 GiB, as the address of the page does to which it is added.
    let target = instruction.near_branch32() as i32;
    Some(match instruction.code() {
        Code::Jmp_rel8_32 | Code::Jmp_rel32_32 if near => Kind::Jump(target),
        Code::Call_rel32_32 if near => Kind::Call(target),
        Code::Jmp_rm32 if fits() => Kind::JumpIndirect,
        Code::Call_rm32 if fits() => Kind::CallIndirect,
        Code::Retnd => Kind::Return(0),
        Code::Retnd_imm16 => Kind::Return(instruction.immediate16()),
        Code::Push_r32 | Code::Push_rm32 | Code::Pushd_imm8 | Code::Pushd_imm32 if fits() => Kind::Push,
        Code::Pop_r32 | Code::Pop_rm32 if instruction.op0_kind() == OpKind::Register => Kind::Pop,
        Code::Leaved => Kind::Leave,
        Code::Lea_r32_m if address_fits(instruction) => Kind::Lea,
        _ => return None,
    })
}
