//! PUSH, POP, PUSHA, POPA, PUSHF, POPF, ENTER, LEAVE. Segment registers are elsewhere.

use iced_x86::{Code, Mnemonic};

use super::arithmetic::Int;
use super::decode::{Form, Mode, Shape};
use super::dispatch::{Fast, Outcome, Path, Slow, attempt, fetch, leave, next, put, stored};
use super::operand::{Address, Any, addressed, wide_sized};
use crate::fault::Fault;
use crate::memory::{Access, Word};
use crate::op::{Handler, Op};
use crate::registers::{Seg, cr4, flag, gpr};
use crate::vcpu::Vcpu;

/// How the stack is addressed.
pub trait Stack {
    const SEG: Seg;
    /// The mask of the stack pointer.
    fn mask(cpu: &Vcpu) -> u64;

    /// Pushes a value; nothing has changed after a fault.
    #[inline(always)]
    fn push<T: Word>(cpu: &mut Vcpu, value: T) -> Result<(), Fault> {
        let mask = Self::mask(cpu);
        let pointer = cpu.regs[gpr::RSP].wrapping_sub(T::SIZE as u64) & mask;
        cpu.write(Self::SEG, pointer, value)?;
        Self::set(cpu, pointer);
        Ok(())
    }

    /// Where the next value of `size` bytes is pushed.
    #[inline(always)]
    fn below(cpu: &Vcpu, size: usize) -> u64 {
        cpu.regs[gpr::RSP].wrapping_sub(size as u64) & Self::mask(cpu)
    }

    /// Reads the stack, `above` bytes above its top.
    #[inline(always)]
    fn peek<T: Word>(cpu: &mut Vcpu, above: u64) -> Result<T, Fault> {
        let pointer = cpu.regs[gpr::RSP].wrapping_add(above) & Self::mask(cpu);
        cpu.read(Self::SEG, pointer)
    }

    /// Moves the stack pointer up.
    #[inline(always)]
    fn release(cpu: &mut Vcpu, bytes: u64) {
        let pointer = cpu.regs[gpr::RSP].wrapping_add(bytes) & Self::mask(cpu);
        Self::set(cpu, pointer);
    }

    /// Sets the stack pointer, as far as it is in use.
    #[inline(always)]
    fn set(cpu: &mut Vcpu, pointer: u64) {
        let mask = Self::mask(cpu);
        cpu.regs[gpr::RSP] = cpu.regs[gpr::RSP] & !mask | pointer & mask;
    }
}

/// 64-bit code.
pub struct Flat;

impl Stack for Flat {
    const SEG: Seg = Seg::FlatStack;

    #[inline(always)]
    fn mask(_: &Vcpu) -> u64 {
        u64::MAX
    }
}

/// All other code.
pub struct Segmented;

impl Stack for Segmented {
    const SEG: Seg = Seg::Ss;

    #[inline(always)]
    fn mask(cpu: &Vcpu) -> u64 {
        cpu.stack_mask()
    }
}

fn push_reg<T: Int, S: Stack, P: Path>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (value, pointer) = (T::get(cpu, op.reg), S::below(cpu, T::SIZE));
    put!(cpu, op, P, S::SEG, pointer, value, push_reg::<T, S, Slow>, {
        S::set(cpu, pointer);
    })
}

fn push_imm<T: Int, S: Stack, P: Path>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (value, pointer) = (T::from_u64(op.imm), S::below(cpu, T::SIZE));
    put!(cpu, op, P, S::SEG, pointer, value, push_imm::<T, S, Slow>, {
        S::set(cpu, pointer);
    })
}

fn push_mem<T: Int, S: Stack, A: Address, P: Path>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let value = fetch!(cpu, op, P, T, A::seg(op), A::offset(cpu, op), push_mem::<T, S, Any, Slow>);
    let pointer = S::below(cpu, T::SIZE);
    put!(cpu, op, P, S::SEG, pointer, value, push_mem::<T, S, Any, Slow>, {
        S::set(cpu, pointer);
    })
}

fn pop_reg<T: Int, S: Stack, P: Path>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let top = cpu.regs[gpr::RSP] & S::mask(cpu);
    let value = fetch!(cpu, op, P, T, S::SEG, top, pop_reg::<T, S, Slow>);
    S::release(cpu, T::SIZE as u64);
    T::set(cpu, op.reg, value);
    next(cpu, op)
}

