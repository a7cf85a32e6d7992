//! Jcc, JMP, CALL and RET near, JCXZ, LOOP.
//!
//! In 64-bit code, which is linked, `disp` holds the distance of a direct target from the block's start and
//! `imm` the links of [`super::chain`]; elsewhere `imm` holds the distance.

use iced_x86::{Code, Mnemonic, OpKind};

use super::chain::{self, Side, follow};
use super::conditional::{condition_code, holds};
use super::decode::{Form, Mode, Place, Shape, blank};
use super::dispatch::{self, Fast, Outcome, Path, Slow, attempt, fetch, slowly};
use super::operand::{Address, Any, addressed, wide_sized};
use super::stack::{Flat, Segmented, Stack};
use crate::fault::Fault;
use crate::memory::Word;
use crate::op::{Flow, Handler, Op};
use crate::registers::gpr;
use crate::vcpu::Vcpu;

/// The operand size of a branch: where RIP is cut.
trait Width: Word {
    /// `rip` as it is loaded.
    #[inline(always)]
    fn cut(rip: u64) -> u64 {
        Self::from_u64(rip).to_u64()
    }
}

impl Width for u16 {}
impl Width for u32 {}
impl Width for u64 {}

#[inline(always)]
fn target(cpu: &Vcpu, op: &Op) -> u64 {
    cpu.regs[gpr::BLOCK_RIP].wrapping_add(op.imm)
}

/// Checks an absolute target before anything is changed.
#[inline(always)]
fn check<W: Width>(cpu: &mut Vcpu, rip: u64) -> Result<(), Fault> {
    let good = if W::SIZE == 8 {
        cpu.canonical(rip)
    } else {
        rip <= u64::from(cpu.segments[crate::registers::Seg::Cs as usize].limit) || cpu.code_64()
    };
    if good { Ok(()) } else { Err(cpu.general_protection()) }
}

#[inline(always)]
fn conditional<W: Width>(cpu: &mut Vcpu, op: &Op, taken: bool) -> Outcome {
    let next = op.next_rip(cpu);
    cpu.rip = if W::SIZE == 8 {
        // Both are known: a choice without a branch.
        if taken { target(cpu, op) } else { next }
    } else if taken {
        let rip = W::cut(target(cpu, op));
        attempt!(cpu, op, check::<W>(cpu, rip));
        rip
    } else {
        next & 0xffff_ffff
    };
    Ok(Flow::Jump)
}

/// The target of a linked jump.
#[inline(always)]
fn near_target(cpu: &Vcpu, op: &Op) -> u64 {
    cpu.regs[gpr::BLOCK_RIP].wrapping_add(op.disp as i64 as u64)
}

fn linked_jcc<const CC: u8>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let flags = cpu.status;
    jump_if::<CC>(cpu, op, flags)
}

/// The linked jump `op` by `flags`.
#[inline(always)]
pub fn jump_if<const CC: u8>(cpu: &mut Vcpu, op: &Op, flags: u32) -> Outcome {
    if holds::<CC>(flags) {
        cpu.rip = near_target(cpu, op);
        follow(cpu, op, Side::Taken)
    } else {
        cpu.rip = op.next_rip(cpu);
        follow(cpu, op, Side::Next)
    }
}

fn linked_jump(cpu: &mut Vcpu, op: &Op) -> Outcome {
    cpu.rip = near_target(cpu, op);
    follow(cpu, op, Side::Taken)
}

fn linked_end(cpu: &mut Vcpu, op: &Op) -> Outcome {
    cpu.rip = op.next_rip(cpu);
    follow(cpu, op, Side::Next)
}

/// The condition of a jump that [`jump_if`] knows.
pub fn linked_condition(form: &Form) -> Option<u8> {
    let Place { mode: Mode::Bits64, linked: true, .. } = form.place else { return None };
    let jump = form.instruction.is_jcc_short_or_near()
        && i32::try_from(form.instruction.near_branch_target() as i64).is_ok();
    jump.then(|| condition_code(form.instruction.condition_code())).flatten()
}

/// The op that ends a block which does not end in a jump, `length` bytes from its start.
pub fn end(place: Place, length: u16) -> Op {
    let op = Op { handler: dispatch::end, next: length, ..blank() };
    if place.linked && place.mode == Mode::Bits64 {
        let imm = chain::links(false, place.offset + length < 0x1000);
        return Op { handler: linked_end, imm, ..op };
    }
    op
}

/// Makes the op of a direct jump a linked one. False if the target is out of reach of `disp`.
fn prepare_links(form: &Form, op: &mut Op) -> bool {
    let Place { mode: Mode::Bits64, linked: true, offset } = form.place else { return false };
    let Ok(distance) = i32::try_from(op.imm as i64) else { return false };
    let in_page = |distance: i64| (0..0x1000).contains(&(i64::from(offset) + distance));
    op.imm = chain::links(in_page(i64::from(distance)), in_page(i64::from(op.next)));
    op.disp = distance;
    true
}

