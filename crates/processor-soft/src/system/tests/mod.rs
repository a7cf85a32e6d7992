//! Small guests, run to their HLT.

mod chaos;
mod hypervisor;
mod long;
mod memory_and_io;
mod protected;
mod real;
mod running;
mod traps;

use iced_x86::code_asm::CodeAssembler;
use processor::{DescriptorTable, Exit, Segment, SegmentAttributes};

use crate::registers::{Seg, cr0, gpr};
pub use crate::testing::assemble;
use crate::vcpu::Vcpu;

/// Where the tables are that [`protected`] and [`long`] build.
pub const GDT: u64 = 0x8000;
pub const IDT: u64 = 0x9000;
pub const TSS: u64 = 0xa000;
/// Code, and one HLT per interrupt vector, 16 bytes apart, at `HANDLERS`.
pub const CODE: u64 = 0x1_0000;
pub const HANDLERS: u64 = 0x1_8000;
/// Code of privilege level 3.
pub const USER: u64 = 0x1_4000;
/// Tops of the stacks of level 0, of level 3 and of the TSS.
pub const STACK: u64 = 0x2_0000;
pub const USER_STACK: u64 = 0x2_4000;
pub const TASK_STACK: u64 = 0x2_8000;
pub const DATA: u64 = 0x3_0000;

/// Selectors of the GDT that [`protected`] and [`long`] build.
pub mod selector {
    pub const CODE: u16 = 0x10;
    pub const DATA: u16 = 0x18;
    pub const USER_CODE: u16 = 0x23;
    pub const USER_DATA: u16 = 0x2b;
    pub const TSS: u16 = 0x30;
    /// Free for a test; 0x38 is the TSS's upper half in 64-bit mode.
    pub const FREE: u16 = 0x40;
}

pub fn set_descriptor(vcpu: &Vcpu, selector: u16, value: u64) {
    vcpu.poke(GDT + u64::from(selector & !7), &value.to_le_bytes());
}

/// A descriptor.
pub fn descriptor(base: u64, limit: u64, attributes: u64) -> u64 {
    let limit = if attributes & 0x8000 != 0 { limit >> 12 } else { limit };
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | attributes << 40
        | (limit >> 16 & 0xf) << 48
        | (base >> 24 & 0xff) << 56
}

/// Runs until the processor halts.
pub fn run(vcpu: &mut Vcpu) -> Result<(), Exit> {
    for _ in 0..100_000 {
        if vcpu.halted {
            return Ok(());
        }
        vcpu.turn()?;
    }
    panic!("the guest does not halt: {}", vcpu.describe());
}

/// Which handler has halted the processor, if any.
pub fn handler(vcpu: &Vcpu) -> Option<u64> {
    let at = vcpu.rip.checked_sub(HANDLERS)?;
    (at % 16 == 1 && at < 256 * 16).then_some(at / 16)
}