/// The address of the operand is computed with the stack pointer after the pop.
fn pop_mem<T: Int, S: Stack>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let value = attempt!(cpu, op, S::peek::<T>(cpu, 0));
    let before = cpu.regs[gpr::RSP];
    S::release(cpu, T::SIZE as u64);
    if let Err(fault) = cpu.write::<T>(op.seg, op.offset(cpu), value) {
        cpu.regs[gpr::RSP] = before;
        return super::dispatch::faulted(cpu, op, fault);
    }
    stored(cpu, op)
}

fn push_all<T: Int>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let before = cpu.regs[gpr::RSP];
    // All of them are checked by the first and the last write: eight words cross one page at most, so
    // that a fault leaves no more than values below the stack's top.
    for register in gpr::RAX..=gpr::RDI {
        let value = if register == gpr::RSP { before } else { cpu.regs[register] };
        if let Err(fault) = Segmented::push(cpu, T::from_u64(value)) {
            cpu.regs[gpr::RSP] = before;
            return super::dispatch::faulted(cpu, op, fault);
        }
    }
    stored(cpu, op)
}

fn pop_all<T: Int>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let mut values = [T::from_u64(0); 8];
    for (index, value) in values.iter_mut().enumerate() {
        *value = attempt!(cpu, op, Segmented::peek::<T>(cpu, (index * T::SIZE) as u64));
    }
    Segmented::release(cpu, 8 * T::SIZE as u64);
    for (index, value) in values.into_iter().rev().enumerate() {
        if index != gpr::RSP {
            T::set(cpu, index as u8, value);
        }
    }
    next(cpu, op)
}

fn push_flags<T: Int, S: Stack>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let mut value = cpu.rflags() & !(flag::VM | flag::RF);
    if cpu.virtual_8086() && cpu.flags & flag::IOPL != flag::IOPL {
        if !cpu.cr4_has(cr4::VME) || T::SIZE != 2 {
            let fault = cpu.general_protection();
            return super::dispatch::faulted(cpu, op, fault);
        }
        let interrupts = if cpu.flags & flag::VIF != 0 { flag::IF } else { 0 };
        value = value & !flag::IF | flag::IOPL | interrupts;
    }
    attempt!(cpu, op, S::push(cpu, T::from_u64(value)));
    stored(cpu, op)
}

fn pop_flags<T: Int, S: Stack>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let value = attempt!(cpu, op, S::peek::<T>(cpu, 0)).to_u64();
    let iopl = (cpu.flags & flag::IOPL) >> 12;
    let mut mask = flag::ARITHMETIC | flag::TF | flag::DF | flag::NT | flag::AC | flag::ID;
    let mut value = value;
    if cpu.virtual_8086() && iopl < 3 {
        let wants = value & flag::IF != 0;
        let refused = !cpu.cr4_has(cr4::VME)
            || T::SIZE != 2
            || value & flag::TF != 0
            || wants && cpu.flags & flag::VIP != 0;
        if refused {
            let fault = cpu.general_protection();
            return super::dispatch::faulted(cpu, op, fault);
        }
        value = value & !flag::VIF | if wants { flag::VIF } else { 0 };
        mask = (mask & 0xffff) | flag::VIF;
    } else {
        if cpu.real_mode() || cpu.cpl == 0 && !cpu.virtual_8086() {
            mask |= flag::IOPL | flag::IF;
        } else if u64::from(cpu.cpl) <= iopl || cpu.virtual_8086() {
            mask |= flag::IF;
        }
        if T::SIZE == 2 {
            mask &= 0xffff;
        }
    }
    let before = cpu.flags;
    let all = cpu.rflags() & !mask | value & mask;
    S::release(cpu, T::SIZE as u64);
    cpu.set_rflags(all & !flag::RF);
    let changed = before ^ cpu.flags;
    if changed & flag::AC != 0 {
        cpu.access_changed();
    }
    let opened = changed & cpu.flags & flag::IF != 0;
    if opened || cpu.flags & flag::TF != 0 {
        return leave(cpu, op);
    }
    next(cpu, op)
}