fn jcc<W: Width, const CC: u8>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let taken = holds::<CC>(cpu.status);
    conditional::<W>(cpu, op, taken)
}

/// JCXZ, JECXZ, JRCXZ: `rm` holds the address size in bytes.
fn jcxz<W: Width>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let taken = counter(cpu, op.rm) == 0;
    conditional::<W>(cpu, op, taken)
}

/// The counter register of an address size in bytes.
pub fn counter(cpu: &Vcpu, size: u8) -> u64 {
    match size {
        2 => cpu.regs[gpr::RCX] & 0xffff,
        4 => cpu.regs[gpr::RCX] & 0xffff_ffff,
        _ => cpu.regs[gpr::RCX],
    }
}

/// LOOP, LOOPE, LOOPNE: `rm` holds the address size in bytes, `reg` what ZF must be (2: anything).
fn loops<W: Width>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let before = cpu.regs[gpr::RCX];
    let count = counter(cpu, op.rm).wrapping_sub(1);
    cpu.regs[gpr::RCX] = match op.rm {
        2 => before & !0xffff | count & 0xffff,
        4 => count & 0xffff_ffff,
        _ => count,
    };
    let zero = u8::from(holds::<4>(cpu.status));
    let taken = counter(cpu, op.rm) != 0 && (op.reg == 2 || op.reg == zero);
    let outcome = conditional::<W>(cpu, op, taken);
    if outcome.is_err() {
        cpu.regs[gpr::RCX] = before;
    }
    outcome
}

fn jump<W: Width>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let rip = W::cut(target(cpu, op));
    if W::SIZE != 8 {
        attempt!(cpu, op, check::<W>(cpu, rip));
    }
    cpu.rip = rip;
    Ok(Flow::Jump)
}

/// Goes to an address that has come from a register or from memory. In 64-bit code a known block is at a
/// canonical address; anything else is checked before `$then` changes what else changes.
macro_rules! arrive {
    ($cpu:ident, $op:ident, $width:ident, $rip:ident, $then:block) => {{
        if $width::SIZE == 8
            && let Some(head) = chain::known($cpu, $rip)
        {
            $then
            $cpu.rip = $rip;
            return chain::enter($cpu, head);
        }
        attempt!($cpu, $op, check::<$width>($cpu, $rip));
        $then
        $cpu.rip = $rip;
        Ok(Flow::Jump)
    }};
}

fn jump_reg<W: Width>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let rip = W::cut(cpu.regs[usize::from(op.reg)]);
    arrive!(cpu, op, W, rip, {})
}

fn jump_mem<W: Width, A: Address, P: Path>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let rip = fetch!(cpu, op, P, W, A::seg(op), A::offset(cpu, op), jump_mem::<W, Any, Slow>).to_u64();
    arrive!(cpu, op, W, rip, {})
}

/// Pushes the address of the next instruction and goes to `rip`. A store that hits decoded code needs no
/// care: the target finds out by itself whether it is still valid.
#[inline(always)]
fn call_to<W: Width, S: Stack, P: Path>(cpu: &mut Vcpu, op: &Op, rip: u64, slow: Handler) -> Outcome {
    let back = W::from_u64(op.next_rip(cpu));
    if P::SLOW {
        attempt!(cpu, op, check::<W>(cpu, rip));
        attempt!(cpu, op, S::push(cpu, back));
        cpu.rip = rip;
        return Ok(Flow::Jump);
    }
    // The check of an unknown target must come before the store.
    let Some(head) = (if W::SIZE == 8 { chain::known(cpu, rip) } else { None }) else {
        return slowly(cpu, op, slow);
    };
    let pointer = S::below(cpu, W::SIZE);
    let Some(code) = cpu.try_write(S::SEG, pointer, back) else { return slowly(cpu, op, slow) };
    S::set(cpu, pointer);
    cpu.rip = rip;
    if code {
        return pushed_onto_code(cpu);
    }
    chain::enter(cpu, head)
}

#[cold]
#[inline(never)]
fn pushed_onto_code(cpu: &mut Vcpu) -> Outcome {
    cpu.host_written();
    Ok(Flow::Jump)
}

fn call<W: Width, S: Stack, P: Path>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let rip = W::cut(target(cpu, op));
    call_to::<W, S, P>(cpu, op, rip, call::<W, S, Slow>)
}

fn call_reg<W: Width, S: Stack, P: Path>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let rip = W::cut(cpu.regs[usize::from(op.reg)]);
    call_to::<W, S, P>(cpu, op, rip, call_reg::<W, S, Slow>)
}

fn call_mem<W: Width, S: Stack, A: Address, P: Path>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let slow = call_mem::<W, S, Any, Slow>;
    let rip = fetch!(cpu, op, P, W, A::seg(op), A::offset(cpu, op), slow).to_u64();
    call_to::<W, S, P>(cpu, op, rip, slow)
}

