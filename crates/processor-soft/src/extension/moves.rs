//! The commonest vector moves in Rust, without a thunk, and the MXCSR instructions.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use crate::fault::{Fault, vector};
use crate::memory::Access;
use crate::op::{Flow, Handler, Op};
use crate::registers::{cr0, cr4};
use crate::vcpu::Vcpu;

use super::build::Class;
use super::image::MXCSR_VALID;

/// LDMXCSR, STMXCSR, VZEROUPPER, VZEROALL and their VEX forms.
pub fn control(instruction: &Instruction) -> Option<Handler> {
    match instruction.mnemonic() {
        Mnemonic::Ldmxcsr => Some(ldmxcsr::<false>),
        Mnemonic::Vldmxcsr => Some(ldmxcsr::<true>),
        Mnemonic::Stmxcsr => Some(stmxcsr::<false>),
        Mnemonic::Vstmxcsr => Some(stmxcsr::<true>),
        Mnemonic::Vzeroupper => Some(vzero::<16>),
        Mnemonic::Vzeroall => Some(vzero::<0>),
        _ => None,
    }
}

fn class(vex: bool) -> Class {
    if vex { Class::Avx } else { Class::Sse }
}

fn ldmxcsr<const VEX: bool>(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.extension_enabled(class(VEX))?;
    let value: u32 = vcpu.read(op.seg, op.offset(vcpu))?;
    if value & !MXCSR_VALID != 0 {
        return Err(vcpu.general_protection());
    }
    vcpu.extension.image.mxcsr = value;
    Ok(Flow::Next)
}

fn stmxcsr<const VEX: bool>(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.extension_enabled(class(VEX))?;
    let value = vcpu.extension.image.mxcsr;
    vcpu.write(op.seg, op.offset(vcpu), value)?;
    Ok(Flow::Next)
}

/// Zeroes registers 0–15 (0–7 outside 64-bit mode) from byte `KEPT` on.
fn vzero<const KEPT: usize>(vcpu: &mut Vcpu, _op: &Op) -> Result<Flow, Fault> {
    vcpu.extension_enabled(Class::Avx)?;
    let count = if vcpu.code_64() { 16 } else { 8 };
    for register in &mut vcpu.extension.image.vectors[..count] {
        register[KEPT..].fill(0);
    }
    Ok(Flow::Next)
}

/// The handler of a legacy 16-byte move between a register and memory or another register.
pub fn specialised(instruction: &Instruction, op: &mut Op) -> Option<Handler> {
    use Code as C;
    let memory = |n: u32| instruction.op_kind(n) == OpKind::Memory;
    let number = |n: u32| instruction.op_register(n).number() as u64 & 31;
    let aligned = matches!(
        instruction.code(),
        C::Movaps_xmm_xmmm128
            | C::Movaps_xmmm128_xmm
            | C::Movapd_xmm_xmmm128
            | C::Movapd_xmmm128_xmm
            | C::Movdqa_xmm_xmmm128
            | C::Movdqa_xmmm128_xmm
    );
    let unaligned = matches!(
        instruction.code(),
        C::Movups_xmm_xmmm128
            | C::Movups_xmmm128_xmm
            | C::Movupd_xmm_xmmm128
            | C::Movupd_xmmm128_xmm
            | C::Movdqu_xmm_xmmm128
            | C::Movdqu_xmmm128_xmm
    );
    if !aligned && !unaligned {
        return None;
    }
    let (handler, imm): (Handler, u64) = match (memory(0), memory(1), aligned) {
        (true, _, true) => (store_xmm::<16>, number(1)),
        (true, _, false) => (store_xmm::<1>, number(1)),
        (_, true, true) => (load_xmm::<16>, number(0)),
        (_, true, false) => (load_xmm::<1>, number(0)),
        _ => (move_xmm, number(0) | number(1) << 8),
    };
    op.imm = imm;
    Some(handler)
}

/// The check of [`Class::Sse`] on the fast path.
#[inline(always)]
fn sse_enabled(vcpu: &mut Vcpu) -> Result<(), Fault> {
    if vcpu.cr0 & (cr0::EM | cr0::TS) != 0 || vcpu.cr4 & cr4::OSFXSR == 0 {
        return Err(if vcpu.cr0 & cr0::EM != 0 || vcpu.cr4 & cr4::OSFXSR == 0 {
            vcpu.invalid_opcode()
        } else {
            vcpu.raise(vector::DEVICE_NOT_AVAILABLE)
        });
    }
    Ok(())
}

fn load_xmm<const ALIGNMENT: u8>(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    sse_enabled(vcpu)?;
    let offset = op.offset(vcpu);
    if ALIGNMENT > 1 {
        vcpu.extension_aligned(op, offset, ALIGNMENT)?;
    }
    let mut bytes = [0_u8; 16];
    match vcpu.host_pointer(op.seg, offset, 16, Access::Read)? {
        // SAFETY: `host_pointer` vouches for 16 readable bytes until the next use of the processor.
        Some(pointer) => bytes = unsafe { pointer.cast::<[u8; 16]>().read_unaligned() },
        None => vcpu.read_bytes(op.seg, offset, &mut bytes)?,
    }
    vcpu.extension.image.vectors[(op.imm & 31) as usize][..16].copy_from_slice(&bytes);
    Ok(Flow::Next)
}

fn store_xmm<const ALIGNMENT: u8>(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    sse_enabled(vcpu)?;
    let offset = op.offset(vcpu);
    if ALIGNMENT > 1 {
        vcpu.extension_aligned(op, offset, ALIGNMENT)?;
    }
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&vcpu.extension.image.vectors[(op.imm & 31) as usize][..16]);
    match vcpu.host_pointer(op.seg, offset, 16, Access::Write)? {
        Some(pointer) => {
            // SAFETY: `host_pointer` vouches for 16 writable bytes until the next use of the processor.
            unsafe { pointer.cast::<[u8; 16]>().write_unaligned(bytes) };
            vcpu.host_written();
        }
        None => vcpu.write_bytes(op.seg, offset, &bytes)?,
    }
    Ok(Flow::Next)
}

fn move_xmm(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    sse_enabled(vcpu)?;
    let value = vcpu.extension.image.xmm((op.imm >> 8 & 31) as usize);
    vcpu.extension.image.set_xmm((op.imm & 31) as usize, value);
    Ok(Flow::Next)
}
