//! Everything privileged: control registers, descriptors, interrupts, task switches, MSRs.

use iced_x86::Instruction;

use crate::op::Op;
use crate::vcpu::Vcpu;

/// The processor's own MSRs.
pub struct MsrState {}

/// Prepares a system instruction (see the list in this folder); false if it is none.
pub fn prepare(vcpu: &mut Vcpu, instruction: &Instruction, op: &mut Op) -> bool {
    let _ = (vcpu, instruction, op);
    todo!()
}