/// RET; `imm` is what is released behind the return address.
fn ret<W: Width, S: Stack, P: Path>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let top = cpu.regs[gpr::RSP] & S::mask(cpu);
    let rip = fetch!(cpu, op, P, W, S::SEG, top, ret::<W, S, Slow>).to_u64();
    arrive!(cpu, op, W, rip, {
        S::release(cpu, W::SIZE as u64 + (op.imm & 0xffff));
    })
}

macro_rules! jcc_table {
    ($width:ty, $cc:expr, $($n:literal)*) => {
        match $cc {
            $($n => jcc::<$width, $n> as Handler,)*
            _ => return None,
        }
    };
}

fn select_jcc(form: &Form, op: &mut Op, cc: u8) -> Option<Handler> {
    if prepare_links(form, op) {
        macro_rules! table {
            ($($n:literal)*) => {
                match cc {
                    $($n => linked_jcc::<$n> as Handler,)*
                    _ => return None,
                }
            };
        }
        return Some(table!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15));
    }
    Some(match branch_width(form) {
        2 => jcc_table!(u16, cc, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
        4 => jcc_table!(u32, cc, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
        _ => jcc_table!(u64, cc, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
    })
}

/// The operand size of a direct branch in bytes.
fn branch_width(form: &Form) -> usize {
    match form.instruction.op0_kind() {
        OpKind::NearBranch16 => 2,
        OpKind::NearBranch32 => 4,
        _ => 8,
    }
}

/// The address size in bytes of JCXZ and LOOP.
fn counter_size(code: Code) -> u8 {
    match code {
        Code::Jcxz_rel8_16
        | Code::Jcxz_rel8_32
        | Code::Loop_rel8_16_CX
        | Code::Loop_rel8_32_CX
        | Code::Loope_rel8_16_CX
        | Code::Loope_rel8_32_CX
        | Code::Loopne_rel8_16_CX
        | Code::Loopne_rel8_32_CX => 2,
        Code::Jrcxz_rel8_16
        | Code::Jrcxz_rel8_64
        | Code::Loop_rel8_16_RCX
        | Code::Loop_rel8_64_RCX
        | Code::Loope_rel8_16_RCX
        | Code::Loope_rel8_64_RCX
        | Code::Loopne_rel8_16_RCX
        | Code::Loopne_rel8_64_RCX => 8,
        _ => 4,
    }
}

/// Only a near branch has an operand that is one register or one offset.
fn is_near_indirect(code: Code) -> bool {
    matches!(
        code,
        Code::Jmp_rm16
            | Code::Jmp_rm32
            | Code::Jmp_rm64
            | Code::Call_rm16
            | Code::Call_rm32
            | Code::Call_rm64
    )
}

/// The handler of an instruction of this module.
pub fn select(form: &Form, op: &mut Op) -> Option<Handler> {
    let code = form.instruction.code();
    let long = form.mode == Mode::Bits64;
    let size = form.size;
    Some(match form.mnemonic {
        Mnemonic::Jmp if form.instruction.is_jmp_short_or_near() && prepare_links(form, op) => linked_jump,
        Mnemonic::Jmp if form.instruction.is_jmp_short_or_near() => {
            wide_sized!(branch_width(form), jump)
        }
        Mnemonic::Call if form.instruction.is_call_near() && long => {
            wide_sized!(branch_width(form), call, Flat, Fast)
        }
        Mnemonic::Call if form.instruction.is_call_near() => {
            wide_sized!(branch_width(form), call, Segmented, Fast)
        }
        Mnemonic::Jmp if is_near_indirect(code) => match form.shape {
            Shape::Reg => wide_sized!(size, jump_reg),
            _ => addressed!(op, wide_sized, size, jump_mem),
        },
        Mnemonic::Call if is_near_indirect(code) => match (form.shape, long) {
            (Shape::Reg, true) => wide_sized!(size, call_reg, Flat, Fast),
            (Shape::Reg, false) => wide_sized!(size, call_reg, Segmented, Fast),
            (_, true) => addressed!(op, wide_sized, size, call_mem, Flat),
            (_, false) => addressed!(op, wide_sized, size, call_mem, Segmented),
        },
        Mnemonic::Ret => {
            let width = match code {
                Code::Retnw | Code::Retnw_imm16 => 2,
                Code::Retnd | Code::Retnd_imm16 => 4,
                _ => 8,
            };
            if long { wide_sized!(width, ret, Flat, Fast) } else { wide_sized!(width, ret, Segmented, Fast) }
        }
        Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Jrcxz => {
            op.rm = counter_size(code);
            wide_sized!(branch_width(form), jcxz)
        }
        Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne => {
            op.rm = counter_size(code);
            op.reg = match form.mnemonic {
                Mnemonic::Loope => 1,
                Mnemonic::Loopne => 0,
                _ => 2,
            };
            wide_sized!(branch_width(form), loops)
        }
        _ if form.instruction.is_jcc_short_or_near() => {
            return select_jcc(form, op, condition_code(form.instruction.condition_code())?);
        }
        _ => return None,
    })
}
