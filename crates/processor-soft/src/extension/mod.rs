//! x87, MMX, SSE to AVX-512, AES, SHA, BMI and the like: instructions that run natively on the guest's
//! register image through generated thunks.

use iced_x86::Instruction;

use crate::op::Op;
use crate::vcpu::Vcpu;

/// The guest's x87, SSE, AVX and AVX-512 registers, as an XSAVE image, and the thunks.
pub struct ExtensionState {}

/// Prepares an instruction that [`crate::execute`] does not know: sets the handler and what it needs.
/// False if the instruction is not offered by CPUID or not known: it then raises #UD.
pub fn prepare(vcpu: &mut Vcpu, instruction: &Instruction, bytes: &[u8], op: &mut Op) -> bool {
    let _ = (vcpu, instruction, bytes, op);
    todo!()
}

/// The guest's CPUID: what this host has and the software processor truly supports.
pub fn cpuid(vcpu: &Vcpu, leaf: u32, subleaf: u32) -> [u32; 4] {
    let _ = (vcpu, leaf, subleaf);
    todo!()
}
