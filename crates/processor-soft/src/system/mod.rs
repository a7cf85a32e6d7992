//! Everything privileged: control registers, descriptors, interrupts, task switches, MSRs.

mod cpuid;
mod debug;
mod msr;

use iced_x86::Instruction;

use crate::op::Op;
use crate::vcpu::Vcpu;

pub use msr::MsrState;

/// Prepares a system instruction (see the list in this folder); false if it is none.
pub fn prepare(vcpu: &mut Vcpu, instruction: &Instruction, op: &mut Op) -> bool {
    let _ = (vcpu, instruction, op);
    todo!()
}
