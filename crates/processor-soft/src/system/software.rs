//! INT n, INT3, INTO, INT1.

use super::interrupt::{Cause, Event};
use super::next;
use crate::fault::{Fault, vector};
use crate::op::{Flow, Op};
use crate::vcpu::Vcpu;

fn deliver(vcpu: &mut Vcpu, op: &Op, vector: u8, cause: Cause) -> Result<Flow, Fault> {
    let return_rip = next(vcpu, op);
    vcpu.deliver(&Event { vector, cause, error_code: None, return_rip })?;
    Ok(Flow::Leave)
}

/// INT n.
pub fn int(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    if vcpu.virtual_8086() && vcpu.iopl() < 3 {
        return Err(vcpu.general_protection());
    }
    deliver(vcpu, op, op.packed().value() as u8, Cause::Software)
}

/// INT3.
pub fn int3(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    deliver(vcpu, op, vector::BREAKPOINT, Cause::Software)
}

/// INTO. The overflow flag is bit 0 of the status.
pub fn into(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    if vcpu.status & 1 == 0 {
        return Ok(Flow::Next);
    }
    deliver(vcpu, op, vector::OVERFLOW, Cause::Software)
}

/// INT1.
pub fn int1(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    deliver(vcpu, op, vector::DEBUG, Cause::Privileged)
}