/// A value on the stack, `index` words of `N` bytes above its top.
pub fn on_stack<const N: usize>(vcpu: &Vcpu, index: u64) -> u64 {
    let bytes: [u8; N] = vcpu.peek(vcpu.regs[gpr::RSP] + index * N as u64);
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn segment(selector: u16, attributes: u32) -> Segment {
    Segment { selector, base: 0, limit: u32::MAX, attributes: SegmentAttributes(attributes) }
}

fn set_tables(vcpu: &mut Vcpu, idt_limit: u16) {
    for vector in 0..256 {
        vcpu.poke(HANDLERS + vector * 16, &[0xf4]);
    }
    vcpu.gdtr = DescriptorTable { base: GDT, limit: 0xff };
    vcpu.idtr = DescriptorTable { base: IDT, limit: idt_limit };
    set_descriptor(vcpu, selector::DATA, descriptor(0, 0xffff_ffff, 0xc093));
    set_descriptor(vcpu, selector::USER_DATA, descriptor(0, 0xffff_ffff, 0xc0f3));
    set_descriptor(vcpu, selector::TSS, descriptor(TSS, 0x1fff, 0x8b));
    vcpu.tr =
        Segment { selector: selector::TSS, base: TSS, limit: 0x1fff, attributes: SegmentAttributes(0x8b) };
    vcpu.regs[gpr::RSP] = STACK;
    vcpu.rip = CODE;
}

/// A processor in 32-bit protected mode without paging, at privilege level 0, with a handler for every
/// vector and a TSS whose stack of level 0 is at `TASK_STACK`.
pub fn protected(program: impl FnOnce(&mut CodeAssembler)) -> Vcpu {
    let mut vcpu = Vcpu::for_test(4 << 20);
    set_tables(&mut vcpu, 0x7ff);
    set_descriptor(&vcpu, selector::CODE, descriptor(0, 0xffff_ffff, 0xc09b));
    set_descriptor(&vcpu, selector::USER_CODE, descriptor(0, 0xffff_ffff, 0xc0fb));
    for vector in 0..256 {
        set_gate_32(&vcpu, vector, selector::CODE, HANDLERS + vector * 16, 0xee);
    }
    vcpu.poke(TSS + 4, &(TASK_STACK as u32).to_le_bytes());
    vcpu.poke(TSS + 8, &selector::DATA.to_le_bytes());
    vcpu.poke(TSS + 102, &0x80_u16.to_le_bytes());
    vcpu.cr0 |= cr0::PE;
    for seg in 0..6 {
        vcpu.segments[seg] = segment(selector::DATA, 0xc093);
    }
    vcpu.segments[Seg::Cs as usize] = segment(selector::CODE, 0xc09b);
    vcpu.mode_changed();
    vcpu.poke(CODE, &assemble(32, CODE, program));
    vcpu
}

/// An IDT entry outside IA-32e mode.
pub fn set_gate_32(vcpu: &Vcpu, vector: u64, selector: u16, offset: u64, attributes: u64) {
    let gate = offset & 0xffff | u64::from(selector) << 16 | attributes << 40 | (offset >> 16) << 48;
    vcpu.poke(IDT + vector * 8, &gate.to_le_bytes());
}

/// A processor in 64-bit mode with one-to-one paging, at privilege level 0, with a handler for every vector
/// and a TSS whose stack of level 0 is at `TASK_STACK`.
pub fn long(program: impl FnOnce(&mut CodeAssembler)) -> Vcpu {
    let mut vcpu = Vcpu::for_test_64(8 << 20);
    set_tables(&mut vcpu, 0xfff);
    set_descriptor(&vcpu, selector::CODE, descriptor(0, 0xffff_ffff, 0xa09b));
    set_descriptor(&vcpu, selector::USER_CODE, descriptor(0, 0xffff_ffff, 0xa0fb));
    for vector in 0..256 {
        set_gate_64(&vcpu, vector, HANDLERS + vector * 16, 0xee, 0);
    }
    vcpu.poke(TSS + 4, &TASK_STACK.to_le_bytes());
    vcpu.poke(TSS + 102, &0x80_u16.to_le_bytes());
    vcpu.poke(CODE, &assemble(64, CODE, program));
    vcpu
}

/// An IDT entry in IA-32e mode.
pub fn set_gate_64(vcpu: &Vcpu, vector: u64, offset: u64, attributes: u64, stack: u64) {
    let low = offset & 0xffff
        | u64::from(selector::CODE) << 16
        | stack << 32
        | attributes << 40
        | (offset >> 16 & 0xffff) << 48;
    vcpu.poke(IDT + vector * 16, &low.to_le_bytes());
    vcpu.poke(IDT + vector * 16 + 8, &(offset >> 32).to_le_bytes());
}

/// Makes the processor go on at [`USER`] at privilege level 3 in 64-bit mode.
pub fn enter_user(vcpu: &mut Vcpu, program: impl FnOnce(&mut CodeAssembler)) {
    vcpu.poke(USER, &assemble(64, USER, program));
    vcpu.segments[Seg::Cs as usize] = segment(selector::USER_CODE, 0xa0fb);
    vcpu.segments[Seg::Ss as usize] = segment(selector::USER_DATA, 0xc0f3);
    vcpu.cpl = 3;
    vcpu.rip = USER;
    vcpu.regs[gpr::RSP] = USER_STACK;
    vcpu.mode_changed();
}