/// ENTER: `imm` is the size, `reg` the nesting level.
fn enter<T: Int, S: Stack>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let level = u64::from(op.reg & 31);
    let size = T::SIZE as u64;
    let mask = S::mask(cpu);
    let (stack, frame) = (cpu.regs[gpr::RSP], cpu.regs[gpr::RBP]);
    let mut pointer = stack;
    let mut steps = || -> Result<u64, Fault> {
        pointer = pointer.wrapping_sub(size);
        cpu.write(S::SEG, pointer & mask, T::from_u64(frame))?;
        let new_frame = pointer;
        for step in 1..level {
            let display = cpu.read::<T>(S::SEG, frame.wrapping_sub(step * size) & mask)?;
            pointer = pointer.wrapping_sub(size);
            cpu.write(S::SEG, pointer & mask, display)?;
        }
        if level > 0 {
            pointer = pointer.wrapping_sub(size);
            cpu.write(S::SEG, pointer & mask, T::from_u64(new_frame))?;
        }
        pointer = pointer.wrapping_sub(op.imm & 0xffff);
        // The new top must be writable too, so that a fault comes here and not in the middle of a push.
        cpu.host_pointer(S::SEG, pointer & mask, 1, Access::Write)?;
        Ok(new_frame)
    };
    let new_frame = attempt!(cpu, op, steps());
    S::set(cpu, pointer);
    if mask == u64::MAX {
        T::set(cpu, gpr::RBP as u8, T::from_u64(new_frame));
    } else {
        // RBP takes the operand size's part of the frame, the rest of the stack pointer's width is the same.
        T::set(cpu, gpr::RBP as u8, T::from_u64(new_frame & mask));
    }
    stored(cpu, op)
}

fn leave_frame<T: Int, S: Stack>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let mask = S::mask(cpu);
    let frame = cpu.regs[gpr::RBP];
    let value = attempt!(cpu, op, cpu.read::<T>(S::SEG, frame & mask));
    S::set(cpu, frame.wrapping_add(T::SIZE as u64));
    T::set(cpu, gpr::RBP as u8, value);
    next(cpu, op)
}

/// The operand size of an instruction without explicit operand, by its code.
fn implied_size(code: Code) -> usize {
    match code {
        Code::Pushaw | Code::Popaw | Code::Pushfw | Code::Popfw | Code::Leavew | Code::Enterw_imm16_imm8 => 2,
        Code::Pushad | Code::Popad | Code::Pushfd | Code::Popfd | Code::Leaved | Code::Enterd_imm16_imm8 => 4,
        _ => 8,
    }
}

/// The operand size of PUSH imm.
fn immediate_size(code: Code) -> usize {
    match code {
        Code::Push_imm16 | Code::Pushw_imm8 => 2,
        Code::Pushd_imm32 | Code::Pushd_imm8 => 4,
        _ => 8,
    }
}

macro_rules! on_stack {
    ($long:expr, $size:expr, $handler:ident $(, $path:ty)?) => {
        if $long {
            wide_sized!($size, $handler, Flat $(, $path)?)
        } else {
            wide_sized!($size, $handler, Segmented $(, $path)?)
        }
    };
}

/// The handler of an instruction of this module.
pub fn select(form: &Form, op: &mut Op) -> Option<Handler> {
    let long = form.mode == Mode::Bits64;
    let code = form.instruction.code();
    let size = form.size;
    Some(match (form.mnemonic, form.shape) {
        (Mnemonic::Push, Shape::Reg) => on_stack!(long, size, push_reg, Fast),
        (Mnemonic::Push, Shape::Imm) => on_stack!(long, immediate_size(code), push_imm, Fast),
        (Mnemonic::Push, Shape::Mem) if long => addressed!(op, wide_sized, size, push_mem, Flat),
        (Mnemonic::Push, Shape::Mem) => addressed!(op, wide_sized, size, push_mem, Segmented),
        (Mnemonic::Pop, Shape::Reg) => on_stack!(long, size, pop_reg, Fast),
        (Mnemonic::Pop, Shape::Mem) => on_stack!(long, size, pop_mem),
        (Mnemonic::Pusha | Mnemonic::Pushad, _) => match implied_size(code) {
            2 => push_all::<u16>,
            _ => push_all::<u32>,
        },
        (Mnemonic::Popa | Mnemonic::Popad, _) => match implied_size(code) {
            2 => pop_all::<u16>,
            _ => pop_all::<u32>,
        },
        (Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq, _) => {
            on_stack!(long, implied_size(code), push_flags)
        }
        (Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq, _) => {
            on_stack!(long, implied_size(code), pop_flags)
        }
        (Mnemonic::Enter, _) => {
            op.imm = u64::from(form.instruction.immediate16());
            op.reg = form.instruction.immediate8_2nd();
            on_stack!(long, implied_size(code), enter)
        }
        (Mnemonic::Leave, _) => on_stack!(long, implied_size(code), leave_frame),
        _ => return None,
    })
}
