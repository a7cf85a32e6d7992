//! MOVS, STOS, LODS, SCAS, CMPS with their REP prefixes. INS and OUTS are elsewhere.
//!
//! A repeated instruction goes in steps, after each of which the registers are exact: what a page fault or
//! an interrupt finds in the middle is an instruction that goes on when it is carried out again.

use std::sync::atomic::Ordering;

use iced_x86::{Mnemonic, OpKind};

use super::arithmetic::{Int, status};
use super::decode::{Form, Mode, segment};
use super::dispatch::{Outcome, attempt, stored};
use super::operand::sized;
use crate::fault::Fault;
use crate::op::{Flow, Handler, Op};
use crate::registers::{Seg, flag, gpr};
use crate::vcpu::Vcpu;

/// Elements that are carried out one by one between two looks at what else there is to do.
const STEP: u64 = 256;
/// Fewer elements are not worth a block operation.
const FEW: u64 = 8;

/// The segment of rDI: ES, which 64-bit code does not use.
#[inline(always)]
fn destination(op: &Op) -> Seg {
    if op.disp == 0 { Seg::Flat } else { Seg::Es }
}

#[inline(always)]
fn index(cpu: &Vcpu, op: &Op, register: usize) -> u64 {
    op.cut_offset(cpu.regs[register])
}

/// Adds to a register, as far as the address size reaches.
#[inline(always)]
fn advance(cpu: &mut Vcpu, op: &Op, register: usize, by: u64) {
    let value = cpu.regs[register];
    let sum = value.wrapping_add(by);
    cpu.regs[register] = match op.scale >> 2 {
        0 => sum,
        1 => sum & 0xffff_ffff,
        _ => value & !0xffff | sum & 0xffff,
    };
}

/// The step of an index register.
#[inline(always)]
fn stride<T: Int>(cpu: &Vcpu) -> u64 {
    if cpu.flags & flag::DF == 0 { T::SIZE as u64 } else { (T::SIZE as u64).wrapping_neg() }
}

/// How many of `count` elements upwards from `offset` lie in one page and below the end of the offsets.
fn in_page<T: Int>(cpu: &Vcpu, op: &Op, seg: Seg, offset: u64, count: u64) -> u64 {
    let linear = cpu.segments[seg as usize].base.wrapping_add(offset);
    let page = 0x1000 - (linear & 0xfff);
    let end = op.cut_offset(u64::MAX).wrapping_sub(offset).saturating_add(1);
    count.min(page.min(end) / T::SIZE as u64)
}

/// A string instruction.
trait Element {
    /// One element, with the index registers moved on.
    fn one<T: Int>(cpu: &mut Vcpu, op: &Op) -> Result<(), Fault>;
    /// Up to `count` elements upwards at once; how many have been carried out, 0 if that is not possible.
    fn many<T: Int>(_cpu: &mut Vcpu, _op: &Op, _count: u64) -> Result<u64, Fault> {
        Ok(0)
    }
}

struct Movs;
impl Element for Movs {
    #[inline(always)]
    fn one<T: Int>(cpu: &mut Vcpu, op: &Op) -> Result<(), Fault> {
        let value: T = cpu.read(op.seg, index(cpu, op, gpr::RSI))?;
        cpu.write(destination(op), index(cpu, op, gpr::RDI), value)?;
        let by = stride::<T>(cpu);
        advance(cpu, op, gpr::RSI, by);
        advance(cpu, op, gpr::RDI, by);
        Ok(())
    }

    fn many<T: Int>(cpu: &mut Vcpu, op: &Op, count: u64) -> Result<u64, Fault> {
        let (from, to) = (index(cpu, op, gpr::RSI), index(cpu, op, gpr::RDI));
        let count = in_page::<T>(cpu, op, op.seg, from, count);
        let count = in_page::<T>(cpu, op, destination(op), to, count);
        if count < FEW {
            return Ok(0);
        }
        let bytes = count * T::SIZE as u64;
        if !cpu.copy_block((destination(op), to), (op.seg, from), bytes as usize)? {
            return Ok(0);
        }
        advance(cpu, op, gpr::RSI, bytes);
        advance(cpu, op, gpr::RDI, bytes);
        Ok(count)
    }
}

struct Stos;
impl Element for Stos {
    #[inline(always)]
    fn one<T: Int>(cpu: &mut Vcpu, op: &Op) -> Result<(), Fault> {
        let value = T::get(cpu, gpr::RAX as u8);
        cpu.write(destination(op), index(cpu, op, gpr::RDI), value)?;
        let by = stride::<T>(cpu);
        advance(cpu, op, gpr::RDI, by);
        Ok(())
    }

    fn many<T: Int>(cpu: &mut Vcpu, op: &Op, count: u64) -> Result<u64, Fault> {
        let to = index(cpu, op, gpr::RDI);
        let count = in_page::<T>(cpu, op, destination(op), to, count);
        if count < FEW || !cpu.fill_block(destination(op), to, T::get(cpu, gpr::RAX as u8), count as usize)? {
            return Ok(0);
        }
        advance(cpu, op, gpr::RDI, count * T::SIZE as u64);
        Ok(count)
    }
}

struct Lods;
impl Element for Lods {
    #[inline(always)]
    fn one<T: Int>(cpu: &mut Vcpu, op: &Op) -> Result<(), Fault> {
        let value: T = cpu.read(op.seg, index(cpu, op, gpr::RSI))?;
        T::set(cpu, gpr::RAX as u8, value);
        let by = stride::<T>(cpu);
        advance(cpu, op, gpr::RSI, by);
        Ok(())
    }
}

