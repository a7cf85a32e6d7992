//! VMCALL and VMMCALL: the way into the hypervisor interface.

use processor::{GeneralRegister, HypercallContext, HypercallOutcome, StartRegisters};

use super::next;
use crate::fault::Fault;
use crate::op::{Flow, Op};
use crate::vcpu::Vcpu;

/// The calling processor.
struct Caller<'a>(&'a mut Vcpu);

impl HypercallContext for Caller<'_> {
    fn long_mode(&self) -> bool {
        self.0.code_64()
    }

    fn privilege_level(&self) -> u8 {
        self.0.cpl
    }

    fn protected_mode(&self) -> bool {
        !self.0.real_mode()
    }

    fn register(&self, register: GeneralRegister) -> u64 {
        self.0.regs[register as usize]
    }

    fn set_register(&mut self, register: GeneralRegister, value: u64) {
        self.0.regs[register as usize] = value;
    }

    fn xmm(&self, index: usize) -> u128 {
        self.0.extension.image.xmm(index)
    }

    fn set_xmm(&mut self, index: usize, value: u128) {
        self.0.extension.image.set_xmm(index, value);
    }

    fn snapshot(&self) -> StartRegisters {
        self.0.snapshot()
    }
}

/// VMCALL, VMMCALL.
pub fn hypercall(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let Some(hypervisor) = vcpu.hypervisor.clone() else { return Err(vcpu.invalid_opcode()) };
    let return_rip = next(vcpu, op);
    vcpu.rip = return_rip;
    // While in the call nobody needs to wait for this processor's TLB: it leaves the block behind the call
    // and looks at what others have asked for before it goes on.
    vcpu.vp.set_in_guest(false);
    let index = vcpu.index;
    let outcome = hypervisor.hypercall(index, &mut Caller(vcpu));
    vcpu.vp.set_in_guest(true);
    match outcome {
        HypercallOutcome::Done => Ok(Flow::Leave),
        HypercallOutcome::Again => {
            vcpu.rip = return_rip.wrapping_sub(u64::from(op.packed().value()));
            Ok(Flow::Leave)
        }
        HypercallOutcome::InvalidOpcode => Err(vcpu.invalid_opcode()),
        HypercallOutcome::GeneralProtection => Err(vcpu.general_protection()),
    }
}
