//! How one instruction hands over to the next.
//!
//! A handler of this folder ends in [`next`], which calls the handler of the following [`Op`]: optimised
//! builds turn that into a jump, others use some stack, bounded by the length of a block. Handlers of
//! other folders return [`Flow::Next`]; before each of them stands a [`gate`], which calls it and goes on.
//! The last op of a block always ends the chain.

use crate::fault::Fault;
use crate::op::{Flow, Handler, Op};
use crate::vcpu::Vcpu;

/// What a handler returns.
pub type Outcome = Result<Flow, Fault>;

/// Unwraps a result, or ends the block with its fault.
macro_rules! attempt {
    ($cpu:ident, $op:ident, $result:expr) => {
        match $result {
            Ok(value) => value,
            Err(fault) => return $crate::execute::dispatch::faulted($cpu, $op, fault),
        }
    };
}
pub(super) use attempt;

/// Which half of a handler: the one that is chosen by the decoder asks the TLB only and needs no stack; it
/// hands over to the other if the TLB does not know.
pub trait Path {
    const SLOW: bool;
}

/// The half that is tried first.
pub struct Fast;
/// The half that does everything.
pub struct Slow;

impl Path for Fast {
    const SLOW: bool = false;
}

impl Path for Slow {
    const SLOW: bool = true;
}

/// Reads an operand of type `$t`; `$slow` is the slow half of the handler.
macro_rules! fetch {
    ($cpu:ident, $op:ident, $path:ident, $t:ty, $seg:expr, $offset:expr, $slow:expr) => {
        if $path::SLOW {
            attempt!($cpu, $op, $cpu.read::<$t>($seg, $offset))
        } else {
            match $cpu.try_read::<$t>($seg, $offset) {
                Some(value) => value,
                None => return $crate::execute::dispatch::slowly($cpu, $op, $slow),
            }
        }
    };
}

/// Writes an operand and then runs `$then`, unless the block ends with the store.
macro_rules! put {
    ($cpu:ident, $op:ident, $path:ident, $seg:expr, $offset:expr, $value:expr, $slow:expr, $then:block) => {
        if $path::SLOW {
            attempt!($cpu, $op, $cpu.write($seg, $offset, $value));
            $then
            $crate::execute::dispatch::stored($cpu, $op)
        } else {
            match $cpu.try_write($seg, $offset, $value) {
                Some(code) => {
                    $then
                    if code {
                        return $crate::execute::dispatch::code_hit($cpu, $op);
                    }
                    $crate::execute::dispatch::next($cpu, $op)
                }
                None => $crate::execute::dispatch::slowly($cpu, $op, $slow),
            }
        }
    };
}

/// Changes an operand by `$f`, which answers its new value and the flags, and goes on.
macro_rules! change {
    ($cpu:ident, $op:ident, $path:ident, $seg:expr, $offset:expr, $f:expr, $slow:expr) => {{
        let change = $f;
        if $path::SLOW {
            $cpu.status = attempt!($cpu, $op, $cpu.modify($seg, $offset, |_, value| change(value)));
            $crate::execute::dispatch::stored($cpu, $op)
        } else {
            match $cpu.try_modify($seg, $offset, change) {
                Some((flags, code)) => {
                    $cpu.status = flags;
                    if code {
                        return $crate::execute::dispatch::code_hit($cpu, $op);
                    }
                    $crate::execute::dispatch::next($cpu, $op)
                }
                None => $crate::execute::dispatch::slowly($cpu, $op, $slow),
            }
        }
    }};
}
pub(super) use {change, fetch, put};

/// The op after `op`.
#[inline(always)]
pub fn following(op: &Op) -> &Op {
    // SAFETY: ops lie in the slice of their block, whose last op never asks for its successor, because
    // blocks end with an op that returns `Jump` or `Leave`.
    unsafe { &*std::ptr::from_ref(op).add(1) }
}

/// Goes on with the op after `op`.
#[inline(always)]
pub fn next(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let op = following(op);
    (op.handler)(cpu, op)
}

/// Goes on after a store, unless it has hit decoded code.
#[inline(always)]
pub fn stored(cpu: &mut Vcpu, op: &Op) -> Outcome {
    if cpu.mmu.code_written {
        return leave(cpu, op);
    }
    next(cpu, op)
}

/// Ends the block after a store that may have hit decoded code.
#[cold]
#[inline(never)]
pub fn code_hit(cpu: &mut Vcpu, op: &Op) -> Outcome {
    cpu.host_written();
    if cpu.mmu.code_written { leave(cpu, op) } else { next(cpu, op) }
}

/// Carries out `op` by the handler that knows what to do without the TLB's help.
#[cold]
#[inline(never)]
pub fn slowly(cpu: &mut Vcpu, op: &Op, handler: Handler) -> Outcome {
    handler(cpu, op)
}

/// Ends the block with a fault of `op`.
#[cold]
#[inline(never)]
pub fn faulted(cpu: &mut Vcpu, op: &Op, fault: Fault) -> Outcome {
    cpu.blocks.stop_at(op);
    Err(fault)
}

/// Ends the block after `op`, although it may have more.
#[cold]
#[inline(never)]
pub fn leave(cpu: &mut Vcpu, op: &Op) -> Outcome {
    cpu.mmu.code_written = false;
    cpu.rip = cpu.cut_rip(op.next_rip(cpu));
    cpu.blocks.stop_at(op);
    Ok(Flow::Leave)
}

/// Pseudo op before one whose handler does not go on by itself.
pub fn gate(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let inner = following(op);
    match (inner.handler)(cpu, inner) {
        Ok(Flow::Next) => stored(cpu, inner),
        Ok(Flow::Jump) => Ok(Flow::Jump),
        other => {
            cpu.blocks.stop_at(inner);
            other
        }
    }
}

/// Pseudo op: the end of a block that does not end in a jump.
pub fn end(cpu: &mut Vcpu, op: &Op) -> Outcome {
    cpu.rip = cpu.cut_rip(op.next_rip(cpu));
    Ok(Flow::Jump)
}

/// Pseudo op: computes the address of a RIP-relative operand that is beyond the reach of `disp`.
pub fn far_operand(cpu: &mut Vcpu, op: &Op) -> Outcome {
    cpu.regs[crate::registers::gpr::FAR] = cpu.regs[crate::registers::gpr::BLOCK_RIP].wrapping_add(op.imm);
    next(cpu, op)
}

/// An instruction that is not defined.
pub fn undefined(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let fault = cpu.invalid_opcode();
    faulted(cpu, op, fault)
}

/// An instruction longer than 15 bytes.
pub fn too_long(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let fault = cpu.general_protection();
    faulted(cpu, op, fault)
}

impl Vcpu {
    /// RIP as the code segment's mode holds it.
    #[inline(always)]
    pub(super) fn cut_rip(&self, rip: u64) -> u64 {
        if self.code_64() { rip } else { rip & 0xffff_ffff }
    }
}