struct Scas;
impl Element for Scas {
    #[inline(always)]
    fn one<T: Int>(cpu: &mut Vcpu, op: &Op) -> Result<(), Fault> {
        let value: T = cpu.read(destination(op), index(cpu, op, gpr::RDI))?;
        cpu.status = T::sub(T::get(cpu, gpr::RAX as u8), value).1;
        let by = stride::<T>(cpu);
        advance(cpu, op, gpr::RDI, by);
        Ok(())
    }
}

struct Cmps;
impl Element for Cmps {
    #[inline(always)]
    fn one<T: Int>(cpu: &mut Vcpu, op: &Op) -> Result<(), Fault> {
        let first: T = cpu.read(op.seg, index(cpu, op, gpr::RSI))?;
        let second: T = cpu.read(destination(op), index(cpu, op, gpr::RDI))?;
        cpu.status = T::sub(first, second).1;
        let by = stride::<T>(cpu);
        advance(cpu, op, gpr::RSI, by);
        advance(cpu, op, gpr::RDI, by);
        Ok(())
    }
}

/// How long a repetition goes on, apart from the counter.
trait Until {
    fn ends(flags: u32) -> bool;
}

struct Counted;
impl Until for Counted {
    #[inline(always)]
    fn ends(_: u32) -> bool {
        false
    }
}

struct WhileEqual;
impl Until for WhileEqual {
    #[inline(always)]
    fn ends(flags: u32) -> bool {
        flags & status::ZF == 0
    }
}

struct WhileUnequal;
impl Until for WhileUnequal {
    #[inline(always)]
    fn ends(flags: u32) -> bool {
        flags & status::ZF != 0
    }
}

fn once<T: Int, E: Element>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    attempt!(cpu, op, E::one::<T>(cpu, op));
    stored(cpu, op)
}

fn repeat<T: Int, E: Element, U: Until>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    // A single step is one element.
    let step = if cpu.flags & flag::TF != 0 { 1 } else { STEP };
    loop {
        let count = index(cpu, op, gpr::RCX);
        if count == 0 {
            return stored(cpu, op);
        }
        let upwards = cpu.flags & flag::DF == 0;
        let done = if upwards && step != 1 { attempt!(cpu, op, E::many::<T>(cpu, op, count)) } else { 0 };
        advance(cpu, op, gpr::RCX, done.wrapping_neg());
        if done == 0 {
            for _ in 0..count.min(step) {
                attempt!(cpu, op, E::one::<T>(cpu, op));
                advance(cpu, op, gpr::RCX, u64::MAX);
                if U::ends(cpu.status) {
                    return stored(cpu, op);
                }
            }
        }
        let other = step == 1 || cpu.mmu.code_written || cpu.vp.attention.load(Ordering::Relaxed) != 0;
        if other && index(cpu, op, gpr::RCX) != 0 {
            return pause(cpu, op);
        }
    }
}

/// Ends the block; the instruction goes on when the processor comes back to it. Its length is in `imm`.
#[cold]
fn pause(cpu: &mut Vcpu, op: &Op) -> Outcome {
    cpu.mmu.code_written = false;
    cpu.rip = cpu.cut_rip(op.next_rip(cpu).wrapping_sub(op.imm));
    cpu.blocks.stop_at(op);
    Ok(Flow::Leave)
}

macro_rules! select {
    ($size:expr, $repeat:expr, $element:ty) => {
        if $repeat { sized!($size, repeat, $element, Counted) } else { sized!($size, once, $element) }
    };
    (compare $size:expr, $instruction:expr, $element:ty) => {
        if $instruction.has_repne_prefix() {
            sized!($size, repeat, $element, WhileUnequal)
        } else if $instruction.has_rep_prefix() {
            sized!($size, repeat, $element, WhileEqual)
        } else {
            sized!($size, once, $element)
        }
    };
}

/// The handler of an instruction of this module.
pub fn select(form: &Form, op: &mut Op) -> Option<Handler> {
    let instruction = form.instruction;
    let mut address = None;
    for operand in 0..instruction.op_count() {
        address = address.or(match instruction.op_kind(operand) {
            OpKind::MemorySegSI | OpKind::MemoryESDI => Some(2),
            OpKind::MemorySegESI | OpKind::MemoryESEDI => Some(1),
            OpKind::MemorySegRSI | OpKind::MemoryESRDI => Some(0),
            _ => None,
        });
    }
    let address = address?;
    let size = instruction.memory_size().size();
    let repeat = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    let handler = match form.mnemonic {
        Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsd | Mnemonic::Movsq => select!(size, repeat, Movs),
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => select!(size, repeat, Stos),
        Mnemonic::Lodsb | Mnemonic::Lodsw | Mnemonic::Lodsd | Mnemonic::Lodsq => select!(size, repeat, Lods),
        Mnemonic::Scasb | Mnemonic::Scasw | Mnemonic::Scasd | Mnemonic::Scasq => {
            select!(compare size, instruction, Scas)
        }
        Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq => {
            select!(compare size, instruction, Cmps)
        }
        _ => return None,
    };
    op.scale = address << 2;
    op.seg = segment(instruction.memory_segment(), form.mode, iced_x86::Register::None);
    op.disp = i32::from(form.mode != Mode::Bits64);
    op.imm = instruction.len() as u64;
    Some(handler)
}
